"""Stored runs: what goes in comes out, once, without what belongs to a machine."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from seqgen.errors import UserError
from seqgen.stored import add_runs, read_cases, read_runs, storable


def results(seed: int, *, epochs: int = 2, **more: Any) -> dict[str, Any]:
    times = [0.5 * epoch + seed for epoch in range(epochs)]
    return {
        "status": "finished",
        "pid": 7,
        "host": "mine",
        "run_id": f"r{seed}",
        "overrides": ["seed=1", "paths.data_dir=/home/me", "ckpt_path=/home/me/last.ckpt"],
        "seed": seed,
        "config": {
            "seed": seed,
            "paths": {"output_dir": "/home/me/run"},
            "callbacks": {"best": {"dirpath": "/home/me/run/checkpoints"}},
            "test": False,
        },
        "history": [{"epoch": epoch, "val/mrr": 1 / 3 + epoch} for epoch in range(epochs)],
        "metrics": {"val/mrr": 4 / 3},
        "timing": {"total_s": 3.25, **({"train_epoch_s": times, "train_epoch_cpu_s": times} if epochs else {})},
    } | more


def cases(ranks: list[int], users: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"user": users, "target": users, "rank": ranks, "top": [[1]] * len(ranks)})


def test_runs_come_back_in_full_precision_and_without_the_machine(tmp_path: Path) -> None:
    given = [results(2), results(1, epochs=3), results(3, epochs=0)]
    assert add_runs(tmp_path, [storable(run, name="a") for run in given]) == (3, 0)
    read = read_runs(tmp_path)
    assert [run["seed"] for run in read] == [1, 2, 3]
    for run, original in zip(read, sorted(given, key=lambda run: run["seed"]), strict=True):
        for key in ("history", "metrics", "timing", "status", "run_id"):
            assert run[key] == original[key]
        assert run["overrides"] == ["seed=1"]
        assert (run["config"]["train"], run["config"]["test"]) == (True, False)
        assert run["config"]["callbacks"]["best"]["dirpath"] == "<output_dir>/checkpoints"
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"/home/me" not in files
    assert b"mine" not in files


def test_a_run_is_stored_once_and_the_newest_counts(tmp_path: Path) -> None:
    first = {"r1": cases([1, 2], [0, 1]), "r2": cases([3, 4], ["a", "b"])}
    add_runs(tmp_path, [storable(results(seed), name="a") for seed in (1, 2)], first)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert add_runs(tmp_path, [storable(results(seed), name="a") for seed in (2, 1)], first) == (0, 2)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    again = storable(results(1, epochs=1, metrics={}), name="b")
    assert add_runs(tmp_path, [again, storable(results(3), name="a")], {"r1": cases([5], [0])}) == (1, 1)
    read = {run["run_id"]: run for run in read_runs(tmp_path)}
    assert [(run_id, run["name"], len(run["history"])) for run_id, run in sorted(read.items())] == [
        ("r1", "b", 1),
        ("r2", "a", 2),
        ("r3", "a", 2),
    ]
    kept = {run_id: read_cases(tmp_path, run_id) for run_id in read}
    assert kept["r1"] is not None
    assert kept["r1"].rows() == [("0", "0", 5)]
    assert kept["r2"] is not None
    assert kept["r2"].rows() == [("a", "a", 3), ("b", "b", 4)]
    assert kept["r3"] is None


def test_lines_are_json_and_files_are_whole(tmp_path: Path) -> None:
    add_runs(tmp_path, [storable(results(1), name="a")])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["history.parquet", "runs.jsonl"]
    [line] = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["timing"] == {"total_s": 3.25}
    (tmp_path / "runs.jsonl").write_text(line[:40])
    with pytest.raises(UserError, match="cannot be read"):
        read_runs(tmp_path)
