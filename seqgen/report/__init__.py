"""Compare finished runs: means over seeds, paired differences to a baseline, and the frames behind the pictures.

``python -m seqgen.report outputs/... experiments/...`` reads ``results.json`` and ``ranks.parquet`` of each run and the
stored runs of experiments (`seqgen.stored`), and does without torch. In order: `runs`, `rows` (groups over seeds),
`cases` (ranks), `lists` (of other frameworks), `differences` with `statistics`, `assembly` of a
`comparison`, then `tables` and `page`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from seqgen.report.assembly import compute
from seqgen.report.comparison import Comparison

__all__ = ["Comparison", "compute", "report"]


def report(
    folders: Iterable[str | Path],
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    compare: str = "test/ndcg@10",
    samples: int = 10_000,
    seed: int = 0,
    lists: Mapping[str, str | Path] | None = None,
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """The table over the finished runs below some folders: ``summary`` of `compute`, which explains the arguments.

    Args:
        folders: Folders, searched recursively.
        metrics: Columns; None for the usual.
        baseline: Of the differences; None for the first row of each data set.
        compare: Metric of the differences.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        lists: Name -> lists of another framework.
        notes: A list that receives a line for each run or difference left out.

    Returns:
        A row per group, as in `Comparison.summary`.

    Raises:
        UserError: See `compute`.
    """
    found = compute(
        folders, metrics=metrics, baseline=baseline, compare=compare, samples=samples, seed=seed, lists=lists
    )
    if notes is not None:
        notes += found.notes
    return found.summary
