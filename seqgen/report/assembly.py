"""From finished runs to a `Comparison`: the rows of the table, and the frames behind its pictures."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from seqgen import stored
from seqgen.errors import UserError
from seqgen.report.cases import Cases, by_bucket, gain, read_cases
from seqgen.report.comparison import Comparison
from seqgen.report.differences import Compared, compared, sentence
from seqgen.report.lists import Lists, add_lists, read_lists
from seqgen.report.published import published_beside
from seqgen.report.rows import DEFAULT_METRICS, baselines, columns, differing, grouped
from seqgen.report.runs import COSTS, Data, Groups, LeftOut, Run, find, of_data
from seqgen.report.statistics import LEVEL, holm, not_dominated

SCHEMAS: dict[str, dict[str, type[pl.DataType]]] = {
    "curves": {
        "data": pl.String,
        "label": pl.String,
        "seed": pl.Int64,
        "epoch": pl.Int64,
        "train_loss": pl.Float64,
        "value": pl.Float64,
    },
    "groups": {
        "data": pl.String,
        "label": pl.String,
        "grouping": pl.String,
        "bucket": pl.String,
        "cases": pl.Int64,
        "value": pl.Float64,
    },
    "unfinished": {"folder": pl.String, "status": pl.String, "sentence": pl.String},
}


def compute(
    folders: Iterable[str | Path],
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    compare: str = "test/ndcg@10",
    samples: int = 10_000,
    seed: int = 0,
    lists: Mapping[str, str | Path] | None = None,
) -> Comparison:
    """Compare the finished runs below some folders, and the lists of other frameworks on the same test cases.

    Args:
        folders: Folders, searched recursively.
        metrics: Metrics of ``results.json``, those of the test also without ``test/``, costs (`runs.COSTS`), and
            ``diversity@K`` for the accuracy at K beside what the lists cover and repeat; None for the usual.
        baseline: ``model``, ``model/attention`` or a label; None for the first row of each data set.
        compare: Metric of the paired difference: ``test/ndcg@K``, ``test/hr@K`` or ``test/mrr``.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        lists: Name -> parquet of user, item and rank; ``name@data`` where there are several data sets.

    Raises:
        UserError: A folder, file, metric or baseline is missing, runs cannot be compared, or lists are malformed.
    """
    gain(compare)  # refuses a wrong metric even where nothing is compared
    compare = f"test/{compare.removeprefix('test/')}"
    if samples < 1 or seed < 0:
        raise UserError(f"samples={samples} must be at least 1 and seed={seed} at least 0")
    notes: list[str] = []
    runs, left_out = find(folders, notes)
    known = dict.fromkeys(name for run in runs for name in run.numbers)
    usual = [name for name in (*DEFAULT_METRICS, "train_epoch_s") if name in known]
    metrics = columns(metrics, known) if metrics else usual
    groups = grouped(runs)
    differing(groups, notes)
    cases = _cases(runs, groups, read_lists(lists or {}, groups, notes), known, compare, notes)
    first = baselines(groups, baseline)
    found = {
        data: compared(of_data(groups, data), own, first.get(data), compare, samples=samples, seed=seed, notes=notes)
        for data, own in cases.items()
    }
    monitor = _monitor(runs, notes)
    published = published_beside(groups)
    summary, axes = _summary(groups, metrics, first, found, compare, published)
    _limits(groups, summary, samples, notes)
    return Comparison(
        summary=summary,
        curves=_curves(groups, monitor),
        groups=_by_group(cases, found),
        unfinished=_unfinished(left_out),
        compare=compare,
        monitor=monitor,
        samples=samples,
        notes=notes,
        published=published,
        axes=axes,
        design=_design(groups, first, found),
        versions=tuple(dict.fromkeys(run.version for run in runs if run.version)),
        written=_written(runs),
        run_ids=tuple(run.run_id for run in runs),
    )


def _written(runs: Sequence[Run]) -> tuple[float, float] | None:
    moments = [run.file.stat().st_mtime for run in runs if run.file.name != stored.RUNS]
    return (min(moments), max(moments)) if moments else None


def _summary(
    groups: Groups,
    metrics: Sequence[str],
    first: Mapping[Data, str],
    found: Mapping[Data, Compared],
    compare: str,
    published: pl.DataFrame,
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows, and the axes of the Pareto front."""
    p = {label: value for part in found.values() for label, value in part.p.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    fits = published.filter(pl.col("label").is_not_null() & (pl.col("metric") == compare))
    beside = dict(fits.unique("label", keep="first").select("label", "value").iter_rows())
    rows = []
    for label, group in groups.items():
        own = found[group[0].data]
        row: dict[str, Any] = dict(zip(("model", "attention", "data"), group[0].names, strict=True))
        row |= {"label": label, "seeds": len(group)}
        for name in metrics:
            row[name] = _mean(group, name)
            values = [run.numbers.get(name, np.nan) for run in group]
            row[f"{name} std"] = np.std(values, ddof=1) if len(values) > 1 else np.nan
        row |= zip(("difference", "low", "high"), own.differences.get(label, [np.nan] * 3), strict=True)
        row |= {"baseline": first.get(group[0].data), "p": p.get(label, np.nan), "p_holm": corrected.get(label, np.nan)}
        row |= {"best": label == own.best, "not_worse": label in own.not_worse, "pareto": False}
        row |= {name: _mean(group, name) for name in COSTS if name not in metrics}
        rows.append(row | {"published": beside.get(label, np.nan)})
    front, axes = _front(groups, found, compare)
    for row in rows:
        row["pareto"] = row["label"] in front
    floats = ("difference", "low", "high", "p", "p_holm", *COSTS, "published")
    types: dict[str, type[pl.DataType]] = {"baseline": pl.String, **dict.fromkeys(floats, pl.Float64)}
    frame = pl.DataFrame(rows, infer_schema_length=None, schema_overrides=types)
    return frame.fill_nan(None).select("data", pl.exclude("data")), axes


def _mean(group: Sequence[Run], name: str) -> float:
    """Mean over seeds; NaN where one lacks it."""
    return float(np.mean([run.numbers.get(name, np.nan) for run in group]))


def _front(groups: Groups, found: Mapping[Data, Compared], compare: str) -> tuple[set[str], tuple[str, ...]]:
    """Labels that no row of their data set beats in accuracy, coverage and training time, and these axes."""
    _, k = gain(compare)
    coverage = f"test/coverage@{10 if math.isinf(k) else int(k)}"
    known = {name for group in groups.values() for run in group for name in run.numbers}
    axes = tuple(name for name in (compare, coverage, "train_s") if name in known)
    front: set[str] = set()
    for data in found:
        labels = list(of_data(groups, data))
        points = np.array([[_mean(groups[label], name) for name in axes] for label in labels])
        points[:, [name == "train_s" for name in axes]] *= -1
        whole = ~np.isnan(points).any(axis=1)
        own = [label for label, complete in zip(labels, whole, strict=True) if complete]
        front |= {label for label, kept in zip(own, not_dominated(points[whole]), strict=True) if kept}
    return front, axes


def _limits(groups: Groups, summary: pl.DataFrame, samples: int, notes: list[str]) -> None:
    """Say what the numbers of the table cannot tell."""
    count = summary["p"].count()
    if 2 * count / (samples + 1) >= LEVEL:
        notes.append(
            f"no p-value can fall below {LEVEL} after Holm's correction with {samples} samples and {count} "
            f"differences: use --samples {math.ceil(2 * count / LEVEL)}"
        )
    for name in dict.fromkeys(group[0].data[0] for group in groups.values()):
        own = [run for group in groups.values() for run in group if run.data[0] == name]
        devices = dict.fromkeys(run.device for run in own if run.device)
        if len(devices) > 1:
            notes.append(f"times on {name} are of several devices: {', '.join(map(str, devices))}")


def _monitor(runs: Sequence[Run], notes: list[str]) -> str:
    """The metric that decides the best epoch, of most runs."""
    counts = Counter(run.monitor for run in runs if run.monitor)
    if not counts:
        return "val/ndcg@10"
    (monitor, most), *others = counts.most_common()
    if others:
        count = sum(counts.values()) - most
        notes.append(f"no validation curve of {count} runs, which watch another metric than {monitor}")
    return str(monitor)


def _curves(groups: Groups, monitor: str) -> pl.DataFrame:
    rows = []
    for label, group in groups.items():
        for run in group:
            for epoch, loss, value in run.history:
                shown = value if run.monitor == monitor else None
                rows.append((run.data[0], label, run.seed[0], epoch, loss, shown))
    return pl.DataFrame(rows, schema=SCHEMAS["curves"], orient="row")


def _cases(
    runs: Sequence[Run], groups: Groups, given: Sequence[Lists], known: Iterable[str], compare: str, notes: list[str]
) -> dict[Data, Cases | None]:
    """The test cases of each data set; each of the given lists becomes one of the groups."""
    cases: dict[Data, Cases | None] = {}
    for data in dict.fromkeys(run.data for run in runs):
        own = [entry for entry in given if entry.data == data]
        cases[data] = read_cases(of_data(groups, data), needed=bool(own))
        add_lists(own, groups, cases[data], known, compare, notes)
    return cases


def _by_group(cases: Mapping[Data, Cases | None], found: Mapping[Data, Compared]) -> pl.DataFrame:
    rows = []
    for data, own in cases.items():
        if own is not None and own.context is not None:
            rows += [{"data": data[0]} | row for row in by_bucket(own, found[data].values)]
    return pl.DataFrame(rows, schema=SCHEMAS["groups"])


def _unfinished(left_out: Sequence[LeftOut]) -> pl.DataFrame:
    rows = [(run.place, run.status, run.sentence) for run in left_out]
    return pl.DataFrame(rows, schema=SCHEMAS["unfinished"], orient="row")


def _design(groups: Groups, first: Mapping[Data, str], found: Mapping[Data, Compared]) -> str:
    labels = {label for part in found.values() for label in part.designs}
    labels |= {first[data] for data, part in found.items() if part.designs}
    designs = [design for part in found.values() for design in part.designs.values()]
    return sentence(designs, [len(groups[label]) for label in labels])
