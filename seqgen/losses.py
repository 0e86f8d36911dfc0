"""Losses over the catalogue, as functions of hidden states.

    N targets, D width, I items, K negatives

A loss is `f(hidden (N, D), table (I + 1, D), targets (N,), batch) -> scalar`: the sum over this process's targets
divided by `batch.normalizer`. Row 0 of the table is padding and no class of any loss. Settings are bound by the YAML
(`_partial_: true`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqgen.data.sequences import SequenceBatch
from seqgen.errors import SettingError
from seqgen.numerics import full_precision, weighted_logsumexp


def cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
    """Softmax cross-entropy over all items.

    Memory grows with positions + items, not with their product.
    """
    hidden, table = full_precision(hidden), full_precision(table)
    weights = hidden.new_full((len(hidden),), 1.0 / batch.normalizer)
    of_targets = (hidden * table[targets]).sum()
    return weighted_logsumexp(hidden, table[1:], weights) - of_targets / batch.normalizer


def binary_cross_entropy(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    batch: SequenceBatch,
    *,
    num_negatives: int = 1,
    exclude_seen: bool = True,
) -> Tensor:
    """Binary cross-entropy of the target against sampled negatives (SASRec, section 3.6), mean over the negatives.

    Args:
        hidden: (N, D).
        table: (I + 1, D).
        targets: (N,).
        batch: What the hidden states were made from.
        num_negatives: Uniform negatives per target.
        exclude_seen: No item of the user's training sequence is a negative.
    """
    if num_negatives < 1:
        raise SettingError(f"num_negatives={num_negatives} must be at least 1.")
    negatives = sample_negatives(batch, len(table) - 1, num_negatives=num_negatives, exclude_seen=exclude_seen)
    positive = F.softplus(-(hidden * table[targets]).sum(dim=-1))
    negative = F.softplus(torch.einsum("nd,nkd->nk", hidden, table[negatives])).mean(dim=-1)
    return (positive + negative).sum() / batch.normalizer


def sample_negatives(batch: SequenceBatch, num_items: int, *, num_negatives: int, exclude_seen: bool) -> Tensor:
    """Uniform items for each target, (N, K): exactly uniform over the unseen ones, without rejection.

    The r-th unseen item of a user is r plus the number of seen items below it. With s_k the k-th seen item (k from 0),
    s_k - 1 - k unseen items lie below it, and this sequence is sorted: one binary search finds the number.

    Raises:
        SettingError: A user of the batch has seen every item, so there is no negative.
    """
    shape, device = (len(batch.targets), num_negatives), batch.targets.device
    if not exclude_seen:
        return torch.randint(1, num_items + 1, shape, device=device)
    keys = torch.unique(batch.seen_rows * (num_items + 1) + batch.seen_items)
    row, item = keys // (num_items + 1), keys % (num_items + 1)
    num_seen = torch.bincount(row, minlength=len(batch))
    first = num_seen.cumsum(0) - num_seen
    unseen_below = item - 1 - (torch.arange(len(keys), device=device) - first[row])
    num_unseen = (num_items - num_seen)[batch.target_rows]
    if len(num_unseen) and int(num_unseen.min()) == 0:
        raise SettingError("exclude_seen=true leaves no negative for a user who has seen every item; set it to false.")
    draw = (torch.rand(shape, device=device, dtype=torch.float64) * num_unseen[:, None]).long()
    draw = torch.minimum(draw, num_unseen[:, None] - 1)
    # A row's own part of the sorted keys starts at row * (num_items + 1), which no value within a row reaches.
    offset = (batch.target_rows * (num_items + 1))[:, None]
    passed = torch.searchsorted(row * (num_items + 1) + unseen_below, offset + draw, right=True)
    return draw + 1 + passed - first[batch.target_rows][:, None]
