"""What is left of a sweep: by what jobs compute, whatever their numbers; nobody's folder is taken."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from seqgen.errors import UserError
from seqgen.results import run_id
from seqgen.sweeps.resuming import Step, Wanted, what_is_left

DATA = "f1"  # fingerprint


def settings(seed: int, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "trainer": {"max_epochs": 3}, "paths": {}, "train": True, "test": True, **more}


def wanted(*configs: dict[str, Any] | None, fingerprint: str | None = DATA) -> list[Wanted]:
    return [Wanted(config, lambda: fingerprint, str) for config in configs]


def left(folder: Path, status: str, config: dict[str, Any], *, epochs: int = 0, **more: Any) -> None:
    folder.mkdir(parents=True)
    known = {"status": status, "config": config, "epochs": epochs, "run_id": run_id(config, DATA)}
    (folder / "results.json").write_text(json.dumps(known | more))
    if epochs:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints/last.ckpt").touch()


def test_finished_jobs_are_left_out_whatever_their_number(tmp_path: Path) -> None:
    left(tmp_path / "0", "finished", settings(1), epochs=3)
    left(tmp_path / "deep/er", "finished", settings(3), epochs=3)
    jobs = wanted(settings(0), settings(1), settings(2), settings(3))
    assert what_is_left(jobs, tmp_path) == [Step(0, "1", None), Step(2, "2", None)]


def test_a_killed_job_resumes_in_its_folder_and_starts_again_there_without_a_checkpoint(tmp_path: Path) -> None:
    left(tmp_path / "0", "running", settings(1), epochs=2, pid=None)
    left(tmp_path / "1", "failed", settings(2))
    left(tmp_path / "2", "running", settings(3), run_id=None)
    last = tmp_path / "0/checkpoints/last.ckpt"
    steps = what_is_left(wanted(settings(3), settings(2), settings(1)), tmp_path)
    assert steps == [Step(0, "2", None), Step(1, "1", None), Step(2, "0", last)]


def test_a_model_of_counts_starts_again_though_it_has_a_checkpoint(tmp_path: Path) -> None:
    left(tmp_path / "0", "running", settings(1), epochs=1)
    (tmp_path / "0/results.json").write_text(
        json.dumps({"status": "running", "config": settings(1), "epochs": 0, "run_id": run_id(settings(1), DATA)})
    )
    assert what_is_left(wanted(settings(1)), tmp_path) == [Step(0, "0", None)]


def test_other_data_makes_another_run(tmp_path: Path) -> None:
    left(tmp_path / "0", "finished", settings(1), epochs=3)
    left(tmp_path / "1", "running", settings(2), epochs=2)
    steps = what_is_left(wanted(settings(1), settings(2), fingerprint="f2"), tmp_path)
    assert steps == [Step(0, "2", None), Step(1, "3", None)]
    steps = what_is_left(wanted(settings(1), fingerprint=None), tmp_path)  # cannot be prepared: the job will say so
    assert steps == [Step(0, "2", None)]


def test_a_job_that_cannot_be_resolved_takes_a_folder_of_its_own(tmp_path: Path) -> None:
    left(tmp_path / "0", "finished", settings(1), epochs=3)
    assert what_is_left(wanted(None), tmp_path) == [Step(0, "1", None)]


def test_what_was_not_tested_goes_on_to_the_test(tmp_path: Path) -> None:
    left(tmp_path / "0", "finished", settings(1, test=False), epochs=3)
    last = tmp_path / "0/checkpoints/last.ckpt"
    assert what_is_left(wanted(settings(1)), tmp_path) == [Step(0, "0", last)]
    assert what_is_left(wanted(settings(1, test=False)), tmp_path) == []


def test_equal_jobs_share_no_folder_and_the_farthest_goes_on(tmp_path: Path) -> None:
    left(tmp_path / "0", "stopped", settings(1), epochs=1)
    left(tmp_path / "1", "stopped", settings(1), epochs=2)
    steps = what_is_left(wanted(settings(1), settings(1), settings(1)), tmp_path)
    assert [(step.name, step.checkpoint is None) for step in steps] == [("1", False), ("0", False), ("2", True)]


def test_a_run_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    left(tmp_path / "0", "running", settings(1), epochs=1, pid=os.getpid(), host=socket.gethostname())
    with pytest.raises(UserError, match=f"going on \\(process {os.getpid()}\\): wait for its end, or stop it"):
        what_is_left(wanted(settings(1)), tmp_path)


def test_folders_that_no_number_tells_apart_are_refused(tmp_path: Path) -> None:
    left(tmp_path / "same", "finished", settings(1), epochs=3)
    job = Wanted(settings(2), lambda: DATA, lambda number: "same")
    with pytest.raises(UserError, match=r"same holds another run; let hydra\.sweep\.subdir= tell the jobs apart"):
        what_is_left([job], tmp_path)


def test_broken_and_foreign_records_are_passed_over(tmp_path: Path) -> None:
    for name, text in {"a": "{", "b": "[]", "c": '{"status": "finished"}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    assert what_is_left(wanted(settings(1)), tmp_path) == [Step(0, "0", None)]
