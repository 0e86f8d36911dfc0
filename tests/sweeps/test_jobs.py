"""A job as a process: its command, what becomes of it, and that it ends with whoever started it."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY

from seqgen.results import read_results
from seqgen.sweeps import jobs
from seqgen.sweeps.jobs import Job, Outcome


def job(folder: Path, *overrides: str) -> Job:
    return Job(3, [*TINY, *QUIET, *overrides], ["model"], folder, {"OMP_NUM_THREADS": "1"})


def left(folder: Path, **results: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"error": None, **results}))


def test_the_command_is_that_of_a_single_run(tmp_path: Path) -> None:
    shown = job(tmp_path / "a=b, c's", "model=sasrec").again
    assert shown.startswith("python -m seqgen.run ")
    assert jobs.Job(0, ["seed=1"], [], Path("/x/y"), {}).command[1:] == [
        "-m",
        "seqgen.run",
        "seed=1",
        "hydra.run.dir=/x/y",
    ]


@pytest.mark.parametrize(
    ("results", "returncode", "status", "said"),
    [
        ({"status": "finished"}, 0, "finished", None),
        ({"status": "finished"}, None, "finished", None),
        ({"status": "failed", "error": "seed=x."}, 1, "failed", "seed=x."),
        ({"status": "stopped", "error": "interrupted"}, 143, "stopped", "interrupted"),
        ({"status": "running"}, -9, "killed", "It was killed, perhaps for its memory."),
        ({"status": "running"}, -11, "killed", "It ended by signal 11 (SIGSEGV)."),
        ({"status": "running"}, None, "killed", "It was lost with the process or machine that ran it."),
        (None, 1, "failed", "model=nix does not exist."),
    ],
)
def test_what_became_of_a_job(
    results: dict[str, Any] | None, returncode: int | None, status: str, said: str | None, tmp_path: Path
) -> None:
    if results is not None:
        left(tmp_path, **results)
    (tmp_path / jobs.LOG).write_text("some line\nseqgen: model=nix does not exist.\n")
    found = jobs.outcome(tmp_path, returncode)
    assert (found.status, found.error, found.finished) == (status, said, status == "finished")


@pytest.mark.slow
def test_a_job_is_the_run_alone_with_its_output_in_its_folder(tmp_path: Path) -> None:
    found = jobs.carry_out(job(tmp_path / "a=b, c's", "model=popularity"))
    assert (found.status, found.error) == ("finished", None)
    assert "test/ndcg@10" in (found.results or {})["metrics"]
    assert "popularity" in (tmp_path / "a=b, c's" / jobs.LOG).read_text()
    refused = jobs.carry_out(job(tmp_path / "refused", "model=sasrec", "attention.num_heads=3"))
    assert refused.status == "failed"
    assert "attention.num_heads=3 does not divide" in (refused.error or "")


@pytest.mark.slow
def test_a_stopped_job_leaves_its_record(tmp_path: Path) -> None:
    process = jobs.start(job(tmp_path, "model=sasrec", "trainer.max_epochs=100000"))
    until((tmp_path / "checkpoints/last.ckpt").is_file)  # which is written after the record
    jobs.stop(process)
    found = jobs.outcome(tmp_path, process.returncode)
    assert (found.status, found.finished) == ("stopped", False)
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


@pytest.mark.slow
def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    parent = os.fork()
    if parent == 0:
        jobs.start(job(tmp_path, "model=sasrec", "trainer.max_epochs=100000"))
        time.sleep(600)
    until(lambda: (read_results(tmp_path) or {}).get("epochs", 0) > 0)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    until(lambda: (read_results(tmp_path) or {}).get("status") == "stopped")


def until(done: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_an_outcome_says_whether_it_finished() -> None:
    assert Outcome("finished", None, None).finished
    assert not Outcome("killed", "gone", None).finished
