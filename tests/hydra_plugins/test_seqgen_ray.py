"""Sweeps under Ray: places of GPUs, deaths of tasks, and a sweep from the command line with a job that fails."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import command
from conftest import QUIET, TINY

from seqgen.jobs import Job, Outcome
from seqgen.parallel import carry_out_all

ray = pytest.importorskip("ray", reason="the extra seqgen[ray] is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[Any]:
    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def jobs_of(count: int, folder: Path) -> list[Job]:
    return [Job(number, [f"seed={number}"], ["seed"], folder / str(number), {}) for number in range(count)]


def test_each_job_sees_its_own_gpu(two_gpus: Any, tmp_path: Path) -> None:
    def work(job: Job) -> Outcome:
        began = time.time()
        time.sleep(0.5)
        seen = {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "began": began, "ended": time.time()}
        return Outcome("finished", None, {"history": [], "metrics": {"val/x": 0.5}, "seen": seen})

    outcomes = carry_out_all(two_gpus, jobs_of(4, tmp_path), work, num_cpus=1, num_gpus=1, monitor="val/x")
    seen = [outcome.results["seen"] for outcome in outcomes if outcome.results]
    assert len(seen) == 4
    assert {one["gpu"] for one in seen} == {"0", "1"}
    for one in seen:  # nobody shares a GPU at any time
        others = [other for other in seen if other is not one and other["gpu"] == one["gpu"]]
        assert all(other["ended"] <= one["began"] or one["ended"] <= other["began"] for other in others)


def test_a_task_that_dies_takes_nobody_along(two_gpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(job: Job) -> Outcome:
        if job.number == 1:
            os._exit(1)
        return Outcome("finished", None, {"history": [{"val/x": job.number / 10}], "metrics": {}})

    outcomes = carry_out_all(two_gpus, jobs_of(3, tmp_path), work, num_cpus=1, num_gpus=0.5, monitor="val/x")
    assert [outcome.status for outcome in outcomes] == ["finished", "failed", "finished"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(lines) == 3
    assert lines[-1].startswith("[3/3] ")
    assert outcomes[1].error == "It was lost with the process or machine that ran it."
    assert "1 failed, all done, best 0.2000" in lines[-1]


def test_a_sweep_goes_on_past_a_job_that_fails(tmp_path: Path) -> None:
    swept = ["model=popularity,sasrec", "loss=bce", "loss.num_negatives=1,0", "trainer.max_epochs=1"]
    how = ["-m", "hydra/launcher=ray", "hydra.launcher.slots=2", f"hydra.sweep.dir={tmp_path}/sweep"]
    shown = command("seqgen.run", *how, *swept, *TINY, *QUIET, cwd=tmp_path)
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    assert "1 of 4 jobs did not finish" in shown.stderr
    assert "failed: loss.num_negatives=0 must be at least 1." in shown.stderr
    assert "Again: python -m seqgen.run model=sasrec loss=bce loss.num_negatives=0" in shown.stderr
    statuses = [json.loads((tmp_path / f"sweep/{n}/results.json").read_text())["status"] for n in range(4)]
    assert statuses == ["finished", "finished", "finished", "failed"]
