"""The launcher that starts each job of a sweep as a process, under a Ray task that holds its CPUs and GPUs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from seqgen.sweeps.jobs import Job, Outcome


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
        from seqgen.sweeps.jobs import carry_out
        from seqgen.sweeps.parallel import carry_out_all

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs, configs = self._jobs(job_overrides, initial_job_idx)
        monitor = str(self.config.monitor)
        with self._ray() as ray:
            outcomes = carry_out_all(
                ray, jobs, carry_out, num_cpus=self.num_cpus, num_gpus=self.num_gpus, monitor=monitor
            )
        return [
            _returned(job, config, outcome, monitor)
            for job, config, outcome in zip(jobs, configs, outcomes, strict=True)
        ]

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> tuple[list["Job"], list[DictConfig]]:
        from seqgen.sweeps.jobs import MARK, Job, threads

        jobs, configs = [], []
        for number, overrides in enumerate(job_overrides, start=first):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).resolve()
            marked = config.hydra.job.env_set.get(MARK)
            swept = _swept(job_overrides) if marked is None else [key for key in marked.split(",") if key]
            devices = OmegaConf.select(config, "trainer.devices")
            processes = devices if isinstance(devices, int) and devices > 1 else 1
            given = [*overrides, *self._passed_on()]
            jobs.append(Job(number, given, swept, folder, threads(self.num_cpus, processes)))
            configs.append(config)
        return jobs, configs

    def _ray(self) -> AbstractContextManager[Any]:
        from seqgen.sweeps.parallel import ray_session

        return ray_session(address=self.address, slots=self.slots, gpus=self.gpus)

    def _passed_on(self) -> list[str]:
        """Overrides of Hydra's own that a job needs to find its configuration."""
        path = OmegaConf.to_container(self.config.hydra.searchpath)
        return [f"hydra.searchpath={path}"] if path else []


def _swept(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """The keys that differ between the jobs, where the sweeper did not say which it goes through."""
    pairs = [dict(text.split("=", 1) for text in overrides if "=" in text) for overrides in job_overrides]
    return [key for key in pairs[0] if len({pair.get(key) for pair in pairs}) > 1]


def _returned(job: "Job", config: DictConfig, outcome: "Outcome", monitor: str) -> JobReturn:
    from seqgen.results import best_of
    from seqgen.sweeps.jobs import Lost

    result = JobReturn(overrides=list(job.overrides), cfg=config, working_dir=str(job.folder), task_name="run")
    if outcome.finished:
        result.status = JobStatus.COMPLETED
        result.return_value = best_of(outcome.results or {}, monitor)
    else:
        result.status = JobStatus.FAILED
        result.return_value = Lost(outcome)
    return result
