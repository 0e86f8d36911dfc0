"""Tuning: a study of trials, each a job, drawn and stopped early by Optuna. Free of torch.

Workers are independent: each asks for a trial, runs it, tells how it went, until there are enough. They share the
study's journal (`seqgen.journal`), which survives whoever dies: the same command again goes on with what is missing.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqgen import space
from seqgen.errors import UserError
from seqgen.jobs import Job, Outcome, carry_out
from seqgen.journal import Journal
from seqgen.study import Best, Counts, Pruner, Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Best", "Counts", "Pruner", "Study", "best", "count", "work"]

POLL = 1.0  # seconds between two looks of a worker that waits for the others' trials
LEAST_FAILED = 3  # trials, and more than half of those that ended, that end a study


def work(study: Study, *, run: Callable[[Job], Outcome] = carry_out, told: Callable[[], None] | None = None) -> None:
    """The loop of one worker: ask, run, tell, until the study has all its trials, over all workers.

    Args:
        study: The study; begun where it is new, gone on with where it is not.
        run: Runs the job of a trial.
        told: Called after each trial of this worker.

    Raises:
        UserError: The study was begun with other settings, or too many trials failed since this worker began.
        KeyboardInterrupt, SystemExit: As they came; the trial that ran will be done again.
    """
    journal = Journal(study)
    first: int | None = None
    while True:
        with journal.turn():
            trials = journal.settled()
            counts = count(trials)
            if counts.finished >= study.n_trials:
                return
            first = len(trials) if first is None else first
            _refuse_failing(trials[first:])
            trial = journal.ask(len(trials)) if counts.finished + counts.running < study.n_trials else None
        if trial is None:  # those that run may yet fail or be lost
            time.sleep(POLL)
            continue
        journal.carry_out(trial, run)
        if told is not None:
            told()


def count(trials: Sequence["FrozenTrial"]) -> Counts:
    """Count trials by state; what was lost and is done again counts nowhere."""
    states = [trial.state.name for trial in trials]
    failed = [trial for trial in trials if trial.state.name == "FAIL" and "error" in trial.user_attrs]
    return Counts(states.count("COMPLETE"), states.count("PRUNED"), len(failed), states.count("RUNNING"))


def _refuse_failing(trials: Sequence["FrozenTrial"]) -> None:
    counts = count(trials)
    if counts.failed >= LEAST_FAILED and counts.failed > counts.finished:
        last = [trial for trial in trials if "error" in trial.user_attrs][-1]
        raise UserError(
            f"{counts.failed} of {counts.failed + counts.finished} trials failed, the newest with: "
            f"{last.user_attrs['error']} Alone: {last.user_attrs['job']['again']}"
        )


def best(study: Study) -> Best:
    """What a study has found so far.

    Raises:
        UserError: No trial has come to its end.
    """
    trials = Journal(study).trials()
    complete = sorted((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda t: -_value(t))
    if not complete:
        raise UserError(f"no trial of the study {study.name} in {study.storage} has come to its end.")
    found = complete[0]
    parameters = space.overrides(found.params, study.space)
    return Best(
        number=found.number,
        value=_value(found),
        parameters=parameters,
        overrides=[*study.overrides, *parameters],
        folder=Path(found.user_attrs["job"]["folder"]),
        values=[_value(trial) for trial in complete],
        counts=count(trials),
    )


def _value(trial: "FrozenTrial") -> float:
    assert trial.value is not None
    return trial.value
