"""The launcher that starts each job of a sweep as a process of its own, under a Ray task that holds its CPUs and GPUs.

Ray queues and places; nothing is retried, since a job that was killed for its memory would be again. Nobody's death
takes the sweep along: of a lost process or machine, what the job left in its folder is read.
"""

import contextlib
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from seqgen.jobs import Job, Outcome

POLL = 1.0  # seconds between two looks at the jobs


class RayLauncher(Launcher):
    """Runs the jobs of `--multirun` side by side.

    Args:
        num_cpus: CPUs of a job.
        num_gpus: GPUs of a job, or a share of one.
        address: Of a running cluster; None starts Ray on this machine.
        slots: CPUs that Ray may use on this machine; None for all.
        gpus: GPUs that Ray may use on this machine; None for all. More than there are may be declared, to try an
            assignment out.
    """

    def __init__(
        self, *, num_cpus: float, num_gpus: float, address: str | None, slots: int | None, gpus: int | None
    ) -> None:
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        self.address, self.slots, self.gpus = address, slots, gpus

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what is needed to compose the jobs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, whatever becomes of any of them.

        Args:
            job_overrides: Of each job.
            initial_job_idx: Number of the first.
        """
        from seqgen.jobs import carry_out

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs, configs = self._jobs(job_overrides, initial_job_idx)
        with self._ray() as ray:
            outcomes = carry_out_all(
                ray, jobs, carry_out, num_cpus=self.num_cpus, num_gpus=self.num_gpus, monitor=str(self.config.monitor)
            )
        return [
            _returned(job, config, outcome, outcomes, jobs, str(self.config.monitor))
            for job, config, outcome in zip(jobs, configs, outcomes, strict=True)
        ]

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> tuple[list["Job"], list[DictConfig]]:
        from seqgen.jobs import Job

        jobs, configs = [], []
        pairs = [dict(text.split("=", 1) for text in overrides if "=" in text) for overrides in job_overrides]
        swept = [key for key in pairs[0] if len({pair.get(key) for pair in pairs}) > 1]
        for number, overrides in enumerate(job_overrides, start=first):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).resolve()
            threads = str(max(1, math.floor(self.num_cpus)))
            given = [*overrides, *self._passed_on()]
            jobs.append(Job(number, given, swept, folder, {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}))
            configs.append(config)
        return jobs, configs

    def _passed_on(self) -> list[str]:
        """Overrides of Hydra's own that a job needs to find its configuration."""
        path = OmegaConf.to_container(self.config.hydra.searchpath)
        return [f"hydra.searchpath={path}"] if path else []

    @contextlib.contextmanager
    def _ray(self) -> Iterator[Any]:
        from seqgen.errors import UserError

        try:
            import ray
        except ImportError as error:
            raise UserError("hydra/launcher=ray needs the package ray: pip install 'seqgen[ray]'.") from error
        here = {"num_cpus": self.slots, "num_gpus": self.gpus, "include_dashboard": False}
        where: dict[str, Any] = {"address": self.address} if self.address else here
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"hydra.launcher.address={self.address}: {' '.join(str(error).split())}") from error
        handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            yield ray
        finally:
            signal.signal(signal.SIGTERM, handler)
            ray.shutdown()


def carry_out_all(
    ray: Any,
    jobs: Sequence["Job"],
    work: Callable[["Job"], "Outcome"],
    *,
    num_cpus: float,
    num_gpus: float,
    monitor: str,
) -> list["Outcome"]:
    """Run the jobs; where the sweep is interrupted, stop those that run before it ends.

    Args:
        ray: The package, initialised.
        jobs: To run, in this order as far as there is place.
        work: Runs one.
        num_cpus: CPUs of a job.
        num_gpus: GPUs of a job.
        monitor: Metric of the lines that are printed.

    Returns:
        What became of each.
    """
    from seqgen.jobs import GRACE, outcome

    run = ray.remote(work).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)
    waiting = {run.remote(job): job for job in jobs}
    outcomes: dict[int, Outcome] = {}
    progress = _Progress(len(jobs), monitor)
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL)
            for reference in done:
                job = waiting.pop(reference)
                try:
                    outcomes[job.number] = ray.get(reference)
                except ray.exceptions.RayError:  # the task's own process died, or its machine
                    outcomes[job.number] = outcome(job, None)
                progress.report(job, outcomes[job.number])
    except (KeyboardInterrupt, SystemExit):
        for reference in waiting:
            ray.cancel(reference)  # interrupts those that run, which stop their jobs
        print(f"Stopping {len(waiting)} jobs that have not ended.", flush=True)
        ray.wait(list(waiting), num_returns=len(waiting), timeout=2 * POLL + GRACE)
        raise
    return [outcomes[job.number] for job in jobs]


class _Progress:
    """A line for each job that has ended: how it ended, how many are left, the best so far, the time left."""

    def __init__(self, total: int, monitor: str) -> None:
        self.total, self.monitor, self.started = total, monitor, time.monotonic()
        self.done = self.failed = 0
        self.best = -math.inf

    def report(self, job: "Job", outcome: "Outcome") -> None:
        from seqgen.results import best_of, duration

        self.done += 1
        value = best_of(outcome.results, self.monitor) if outcome.results else -math.inf
        self.failed += not outcome.finished
        self.best = max(self.best, value) if outcome.finished else self.best
        ended = f"{self.monitor}={value:.4f}" if outcome.finished else f"{outcome.status}: {outcome.error}"
        left = self.total - self.done
        seconds = (time.monotonic() - self.started) / self.done * left
        rest = f"{left} to go, about {duration(seconds)}" if left else "all done"
        best = f", best {self.best:.4f}" if self.best > -math.inf else ""
        print(
            f"[{self.done}/{self.total}] {' '.join(filter_overrides(job.overrides))}: {ended} "
            f"({self.failed} failed, {rest}{best})",
            flush=True,
        )


def _returned(
    job: "Job", config: DictConfig, outcome: "Outcome", outcomes: list["Outcome"], jobs: list["Job"], monitor: str
) -> JobReturn:
    from seqgen.errors import UserError
    from seqgen.results import best_of

    result = JobReturn(overrides=list(job.overrides), cfg=config, working_dir=str(job.folder), task_name="run")
    if outcome.finished:
        result.status = JobStatus.COMPLETED
        result.return_value = best_of(outcome.results or {}, monitor)
    else:
        broken = [(job, end) for job, end in zip(jobs, outcomes, strict=True) if not end.finished]
        lines = [f"{end.status}: {end.error} Again: {job.again}" for job, end in broken]
        result.status = JobStatus.FAILED
        result.return_value = UserError(f"{len(broken)} of {len(jobs)} jobs did not finish.\n" + "\n".join(lines))
    return result
