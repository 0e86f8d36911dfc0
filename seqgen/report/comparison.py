"""What the report computes: one row per group, and the frames behind its pictures."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Comparison:
    """Finished runs side by side.

    Attributes:
        summary: A row per group: data, model, attention, label, seeds, each metric and its sample standard deviation
            (``<metric> std``), difference, low, high, baseline, p, p_holm, best, not_worse (not significantly worse
            than the best of its data set), pareto (no row of its data set beats it in all of `axes`), costs, published
            (the compared metric as others report it under the same protocol); null where there is no value.
        curves: data, label, seed, epoch, train_loss, value (of `monitor`).
        groups: data, label, grouping (history length, target popularity, transition seen), bucket, cases, value (of
            `compare`, seeds averaged); buckets in their order.
        unfinished: folder, status and sentence of runs that have not finished.
        compare: The compared metric, such as ``test/ndcg@10``.
        monitor: The metric that decides the best epoch.
        samples: Number of bootstrap samples.
        notes: A line for each run or difference left out, and where rows cannot be compared.
        published: Numbers of others on these data sets, with their protocol.
        axes: Columns of ``summary`` that `pareto` is about; smaller is better of the last.
        design: How the intervals were made, in a sentence.
        versions: Of seqgen, torch and Python that the runs were made with, with commit and device, each once.
        written: When the first and the last ``results.json`` were written, in seconds since 1970; None where all runs
            are stored ones, whose files do not tell.
        run_ids: Of the compared runs.
    """

    summary: pl.DataFrame
    curves: pl.DataFrame
    groups: pl.DataFrame
    unfinished: pl.DataFrame
    compare: str
    monitor: str
    samples: int
    notes: list[str]
    published: pl.DataFrame
    axes: tuple[str, ...] = ()
    design: str = ""
    versions: tuple[str, ...] = ()
    written: tuple[float, float] | None = None
    run_ids: tuple[str, ...] = ()
