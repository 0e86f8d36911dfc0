"""Add finished runs to the stored runs of an experiment, which `python -m seqgen.report experiments/...` reads.

    python experiments/collect.py experiments/mqsa_ted/results outputs/.../ [outputs/.../ ...]

Stores each run's results, configuration, history and, where it left `ranks.parquet`, the rank of every test case,
without paths, process id and host. A run that is stored already is replaced. `make tables` then writes the tables of
the pages.
"""

import argparse
import json
import sys
from pathlib import Path

import polars as pl

from seqgen.errors import UserError
from seqgen.stored import CASE_COLUMNS, RUNS, add_runs, read_runs, storable


def collect(target: Path, folders: list[Path], *, name: str | None = None) -> tuple[int, int]:
    """Add the runs of some output folders.

    Args:
        target: The folder of stored runs.
        folders: Output folders, each of one run.
        name: What the runs go by; None takes the experiment's name, else model-attention-data.

    Returns:
        How many runs were new, and how many took the place of a stored one.

    Raises:
        UserError: A folder holds no run that has ended, or the test of a checkpoint whose training is stored.
    """
    trained = {run["run_id"] for run in (read_runs(target) if (target / RUNS).exists() else []) if run["history"]}
    runs, cases = [], {}
    for folder in folders:
        try:
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no results.json that can be read: {error}") from error
        if results["status"] not in ("finished", "stopped") or results["run_id"] is None:
            raise UserError(f"{folder} holds a run that is {results['status']}; collect runs that have ended")
        if not results["history"] and results["run_id"] in trained:
            raise UserError(f"{folder} tests a checkpoint of a stored run under the same settings: leave it out")
        chosen = results["choices"]
        usual = "-".join(chosen.get(group, "none") for group in ("model", "attention", "data"))
        runs.append(storable(results, name=name or chosen.get("experiment") or usual))
        if (folder / "ranks.parquet").exists():
            cases[results["run_id"]] = pl.read_parquet(folder / "ranks.parquet", columns=list(CASE_COLUMNS))
    return add_runs(target, runs, cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--name", help="of all these runs, which then differ in their seeds only")
    options = parser.parse_args()
    try:
        added, replaced = collect(options.target, options.runs, name=options.name)
    except UserError as error:
        sys.exit(f"collect.py: {error}")
    print(f"{options.target}: {added} runs added, {replaced} replaced")


if __name__ == "__main__":
    main()
