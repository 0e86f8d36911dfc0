"""Finished runs that an experiment keeps in the repository, in three small files of one folder.

- ``runs.jsonl``: one run a line, as in ``results.json`` but for what belongs to one machine, with the name it goes by.
- ``history.parquet``: one row per run and epoch, its time and metrics.
- ``cases.parquet``: one row per run and test case, the rank of its target; of runs whose ranks were kept.

`seqgen.report` reads such a folder beside ``results.json``; ``experiments/collect.py`` adds to it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from seqgen.errors import UserError
from seqgen.results import identity, replacing

RUNS, HISTORY, CASES = "runs.jsonl", "history.parquet", "cases.parquet"
CASE_COLUMNS = ("user", "target", "rank")
_LEFT_OUT = ("pid", "host", "history", "config", "overrides", "timing")
_PER_EPOCH = ("train_epoch_s", "train_epoch_cpu_s")


def storable(results: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """A run as the folder keeps it, history included.

    Args:
        results: The content of its ``results.json``.
        name: What the run goes by in the experiment; the seeds of one setting share it.
    """
    config = identity(results["config"]) | {key: results["config"].get(key, True) for key in ("train", "test")}
    overrides = [o for o in results["overrides"] if not o.startswith(("paths.", "hydra.", "ckpt_path="))]
    kept = {key: value for key, value in results.items() if key not in _LEFT_OUT}
    more = {key: results[key] for key in ("timing", "history")}
    return {"name": name, **kept, "overrides": overrides, "config": config, **more}


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs of a folder, each with the keys of ``results.json`` and its name.

    Raises:
        UserError: A file is missing or broken.
    """
    try:
        lines = (folder / RUNS).read_text(encoding="utf-8").splitlines()
        runs: list[dict[str, Any]] = [json.loads(line) for line in lines]
        epochs = pl.read_parquet(folder / HISTORY).partition_by("run_id", as_dict=True)
        for run in runs:
            rows = epochs[run["run_id"],].rows(named=True) if (run["run_id"],) in epochs else []
            entries = [{k: v for k, v in row.items() if v is not None and k != "run_id"} for row in rows]
            for key in _PER_EPOCH:
                times = [entry.pop(key) for entry in entries if key in entry]
                run["timing"] |= {key: times} if times else {}
            run["history"] = entries
    except (OSError, ValueError, LookupError, TypeError, pl.exceptions.PolarsError) as error:
        raise UserError(f"the stored runs of {folder} cannot be read ({error!r}): restore its files") from error
    return runs


def read_cases(folder: Path, run_id: str) -> pl.DataFrame | None:
    """The test cases of a run: user and target as text, rank of the target; None where they were not kept."""
    file = folder / CASES
    if not file.exists():
        return None
    cases = pl.scan_parquet(file).filter(pl.col("run_id") == run_id).select(CASE_COLUMNS).collect()
    return cases if len(cases) else None


def add_runs(
    folder: Path, runs: Sequence[Mapping[str, Any]], cases: Mapping[str, pl.DataFrame] | None = None
) -> tuple[int, int]:
    """Add runs to a folder; one that has the identity of a stored run takes its place.

    Args:
        folder: Made where there is none.
        runs: From `storable`.
        cases: By run id, the test cases with the columns user, target and rank.

    Returns:
        How many runs were new, and how many took another's place.
    """
    stored = {run["run_id"]: run for run in (read_runs(folder) if (folder / RUNS).exists() else [])}
    given = {run["run_id"]: run for run in runs}
    replaced = len(stored.keys() & given.keys())
    kept_cases = {run_id: read_cases(folder, run_id) for run_id in stored.keys() - given.keys()} | dict(cases or {})
    everything = sorted((stored | given).values(), key=lambda run: (run["name"], run["seed"], run["run_id"]))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, everything, kept_cases)
    return len(given) - replaced, replaced


def _write(folder: Path, runs: Sequence[Mapping[str, Any]], cases: Mapping[str, pl.DataFrame | None]) -> None:
    lines, epochs, ranks = [], [], []
    for run in runs:
        timing = {key: value for key, value in run["timing"].items() if key not in _PER_EPOCH}
        line = {key: value for key, value in run.items() if key != "history"} | {"timing": timing}
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        columns = {key: run["timing"][key] for key in _PER_EPOCH if key in run["timing"]}
        for place, entry in enumerate(run["history"]):
            times = {key: values[place] for key, values in columns.items()}
            epochs.append({"run_id": run["run_id"], **entry, **times})
        own = cases.get(run["run_id"])
        if own is not None:
            # Ids as text: those of one data set may be numbers, those of another not.
            ids = pl.col("user", "target").cast(pl.String)
            ranks.append(own.select(pl.lit(run["run_id"]).alias("run_id"), ids, pl.col("rank").cast(pl.Int32)))
    frame = pl.DataFrame(epochs, infer_schema_length=None) if epochs else pl.DataFrame(schema={"run_id": pl.String})
    _replace(folder / HISTORY, frame)
    if ranks:
        _replace(folder / CASES, pl.concat(ranks))
    with replacing(folder / RUNS) as beside:
        beside.write_text("".join(lines), encoding="utf-8")


def _replace(file: Path, frame: pl.DataFrame) -> None:
    with replacing(file) as beside:
        frame.write_parquet(beside, compression="zstd", compression_level=22, statistics=False)
