"""Sweeps one after another: what jobs leave out, what failed, and how a sweep goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import command_here
from conftest import QUIET, TINY
from hydra.core.global_hydra import GlobalHydra

ONE = "trainer.max_epochs=1"


@pytest.fixture(autouse=True)
def _no_hydra_left() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def sweep(folder: Path, *arguments: str) -> Any:
    return command_here("seqgen.run", "-m", *arguments, *TINY, *QUIET, f"hydra.sweep.dir={folder}/sweep", cwd=folder)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("sweep/*/results.json"))}


def test_a_job_leaves_out_keys_that_only_others_have_and_none_runs_twice_for_it(tmp_path: Path) -> None:
    swept = ["model=popularity,sasrec", "optimizer.lr=1e-3,1e-2", "model.hidden_dim=16", "attention.num_heads=2"]
    shown = sweep(tmp_path, *swept, ONE)
    assert shown.returncode == 0, shown.stderr
    said = (
        "model=popularity has no use for optimizer.lr=0.001,0.01, model.hidden_dim=16, attention.num_heads=2: its jobs"
    )
    assert shown.stdout.count(said) == 1
    assert "1 of 4 jobs are left out: without it they repeat another." in shown.stdout
    found = records(tmp_path)
    assert [one["choices"]["model"] for one in found.values()] == ["popularity", "sasrec", "sasrec"]
    assert [one["config"]["optimizer"] and one["config"]["optimizer"]["lr"] for one in found.values()] == [
        None,
        1e-3,
        1e-2,
    ]
    assert "optimizer.lr=0.001" not in found["0"]["overrides"]


def test_a_sweep_over_attention_does_likewise(tmp_path: Path) -> None:
    shown = sweep(tmp_path, "model=sasrec", "attention=softmax,vae", "attention.latent_dim=8", ONE)
    assert shown.returncode == 0, shown.stderr
    assert "attention=softmax has no use for attention.latent_dim=8: its jobs leave it out." in shown.stdout
    assert records(tmp_path)["1"]["config"]["attention"]["latent_dim"] == 8


def test_a_key_that_nobody_has_is_refused_before_anything_runs(tmp_path: Path) -> None:
    shown = sweep(tmp_path, "model=popularity,sasrec", "optimizer.lrr=1e-3")
    assert shown.returncode == 1
    assert "optimizer.lrr is not a key of this configuration" in shown.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_failing_job_stops_no_other_and_is_listed(tmp_path: Path) -> None:
    shown = sweep(
        tmp_path, "model=sasrec", "attention.num_heads=3,2", "seed=1,2", ONE, "hydra.sweeper.max_batch_size=1"
    )
    assert shown.returncode == 1
    assert [one["status"] for one in records(tmp_path).values()] == ["failed", "failed", "finished", "finished"]
    assert "[1/4] attention.num_heads=3 seed=1: failed: attention.num_heads=3 does not divide" in shown.stdout
    assert "[4/4] attention.num_heads=2 seed=2: val/ndcg@10=0." in shown.stdout
    assert "2 failed, all done, best 0." in shown.stdout
    assert "2 of 4 jobs did not finish.\nfailed: attention.num_heads=3 does not divide" in shown.stderr
    assert "Again: python -m seqgen.run model=sasrec attention.num_heads=3 seed=1" in shown.stderr
    assert f"hydra.run.dir={tmp_path}/sweep/1\n" in shown.stderr
    assert f"hydra.sweep.dir={tmp_path}/sweep sweep.resume=true\n" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_fault_of_the_program_shows_its_trace_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def summary(record: Any) -> None:
        if record.content["seed"] == 1:
            raise LookupError("a fault")

    monkeypatch.setattr("seqgen.summary.print_summary", summary)
    shown = sweep(tmp_path, "model=popularity", "seed=1,2")
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr
    assert "1 of 2 jobs did not finish.\nfailed: LookupError: a fault Again:" in shown.stderr
    assert records(tmp_path)["1"]["status"] == "finished"


@pytest.mark.slow
def test_a_sweep_goes_on(tmp_path: Path) -> None:
    swept = ["model=popularity,sasrec", "loss=bce", "trainer.max_epochs=2"]
    assert sweep(tmp_path, *swept, "seed=1").returncode == 0
    whole = records(tmp_path)
    cut = whole["1"] | {"status": "running", "pid": None, "metrics": {}}
    (tmp_path / "sweep/1/results.json").write_text(json.dumps(cut))
    written = (tmp_path / "sweep/0/results.json").stat().st_mtime_ns
    again = sweep(tmp_path, *swept, "seed=2,1", "sweep.resume=true")
    assert again.returncode == 0, again.stderr
    assert "4 jobs: 1 have finished, 1 resume, 2 start." in again.stdout
    assert written == (tmp_path / "sweep/0/results.json").stat().st_mtime_ns
    now = records(tmp_path)
    named = {name: (one["choices"]["model"], one["seed"]) for name, one in now.items()}
    assert named == {"0": ("popularity", 1), "1": ("sasrec", 1), "2": ("popularity", 2), "3": ("sasrec", 2)}
    for key in ("run_id", "metrics", "history"):
        assert now["1"][key] == whole["1"][key]
    done = sweep(tmp_path, *swept, "seed=2,1", "sweep.resume=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 jobs: 4 have finished, 0 resume, 0 start." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "seed=1,2", "sweep.resume=true"], "sweep.resume=true needs hydra.sweep.dir=, the folder of the sweep"),
        (["seed=1", "sweep.resume=true"], "sweep.resume=true has no effect on a single run; add --multirun"),
        (["-m", "seed=1,2", "sweep.resume=yes_please", "hydra.sweep.dir=x"], "sweep.resume=yes_please must be true or"),
        (
            ["-m", "ckpt_path=a,b", "sweep.resume=true", "hydra.sweep.dir=x"],
            "sweep.resume=true finds the checkpoints of a sweep by itself; leave ckpt_path= out.",
        ),
    ],
)
def test_resuming_without_sense_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    shown = command_here("seqgen.run", *arguments, *TINY, *QUIET, cwd=tmp_path)
    assert shown.returncode == 1
    assert said in shown.stderr
