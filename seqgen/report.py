"""One table over finished runs: means over seeds, and paired differences to a baseline.

``python -m seqgen.report outputs/... experiments/...`` reads ``results.json`` and ``ranks.parquet`` of each run and the
stored runs of experiments (`seqgen.stored`), and does without torch. In order: runs, groups of runs over seeds, paired
differences of groups, the table.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Column, Table

from seqgen import stored
from seqgen.errors import UserError, nearest
from seqgen.labels import distinguish
from seqgen.metric_table import METRICS
from seqgen.results import identity, went
from seqgen.settings import flatten, key_of

LABEL = "model / attention / data"
# What only shows or logs says nothing about a run; it stays in the identity, which stored runs were given with it.
SHOWN = ("trainer.profiler", "trainer.log_every_n_steps")
NARROW_LABEL = 26  # characters of a label's line where not all columns fit beside it
DEFAULT_METRICS = [f"test/{name}" for name in ("hr@10", "ndcg@10", "mrr", "coverage@10", "novelty@10")]
# What `diversity@K` stands for.
DIVERSITY = [row.name for row in METRICS.values() if row.at_k and row.kind in ("accuracy", "diversity")]


@dataclass(frozen=True)
class Run:
    """What the report takes from one finished run."""

    file: Path  # its results.json, or the file of stored runs that holds it
    place: str  # what the notes call it
    name: str | None  # of a stored run
    run_id: str
    seed: tuple[Any, ...]  # the run's, then those its config names, as for the order of users
    names: list[str]  # of model, attention and data
    data: tuple[str, str]  # name and fingerprint; what two runs must share to be compared
    settings: dict[str, str]  # dotted key -> JSON text; what the runs of a group share
    choices: dict[str, str]  # in each group of the configuration where one was made
    overrides: list[str]  # of the command line
    numbers: dict[str, float]  # what a column can show


def _read(file: Path) -> list[Run | str]:
    """Read a file: its runs, or in place of each that has no whole test the line to print."""
    try:
        if file.name == stored.RUNS:
            runs = stored.read_runs(file.parent)
            return [_run(file, f"{file.parent}, {run['name']}, seed {run['seed']}", run) for run in runs]
        return [_run(file, str(file.parent), json.loads(file.read_text(encoding="utf-8")))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return [f"not in the table: {file} is broken ({error!r}): delete it or run again"]


def _run(file: Path, place: str, results: dict[str, Any]) -> Run | str:
    if results["status"] != "finished":
        return f"not in the table: {place}, {went(results, file.parent)}"
    numbers = {**results["metrics"], "parameters": results["parameters"]}
    if epochs := results["timing"].get("train_epoch_s"):
        numbers["train_epoch_s"] = np.median(epochs)  # the first one pays for compilation and cold caches
    numbers = {name: float(value) for name, value in numbers.items() if value is not None}
    names = [(results["choices"].get(name) or "none") for name in ("model", "attention", "data")]
    names = ["-" if option == "none" else option for option in names]
    config = results["config"]
    trainer = config.get("trainer") or {}
    if config.get("test") is False or trainer.get("fast_dev_run"):
        return f"not in the table: {place}, not tested"
    if trainer.get("limit_test_batches", 1.0) != 1.0:
        return f"not in the table: {place}, tested on a part of the users"
    # A stored run's `equals` are later spellings of its settings, so that it stands beside the runs that have those.
    equals = results.get("equals", {})
    data = (names[2], str(equals.get("data.fingerprint", results["data"]["fingerprint"])))
    settings = {**flatten(identity(config)), **{key: json.dumps(value) for key, value in equals.items()}}
    settings["data.fingerprint"] = data[1]
    for key in SHOWN:
        settings.pop(key, None)
    seeds = [settings.pop(key) for key in sorted(settings) if key == "seed" or key.endswith(".seed")]
    seed, name = (results["seed"], *seeds), results.get("name")
    choices = {group: option for group, option in results["choices"].items() if option not in (None, "None")}
    overrides = results.get("overrides", [])
    return Run(file, place, name, results["run_id"], seed, names, data, settings, choices, overrides, numbers)


def _find(folders: Iterable[str | Path], notes: list[str]) -> list[Run]:
    """Find the finished runs below some folders, each once; ``notes`` receives a line per run left out."""
    roots = [Path(folder) for folder in ([folders] if isinstance(folders, str) else folders)]
    if missing := [str(root) for root in roots if not root.is_dir()]:
        raise UserError(f"there is no folder {', '.join(missing)}")
    found_files = (file for root in roots for name in ("results.json", stored.RUNS) for file in root.rglob(name))
    files = {str(file.resolve()): file for file in found_files}
    # Job 10 comes after job 9.
    order = sorted(files, key=lambda name: [(s, int(n or 0)) for s, n in re.findall(r"(\D+)(\d*)", name)])
    found = [run for name in order for run in _read(files[name])]
    runs = [run for run in found if isinstance(run, Run)]
    notes += [line for line in found if isinstance(line, str)]
    if not runs:
        raise UserError("; ".join([f"no finished run under {', '.join(map(str, roots))}", *notes]))
    # By settings too: a changed seqgen may give the same settings another run_id.
    for key in (lambda run: (run.run_id, run.seed), lambda run: (run.seed, *sorted(run.settings.items()))):
        kept = {key(run): run for run in sorted(runs, key=lambda run: os.path.getmtime(run.file))}
        pairs = [(run.place, kept[key(run)].place) for run in runs if kept[key(run)] is not run]
        notes += [f"not in the table: {old} is the same run as {new}, which is newer" for old, new in pairs]
        runs = [run for run in runs if kept[key(run)] is run]
    return runs


def _group(runs: list[Run]) -> dict[str, list[Run]]:
    """Group runs over seeds: label -> runs, in the order of the rows.

    Groups of the same model, attention and data are told apart by the names of stored runs, or else by what differs.
    """
    data_sets = list(dict.fromkeys(run.data for run in runs))
    same: dict[Any, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.data[0], data_sets.index(run.data))):
        same.setdefault(tuple(sorted(run.settings.items())), []).append(run)
    labels = {key: " / ".join(group[0].names) for key, group in same.items()}
    for label in set(labels.values()):
        alike = [key for key in same if labels[key] == label]
        known = {key: {run.name for run in same[key]} for key in alike}
        if len(alike) > 1 and len(set.union(*known.values()) - {None}) == len(alike) == sum(map(len, known.values())):
            labels |= {key: f"{label}, {names.pop()}" for key, names in known.items()}
            continue
        groups = [same[key] for key in alike]
        typed = {key_of(override) for group in groups for run in group for override in run.overrides}
        more = distinguish([dict(key) for key in alike], [_shared_choices(group) for group in groups], typed)
        labels |= {key: label + text for key, text in zip(alike, more, strict=True)}
    return {labels[key]: group for key, group in same.items()}


def _shared_choices(group: list[Run]) -> dict[str, str]:
    """The choices that all runs of a group made."""
    first, *others = (run.choices for run in group)
    return {name: option for name, option in first.items() if all(run.get(name) == option for run in others)}


def _known(name: str, names: Iterable[str]) -> str:
    return nearest(name, list(names)) or f"; choose one of {', '.join(names)}"


def _columns(metrics: Iterable[str], known: Collection[str]) -> list[str]:
    """The metrics asked for, `diversity@K` as the columns it stands for, as far as the runs have them."""
    columns: list[str] = []
    for metric in metrics:
        name, _, k = metric.partition("@")
        full = metric if metric in known or f"test/{metric}" not in known else f"test/{metric}"
        group = [f"test/{part}@{k}" for part in DIVERSITY] if name == "diversity" else [full]
        columns += [column for column in group if column in known] or [metric]
    if unknown := [name for name in columns if name not in known]:
        close = nearest(unknown[0], list(known)) or nearest(f"test/{unknown[0]}", list(known))
        raise UserError(f"unknown metric {unknown[0]}{close or _known(unknown[0], known)}")
    return list(dict.fromkeys(columns))


def _baselines(groups: dict[str, list[Run]], name: str | None) -> dict[tuple[str, str], str]:
    """Find the label of each data set's baseline: its first row, or the only group of that name."""
    names: list[tuple[str, str]] = []
    for label, (run, *_) in groups.items():
        extra = label.removeprefix(" / ".join(run.names)).replace(" ", "")
        names += [("/".join(run.names[:n]) + end, label) for end in ("", extra) for n in (1, 2, 3)]
    fits = [label for label in groups if name is None or (name.replace(" ", ""), label) in names]
    if not fits:
        raise UserError(f"unknown baseline {name}{_known(str(name), dict(names))}")
    found = {groups[label][0].data: label for label in reversed(fits)}
    if name is not None and len(found) < len(fits):
        raise UserError(f"baseline {name} fits several groups, write one of: {'; '.join(fits)}")
    return found


def _values(rank: np.ndarray, compare: str) -> np.ndarray:
    match = re.fullmatch(r"(?:test/)?(?:(ndcg|hr)@([1-9]\d*)|mrr)", compare)
    if not match:
        raise UserError(f"cannot compare {compare}: use test/ndcg@K, test/hr@K or test/mrr")
    gain = {"ndcg": 1 / np.log2(rank + 1), "hr": np.ones(len(rank)), None: 1 / rank}[match[1]]
    return np.where(rank <= float(match[2] or "inf"), gain, 0.0)


def _cases(run: Run, compare: str) -> tuple[pl.DataFrame, np.ndarray] | None:
    """Read a run's test cases, sorted by user and target, and their values; None where a stored run lacks them."""
    is_stored = run.file.name == stored.RUNS
    file = run.file.with_name(stored.CASES if is_stored else "ranks.parquet")
    try:
        columns = list(stored.CASE_COLUMNS)
        read = stored.read_cases(file.parent, run.run_id) if is_stored else pl.read_parquet(file, columns=columns)
        if read is None:
            return None
        cases = read.with_columns(pl.col("user", "target").cast(pl.String)).sort("user", "target")
        rank = cases["rank"].cast(pl.Int64).to_numpy()
    except (pl.exceptions.PolarsError, OSError) as error:
        state = "broken" if file.exists() else "missing"
        raise UserError(f"{file} is {state}: run again with test=true, or leave {file.parent} out") from error
    if not len(rank) or not (rank >= 1).all():
        raise UserError(f"{file} is broken (no test case, or a rank below 1): run again with test=true")
    return cases.drop("rank"), _values(rank, compare)


def _intervals(sums: np.ndarray, counts: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Resample users: 95 % intervals (2, groups) of sums (users, groups) over counts (users,) of cases."""
    generator = np.random.default_rng(seed)
    means = np.empty((samples, sums.shape[1]))
    for mean in means:  # one sample at a time, for all groups: no array grows with users x samples
        weights = np.bincount(generator.integers(len(counts), size=len(counts)), minlength=len(counts))
        mean[:] = weights @ sums / (weights @ counts)
    return np.percentile(means, [2.5, 97.5], axis=0)


def _differences(
    groups: dict[str, list[Run]], baseline: str, compare: str, samples: int, seed: int, notes: list[str]
) -> Any:
    """Compare the groups of one data set to the baseline: label -> difference, low, high.

    A group without test cases is left out, all where it is the baseline; ``notes`` receives a line that says so.
    """
    read = {label: [_cases(run, compare) for run in group] for label, group in groups.items()}
    known = {label: found for label, cases in read.items() if len(found := [c for c in cases if c]) == len(cases)}
    data = groups[baseline][0].data[0]
    if baseline not in known:
        notes.append(f"no Δ on {data}: the ranks of the test cases of {baseline} were not kept")
        return {}
    if len(known) < len(groups):
        notes.append(f"no Δ for {len(groups) - len(known)} rows on {data}: the ranks of their test cases were not kept")
    if len(known) == 1:
        return {}
    keys, _ = known[baseline][0]
    means = {}
    for label, found in known.items():
        means[label] = np.zeros(len(keys))
        for run, (cases, values) in zip(groups[label], found, strict=True):
            if not keys.equals(cases):
                where = f"'{baseline}' and '{label}' (in {run.place})"
                raise UserError(f"{where} have different test cases, by split or filter: report them apart")
            means[label] += values / len(found)
    users = keys["user"].rle_id().to_numpy()
    reference = means.pop(baseline)
    # Equal values averaged in another order differ in the last bit, which must not pass for a difference.
    sums = np.column_stack([np.bincount(users, np.round(mean - reference, 12)) for mean in means.values()])
    ends = _intervals(sums, np.bincount(users), samples, seed)
    return dict(zip(means, np.vstack([sums.sum(axis=0) / len(users), ends]).T.tolist(), strict=True))


def report(
    folders: Iterable[str | Path],
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    compare: str = "test/ndcg@10",
    samples: int = 10_000,
    seed: int = 0,
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """Compute the table over the finished runs below some folders.

    Args:
        folders: Folders, searched recursively.
        metrics: Metrics of ``results.json``, those of the test also without ``test/``, ``train_epoch_s`` (median),
            ``parameters``, and ``diversity@K`` for the accuracy at K beside what the lists cover and repeat; None for
            the usual.
        baseline: ``model``, ``model/attention`` or a label; None for the first row of each data set.
        compare: Metric of the paired difference: ``test/ndcg@K``, ``test/hr@K`` or ``test/mrr``.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        notes: A list that receives a line for each run or difference left out.

    Returns:
        A row per group: data, model, attention, label, seeds, each metric and its sample standard deviation
        (``<metric> std``), difference, low, high, baseline; null where there is no value.

    Raises:
        UserError: A folder, file, metric or baseline is missing, or runs cannot be compared.
    """
    _values(np.ones(1), compare)  # refuses a wrong metric even where nothing is compared
    if samples < 1 or seed < 0:
        raise UserError(f"samples={samples} must be at least 1 and seed={seed} at least 0")
    notes = [] if notes is None else notes
    runs = _find(folders, notes)
    known = dict.fromkeys(name for run in runs for name in run.numbers)
    usual = [name for name in (*DEFAULT_METRICS, "train_epoch_s") if name in known]
    metrics = _columns(metrics, known) if metrics else usual
    groups = _group(runs)
    baselines = _baselines(groups, baseline)
    found: dict[str, list[float]] = {}
    for data, label in baselines.items():
        same = {name: group for name, group in groups.items() if group[0].data == data}
        found |= _differences(same, label, compare, samples, seed, notes) if len(same) > 1 else {}
    rows = []
    for label, group in groups.items():
        row: dict[str, Any] = dict(zip(("model", "attention", "data"), group[0].names, strict=True))
        row |= {"label": label, "seeds": len(group)}
        for name in metrics:
            values = [run.numbers.get(name, np.nan) for run in group]
            row[name] = np.mean(values)
            row[f"{name} std"] = np.std(values, ddof=1) if len(values) > 1 else np.nan
        row |= zip(("difference", "low", "high"), found.get(label, [np.nan] * 3), strict=True)
        rows.append(row | {"baseline": baselines.get(group[0].data)})
    return pl.DataFrame(rows, infer_schema_length=None).fill_nan(None).select("data", pl.exclude("data"))


def _tables(frame: pl.DataFrame, compare: str, width: int) -> list[Table]:
    """The table, as several below one another where its columns do not fit into a width; each row has its label."""
    metrics = [name for name in frame.columns if f"{name} std" in frame.columns]
    columns = {"seeds": [str(seeds) for seeds in frame["seeds"]]}
    for name in metrics:
        form = {"parameters": ",.0f", "train_epoch_s": ".2f"}.get(name, ".4f")
        pairs = zip(frame[name], frame[f"{name} std"], strict=True)
        cells = [" ± ".join(f"{value:{form}}" for value in pair if value is not None) for pair in pairs]
        columns[name.removeprefix("test/")] = [cell or "-" for cell in cells]
    columns[f"Δ {compare.removeprefix('test/')}"] = [_delta(row) for row in frame.iter_rows(named=True)]
    widths = {name: max(map(len, (name, *cells))) + 3 for name, cells in columns.items()}
    labels = frame["label"].to_list()
    label_width = max(map(len, (LABEL, *labels)))
    if label_width + 4 + sum(widths.values()) > width:
        label_width = min(label_width, NARROW_LABEL)
    blocks: list[list[str]] = [[]]
    for name in columns:
        if blocks[-1] and label_width + 4 + sum(widths[n] for n in [*blocks[-1], name]) > width:
            blocks.append([])
        blocks[-1].append(name)
    tables = []
    for block in blocks:
        table = Table(Column(LABEL, max_width=label_width, overflow="fold"), *block)
        for row, label in enumerate(labels):
            table.add_row(label, *(columns[name][row] for name in block))
        tables.append(table)
    return tables


def _delta(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "baseline" if row["baseline"] == row["label"] else "-"
    certain = " *" if row["low"] > 0 or row["high"] < 0 else ""
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]{certain}"


def _caption(frame: pl.DataFrame, compare: str, samples: int) -> str:
    return (
        "Metrics are those of the test. ±: sample standard deviation over seeds. Δ: mean paired difference in "
        f"{compare} to the baseline, seeds averaged first, and its 95 % bootstrap interval ({samples} samples of "
        f"users); * excludes 0. Baseline: {'; '.join(frame['baseline'].drop_nulls().unique(maintain_order=True))}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; where it cannot be made, print one sentence and exit with code 1."""
    parser = argparse.ArgumentParser(prog="python -m seqgen.report", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folders", nargs="+", help="folders, searched recursively for results.json and stored runs")
    add(
        "--metrics",
        type=lambda text: re.split(", *", text),
        help="hr@5,val/ndcg@10,diversity@10,train_epoch_s,parameters",
    )
    add("--baseline", help="sasrec, sasrec/softmax or a whole label (default: first row of each data set)")
    add("--compare", default="test/ndcg@10", help="metric of Δ: ndcg@K, hr@K or mrr, of the test")
    add("--csv", type=Path, help="also write the table to this file, in full precision")
    add("--samples", type=int, default=10_000, help="number of bootstrap samples")
    add("--seed", type=int, default=0, help="seed of the bootstrap")
    args = vars(parser.parse_args(argv))
    csv, notes = args.pop("csv"), list[str]()
    try:
        frame = report(**args, notes=notes)
        if csv:
            frame.write_csv(csv)
    except (UserError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"seqgen.report: {error}", file=sys.stderr)
        sys.exit(1)
    # A file or a pipe has no width to keep to: nothing is wrapped there.
    console = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False, highlight=False)
    tables = _tables(frame, args["compare"], console.width)
    console.print(*tables, _caption(frame, args["compare"], args["samples"]), *notes, sep="\n")


if __name__ == "__main__":
    main()
