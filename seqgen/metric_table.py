"""The table of ranking metrics: one row each, free of torch.

`seqgen.metrics.Counts` computes each row by the method of its name; the checks of a configuration, the report, the
diagnosis, what a run prints and the README's table read the rest here. A new metric is a method there and a row here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricRow:
    """What is known of a metric.

    Attributes:
        name: As in `val/<name>@10`, or `val/<name>` without a list length.
        explanation: For readers of the README.
        kind: What it measures; `diversity@K` of the report shows the first two kinds.
        higher_is_better: None where no value is better, so that no epoch can be chosen by it.
        at_k: Whether it is computed for each list length K.
        least_k: The shortest list that it is defined for.
        needs_categories: Whether it exists only where items have categories.
    """

    name: str
    explanation: str
    kind: Literal["accuracy", "diversity", "other"]
    higher_is_better: bool | None = True
    at_k: bool = True
    least_k: int = 1
    needs_categories: bool = False

    def names(self, lengths: Sequence[int]) -> list[str]:
        """Names for some list lengths, `ndcg@5`, `ndcg@10`, or the one name without K."""
        return [f"{self.name}@{k}" for k in lengths if k >= self.least_k] if self.at_k else [self.name]

    @property
    def smaller_is_better(self) -> bool:
        """Whether the smallest value is the best."""
        return self.higher_is_better is False


METRICS: Mapping[str, MetricRow] = {
    row.name: row
    for row in (
        MetricRow("hr", "share of targets among the first K", "accuracy"),
        MetricRow("ndcg", "the same, discounted by 1 / log2(rank + 1)", "accuracy"),
        MetricRow("mrr", "mean of 1 / rank over the whole catalogue", "accuracy", at_k=False),
        MetricRow(
            "unhittable",
            "share of targets that are masked and cannot be hit",
            "other",
            higher_is_better=None,
            at_k=False,
        ),
        MetricRow("coverage", "share of the catalogue that is in any list", "diversity"),
        MetricRow("novelty", "bits of a recommended item: -log2 of its share of the training interactions", "other"),
        MetricRow("popularity", "training interactions of a recommended item", "other", higher_is_better=False),
        MetricRow(
            "gini",
            "how unequally items are recommended: 0 all as often, near 1 the same few to everyone",
            "diversity",
            higher_is_better=False,
        ),
        MetricRow(
            "category_coverage",
            "share of all categories that a list's items bear together",
            "diversity",
            needs_categories=True,
        ),
        MetricRow(
            "ild",
            "intra-list distance: 1 - Jaccard similarity of the categories of two items of a list that have some, "
            "mean over pairs, then lists",
            "diversity",
            least_k=2,
            needs_categories=True,
        ),
        MetricRow(
            "f",
            "harmonic mean of accuracy, (hr@K + ndcg@K) / 2, and category coverage",
            "diversity",
            needs_categories=True,
        ),
    )
}


def row_of(name: str) -> MetricRow | None:
    """The row of a full name such as `val/ndcg@10`; None of what is not a ranking metric."""
    return METRICS.get(name.rpartition("/")[2].partition("@")[0])
