"""What is left of a round, and what a comparison refuses. The rounds as a whole: tests/hydra_plugins."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seqgen.compare import rounds
from seqgen.compare.candidates import Candidate
from seqgen.compare.rounds import Plan
from seqgen.errors import UserError
from seqgen.sweeps.jobs import Job, Outcome

SASREC = Candidate("sasrec", "toys", ["model=sasrec", "data=toys"], None, {"trainer": {"max_epochs": 3}})


def plan(folder: Path, **changed: Any) -> Plan:
    settings: dict[str, Any] = {"seeds": [1, 2, 3], "tuning_seed": 0, "trials": 0, "workers": 1} | changed
    return Plan(
        candidates=[SASREC], swept=["model"], folder=folder, monitor="val/mrr", num_cpus=1, num_gpus=0, **settings
    )


def left(folder: Path, seed: int, **record: Any) -> Path:
    place = folder / f"final/toys/sasrec/as_set/seed_{seed}"
    (place / "checkpoints").mkdir(parents=True)
    overrides = ["model=sasrec", "data=toys", f"seed={seed}"]
    (place / "results.json").write_text(json.dumps({"overrides": overrides} | record))
    return place


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that a round starts, all of which finish."""
    jobs: list[Job] = []

    def all_of(ray: Any, given: Sequence[Job], *_: Any, **__: Any) -> list[Outcome]:
        jobs.extend(given)
        return [Outcome("finished", None, {"status": "finished"}) for _ in given]

    monkeypatch.setattr(rounds, "carry_out_all", all_of)
    return jobs


def test_what_has_finished_is_not_done_again_and_what_has_a_checkpoint_goes_on(
    carried_out: list[Job], tmp_path: Path
) -> None:
    left(tmp_path, 1, status="finished", epochs=3)
    cut = left(tmp_path, 2, status="stopped", epochs=2)
    (cut / "checkpoints/last.ckpt").touch()
    folders = rounds.finish(None, plan(tmp_path), [None])
    assert [folder.name for folder in folders] == ["seed_1", "seed_2", "seed_3"]
    second, third = (job.overrides for job in carried_out)
    assert second == ["model=sasrec", "data=toys", "seed=2", f"ckpt_path={cut}/checkpoints/last.ckpt"]
    assert third == ["model=sasrec", "data=toys", "seed=3"]


def test_what_failed_is_listed_after_all_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [Outcome("finished", None, {}), Outcome("killed", "It was killed.", None), Outcome("finished", None, {})]
    monkeypatch.setattr(rounds, "carry_out_all", lambda *_, **__: ends)
    with pytest.raises(UserError, match=r"1 of 3 runs did not finish\.\nkilled: It was killed\. Again: python -m"):
        rounds.finish(None, plan(tmp_path), [None])


def test_a_folder_of_other_settings_is_refused(carried_out: list[Job], tmp_path: Path) -> None:
    left(tmp_path, 1, status="finished", overrides=["model=sasrec", "data=toys", "seed=1", "optimizer.lr=1"])
    with pytest.raises(UserError, match=r"holds a run with other settings \(optimizer\.lr=1\); go on with the same"):
        rounds.finish(None, plan(tmp_path), [None])
    assert not carried_out


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"trials": -1}, r"compare\.trials=-1 must be at least 0"),
        ({"workers": 0}, r"compare\.workers=0 must be at least 1"),
        ({"seeds": [1, 1]}, "seed=1,1 must list each seed of the final runs once"),
        ({"seeds": [0], "trials": 5}, r"compare\.tuning_seed=0 is a seed of the final runs too"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        plan(tmp_path, **changed)


def test_runs_are_trials_and_seeds(tmp_path: Path) -> None:
    assert plan(tmp_path, trials=5).runs(SASREC) == 3  # nothing to tune
