"""Processes that torchrun starts: one folder, one record; what cannot work is refused."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command, start
from conftest import QUIET, ROOT, TINY

from seqgen import launched
from seqgen.errors import UserError

STILL = ["model=sasrec", "attention.dropout=0", "model.dropout=0", "trainer.max_epochs=2"]


def torchrun(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    values = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (values | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launched, "_agreed", lambda own, rank: f"time of {rank}")
    monkeypatch.setenv(launched.STARTED, "")


def test_a_command_line_alone_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launched.completed(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]


def test_the_processes_of_torchrun_are_those_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch)
    quiet = ["hydra.output_subdir=null", "hydra.job.name=process_1"]
    assert launched.completed(["seed=2"]) == ["seed=2", "trainer.devices=2", "trainer.num_nodes=2", *quiet]
    assert launched.os.environ[launched.STARTED] == "time of 1"
    torchrun(monkeypatch, RANK="0", LOCAL_RANK="0")
    assert launched.completed(["trainer.devices=2"]) == ["trainer.devices=2", "trainer.num_nodes=2"]
    assert launched.completed(["--help"]) == ["--help"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-m", "seed=1,2"], "--multirun under torchrun would start the whole sweep in every process"),
        (["trainer.devices=3"], "trainer.devices=3 is not what torchrun has started, 2 (--nproc_per_node)"),
        (["trainer.num_nodes=1"], "trainer.num_nodes=1 is not what torchrun has started, 2 (--nnodes)"),
    ],
)
def test_refused_under_torchrun(arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch)
    with pytest.raises(UserError) as error:
        launched.completed(arguments)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
    ],
)
def test_one_process_of_all_nodes_is_the_first(
    environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched.is_first() == first


def compare(one: dict, folder: Path) -> None:
    results = [json.loads(file.read_text()) for file in folder.rglob("results.json")]
    assert [each["status"] for each in results] == ["finished"]
    losses = [[epoch["train/loss"] for epoch in each["history"]] for each in (one, results[0])]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert results[0]["metrics"] == pytest.approx(one["metrics"], rel=0.05, abs=1e-3)
    assert len(list(folder.rglob(".hydra"))) == 1
    assert not list(folder.rglob("process_*.log"))


@pytest.mark.slow
def test_torchrun_trains_as_one_process_into_one_folder(tmp_path: Path) -> None:
    one = start(tmp_path / "one", *STILL)
    (tmp_path / "two").mkdir()
    how = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "seqgen.run", *TINY, *QUIET, *STILL]
    shown = command(*how, "trainer.accelerator=cpu", cwd=tmp_path / "two", PYTHONPATH=str(ROOT))
    assert shown.returncode == 0, shown.stderr
    compare(one, tmp_path / "two")


@pytest.mark.slow
def test_the_example_of_two_nodes_trains_as_one_process(tmp_path: Path) -> None:
    one = start(tmp_path / "one", *STILL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "two").mkdir()
    line = [str(ROOT / "examples/two_nodes.sh"), *TINY, *QUIET, *STILL]
    environment = {"PYTHON": sys.executable, "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    environment = dict(launched.os.environ) | environment
    shown = subprocess.run(
        line, cwd=tmp_path / "two", env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    compare(one, tmp_path / "two")
