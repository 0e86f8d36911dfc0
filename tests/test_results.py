"""The identity of a run, and the ranks it writes."""

import json
import math
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from seqgen.results import RunRecord, identity, is_alive, went, write_ranks

CONFIG: dict[str, Any] = {
    "seed": 1,
    "task": "train",
    "ckpt_path": None,
    "paths": {"output_dir": "/a/run", "cache_dir": "/a/cache"},
    "callbacks": {"best": {"dirpath": "/a/run/checkpoints", "resumed_from": None}},
    "trainer": {"max_epochs": 3, "enable_progress_bar": True, "default_root_dir": "/a/run"},
    "model": {"hidden_dim": 64},
}


def test_identity_is_what_decides_the_outcome() -> None:
    elsewhere = json.loads(json.dumps(CONFIG).replace("/a/", "/another/")) | {
        "task": "again",
        "ckpt_path": "/b/last.ckpt",
    }
    elsewhere["callbacks"]["best"]["resumed_from"] = "/b/last.ckpt"
    elsewhere["trainer"]["enable_progress_bar"] = False
    assert identity(elsewhere) == identity(CONFIG)
    for change in ({"seed": 2}, {"model": {"hidden_dim": 32}}, {"trainer": {"max_epochs": 4}}):
        assert identity(CONFIG | change) != identity(CONFIG)


def test_the_record_is_json_whatever_it_holds(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, config=CONFIG, choices={}, overrides=[], write=True)
    record.update(history=[{"train/loss": math.nan}], metrics={"val/mrr": math.inf})
    text = (tmp_path / "results.json").read_text()
    content = json.loads(text, parse_constant=lambda name: f"not JSON: {name}")
    assert content["history"] == [{"train/loss": None}]
    assert content["metrics"] == {"val/mrr": None}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    RunRecord(tmp_path, config=CONFIG, choices={}, overrides=[], write=False).update(status="finished")
    assert not list(tmp_path.iterdir())


def test_ranks_are_written_in_the_order_of_the_cases_with_original_ids(tmp_path: Path) -> None:
    cases = pl.DataFrame({"user": ["u", "v", "w"], "target": ["c", "a", "b"]})
    ranked = [  # batches in any order; 0 stands where a list is shorter
        {"case": torch.tensor([2, 0]), "rank": torch.tensor([1, 3]), "top": torch.tensor([[2, 1], [1, 0]])},
        {"case": torch.tensor([1]), "rank": torch.tensor([2]), "top": torch.tensor([[3, 1]])},
    ]
    write_ranks(tmp_path, cases, ranked, ["a", "b", "c"])
    ranks = pl.read_parquet(tmp_path / "ranks.parquet")
    assert ranks["user"].to_list() == ["u", "v", "w"]
    assert ranks["rank"].to_list() == [3, 2, 1]
    assert ranks["top"].to_list() == [["a"], ["c", "a"], ["b", "a"]]


def test_a_killed_run_is_dead_and_says_how_it_goes_on(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    killed = {"status": "running", "host": socket.gethostname(), "pid": int(gone.stdout), "error": None}
    assert not is_alive(killed)
    assert went(killed, tmp_path) == "dead"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    assert (
        went(killed, tmp_path) == f"dead; go on with: python -m seqgen.run ckpt_path={tmp_path}/checkpoints/last.ckpt"
    )
    mine = killed | {"pid": os.getpid()}
    assert is_alive(mine)
    assert went(mine, tmp_path) == "running"
    assert went(mine | {"host": "elsewhere"}, tmp_path) == "running on elsewhere, or dead"
    assert went(killed | {"status": "failed", "error": "No."}, tmp_path).startswith("failed (No.); go on with: ")


def test_the_command_that_goes_on_is_quoted_for_the_shell_and_for_hydra(tmp_path: Path) -> None:
    folder = tmp_path / "it's, [a=b] c"
    (folder / "checkpoints").mkdir(parents=True)
    failed = {"status": "failed", "error": "No."}
    assert went(failed, folder) == "failed (No.)"
    (folder / "checkpoints/epoch_000.ckpt").touch()  # killed before the first last.ckpt: resuming takes this one
    words = shlex.split(went(failed, folder).partition("go on with: ")[2])
    [override] = OverridesParser.create().parse_overrides(words[3:])
    assert (words[:3], override.value()) == (["python", "-m", "seqgen.run"], f"{folder}/checkpoints/last.ckpt")
