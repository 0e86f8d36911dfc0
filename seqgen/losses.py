"""Losses over the catalogue, as functions of hidden states.

    N targets, D width, I items, K negatives

A loss is `f(hidden (N, D), table (I + 1, D), targets (N,), batch) -> scalar`: the sum over this process's targets
divided by `batch.normalizer`. Row 0 of the table is padding and no class of any loss. Settings are bound by the YAML
(`_partial_: true`).
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from seqgen.data.sequences import SequenceBatch
from seqgen.errors import SettingError, check_positive, check_sizes, check_weights
from seqgen.numerics import fourier_info_nce, full_precision, info_nce, rows_of, weighted_logsumexp

LEAST_FOURIER_TEMPERATURE = 0.3  # below it the estimate of the denominator is noise


def cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
    """Softmax cross-entropy over all items.

    Memory grows with positions + items, not with their product.
    """
    hidden, table = full_precision(hidden), full_precision(table)
    weights = hidden.new_full((len(hidden),), 1.0 / batch.normalizer)
    of_targets = (hidden * rows_of(table, targets)).sum()
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
    check_sizes(num_negatives=num_negatives)
    negatives = sample_negatives(batch, len(table) - 1, num_negatives=num_negatives, exclude_seen=exclude_seen)
    positive = F.softplus(-(hidden * rows_of(table, targets)).sum(dim=-1))
    negative = F.softplus(torch.einsum("nd,nkd->nk", hidden, rows_of(table, negatives))).mean(dim=-1)
    return (positive + negative).sum() / batch.normalizer


def sample_negatives(batch: SequenceBatch, num_items: int, *, num_negatives: int, exclude_seen: bool) -> Tensor:
    """Uniform items for each target, (N, K): exactly uniform over the unseen ones, without rejection.

    The r-th unseen item of a user is r plus the number of seen items below it. With s_k the k-th seen item (k from 0),
    s_k - 1 - k unseen items lie below it, and this sequence is sorted: one binary search finds the number. An item that
    was seen again stands beside itself and is not counted, so that no size depends on the data.

    Raises:
        SettingError: A user has seen every item, so there is no negative.
    """
    shape, device = (len(batch.targets), num_negatives), batch.targets.device
    if not exclude_seen:
        return batch.draw(partial(torch.randint, 1, num_items + 1), shape)
    if batch.most_seen >= num_items:
        raise SettingError("exclude_seen=true leaves no negative for a user who has seen every item; set it to false.")
    stride = num_items + 1  # a row's own part of the sorted keys starts at row * stride
    keys = (batch.seen_rows * stride + batch.seen_items).sort().values
    row, item = keys // stride, keys % stride
    distinct = F.pad((keys.diff(prepend=keys.new_zeros(1)) != 0).cumsum(0), (1, 0))  # among the first so many keys
    first = distinct[torch.searchsorted(keys, torch.arange(len(batch) + 1, device=device) * stride)]
    unseen_below = item - distinct[1:] + first[row]
    num_unseen = (num_items - first.diff())[batch.target_rows]
    draw = (batch.draw(torch.rand, shape, dtype=torch.float64) * num_unseen[:, None]).long()
    draw = torch.minimum(draw, num_unseen[:, None] - 1)
    # No value within a row reaches the next row's part.
    offset = (batch.target_rows * stride)[:, None]
    passed = distinct[torch.searchsorted(row * stride + unseen_below, offset + draw, right=True)]
    return draw + 1 + passed - first[batch.target_rows][:, None]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """InfoNCE of paired rows against all others of the whole batch (`seqgen.numerics.info_nce`), with its weight.

    Args:
        weight: Weight in a model's objective; 0 leaves the contrast out.
        temperature: tau.
        fourier_features: Random directions that the denominator is estimated with; 0 computes it.

    Raises:
        SettingError: A setting is out of its range, or without effect.
    """

    weight: float
    temperature: float
    fourier_features: int

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_weights(weight=self.weight)
        check_positive(temperature=self.temperature)
        if self.fourier_features < 0:
            raise SettingError(f"fourier_features={self.fourier_features} must not be negative; 0 is exact.")
        if self.fourier_features and not self.weight:
            raise SettingError(f"fourier_features={self.fourier_features} has no effect with weight=0; set it to 0.")
        if self.fourier_features and self.temperature < LEAST_FOURIER_TEMPERATURE:
            raise SettingError(
                f"temperature={self.temperature} is too low for fourier_features, whose estimate is noise below "
                f"{LEAST_FOURIER_TEMPERATURE}; raise it, or set fourier_features=0."
            )

    def __call__(self, first: Tensor, second: Tensor, batch: SequenceBatch, normalizer: float) -> Tensor:
        """The sum over this process's rows divided by the normalizer, (K,).

        Args:
            first: K sets of N rows, (K, N, D).
            second: Their partners, (K, N, D).
            batch: Where it is a slice, the rows of the other processes are among those that a row is told from.
            normalizer: Number of rows of the whole batch, divided by the number of processes.
        """
        among, generator = batch.whole is not None, batch.generator
        if not self.fourier_features:
            value = info_nce(first, second, self.temperature, gather=among)
        else:
            how = (self.temperature, self.fourier_features)
            value = fourier_info_nce(first, second, *how, gather=among, generator=generator)
        return value * (first.shape[1] / normalizer)
