"""Studies: several workers on one journal, their deaths, restarts, failures, and the run that a trial is."""

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY

from seqgen.errors import UserError
from seqgen.results import read_results
from seqgen.sweeps.jobs import Job, Outcome
from seqgen.tuning import journal
from seqgen.tuning import worker as tuning
from seqgen.tuning.journal import Journal
from seqgen.tuning.worker import Pruner, Study

pytest.importorskip("optuna", reason="the extra seqgen[tune] is not installed")
FORK = multiprocessing.get_context("fork")
SPACE = {"optimizer.lr": "tag(log, interval(1e-4, 1e-1))", "model.num_layers": "range(1, 4)"}
METRIC = "val/ndcg@10"


def study(folder: Path, **more: Any) -> Study:
    usual: dict[str, Any] = {"space": SPACE, "overrides": ["model=sasrec"], "n_trials": 8, "startup_trials": 3}
    return Study("s", folder / "study.journal", folder, **{**usual, "monitor": METRIC, **more})


def settings(job: Job) -> dict[str, str]:
    return dict(text.split("=", 1) for text in job.overrides)


def finished(job: Job) -> Outcome:
    """The best learning rate is 1e-2."""
    value = 1 / (1 + abs(math.log10(float(settings(job)["optimizer.lr"])) + 2))
    return Outcome("finished", None, {"history": [{METRIC: value}], "metrics": {}})


def ended(*, status: str, error: str) -> Callable[[Job], Outcome]:
    return lambda job: Outcome(status, error, {"history": [], "metrics": {}})


def states(of: Study) -> list[str]:
    return [trial.state.name for trial in Journal(of).trials()]


def test_one_worker_runs_all_trials_and_finds_the_better_ones(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def run(job: Job) -> Outcome:
        seen.append(settings(job))
        return finished(job)

    told: list[int] = []
    tuning.work(study(tmp_path, n_trials=20), run=run, told=lambda: told.append(len(seen)))
    assert told == list(range(1, 21))
    assert all(one["model"] == "sasrec" and one["test"] == "false" for one in seen)
    assert all(1e-4 <= float(one["optimizer.lr"]) <= 1e-1 and one["model.num_layers"] in "123" for one in seen)
    found = tuning.best(study(tmp_path, n_trials=20))
    assert found.counts == tuning.Counts(complete=20, pruned=0, failed=0, running=0)
    assert found.parameters == [f"{key}={seen[found.number][key]}" for key in SPACE]
    assert found.overrides == ["model=sasrec", *found.parameters]
    assert found.value == max(found.values) == found.values[0] > 0.8
    assert 0 < found.spread < 0.5
    # What it has learned is better than what was drawn at random.
    distance = [abs(math.log10(float(one["optimizer.lr"])) + 2) for one in seen]
    assert sum(distance[-8:]) < sum(distance[:8])


def test_a_restart_goes_on_with_the_same_trials_as_without_one(tmp_path: Path) -> None:
    whole, first = study(tmp_path / "whole", n_trials=9), study(tmp_path / "parts", n_trials=2)
    tuning.work(whole, run=finished)
    for n_trials in (2, 5, 9):
        tuning.work(replace(first, n_trials=n_trials), run=finished)
    drawn = [[trial.params for trial in Journal(of).trials()] for of in (whole, first)]
    assert drawn[0] == drawn[1]
    assert len({params["optimizer.lr"] for params in drawn[0]}) == 9
    tuning.work(replace(first, n_trials=9), run=lambda job: pytest.fail("a finished study ran a trial"))


def test_the_configuration_as_it_is_comes_first_and_once(tmp_path: Path) -> None:
    start = {"optimizer.lr": 0.025}
    for n_trials in (1, 3):
        tuning.work(study(tmp_path, n_trials=n_trials, start=start), run=finished)
    first, *others = [trial.params for trial in Journal(study(tmp_path)).trials()]
    assert first["optimizer.lr"] == 0.025
    assert first["model.num_layers"] in (1, 2, 3)
    assert len(others) == 2
    assert all(other["optimizer.lr"] != 0.025 for other in others)


def test_another_seed_draws_others(tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 2):
        of = study(tmp_path / str(seed), seed=seed, n_trials=2)
        tuning.work(of, run=finished)
        drawn.append([trial.params["optimizer.lr"] for trial in Journal(of).trials()])
    assert not set(drawn[0]) & set(drawn[1])


def slow(job: Job) -> Outcome:
    time.sleep(0.05)
    return finished(job)


def test_four_processes_share_a_study_and_run_exactly_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "POLL", 0.05)
    of = study(tmp_path, n_trials=14)
    workers = [FORK.Process(target=tuning.work, args=(of,), kwargs={"run": slow}) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert states(of) == ["COMPLETE"] * 14
    who = {trial.user_attrs["job"]["pid"] for trial in Journal(of).trials()}
    assert len(who) > 1


def hang(job: Job) -> Outcome:
    time.sleep(600)
    return finished(job)


def test_the_trial_of_a_killed_worker_is_done_again(tmp_path: Path) -> None:
    of = study(tmp_path, n_trials=3)
    worker = FORK.Process(target=tuning.work, args=(of,), kwargs={"run": hang})
    worker.start()
    while not (tmp_path / "0" / journal.ALIVE).exists() or "job" not in Journal(of).trials()[0].user_attrs:
        time.sleep(0.01)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    tuning.work(of, run=finished)
    trials = Journal(of).trials()
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params
    assert tuning.best(of).counts == tuning.Counts(complete=3, pruned=0, failed=0, running=0)


def test_a_worker_of_another_machine_is_dead_once_its_trial_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = study(tmp_path, n_trials=2)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(journal.socket, "gethostname", lambda: "elsewhere")
        there = Journal(of)
        with there.turn():
            there.ask(0)
    here = Journal(of)
    with here.turn():
        assert [trial.state.name for trial in here.settled()] == ["RUNNING"]
        os.utime(tmp_path / "0" / journal.ALIVE, (time.time() - 400, time.time() - 400))
        assert [trial.state.name for trial in here.settled()] == ["FAIL", "WAITING"]
    there.carry_out(there.optuna.ask(there.distributions), finished)
    # The worker was only asleep: what it says of a trial that was taken from it is not counted.
    there._tell(there.trials()[0], "COMPLETE", 0.5)
    assert states(of)[:2] == ["FAIL", "COMPLETE"]


def test_an_interrupted_worker_puts_its_trial_back(tmp_path: Path) -> None:
    def interrupt(job: Job) -> Outcome:
        raise KeyboardInterrupt

    of = study(tmp_path, n_trials=1)
    with pytest.raises(KeyboardInterrupt):
        tuning.work(of, run=interrupt)
    assert states(of) == ["FAIL", "WAITING"]
    tuning.work(of, run=finished)
    assert states(of) == ["FAIL", "COMPLETE"]
    assert [journal.is_done_again(trial) for trial in Journal(of).trials()] == [True, False]
    assert math.isnan(tuning.best(of).spread)


def test_what_is_killed_each_time_fails_in_the_end(tmp_path: Path) -> None:
    of = study(tmp_path, n_trials=2)
    killed: list[int] = []

    def run(job: Job) -> Outcome:
        if len(killed) == journal.TIMES:
            return finished(job)
        killed.append(job.number)
        return Outcome("killed", "It was killed, perhaps for its memory.", None)

    tuning.work(of, run=run)
    trials = Journal(of).trials()
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3 + ["COMPLETE"] * 2
    assert trials[0].params == trials[1].params == trials[2].params
    assert trials[2].user_attrs["error"] == "It was killed, perhaps for its memory. So ended 3 attempts."
    assert [journal.is_done_again(trial) for trial in trials] == [True, True, False, False, False]
    assert tuning.best(of).counts.failed == 1


def test_a_failed_trial_is_counted_and_too_many_end_the_study(tmp_path: Path) -> None:
    of = study(tmp_path, n_trials=4)
    some = iter([ended(status="failed", error="NaN."), finished, finished, finished, finished])
    tuning.work(of, run=lambda job: next(some)(job))
    assert tuning.best(of).counts == tuning.Counts(complete=4, pruned=0, failed=1, running=0)
    broken = study(tmp_path / "broken")
    for n in (3, 6):  # the next start tries again, since the fault may have been mended
        with pytest.raises(UserError, match=r"3 of 3 trials failed, the newest with: no\. Alone: python -m seqgen.run"):
            tuning.work(broken, run=ended(status="failed", error="no."))
        assert states(broken) == ["FAIL"] * n


def test_a_trial_without_the_metric_fails(tmp_path: Path) -> None:
    of = study(tmp_path)
    with pytest.raises(UserError, match="It measured no val/ndcg@10"):
        tuning.work(of, run=lambda job: Outcome("finished", None, {"history": [], "metrics": {}}))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"overrides": ["model=sasrec", "seed=2"]}, r"was begun with other settings \(seed=2\)"),
        ({"space": {**SPACE, "model.num_layers": "range(1, 3)"}}, r"\(model.num_layers=range\(1, 3\), model.num_la"),
        ({"monitor": "val/mrr"}, r"\(monitor=val/mrr, monitor=val/ndcg@10\); choose another name"),
    ],
)
def test_a_study_does_not_go_on_with_other_settings(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    tuning.work(study(tmp_path, n_trials=1), run=finished)
    with pytest.raises(UserError, match=words):
        tuning.work(study(tmp_path, **changed), run=finished)
    tuning.work(study(tmp_path, n_trials=2, overrides=["model=sasrec", "tags=[a]"]), run=finished)


def test_what_cannot_be_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.n_trials=0 must be at least 1"):
        study(tmp_path, n_trials=0)
    with pytest.raises(UserError, match="test=true: the trials of a study train without a test; leave test= out"):
        study(tmp_path, overrides=["test=true"])
    with pytest.raises(UserError, match=r"hydra\.sweeper\.pruner\.min_trials=0 must be at least 1"):
        Pruner(min_trials=0).check()
    (tmp_path / "study.journal").write_text("no journal\nof any kind\n")
    with pytest.raises(UserError, match=r"study\.journal is no journal of a study"):
        tuning.work(study(tmp_path), run=finished)
    with pytest.raises(UserError, match=r"no trial of the study s in .* has come to its end"):
        tuning.best(study(tmp_path / "new"))


@pytest.mark.slow
def test_a_hopeless_trial_is_pruned_and_is_on_record_as_what_it_is(tmp_path: Path) -> None:
    """The others are made to be better than any training: the one real trial must be stopped at the second epoch."""
    fixed = ["model=sasrec", "trainer.max_epochs=6", *TINY, *QUIET]
    pruner = Pruner(startup_trials=2, warmup_epochs=1, min_trials=1)
    of = study(tmp_path, n_trials=2, overrides=fixed, pruner=pruner, environment={"OMP_NUM_THREADS": "1"})

    def unreachable(job: Job) -> Outcome:
        from seqgen.tuning.journal import Reporter

        reporter = Reporter(json.loads(job.environment[journal.TRIAL]))
        for epoch in range(6):
            reporter.report(epoch, 2.0)
        assert not reporter.is_hopeless()
        return Outcome("finished", None, {"history": [{METRIC: 2.0}], "metrics": {}})

    tuning.work(of, run=unreachable)
    tuning.work(replace(of, n_trials=3))
    assert states(of) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert tuning.best(of).counts == tuning.Counts(complete=2, pruned=1, failed=0, running=0)
    results = read_results(tmp_path / "2")
    assert results is not None
    assert (results["status"], results["pruned"], results["epochs"]) == ("stopped", True, 2)
    assert results["error"].startswith("pruned after epoch 1: val/ndcg@10 0.")
    assert not any(name.startswith("test/") for name in results["metrics"])
    reported = Journal(of).trials()[2].intermediate_values
    assert reported == {entry["epoch"]: entry[METRIC] for entry in results["history"]}
    from seqgen.report import report

    with pytest.raises(UserError, match="no finished run") as caught:
        report([tmp_path])
    assert str(caught.value).endswith(f"not in the table: {tmp_path / '2'}, {results['error']}")
