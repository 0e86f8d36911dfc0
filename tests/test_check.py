"""Folders that another run has, and what a job of a sweep over models has no use for."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from commands import command_here, start
from conftest import QUIET, TINY

from seqgen import check
from seqgen.errors import UserError


def left(folder: Path, **record: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(record))


def test_the_folder_of_a_finished_run_is_refused(tmp_path: Path) -> None:
    start(tmp_path, "model=popularity")
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(UserError, match="holds a finished run, which would be lost; choose another folder"):
        start(tmp_path, "model=popularity", "seed=2")
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.slow
def test_a_refused_run_leaves_the_folder_of_a_finished_one_as_it_was(tmp_path: Path) -> None:
    line = ("seqgen.run", *TINY, *QUIET, f"hydra.run.dir={tmp_path}/run", "model=popularity")
    assert command_here(*line, cwd=tmp_path).returncode == 0
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert {"config.yaml", "hydra.yaml", "overrides.yaml"} <= {file.name for file in before}
    shown = command_here(*line, "seed=2", cwd=tmp_path)
    assert "holds a finished run" in shown.stderr
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_a_finished_run_is_resumed_in_its_folder(tmp_path: Path) -> None:
    start(tmp_path, "model=sasrec", "trainer.max_epochs=1")
    checkpoint = f"ckpt_path={tmp_path}/checkpoints/last.ckpt"
    with pytest.raises(UserError, match="holds a finished run"):  # a test alone would leave no history
        start(tmp_path, "model=sasrec", checkpoint, "train=false")
    assert start(tmp_path, "model=sasrec", checkpoint, "trainer.max_epochs=2")["epochs"] == 2


@pytest.mark.parametrize("status", ["running", "finished", "failed"])
@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("here", [True, False])
def test_the_folder_of_a_run_that_goes_on_is_refused(status: str, alive: bool, here: bool, tmp_path: Path) -> None:
    pid = os.getppid() if alive else 2**22 + 1  # above the largest that Linux gives
    left(tmp_path, status=status, pid=pid, host=socket.gethostname() if here else "elsewhere")
    if status == "finished" or (status == "running" and alive and here):
        with pytest.raises(UserError, match=r"is going on \(process \d+\)|holds a finished run"):
            start(tmp_path, "model=popularity")
    else:
        assert start(tmp_path, "model=popularity")["status"] == "finished"


def test_a_file_that_is_no_record_is_replaced(tmp_path: Path) -> None:
    for text in ("", "[]", '{"pid": "x", "status": "running"}'):
        (tmp_path / "results.json").write_text(text)
        assert start(tmp_path, "model=popularity")["status"] == "finished"
        (tmp_path / "results.json").unlink()


def test_a_sweep_over_models_leaves_out_what_one_has_no_use_for(tmp_path: Path) -> None:
    sweep = ["-m", "model=popularity,sasrec", "loss=bce", "seed=1,2", "trainer.max_epochs=1", *TINY, *QUIET]
    shown = command_here("seqgen.run", *sweep, f"hydra.sweep.dir={tmp_path}", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("model=popularity has no use for loss=bce: its jobs leave it out.") == 1
    records = [json.loads((tmp_path / f"{job}/results.json").read_text()) for job in range(4)]
    assert [record["choices"]["loss"] for record in records] == ["none", "none", "bce", "bce"]
    assert [record["config"]["loss"] is None for record in records] == [True, True, False, False]


def test_a_sweep_over_something_else_refuses_it_as_a_single_run_does(tmp_path: Path) -> None:
    sweep = ["-m", "model=popularity", "loss=bce", "seed=1,2", *TINY, *QUIET, f"hydra.sweep.dir={tmp_path}"]
    shown = command_here("seqgen.run", *sweep, cwd=tmp_path)
    assert shown.returncode == 1
    assert "loss=bce has no effect on model=popularity; choose loss=none" in shown.stderr


def test_compiling_is_left_out_of_a_job_that_has_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "sweeps_over", lambda *_: True)
    check._say.cache_clear()
    assert start(tmp_path, "model=popularity", "compile=true")["config"]["compile"] is False
    assert "model=popularity has no use for compile=true" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=newset"], "model=newset does not exist; did you mean newest; choose one of"),
        (
            ["model=newest", "model.bonsu=1"],
            "model.bonsu is not a key of this configuration; did you mean model.bonus",
        ),
    ],
)
def test_models_of_another_package_are_proposed(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proposed/conf/model").mkdir(parents=True)
    (tmp_path / "proposed/__init__.py").write_text("")
    (tmp_path / "proposed/conf/model/newest.yaml").write_text("_target_: proposed.Newest\nbonus: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    shown = command_here("seqgen.run", *arguments, "hydra.searchpath=[pkg://proposed.conf]", cwd=tmp_path)
    assert shown.returncode == 1
    assert words in shown.stderr
