"""Losses over the catalogue, as functions of hidden states.

    N targets, D width, I items, K negatives

A loss is `f(hidden (N, D), table (I + 1, D), targets (N,), batch) -> scalar`: the sum over this process's targets
divided by `batch.normalizer`. Row 0 of the table is padding and no class of any loss. A function has its settings bound
by the YAML (`_partial_: true`); one that must know how often items occur is a `CountedLoss`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen import collectives
from seqgen.data.sequences import SequenceBatch
from seqgen.errors import SettingError, check_positive, check_sizes, check_weights
from seqgen.numerics import (
    fourier_info_nce,
    full_precision,
    info_nce,
    picked_products,
    rows_of,
    sampled_cross_entropy,
    weighted_logsumexp,
)

LEAST_FOURIER_TEMPERATURE = 0.3  # below it the estimate of the denominator is noise
ALPHA = 0.75  # exponent of the counts, as of word2vec (Mikolov et al., NeurIPS 2013)
SHARES = 2**52  # units of probability, of all items together: whole numbers, which no precision of a model rounds


def cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
    """Softmax cross-entropy over all items.

    Memory grows with positions + items, not with their product.
    """
    hidden, table = full_precision(hidden), full_precision(table)
    weights = hidden.new_full((len(hidden),), 1.0 / batch.normalizer)
    of_targets = (hidden * rows_of(table, targets)).sum()
    return weighted_logsumexp(hidden, table, weights, first=1) - of_targets / batch.normalizer


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


def gbce(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    batch: SequenceBatch,
    *,
    num_negatives: int,
    calibration: float,
) -> Tensor:
    """Generalised binary cross-entropy, gBCE (Petrov and Macdonald, gSASRec, RecSys 2023, arXiv 2308.07192).

    loss = -1 / (K + 1) [ beta log sigma(s+) + sum over negatives of log(1 - sigma(s-)) ],
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha),  alpha = K / (I - 1)

    Few negatives make a model overconfident: at t = 0, plain binary cross-entropy, sigma(s) is not the probability of
    an item; at t = 1 it is. The negatives are uniform over all items but the target, as in the paper; its code draws
    among all items.

    Args:
        hidden: (N, D).
        table: (I + 1, D).
        targets: (N,).
        batch: What the hidden states were made from.
        num_negatives: K, drawn for each target.
        calibration: t.

    Raises:
        SettingError: A setting is out of its range.
    """
    check_sizes(num_negatives=num_negatives)
    others = len(table) - 2
    if num_negatives > others:
        raise SettingError(f"num_negatives={num_negatives} must be at most {others}, the other items; or use loss=ce.")
    if not 0.0 <= calibration <= 1.0:
        raise SettingError(f"calibration={calibration} must lie in [0, 1].")
    beta = 1.0 - calibration * (1.0 - num_negatives / others)
    negatives = batch.draw(partial(torch.randint, 1, others + 1), (len(targets), num_negatives))
    negatives = negatives + (negatives >= targets[:, None])
    ids = torch.cat([targets[:, None], negatives], dim=1)
    scores = picked_products(full_precision(hidden), full_precision(table), ids)
    losses = beta * F.softplus(-scores[:, 0]) + F.softplus(scores[:, 1:]).sum(dim=1)
    return losses.sum() / (num_negatives + 1) / batch.normalizer


class CountedLoss(nn.Module, ABC):
    """Base class of losses that must know how often items occur; a model prepares its loss when it is built."""

    @abstractmethod
    def prepare(self, item_counts: Tensor) -> None:
        """Take in the training interactions of each item, (I + 1,); entry 0 is padding."""

    @abstractmethod
    def forward(self, hidden: Tensor, table: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
        """The loss, as this file says."""


class SampledSoftmax(CountedLoss):
    """Softmax cross-entropy against K sampled items, corrected for how often each is drawn (logQ).

    loss = log( exp(s_y) + sum over k with j_k != y of exp(s_jk - log(K q_jk)) ) - s_y,   j_k ~ q with replacement

    Importance sampling of the softmax's denominator (Bengio and Senecal, IEEE Transactions on Neural Networks 2008; Yi
    et al., RecSys 2019). The target's term is known, so it is neither sampled nor corrected, and draws that hit it are
    left out (Khrylchenko et al., RecSys 2025, arXiv 2507.09331): then the sum has the expectation sum_j exp(s_j), that
    of the full softmax. Its logarithm is biased: the expected loss lies below the full one by about half the sum's
    relative variance, which falls as 1 / K.

    Args:
        num_negatives: K.
        sampler: q: `uniform`, or `popularity`, training counts ** alpha; an item without any counts as one with a
            single interaction, so that every item can be drawn.
        alpha: Exponent of the counts, `sampler=popularity` only; null is 0.75.
        shared: The K items are drawn once a step for all targets of the batch, those of other processes included, and
            are scored by one matrix product; otherwise K are drawn for each target.

    Raises:
        SettingError: A setting is out of its range, or without effect.
    """

    cumulative: Tensor | None

    def __init__(
        self,
        *,
        num_negatives: int,
        sampler: Literal["uniform", "popularity"],
        alpha: float | None,
        shared: bool,
    ) -> None:
        super().__init__()
        check_sizes(num_negatives=num_negatives)
        if alpha is not None:
            if sampler != "popularity":
                raise SettingError(f"alpha={alpha} has no effect with sampler={sampler}; leave it null.")
            check_positive(alpha=alpha)
        self.num_negatives, self.sampler, self.shared = num_negatives, sampler, shared
        self.alpha, self.total = ALPHA if alpha is None else alpha, 0
        self.register_buffer("cumulative", None, persistent=False)

    def prepare(self, item_counts: Tensor) -> None:
        """Sum up the probabilities of the items, in whole numbers, where they are not equal."""
        if self.sampler == "popularity":
            counts = item_counts.clamp(min=1).double()
            weights = (counts / counts.max()) ** self.alpha
            weights[0] = 0.0
            shares = (weights / weights.sum() * SHARES).long().clamp(min=1)
            shares[0] = 0
            self.cumulative = shares.cumsum(0)
            self.total = int(self.cumulative[-1])

    def forward(self, hidden: Tensor, table: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
        """The loss, as this file says; negatives are drawn anew at each call."""
        items, probability = self.draw(batch, len(table) - 1)
        hidden, count = full_precision(hidden), len(targets)
        shift = -(self.num_negatives * probability).log().to(hidden.dtype)
        if self.shared:
            rows = full_precision(rows_of(table, torch.cat([targets, items])))  # together: their gradient is a table
            weights = hidden.new_full((count,), 1.0 / batch.normalizer)
            positive = (hidden * rows[:count]).sum(dim=1)
            return sampled_cross_entropy(hidden, positive, rows[count:], shift, (targets, items), weights)
        scores = picked_products(hidden, full_precision(table), torch.cat([targets[:, None], items], dim=1))
        positive, logits = scores[:, :1], scores[:, 1:] + shift
        logits = logits.masked_fill(items == targets[:, None], float("-inf"))
        losses = torch.cat([positive, logits], dim=1).logsumexp(dim=1) - positive[:, 0]
        return losses.sum() / batch.normalizer

    def draw(self, batch: SequenceBatch, num_items: int) -> tuple[Tensor, Tensor]:
        """Negatives, (K,) or (N, K), and their probabilities in one draw, in float64; the same in all processes."""
        assert self.sampler == "uniform" or self.total, "a loss is prepared before it is used"
        lowest, end = (0, self.total) if self.total else (1, num_items + 1)
        sample, device = partial(torch.randint, lowest, end), batch.targets.device
        if self.shared:
            drawn = sample((self.num_negatives,), generator=batch.generator, device=device)
        else:
            drawn = batch.draw(sample, (len(batch.targets), self.num_negatives))
        if self.cumulative is None:
            return drawn, torch.full_like(drawn, 1 / num_items, dtype=torch.float64)
        items = torch.searchsorted(self.cumulative, drawn, right=True)
        return items, (self.cumulative[items] - self.cumulative[items - 1]).double() / self.total


class InBatchSoftmax(CountedLoss):
    """Softmax cross-entropy against the other targets of the batch, corrected for how often each occurs (logQ).

    loss = log( exp(s_y) + sum over other targets y' != y of exp(s_y' - log((N - 1) p_y')) ) - s_y

    with p an item's share of the training interactions (Yi et al., RecSys 2019). The other targets are those of all
    processes; on a CPU equal ones are scored once, with their number. What `SampledSoftmax` says of the estimate holds
    as far as targets are independent draws from p; an item that is no target of the batch is no negative, so one
    without training interactions never is.
    """

    item_counts: Tensor

    def prepare(self, item_counts: Tensor) -> None:
        """Keep the counts."""
        self.register_buffer("item_counts", item_counts, persistent=False)

    def forward(self, hidden: Tensor, table: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
        """The loss, as this file says."""
        everyone = targets
        if batch.whole is not None:
            everyone = collectives.gathered(targets[None, :, None])[0].flatten()
        items, counts, others = everyone, torch.ones_like(everyone), max(len(everyone) - 1, 1)
        if everyone.device.type == "cpu":  # elsewhere their number would be waited for
            items, counts = everyone.unique(return_counts=True)
        share = self.item_counts[items].double() / self.item_counts.sum()
        hidden = full_precision(hidden)
        shift = (counts / (others * share)).log().to(hidden.dtype)
        rows = full_precision(rows_of(table, torch.cat([targets, items])))
        positive = (hidden * rows[: len(targets)]).sum(dim=1)
        weights = hidden.new_full((len(targets),), 1.0 / batch.normalizer)
        return sampled_cross_entropy(hidden, positive, rows[len(targets) :], shift, (targets, items), weights)


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
