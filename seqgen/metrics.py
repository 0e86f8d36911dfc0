"""Ranking metrics from the rank of the target and from the recommended items.

    B cases, I items, K list length, C categories, E categories of all items together

The rank is the number of candidates whose score is not below the target's, the target included: ties and NaN count
against the model, so a constant or broken scorer gets nothing. All accuracy metrics come from one integer histogram
of ranks, all list metrics from integer counts of recommended items and of their categories, so any batch size and any
number of processes give the same numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from seqgen.data.ragged import ragged
from seqgen.errors import UserError
from seqgen.metric_table import METRICS

UNIT = 36  # distances are whole multiples of 2 ** -36: their sums are exact in any order, for 2 ** 27 lists or pairs
COMPARED = 2**18  # scores compared at once on a CPU
ELEMENTS = 2**24  # of the largest tensor that an update, or a sort of tied rows, may build


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Rank of each target, 1 is best: scores (B, I + 1) with column 0 at -inf, targets (B,) -> (B,) int64.

    A target whose own score is -inf (seen, and seen items are masked) or NaN gets rank I + 1: it cannot be hit.
    """
    own, num_scores = scores.gather(1, targets[:, None]), scores.shape[1]
    # What is compared is counted before it leaves a CPU's caches.
    rows = max(1, COMPARED // num_scores) if scores.device.type == "cpu" else max(1, len(scores))
    pieces = zip(scores.split(rows), own.split(rows), strict=True)
    return num_scores - torch.cat([torch.count_nonzero(theirs < one, dim=1) for theirs, one in pieces])


def top_items(scores: Tensor, k: int) -> Tensor:
    """The k best items of each row, best first, equal scores by lower id: scores (B, I + 1) -> (B, k) int64.

    An item that is masked (-inf) or NaN is never recommended: its place holds 0.
    """
    values, items = best_columns(scores, k)
    return items.masked_fill(values == float("-inf"), 0)


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row and their columns, both (B, k), equal values by lower column; NaN is -inf."""
    k_more = min(k + 1, scores.shape[1])
    values, items = scores.topk(k_more, dim=1)
    if bool(values.isnan().any()):  # torch takes NaN for the largest value
        scores = scores.masked_fill(scores.isnan(), float("-inf"))
        values, items = scores.topk(k_more, dim=1)
    tied = values[:, k - 1] == values[:, k_more - 1] if k_more > k else torch.zeros_like(values[:, 0], dtype=torch.bool)
    if bool(tied.any()):
        # torch.topk leaves open which of equal scores it takes; a stable sort takes the lowest ids.
        for rows in tied.nonzero()[:, 0].split(max(1, ELEMENTS // scores.shape[1])):
            ordered = scores[rows].sort(dim=1, descending=True, stable=True)
            values[rows], items[rows] = ordered.values[:, :k_more], ordered.indices[:, :k_more]
    values, items = values[:, :k], items[:, :k]
    by_id = items.argsort(dim=1)
    values, items = values.gather(1, by_id), items.gather(1, by_id)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, items.gather(1, order)


def gini(counts: Tensor) -> Tensor:
    """Gini coefficient of counts (n,): 0 where all are equal, 1 - 1 / n where one has them all; float64 scalar.

    Half the mean absolute difference of all pairs over the mean, by the closed form on sorted counts.
    """
    ordered = counts.double().sort().values
    n = len(ordered)
    weight = 2 * torch.arange(1, n + 1, dtype=torch.float64) - n - 1
    return (weight * ordered).sum() / (n * ordered.sum())


def category_overlaps(top: Tensor, values: Tensor, offsets: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Categories that the items of lists bring, and share.

    Args:
        top: Lists of items (B, K), 0 where a list is shorter.
        values: Category ids of all items, (E,), as of `Catalog.category_ids`.
        offsets: Where each item's begin, (I + 2,).
        number: How many categories there are.

    Returns:
        The place in its list, 0 to K - 1, at which a category occurs first, for every category of every list, and how
        many categories each two items of a list share, (B, K, K) float32 of whole numbers; the diagonal counts an
        item's own.
    """
    (num_lists, k), items = top.shape, top.flatten()
    slot, index = ragged(offsets[items], offsets[items + 1] - offsets[items])
    row, place = slot // k, slot % k
    # Entries by list, by category, then by place: the first of equal categories is where the list gains it.
    key = ((row * number + values[index]) * k + place).sort().values
    place, pair = key % k, key // k
    first = torch.ones_like(pair, dtype=torch.bool)
    first[1:] = pair[1:] != pair[:-1]
    # Categories are numbered anew within each list, so that no list pays for those it lacks.
    row = pair // number
    distinct = torch.bincount(row[first], minlength=num_lists)
    local = first.cumsum(0) - 1 - (distinct.cumsum(0) - distinct)[row]
    has = torch.zeros(num_lists, k, int(distinct.max()), dtype=torch.float32, device=top.device)
    has.view(-1)[(row * k + place) * has.shape[2] + local] = 1.0
    with torch.autocast(top.device.type, enabled=False):  # 16 bits hold no counts above 256
        return place[first], has @ has.mT


@dataclass(frozen=True)
class Counts:
    """What an evaluation has counted, on the CPU in float64; each metric of `METRICS` is the method of its name.

    Attributes:
        cases: Number of cases, a scalar.
        ranked: Cases whose target has rank 1, 2, ..., (I,).
        missed: Cases whose target cannot be hit, a scalar.
        recommended: By list length K, how often each item is in a list, (I,).
        interactions: Training interactions of each item, (I,).
        covered: By list length, mean over cases of the share of all categories in the list; empty without categories.
        distance: By list length, the mean distance within a list; empty without categories.
    """

    cases: Tensor
    ranked: Tensor
    missed: Tensor
    recommended: Mapping[int, Tensor]
    interactions: Tensor
    covered: Mapping[int, Tensor]
    distance: Mapping[int, Tensor]

    def hr(self, k: int) -> Tensor:
        """Share of cases whose target has rank <= K."""
        return self.ranked[:k].sum() / self.cases

    def ndcg(self, k: int) -> Tensor:
        """Mean of 1 / log2(rank + 1) where rank <= K, else 0 (one relevant item, so the ideal is 1)."""
        gain = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
        return (self.ranked[:k] * gain).sum() / self.cases

    def mrr(self) -> Tensor:
        """Mean of 1 / rank over the whole catalogue; 0 where the target cannot be hit."""
        return (self.ranked / torch.arange(1, len(self.ranked) + 1, dtype=torch.float64)).sum() / self.cases

    def unhittable(self) -> Tensor:
        """Share of cases whose target cannot be hit."""
        return self.missed / self.cases

    def coverage(self, k: int) -> Tensor:
        """Share of the catalogue that is in any list."""
        return (self.recommended[k] > 0).double().mean()

    def novelty(self, k: int) -> Tensor:
        """Mean of -log2(share of training interactions) of the recommended items, in bits.

        An item without training interactions counts as one with a single interaction.
        """
        information = -torch.log2(self.interactions.clamp(min=1) / self.interactions.sum())
        return (self.recommended[k] * information).sum() / self.recommended[k].sum()

    def popularity(self, k: int) -> Tensor:
        """Mean number of training interactions of the recommended items."""
        return (self.recommended[k] * self.interactions).sum() / self.recommended[k].sum()

    def gini(self, k: int) -> Tensor:
        """Gini coefficient of how often each item of the catalogue is recommended."""
        return gini(self.recommended[k])

    def category_coverage(self, k: int) -> Tensor:
        """Mean over cases of the share of all categories that the list's items bear together, as in PAtt's code."""
        return self.covered[k]

    def ild(self, k: int) -> Tensor:
        """Mean over lists of the mean over unordered pairs of items of 1 - Jaccard similarity of their categories.

        To 1e-10. Pairs in which an item has no category are left out, and lists without a pair.
        """
        return self.distance[k]

    def f(self, k: int) -> Tensor:
        """Harmonic mean of category coverage and accuracy, (hr + ndcg) / 2; 0 where both are 0. As in PAtt's code.

        With the accuracy of this K: the authors' code takes that of K = 10 from K = 15 on.
        """
        accuracy, coverage = (self.hr(k) + self.ndcg(k)) / 2, self.covered[k]
        both = accuracy + coverage
        return 2 * accuracy * coverage / both if both != 0 else both


class RankingMetrics(Metric):
    """All metrics of `seqgen.metric_table`, of the target's rank and of the recommended lists.

    The category metrics, where items have categories, are those of PAtt (Liu et al., KDD 2024).

    Args:
        item_counts: Training interactions of each item, (I + 1,); entry 0 is padding.
        k: List lengths.
        categories: Category ids of all items and where each item's begin (`Catalog.category_ids`), or None.
    """

    full_state_update = False
    histogram: Tensor
    recommended: Tensor
    gained: Tensor  # categories that come in at each place of the lists
    distance: Tensor  # of the lists of each length
    paired: Tensor  # lists of each length that have a pair

    def __init__(
        self, item_counts: Tensor, *, k: Sequence[int], categories: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.k = sorted({int(length) for length in k})
        if not self.k or self.k[0] < 1 or self.k[-1] > len(item_counts) - 1:
            raise UserError(f"metrics.k={list(k)} must be list lengths between 1 and the {len(item_counts) - 1} items.")
        self.item_counts = item_counts.clone()
        self.add_state("histogram", torch.zeros(len(item_counts) + 1, dtype=torch.long), dist_reduce_fx="sum")
        counts = torch.zeros(len(self.k), len(item_counts), dtype=torch.long)
        self.add_state("recommended", counts, dist_reduce_fx="sum")
        self.categories = categories
        if categories is not None:
            values, offsets = categories
            self.num_categories = int(values.max()) + 1
            # Lists at once: one has no more categories than there are, and no more than its items can have.
            widest = min(self.num_categories, self.k[-1] * int(offsets.diff().max()))
            self.rows = max(1, ELEMENTS // (self.k[-1] * max(widest, self.k[-1])))
            self.add_state("gained", torch.zeros(self.k[-1], dtype=torch.long), dist_reduce_fx="sum")
            for name in ("distance", "paired"):
                self.add_state(name, torch.zeros(len(self.k), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, ranks: Tensor, top: Tensor) -> None:
        """Add cases: ranks (B,), top (B, max K) with 0 where a list is shorter."""
        self.histogram += torch.bincount(ranks, minlength=len(self.histogram))
        for row, k in enumerate(self.k):
            self.recommended[row] += torch.bincount(top[:, :k].flatten(), minlength=self.recommended.shape[1])
        if self.categories is not None and len(top):
            values, offsets = (part.to(top.device) for part in self.categories)
            self.categories = values, offsets
            for lists in top.split(self.rows):
                self._add_categories(*category_overlaps(lists, values, offsets, self.num_categories))

    def _add_categories(self, places: Tensor, shared: Tensor) -> None:
        self.gained += torch.bincount(places, minlength=len(self.gained))
        own = shared.diagonal(dim1=1, dim2=2)  # (B, K)
        a, b = own[:, :, None], own[:, None]
        union = a + b - shared  # (B, K, K)
        differing = (union - shared) * (a * b > 0)
        # Row after row below the diagonal: the pairs of the first K items are the first K (K - 1) / 2.
        later, earlier = torch.tril_indices(own.shape[1], own.shape[1], -1, device=own.device)
        pair = later * own.shape[1] + earlier
        union, differing = (part.flatten(1).index_select(1, pair).long() for part in (union, differing))
        distance = (differing << UNIT) // union.clamp(min=1)  # (B, pairs)
        items = (own > 0).cumsum(1)
        for row, k in enumerate(self.k):
            pairs = items[:, k - 1] * (items[:, k - 1] - 1) // 2
            total = distance[:, : k * (k - 1) // 2].sum(dim=1)
            self.distance[row] += (total // pairs.clamp(min=1)).sum()
            self.paired[row] += (pairs > 0).sum()

    def compute(self) -> dict[str, Tensor]:
        """Metric name without the split -> float64 scalar."""
        counts = self.counts()
        values: dict[str, Tensor] = {}
        for row in METRICS.values():
            if not row.needs_categories or self.categories is not None:
                metric = getattr(counts, row.name)
                lengths = [k for k in self.k if k >= row.least_k]
                values |= {f"{row.name}@{k}": metric(k) for k in lengths} if row.at_k else {row.name: metric()}
        return values

    def counts(self) -> Counts:
        """What has been counted so far."""
        histogram = self.histogram.cpu().double()  # not every device has 64 bits
        cases = histogram.sum()
        covered, distance = {}, {}
        if self.categories is not None:
            shares = self.gained.cpu().cumsum(0).double() / (cases * self.num_categories)
            means = self.distance.cpu().double() / 2**UNIT / self.paired.cpu().double()
            covered = {k: shares[k - 1] for k in self.k}
            distance = dict(zip(self.k, means, strict=True))
        return Counts(
            cases=cases,
            ranked=histogram[1:-1],
            missed=histogram[-1],  # rank I + 1
            recommended=dict(zip(self.k, self.recommended.cpu().double()[:, 1:], strict=True)),
            interactions=self.item_counts.double()[1:],
            covered=covered,
            distance=distance,
        )
