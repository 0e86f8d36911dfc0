"""Ranks and lists over a catalogue whose scores are too many to hold, where a score is a dot product.

B users, D width, I items

The scores are made, counted and forgotten in blocks of users and items that a CPU's caches hold: about twice as fast as
whole rows of a million scores, in a few MB instead of more than a hundred (`benchmarks/large_catalogue.py`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from seqgen import collectives
from seqgen.metrics import best_columns
from seqgen.numerics import budget, fast_products, full_precision, rows_of

USERS = 512  # of a block, at most


@dataclass(frozen=True)
class _Users:
    """Whose items are ranked.

    Attributes:
        state: (B, D).
        wanted: Vectors of the targets, (B, D).
        targets: (B,).
        seen_rows: With `seen_items`, the pairs that are left out, in the order of the items, (S,).
        seen_items: (S,).
    """

    state: Tensor
    wanted: Tensor
    targets: Tensor
    seen_rows: Tensor
    seen_items: Tensor

    def block(self, start: int) -> "_Users":
        own, mine = slice(start, start + USERS), (self.seen_rows >= start) & (self.seen_rows < start + USERS)
        seen = self.seen_rows[mine] - start, self.seen_items[mine]
        return _Users(self.state[own], self.wanted[own], self.targets[own], *seen)


def rank_in_blocks(
    state: Tensor, vectors: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """What `target_ranks` and `top_items` give of the whole scores, `state @ vectors.T` with padding and seen at -inf.

    All products of a user have one shape, that with the target too: equal vectors give equal scores to the last bit,
    and so ties.

    Args:
        state: (B, D).
        vectors: (I + 1, D); row 0 is padding. Of a `DTensor` each process scores the states of all processes against
            the rows that it keeps (`seqgen.sharding`); all take part, each with its own users.
        targets: (B,).
        seen: Rows and items of the pairs that are left out, (S,) each.
        k: Length of the lists.

    Returns:
        Ranks (B,) and lists (B, k), int64.
    """
    with torch.no_grad(), torch.autocast(state.device.type, enabled=False), fast_products():
        state, wanted = full_precision(state), full_precision(rows_of(vectors, targets))
        if isinstance(vectors, DTensor):
            return _of_all_processes(state, wanted, vectors, targets, seen, k)
        ranks, values, items = _of_users(state, wanted, vectors, targets, seen, k)
    return ranks, items.masked_fill(values == float("-inf"), 0)


def _of_all_processes(
    state: Tensor, wanted: Tensor, vectors: DTensor, targets: Tensor, seen: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    both, own = collectives.gathered(torch.stack([state, wanted]))
    everyone = collectives.gathered(targets[None, :, None])[0].flatten()
    pairs, _ = collectives.gathered(torch.stack([seen[0] + own.start, seen[1]])[:, :, None])
    kept, first = collectives.kept_rows(vectors)
    ranks, values, items = _of_users(both[0], both[1], kept, everyone, (pairs[0, :, 0], pairs[1, :, 0]), k, first=first)
    distributed.all_reduce(ranks)
    # Lists stand in the order of the processes, and so of the items: of equal scores the lowest id comes first.
    values, items = (torch.cat([*collectives.of_each(part)], dim=1)[own] for part in (values, items))
    values, order = values.sort(dim=1, descending=True, stable=True)
    top = items.gather(1, order).masked_fill(values == float("-inf"), 0)
    return ranks[own], top[:, :k]


def _of_users(
    state: Tensor,
    wanted: Tensor,
    vectors: Tensor,
    targets: Tensor,
    seen: tuple[Tensor, Tensor],
    k: int,
    *,
    first: int = 0,
) -> tuple[Tensor, ...]:
    """Among items of which the first has a number, and with the targets' vectors given, (B, D).

    Returns:
        How many scores are not below the target's (B,); the largest scores and their items, (B, k) each.
    """
    by_item = seen[1].argsort(stable=True)
    users = _Users(state, wanted, targets, seen[0][by_item], seen[1][by_item])
    parts = [_rank(users.block(start), vectors, k, first) for start in range(0, len(state), USERS)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _rank(users: _Users, vectors: Tensor, k: int, first_item: int) -> tuple[Tensor, ...]:
    state, targets, seen_rows, seen_items = users.state, users.targets, users.seen_rows, users.seen_items
    rows, (count, device) = len(state), (len(vectors), state.device)
    width = max(budget(device) // rows, rows, k + 1)
    scores = state.new_empty(rows, width)
    own = _products(state, users.wanted, scores).diagonal().clone()
    own[seen_rows[seen_items == targets[seen_rows]]] = float("-inf")
    below = torch.zeros_like(targets)
    values, items = torch.full_like(scores[:, :k], float("-inf")), torch.zeros_like(targets[:, None]).repeat(1, k)
    starts = range(0, count, width)
    cuts = torch.searchsorted(seen_items, torch.tensor([*starts, count], device=device) + first_item).tolist()
    for block, first in enumerate(starts):
        _products(state, vectors[first : first + width], scores)
        there = slice(cuts[block], cuts[block + 1])
        scores[seen_rows[there], seen_items[there] - (first_item + first)] = float("-inf")
        scores[:, count - first :] = float("-inf")
        if first_item + first == 0:
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
        items[better] = torch.cat([items[better], place + (first_item + first)], dim=1).gather(1, order[:, :k])
    return count - below, values, items


def _products(state: Tensor, vectors: Tensor, out: Tensor) -> Tensor:
    """Into (rows, width), with zeros where there are fewer vectors."""
    vectors, missing = full_precision(vectors), out.shape[1] - len(vectors)
    return torch.mm(state, (F.pad(vectors, (0, 0, 0, missing)) if missing else vectors).T, out=out)
