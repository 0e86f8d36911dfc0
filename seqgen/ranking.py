"""Ranks and lists over a catalogue whose scores are too many to hold, where a score is a dot product.

B users, D width, I items

The scores are made, counted and forgotten in blocks of users and items that a CPU's caches hold: about twice as fast as
whole rows of a million scores, in a few MB instead of more than a hundred (`benchmarks/large_catalogue.py`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqgen.metrics import best_columns
from seqgen.numerics import CHUNK_CPU, CHUNK_GPU, fast_products, full_precision

USERS = 512  # of a block, at most


def rank_in_blocks(
    state: Tensor, vectors: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """What `target_ranks` and `top_items` give of the whole scores, `state @ vectors.T` with padding and seen at -inf.

    All products of a user have one shape, that with the target too: equal vectors give equal scores to the last bit,
    and so ties.

    Args:
        state: (B, D).
        vectors: (I + 1, D); row 0 is padding.
        targets: (B,).
        seen: Rows and items of the pairs that are left out, (S,) each.
        k: Length of the lists.

    Returns:
        Ranks (B,) and lists (B, k), int64.
    """
    by_item = seen[1].argsort(stable=True)
    seen_rows, seen_items = (part[by_item] for part in seen)
    parts = []
    with torch.no_grad(), torch.autocast(state.device.type, enabled=False), fast_products():
        for start in range(0, len(state), USERS):
            mine = (seen_rows >= start) & (seen_rows < start + USERS)
            pairs = seen_rows[mine] - start, seen_items[mine]
            own = slice(start, start + USERS)
            parts.append(_rank(full_precision(state[own]), vectors, targets[own], pairs, k))
    ranks, top = (torch.cat(part) for part in zip(*parts, strict=True))
    return ranks, top


def _rank(
    state: Tensor, vectors: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    rows, (count, device) = len(state), (len(vectors), state.device)
    width = max((CHUNK_CPU if device.type == "cpu" else CHUNK_GPU) // rows, rows, k + 1)
    scores = state.new_empty(rows, width)
    own = _products(state, vectors[targets], scores).diagonal().clone()
    seen_rows, seen_items = seen
    own[seen_rows[seen_items == targets[seen_rows]]] = float("-inf")
    below = torch.zeros_like(targets)
    values, items = torch.full_like(scores[:, :k], float("-inf")), torch.zeros_like(targets[:, None]).repeat(1, k)
    starts = range(0, count, width)
    cuts = torch.searchsorted(seen_items, torch.tensor([*starts, count], device=device)).tolist()
    for block, first in enumerate(starts):
        _products(state, vectors[first : first + width], scores)
        there = slice(cuts[block], cuts[block + 1])
        scores[seen_rows[there], seen_items[there] - first] = float("-inf")
        scores[:, count - first :] = float("-inf")
        if first == 0:
            scores[:, 0] = float("-inf")
        beyond = max(first + width - count, 0)
        below += torch.count_nonzero(scores < own[:, None], dim=1) - beyond * (own > float("-inf"))
        largest = scores.amax(dim=1)  # NaN where one is
        better = (~(largest <= values[:, -1])).nonzero()[:, 0]
        if not len(better):
            continue
        found, place = best_columns(scores[better], k)
        # Items of earlier blocks stand first, and so before equal ones.
        found, order = torch.cat([values[better], found], dim=1).sort(dim=1, descending=True, stable=True)
        values[better] = found[:, :k]
        items[better] = torch.cat([items[better], place + first], dim=1).gather(1, order[:, :k])
    return count - below, items.masked_fill(values == float("-inf"), 0)


def _products(state: Tensor, vectors: Tensor, out: Tensor) -> Tensor:
    """Into (rows, width), with zeros where there are fewer vectors."""
    vectors, missing = full_precision(vectors), out.shape[1] - len(vectors)
    return torch.mm(state, (F.pad(vectors, (0, 0, 0, missing)) if missing else vectors).T, out=out)
