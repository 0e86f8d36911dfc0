"""The sweeper: Hydra's basic one, whose jobs are those that can run and have not run yet, and which lists what failed.

It hands over to any launcher: one after another in this process, to Ray, to SLURM.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.seqgen_grid.left_out import LeftOut, as_job, groups_of, swept_keys

if TYPE_CHECKING:
    from seqgen.sweeps.jobs import Job, Outcome
    from seqgen.sweeps.resuming import Wanted


@dataclass(frozen=True)
class _Planned:
    """A job: its overrides, without those that it has no use for, and what they compose to."""

    overrides: list[str]
    config: DictConfig


class GridSweeper(BasicSweeper):
    """Every combination of the values that are listed.

    Args:
        max_batch_size: Jobs that are handed to the launcher at once; None for all.
        params: Values of keys, beside those of the command line.
        others: Of another sweeper, such as a study.

    Raises:
        UserError: There are such settings.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None, **others: Any) -> None:
        from seqgen.errors import UserError

        if others:
            raise UserError(
                f"hydra.sweeper.{next(iter(others))} is no setting of this sweeper; leave it out, or hparams_search=, "
                "whose settings are those of hydra/sweeper=optuna."
            )
        super().__init__(max_batch_size, params)

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the jobs, all of them whatever becomes of any.

        Args:
            arguments: Overrides of the command line, sweeps among them.

        Raises:
            UserError: Lists the jobs that did not finish, each with the command that runs it again.
        """
        from seqgen.cli import stopped_in_words
        from seqgen.errors import UserError

        assert self.config is not None
        assert self.hydra_context is not None
        resume = _resumes(self.config)
        folder = Path(str(self.config.hydra.sweep.dir))
        parser = self._parser()
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        asked = [[o for o in job if not o.startswith("sweep.")] for job in self.split_arguments(parsed, None)[0]]
        swept = swept_keys(asked)
        jobs = self._usable(asked, swept)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        _mark(self.config, swept)
        if resume:
            jobs = self._left(jobs, folder)
        with stopped_in_words(f"the sweep is stopped; it goes on with: {_on_again(folder)}"):
            returns, broken = self._launched(jobs, swept)
        if broken:
            lines = [f"{len(broken)} of {len(jobs)} jobs did not finish.", *broken]
            raise UserError("\n".join([*lines, f"What is left of the sweep: {_on_again(folder)}"]))
        return returns

    def _parser(self) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert self.hydra_context is not None
        return OverridesParser.create(config_loader=self.hydra_context.config_loader)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def _usable(self, asked: Sequence[list[str]], swept: Sequence[str]) -> list[_Planned]:
        """The jobs without what they have no use for but others have, and without those that then repeat another.

        Raises:
            HydraException: Nobody has a use for it, or it cannot be composed otherwise.
        """
        found = LeftOut(self._compose, swept)
        for job in {groups_of(job): job for job in reversed(asked)}.values():  # one of each combination of groups
            found.try_out(job)
        found.refuse_unknown()
        jobs: dict[tuple[str, ...], _Planned] = {}
        again = 0
        for number, job in enumerate(asked):
            overrides, config = found.usable(job)
            # A job that is listed twice as it stands runs twice.
            shortened = len(overrides) < len(job)
            key = tuple(overrides)
            if shortened and key in jobs:
                again += 1
                continue
            jobs[key if key not in jobs else (*key, str(number))] = _Planned(overrides, config)
        found.say()
        if again:
            print(f"{again} of {len(asked)} jobs are left out: without it they repeat another.", flush=True)
        return list(jobs.values())

    def _left(self, jobs: list[_Planned], folder: Path) -> list[_Planned]:
        """What is left of a sweep that goes on, as jobs in their folders."""
        from seqgen.errors import UserError
        from seqgen.settings import key_of, quoted
        from seqgen.sweeps.resuming import what_is_left

        if any(key_of(override) == "ckpt_path" for job in jobs for override in job.overrides):
            raise UserError("sweep.resume=true finds the checkpoints of a sweep by itself; leave ckpt_path= out.")
        prepared: dict[str, str | None] = {}
        steps = what_is_left([_wanted(job, folder, prepared) for job in jobs], folder)
        resumed = sum(step.checkpoint is not None for step in steps)
        counts = f"{len(jobs) - len(steps)} have finished, {resumed} resume, {len(steps) - resumed} start"
        print(f"{len(jobs)} jobs: {counts}.", flush=True)
        left = []
        for step in steps:
            overrides = [*jobs[step.number].overrides, f"hydra.sweep.subdir={quoted(step.name)}"]
            overrides += [f"ckpt_path={quoted(str(step.checkpoint.resolve()))}"] if step.checkpoint else []
            left.append(_Planned(overrides, self._compose(overrides)))
        return left

    def _launched(
        self, planned: Sequence[_Planned], swept: Sequence[str]
    ) -> tuple[list[Sequence[JobReturn]], list[str]]:
        """Launch all jobs; what the launcher gave back, and a line for each job that did not finish."""
        from seqgen.sweeps.jobs import Job
        from seqgen.sweeps.view import Tally

        assert self.config is not None
        jobs = [Job(n, job.overrides, swept, _folder(job.config, n), {}) for n, job in enumerate(planned)]
        # Hydra's own launcher runs one after another in any case: as launches of their own each can be reported.
        alone = isinstance(self.launcher, BasicLauncher)
        if alone:
            logging.getLogger(BasicLauncher.__module__).setLevel(logging.WARNING)  # all overrides of each job
        tally = Tally(len(jobs), str(self.config.monitor))
        size = 1 if alone else self.max_batch_size or max(1, len(jobs))
        returns, broken = [], list[str]()
        for first in range(0, len(jobs), size):
            part = jobs[first : first + size]
            if alone:
                tally.begins(part[0])
                print(f"[{first + 1}/{len(jobs)}] {part[0].label}", flush=True)
            returned, outcomes = self._launch(part)
            returns.append(returned)
            for job, end in zip(part, outcomes, strict=True):
                broken += [] if end.finished else [f"{end.status}: {end.error} Again: {job.again}"]
                if alone:
                    print(tally.ended(job, end), flush=True)
        return returns, broken

    def _launch(self, jobs: Sequence["Job"]) -> tuple[Sequence[JobReturn], list["Outcome"]]:
        """Launch some jobs; what the launcher gave back, and what became of each.

        Raises:
            UserError, HydraException: The launcher cannot do its work as it is set up.
        """
        from seqgen.errors import UserError

        assert self.launcher is not None
        try:
            returns = self.launcher.launch([job.overrides for job in jobs], initial_job_idx=jobs[0].number)
        except (UserError, HydraException):
            raise
        except Exception as error:  # of a launcher that gives up where a job was lost, such as submitit's
            print(f"seqgen: the launcher broke off: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            return [], [_left_behind(job) for job in jobs]
        return returns, [_became(job, result) for job, result in zip(jobs, returns, strict=True)]


def _resumes(config: DictConfig) -> bool:
    from seqgen.errors import UserError

    resume = OmegaConf.select(config, "sweep.resume", default=False)
    if not isinstance(resume, bool):
        raise UserError(f"sweep.resume={resume} must be true or false.")
    raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    if resume and isinstance(raw, dict) and "${now:" in str(raw["dir"]):
        raise UserError("sweep.resume=true needs hydra.sweep.dir=, the folder of the sweep that goes on.")
    return resume


def _mark(config: DictConfig, swept: Sequence[str]) -> None:
    """Have each job know what the sweep goes through, wherever its launcher runs it."""
    from seqgen.sweeps.jobs import MARK

    with read_write(config), open_dict(config):
        config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{MARK}='{','.join(swept)}'")


def _folder(config: DictConfig, number: int) -> Path:
    return Path(str(config.hydra.sweep.dir), _name(config, number)).resolve()


def _name(config: DictConfig, number: int) -> str:
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num = number
        config.hydra.job.id = str(number)
    with as_job(config):
        return str(config.hydra.sweep.subdir)


def _wanted(job: _Planned, folder: Path, prepared: dict[str, str | None]) -> "Wanted":
    from seqgen import config
    from seqgen.check import check_shape, drop_unused
    from seqgen.errors import UserError
    from seqgen.sweeps.resuming import Wanted

    with as_job(job.config, folder / "job"):
        cfg = OmegaConf.masked_copy(job.config, [str(key) for key in job.config if key != "hydra"])
        try:
            check_shape(cfg)
            drop_unused(cfg)
            plain = config.plain(cfg)
        except (UserError, OmegaConfBaseException):
            return Wanted(None, lambda: None, lambda number: _name(job.config, number))

    def fingerprint() -> str | None:
        key = str(plain["data"])
        if key not in prepared:
            try:
                prepared[key] = config.build(OmegaConf.create(plain), "data").catalog.fingerprint
            except (UserError, OSError):
                prepared[key] = None
        return prepared[key]

    return Wanted(plain, fingerprint, lambda number: _name(job.config, number))


def _left_behind(job: "Job") -> "Outcome":
    """What is known of a job that its launcher no longer waits for."""
    from seqgen.results import read_results
    from seqgen.sweeps.jobs import Outcome, outcome

    results = read_results(job.folder)
    if results and results.get("status") in ("finished", "failed", "stopped"):
        return outcome(job.folder, None)
    return Outcome("unknown", "It was lost, or its queue still holds it.", results)


def _became(job: "Job", result: JobReturn) -> "Outcome":
    import traceback

    from seqgen import cli
    from seqgen.results import read_results
    from seqgen.sweeps.jobs import Lost, Outcome

    results, error = read_results(job.folder), result._return_value
    if result.status == JobStatus.COMPLETED:
        return Outcome("finished", None, results)
    if isinstance(error, Lost):
        return error.outcome
    text = cli.sentence(error, sys.argv[1:])
    if text is None:  # a fault of the program, whose trace nobody else shows
        traceback.print_exception(error)
    return Outcome("failed", text or f"{type(error).__name__}: {error}", results)


def _on_again(folder: Path) -> str:
    """The command line with which a sweep goes on."""
    from seqgen.cli import as_typed
    from seqgen.settings import key_of, quoted

    given = [
        argument for argument in as_typed(sys.argv[1:]) if key_of(argument) not in ("hydra.sweep.dir", "sweep.resume")
    ]
    more = [f"hydra.sweep.dir={quoted(str(folder))}", "sweep.resume=true"]
    return shlex.join(["python", "-m", "seqgen.run", *given, *more])
