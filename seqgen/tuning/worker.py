"""Tuning: a study of trials, each a job, drawn and stopped early by Optuna. Free of torch.

Workers are independent: each asks for a trial, runs it, tells how it went, until there are enough. They share the
study's journal (`seqgen.tuning.journal`), which survives whoever dies: the same command again goes on with what is
missing.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgen.errors import UserError
from seqgen.sweeps.jobs import Job, Outcome, carry_out
from seqgen.sweeps.parallel import cancelling, places
from seqgen.tuning import space
from seqgen.tuning.journal import Journal
from seqgen.tuning.study import Best, Counts, Pruner, Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Best", "Counts", "Pruner", "Study", "best", "count", "work", "work_under_ray"]

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


def work_under_ray(
    ray: Any,
    studies: Sequence[Study],
    *,
    n_workers: int | None,
    num_cpus: float,
    num_gpus: float,
    look: Callable[[], None],
    work: Callable[[Study], None] = work,
) -> dict[int, UserError]:
    """Have workers of studies run as Ray tasks, until each study has all its trials.

    Args:
        ray: The package, initialised.
        studies: The studies; the first find a place first.
        n_workers: Of each study; None for as many as there is place for.
        num_cpus: CPUs of a worker, and so of a trial.
        num_gpus: GPUs of a worker, and so of a trial.
        look: Called from time to time.
        work: The loop of a worker.

    Returns:
        Number -> error of each study that did not come to its end.

    Raises:
        UserError: There is no place for a worker.
    """
    fit = places(ray, num_cpus=num_cpus, num_gpus=num_gpus)
    run = ray.remote(work).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)
    wanted = [min(n_workers or fit, study.n_trials) for study in studies]
    waiting = {run.remote(studies[n]): n for n, workers in enumerate(wanted) for _ in range(workers)}
    spare, errors = list(wanted), dict[int, UserError]()
    with cancelling(ray, waiting, print):
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL)
            look()
            for reference in done:
                number = waiting.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    if number in errors:  # the study was given up, and this worker with it
                        continue
                    cause = getattr(error, "cause", None)
                    if cause is not None and not isinstance(cause, UserError):
                        raise
                    spare[number] -= cause is None  # the worker's own process died, or its machine
                    if cause is None and spare[number] >= 0:
                        waiting[run.remote(studies[number])] = number
                        continue
                    errors[number] = cause or UserError("its workers died one after another; see Ray's logs.")
                    for other in [r for r, n in waiting.items() if n == number]:
                        ray.cancel(other)  # which stops its job and puts its trial back
    return errors


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
