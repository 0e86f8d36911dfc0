"""Sweeps under Ray: places of GPUs, deaths of tasks, a sweep that is killed in part and resumed; and under submitit."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import command, command_here, start
from conftest import QUIET, TINY

from seqgen.errors import UserError
from seqgen.results import read_results
from seqgen.sweeps.jobs import Job, Outcome, carry_out
from seqgen.sweeps.parallel import carry_out_all

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


def test_jobs_that_there_is_no_place_for_are_refused(two_gpus: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_cpus=1 num_gpus=3 is more than there is \(4 CPUs, 2 GPUs\)"):
        carry_out_all(two_gpus, jobs_of(1, tmp_path), carry_out, num_cpus=1, num_gpus=3, monitor="val/x")


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


def test_a_sweep_survives_a_kill_and_a_failure_and_is_resumed_to_the_same_end(tmp_path: Path) -> None:
    """One job is killed at a random moment, one trains on two devices, one fails by design."""
    job = ["model=sasrec", "trainer=cpu", "trainer.max_epochs=12", *TINY, *QUIET]
    swept = ["trainer.devices=1,2,0", f"hydra.sweep.dir={tmp_path}/sweep", *job]
    ray_options = ["hydra/launcher=ray", "hydra.launcher.slots=3"]  # one thread each: to the last bit
    moment = random.uniform(0.0, 0.2)
    killer = threading.Thread(target=kill, args=(tmp_path / "sweep/0", moment))
    killer.start()
    shown = command("seqgen.run", "-m", *ray_options, *swept, cwd=tmp_path)
    killer.join()
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    assert "2 of 3 jobs did not finish" in shown.stderr
    assert "killed: It was killed, perhaps for its memory. Again: python -m seqgen.run trainer." in shown.stderr
    assert "failed: trainer" in shown.stderr
    assert "[3/3] trainer.devices=" in shown.stdout
    assert statuses(tmp_path) == ["running", "finished", "failed"]
    assert json.loads((tmp_path / "sweep/1/results.json").read_text())["config"]["trainer"]["devices"] == 2

    before = (tmp_path / "sweep/1/results.json").stat().st_mtime_ns
    again = command_here("seqgen.run", "-m", *swept, "sweep.resume=true", cwd=tmp_path)
    assert again.returncode == 1
    assert "3 jobs: 1 have finished, 1 resume, 1 start." in again.stdout
    assert "1 of 2 jobs did not finish" in again.stderr
    assert statuses(tmp_path) == ["finished", "finished", "failed"]
    assert (tmp_path / "sweep/1/results.json").stat().st_mtime_ns == before
    undisturbed = start(tmp_path / "alone", *job[:3])
    resumed = json.loads((tmp_path / "sweep/0/results.json").read_text())
    for key in ("run_id", "metrics", "history", "best_epoch"):
        assert resumed[key] == undisturbed[key], f"{key}, killed after {moment} s"


def statuses(folder: Path) -> list[str]:
    return [json.loads((folder / f"sweep/{n}/results.json").read_text())["status"] for n in range(3)]


def kill(folder: Path, moment: float) -> None:
    """Kill a job some moment after its second epoch."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        results = read_results(folder)
        if results and results["epochs"] >= 2:
            time.sleep(moment)
            os.kill(results["pid"], signal.SIGKILL)
            return
        time.sleep(0.02)


def test_jobs_run_through_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra seqgen[slurm] is not installed")
    swept = ["model=popularity,sasrec", "loss=bce", "attention.num_heads=3", *TINY, *QUIET]
    how = ["-m", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}/sweep"]
    shown = command("seqgen.run", *how, *swept, cwd=tmp_path)
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    assert "model=popularity has no use for loss=bce, attention.num_heads=3: its jobs leave it out." in shown.stdout
    assert "1 of 2 jobs did not finish.\nfailed: attention.num_heads=3 does not divide" in shown.stderr
    found = [json.loads((tmp_path / f"sweep/{n}/results.json").read_text()) for n in range(2)]
    assert [one["status"] for one in found] == ["finished", "failed"]
    assert found[0]["config"]["paths"]["output_dir"] == f"{tmp_path}/sweep/0"
