"""Jobs side by side under Ray, which queues and places them. Free of torch and of Hydra.

Nothing is retried, since a job that was killed for its memory would be again. Nobody's death takes the others along: of
a lost process or machine, what the job left in its folder is read.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from seqgen.errors import UserError
from seqgen.sweeps.jobs import GRACE, Job, Outcome, outcome
from seqgen.sweeps.view import SweepView

POLL = 1.0  # seconds between two looks at the jobs


@contextlib.contextmanager
def ray_session(*, address: str | None = None, slots: int | None = None, gpus: int | None = None) -> Iterator[Any]:
    """Ray, initialised; within the context SIGTERM raises SystemExit, so that jobs can be stopped.

    Args:
        address: Of a running cluster; None starts Ray on this machine.
        slots: CPUs that Ray may use on this machine; None for all.
        gpus: GPUs that Ray may use on this machine; None for all.

    Yields:
        The package.

    Raises:
        UserError: Ray is not installed, or the cluster is not there.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("hydra/launcher=ray needs the package ray: pip install 'seqgen[ray]'.") from error
    # Ray's workers, and with them our jobs, would give way to all else on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    here = {"num_cpus": slots, "num_gpus": gpus, "include_dashboard": False}
    where: dict[str, Any] = {"address": address} if address else here
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"hydra.launcher.address={address}: {' '.join(str(error).split())}") from error
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield ray
    finally:
        signal.signal(signal.SIGTERM, handler)
        ray.shutdown()


def carry_out_all(
    ray: Any,
    jobs: Sequence[Job],
    work: Callable[[Job], Outcome],
    *,
    num_cpus: float,
    num_gpus: float,
    monitor: str,
) -> list[Outcome]:
    """Run the jobs; where the sweep is interrupted, stop those that run before it ends.

    Args:
        ray: The package, initialised (`ray_session`).
        jobs: To run, in this order as far as there is place.
        work: Runs one.
        num_cpus: CPUs of a job.
        num_gpus: GPUs of a job.
        monitor: Metric of what is shown.

    Returns:
        What became of each.

    Raises:
        UserError: There is no place for any.
    """
    places(ray, num_cpus=num_cpus, num_gpus=num_gpus)
    run = ray.remote(work).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)
    outcomes: dict[int, Outcome] = {}
    with SweepView(jobs, monitor) as view:
        waiting = {run.remote(job): job for job in jobs}
        with cancelling(ray, waiting, view.say):
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL)
                view.look()
                for reference in done:
                    job = waiting.pop(reference)
                    try:
                        outcomes[job.number] = ray.get(reference)
                    except ray.exceptions.RayError:  # the task's own process died, or its machine
                        outcomes[job.number] = outcome(job.folder, None)
                    view.ended(job, outcomes[job.number])
    return [outcomes[job.number] for job in jobs]


def places(ray: Any, *, num_cpus: float, num_gpus: float) -> int:
    """How many jobs there is place for at once.

    Args:
        ray: The package, initialised.
        num_cpus: CPUs of a job.
        num_gpus: GPUs of a job, or a share of one.

    Raises:
        UserError: For none, which Ray would wait for without end.
    """
    there = ray.cluster_resources()
    fit = min(there.get(name, 0) // each for name, each in (("CPU", num_cpus), ("GPU", num_gpus)) if each)
    if fit < 1:
        raise UserError(
            f"hydra.launcher.num_cpus={num_cpus} num_gpus={num_gpus} is more than there is "
            f"({there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs)."
        )
    return int(fit)


@contextlib.contextmanager
def cancelling(ray: Any, waiting: Collection[Any], say: Callable[[str], None]) -> Iterator[None]:
    """Where the context is interrupted, stop the tasks that are waited for, and let them stop their jobs.

    Args:
        ray: The package, initialised.
        waiting: References of tasks, those that have ended taken out.
        say: Prints.
    """
    try:
        yield
    except BaseException:
        for reference in waiting:
            ray.cancel(reference)
        say(f"Stopping {len(waiting)} jobs that have not ended.")
        ray.wait(list(waiting), num_returns=len(waiting), timeout=2 * POLL + GRACE) if waiting else None
        raise
