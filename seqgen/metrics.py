"""Ranking metrics from the rank of the target and from the recommended items.

    B cases, I items, K list length

The rank is the number of candidates whose score is not below the target's, the target included: ties and NaN count
against the model, so a constant or broken scorer gets nothing. All accuracy metrics come from one integer histogram
of ranks, all list metrics from integer counts of recommended items, so any batch size and any number of processes
give the same numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from seqgen.errors import UserError


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Rank of each target, 1 is best: scores (B, I + 1) with column 0 at -inf, targets (B,) -> (B,) int64.

    A target whose own score is -inf (seen, and seen items are masked) or NaN gets rank I + 1: it cannot be hit.
    """
    own = scores.gather(1, targets[:, None])
    return (~(scores < own)).sum(dim=1)


def top_items(scores: Tensor, k: int) -> Tensor:
    """The k best items of each row, best first, equal scores by lower id: scores (B, I + 1) -> (B, k) int64.

    An item that is masked (-inf) or NaN is never recommended: its place holds 0.
    """
    k_more = min(k + 1, scores.shape[1])
    values, items = scores.topk(k_more, dim=1)
    if bool(values.isnan().any()):  # torch takes NaN for the largest value
        scores = scores.masked_fill(scores.isnan(), float("-inf"))
        values, items = scores.topk(k_more, dim=1)
    tied = values[:, k - 1] == values[:, k_more - 1] if k_more > k else torch.zeros_like(values[:, 0], dtype=torch.bool)
    if bool(tied.any()):
        # torch.topk leaves open which of equal scores it takes; a stable sort takes the lowest ids.
        values[tied], items[tied] = (
            part[:, :k_more] for part in scores[tied].sort(dim=1, descending=True, stable=True)
        )
    values, items = values[:, :k], items[:, :k]
    by_id = items.argsort(dim=1)
    values, items = values.gather(1, by_id), items.gather(1, by_id)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return items.gather(1, order).masked_fill(values == float("-inf"), 0)


class RankingMetrics(Metric):
    """HR, NDCG and MRR of the target; coverage, novelty and popularity of the recommended lists.

    - hr@K: share of cases whose target has rank <= K.
    - ndcg@K: mean of 1 / log2(rank + 1) where rank <= K, else 0 (one relevant item, so the ideal is 1).
    - mrr: mean of 1 / rank over the whole catalogue; 0 where the target cannot be hit.
    - unhittable: share of cases whose target cannot be hit.
    - coverage@K: share of the catalogue that is in any list.
    - novelty@K: mean of -log2(share of training interactions) of the recommended items, in bits; an item without
      training interactions counts as one with a single interaction.
    - popularity@K: mean number of training interactions of the recommended items.

    Args:
        item_counts: Training interactions of each item, (I + 1,); entry 0 is padding.
        k: List lengths.
    """

    full_state_update = False
    histogram: Tensor
    recommended: Tensor

    def __init__(self, item_counts: Tensor, *, k: Sequence[int]) -> None:
        super().__init__()
        self.k = sorted({int(length) for length in k})
        if not self.k or self.k[0] < 1 or self.k[-1] > len(item_counts) - 1:
            raise UserError(f"metrics.k={list(k)} must be list lengths between 1 and the {len(item_counts) - 1} items.")
        self.item_counts = item_counts.clone()
        self.add_state("histogram", torch.zeros(len(item_counts) + 1, dtype=torch.long), dist_reduce_fx="sum")
        counts = torch.zeros(len(self.k), len(item_counts), dtype=torch.long)
        self.add_state("recommended", counts, dist_reduce_fx="sum")

    def update(self, ranks: Tensor, top: Tensor) -> None:
        """Add cases: ranks (B,), top (B, max K) with 0 where a list is shorter."""
        self.histogram += torch.bincount(ranks, minlength=len(self.histogram))
        for row, k in enumerate(self.k):
            self.recommended[row] += torch.bincount(top[:, :k].flatten(), minlength=self.recommended.shape[1])

    def compute(self) -> dict[str, Tensor]:
        """Metric name without the split -> float64 scalar."""
        histogram = self.histogram.cpu().double()  # not every device has 64 bits
        cases = histogram.sum()
        rank = torch.arange(len(histogram), dtype=torch.float64)
        gain = 1.0 / torch.log2(rank + 1)
        hittable = histogram[1:-1]  # the last entry is rank I + 1
        values = {"mrr": (hittable / rank[1:-1]).sum() / cases, "unhittable": histogram[-1] / cases}
        item_counts = self.item_counts.double()[1:]
        information = -torch.log2(item_counts.clamp(min=1) / item_counts.sum())
        for k, with_padding in zip(self.k, self.recommended.cpu().double(), strict=True):
            recommended = with_padding[1:]
            total = recommended.sum()
            values[f"hr@{k}"] = hittable[:k].sum() / cases
            values[f"ndcg@{k}"] = (hittable[:k] * gain[1 : k + 1]).sum() / cases
            values[f"coverage@{k}"] = (recommended > 0).double().mean()
            values[f"novelty@{k}"] = (recommended * information).sum() / total
            values[f"popularity@{k}"] = (recommended * item_counts).sum() / total
        return values
