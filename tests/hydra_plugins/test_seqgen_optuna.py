"""Tuning from the command line, and the workers of a study under Ray."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import command, command_here
from conftest import QUIET, TINY
from omegaconf import OmegaConf

from seqgen.errors import UserError
from seqgen.sweeps.jobs import Job, Outcome
from seqgen.tuning import worker as tuning
from seqgen.tuning.journal import Journal
from seqgen.tuning.worker import Study

pytest.importorskip("optuna", reason="the extra seqgen[tune] is not installed")
SPACE = {"optimizer.lr": "tag(log, interval(1e-4, 1e-1))"}


@pytest.mark.slow
def test_a_study_from_the_command_line_ends_with_the_winners_command(tmp_path: Path) -> None:
    line = ["-m", "hparams_search=sasrec", "trainer.max_epochs=1", "hydra.sweeper.n_trials=2", *TINY, *QUIET]
    shown = command("seqgen.run", *line, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "2 trials complete, 0 pruned, 0 failed." in shown.stdout
    folder = tmp_path / "outputs/train/tuning/sasrec-softmax-synthetic"
    found: Any = OmegaConf.to_container(OmegaConf.load(folder / "optimization_results.yaml"))
    records = [json.loads((folder / f"{n}/results.json").read_text()) for n in range(2)]
    assert found["best_value"] == max(record["history"][0]["val/ndcg@10"] for record in records)
    assert found["trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    winner = records[found["best_trial"]]["config"]
    assert found["best_params"]["optimizer.lr"] == winner["optimizer"]["lr"]
    assert found["best_params"]["model.num_layers"] == winner["model"]["num_layers"]
    assert all(record["config"]["test"] is False for record in records)
    assert not list(folder.rglob("ranks.parquet"))
    assert shown.stdout.rstrip().endswith(found["command"])
    assert found["command"].startswith("python -m seqgen.run -m trainer.max_epochs=1 ")
    assert found["command"].endswith(" seed=1,2,3")
    assert " model=sasrec " in found["command"]
    assert "hparams_search" not in found["command"]
    again = command_here("seqgen.run", *line, cwd=tmp_path)
    assert "2 of them are there already." in again.stdout
    assert again.stdout.rstrip().endswith(found["command"])
    assert not (folder / "2").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("hydra.sweeper.n_workers=2", "hydra.sweeper.n_workers=2 needs hydra/launcher=ray."),
        ("hydra.sweeper.n_workers=0", "hydra.sweeper.n_workers=0 must be at least 1."),
        (
            "model.dropuot=interval(0,1)",
            "model.dropuot is not a key of this configuration; did you mean model.dropout.",
        ),
        ("hydra/sweeper=basic", "hparams_search= chooses hydra/sweeper=optuna; leave the other hydra/sweeper= out."),
        ("data=beauty,toys", "data=beauty,toys: a study tunes one model on one data set"),
    ],
)
def test_a_wrong_study_is_one_sentence(arguments: str, words: str, tmp_path: Path) -> None:
    shown = command_here("seqgen.run", "-m", "hparams_search=sasrec", *arguments.split(), cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"seqgen: {words}")
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra seqgen[ray] is not installed")
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_workers_under_ray_share_the_study_and_outlive_one_that_dies(two_cpus: Any, tmp_path: Path) -> None:
    study = Study("s", tmp_path / "study.journal", tmp_path, SPACE, ["model=sasrec"], "val/x", n_trials=5)

    def work(study: Study) -> None:
        def run(job: Job) -> Outcome:
            if job.number == 1:
                os._exit(1)
            value = math.tanh(job.number)
            return Outcome("finished", None, {"history": [{"val/x": value}], "metrics": {}})

        tuning.work(study, run=run)

    looks: list[int] = []
    how: Any = {"n_workers": None, "num_cpus": 1, "num_gpus": 0, "look": lambda: looks.append(1)}
    assert not tuning.work_under_ray(two_cpus, [study], **how, work=work)
    counts = tuning.best(study).counts
    assert (counts.complete, counts.running) == (5, 0)
    trials = Journal(study).trials()
    assert trials[1].state.name == "FAIL"
    assert trials[1].params in [trial.params for trial in trials[2:]]
    assert looks
    with pytest.raises(UserError, match="num_gpus=1 is more than there is"):
        tuning.work_under_ray(two_cpus, [study], **how | {"num_gpus": 1})

    def failing(study: Study) -> None:
        raise UserError("no.")

    errors = tuning.work_under_ray(two_cpus, [study, study], **how | {"n_workers": 1}, work=failing)
    assert {number: str(error) for number, error in errors.items()} == {0: "no.", 1: "no."}

    def dying(study: Study) -> None:
        os._exit(1)

    errors = tuning.work_under_ray(two_cpus, [study], **how | {"n_workers": 1}, work=dying)
    assert str(errors[0]) == "its workers died one after another; see Ray's logs."
