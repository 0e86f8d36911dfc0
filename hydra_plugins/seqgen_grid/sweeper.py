"""The sweeper: Hydra's basic one, whose jobs are those that can run and have not run yet, and which lists what failed.

It hands over to any launcher: one after another in this process, to Ray, to SLURM.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from seqgen.sweep import Wanted


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
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size, params)

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the jobs, all of them whatever becomes of any.

        Args:
            arguments: Overrides of the command line, sweeps among them.

        Raises:
            UserError: Lists the jobs that did not finish, each with the command that runs it again.
        """
        from seqgen.errors import UserError

        assert self.config is not None
        assert self.hydra_context is not None
        resume = _resumes(self.config)
        folder = Path(str(self.config.hydra.sweep.dir))
        parser = self._parser()
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        asked = [[o for o in job if not o.startswith("sweep.")] for job in self.split_arguments(parsed, None)[0]]
        swept = _swept(asked)
        jobs = self._usable(asked, swept)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        _mark(self.config, swept)
        if resume:
            jobs = self._left(jobs, folder)
        size = self.max_batch_size or max(1, len(jobs))
        returns, broken = [], list[str]()
        try:
            for first in range(0, len(jobs), size):
                returns.append(self._launched(jobs[first : first + size], first, broken))
        except (KeyboardInterrupt, SystemExit) as end:
            text = f"seqgen: the sweep is stopped; it goes on with: {_on_again(folder)}"
            if isinstance(end, KeyboardInterrupt):
                end.add_note(text)
            else:
                print(text, file=sys.stderr)
            raise
        if broken:
            lines = [f"{len(broken)} of {len(jobs)} jobs did not finish.", *broken]
            raise UserError("\n".join([*lines, f"Those alone, once it is mended: {_on_again(folder)}"]))
        return returns

    def _parser(self) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert self.hydra_context is not None
        return OverridesParser.create(config_loader=self.hydra_context.config_loader)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def _usable(self, asked: Sequence[list[str]], swept: Sequence[str]) -> list[_Planned]:
        """The jobs without what they have no use for but others have, and without those that then repeat another.

        Raises:
            HydraException: Nobody has a use for it, or it cannot be composed otherwise.
        """
        found = _LeftOut(self._compose, swept)
        for job in {_groups_of(job): job for job in reversed(asked)}.values():  # one of each combination of groups
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
        from seqgen.sweep import what_is_left

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

    def _launched(self, jobs: Sequence[_Planned], first: int, broken: list[str]) -> Sequence[JobReturn]:
        """Launch some jobs, and add a line for each that did not finish."""
        from seqgen.jobs import outcome

        assert self.launcher is not None
        folders = [_folder(job.config, first + place) for place, job in enumerate(jobs)]
        try:
            returns = self.launcher.launch([job.overrides for job in jobs], initial_job_idx=first)
        except HydraException:
            raise
        except Exception as error:
            from seqgen.errors import UserError

            if isinstance(error, UserError):
                raise
            # Of a job that a queue lost its launcher may not give back the others.
            print(f"seqgen: the launcher broke off: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            for job, folder in zip(jobs, folders, strict=True):
                end = outcome(folder, None)
                broken += [] if end.finished else [f"{end.status}: {end.error} {_again(job, folder)}"]
            return []
        for job, folder, result in zip(jobs, folders, returns, strict=True):
            if result.status != JobStatus.COMPLETED:
                broken.append(f"{_why(result)} {_again(job, folder)}")
        return returns


class _LeftOut:
    """What jobs of a sweep have no use for.

    Args:
        compose: Composes a job.
        swept: Keys that the sweep goes through.
    """

    def __init__(self, compose: Callable[[Sequence[str]], DictConfig], swept: Sequence[str]) -> None:
        self.compose, self.swept = compose, swept
        self.useless: dict[tuple[str, ...], dict[str, Exception | None]] = {}  # by combination of groups
        self.useful: set[str] = set()
        self.said: dict[tuple[str, str], None] = {}

    def try_out(self, job: Sequence[str]) -> None:
        """Find out which keys the jobs with the same groups have no use for."""
        from seqgen.settings import key_of

        useless = self.useless.setdefault(_groups_of(job), {})
        while True:
            given = [override for override in job if key_of(override) not in useless]
            try:
                config = self.compose(given)
                break
            except HydraException as error:
                key = _unknown_key(str(error))
                if key is None or key not in map(key_of, given):
                    raise
                useless[key] = error
        self.useful |= {key_of(override) for override in given}
        if {"model", "experiment"} & set(self.swept):
            with _as_job(config):
                groups = _unused(config)
            useless |= {
                key_of(override): None
                for override in given
                if any(key_of(override) == group or key_of(override).startswith(f"{group}.") for group in groups)
            }

    def refuse_unknown(self) -> None:
        """Refuse a key that no job has."""
        for useless in self.useless.values():
            for key, error in useless.items():
                if error is not None and key not in self.useful:
                    raise error

    def usable(self, job: Sequence[str]) -> tuple[list[str], DictConfig]:
        """A job's overrides without the useless, and what they compose to."""
        from seqgen.settings import key_of

        useless = self.useless[_groups_of(job)]
        given = [override for override in job if key_of(override) not in useless]
        name = " ".join(o for o in _groups_of(job) if key_of(o) in self.swept)
        self.said |= {(name, override): None for override in job if key_of(override) in useless}
        return given, self.compose(given)

    def say(self) -> None:
        """Print, once for all jobs, what is left out."""
        names: dict[str, list[str]] = {}
        for name, override in self.said:
            names.setdefault(name, []).append(override)
        for name, overrides in names.items():
            print(f"{name} has no use for {', '.join(overrides)}: its jobs leave it out.", flush=True)


def _unused(config: DictConfig) -> list[str]:
    from seqgen.check import unused
    from seqgen.errors import UserError

    try:
        return unused(config)
    except (UserError, OmegaConfBaseException):  # the job says so itself
        return []


def _unknown_key(text: str) -> str | None:
    from seqgen.cli import unknown_key

    return unknown_key(text)


def _groups_of(job: Sequence[str]) -> tuple[str, ...]:
    """The choices of groups among a job's overrides."""
    from seqgen.config import CONFIG_DIR
    from seqgen.settings import key_of

    return tuple(o for o in job if Path(CONFIG_DIR, key_of(o).partition("@")[0]).is_dir())


def _swept(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys whose values differ between jobs."""
    from seqgen.settings import key_of

    values: dict[str, set[str]] = {}
    for job in jobs:
        for override in job:
            values.setdefault(key_of(override), set()).add(override)
    return [key for key, found in values.items() if len(found) > 1]


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
    from seqgen.jobs import MARK

    with read_write(config), open_dict(config):
        config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{MARK}='{','.join(swept)}'")


@contextmanager
def _as_job(config: DictConfig, folder: Path | None = None) -> Iterator[None]:
    """Have a composed job resolve its references, as when it runs."""
    before = HydraConfig.instance().cfg
    with read_write(config), open_dict(config):
        config.hydra.runtime.output_dir = str((folder or Path()).resolve())
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _folder(config: DictConfig, number: int) -> Path:
    return Path(str(config.hydra.sweep.dir), _name(config, number)).resolve()


def _name(config: DictConfig, number: int) -> str:
    with read_write(config), open_dict(config):
        config.hydra.job.num = number
        config.hydra.job.id = str(number)
    with _as_job(config):
        return str(config.hydra.sweep.subdir)


def _wanted(job: _Planned, folder: Path, prepared: dict[str, str | None]) -> "Wanted":
    from seqgen import config
    from seqgen.check import check_shape, drop_unused
    from seqgen.errors import UserError
    from seqgen.sweep import Wanted

    with _as_job(job.config, folder / "job"):
        cfg = job.config.copy()
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
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


def _why(result: JobReturn) -> str:
    """Why a job did not finish, in words."""
    import traceback

    from seqgen import cli

    error = result._return_value
    if (text := cli.sentence(error, sys.argv[1:])) is not None:
        return text
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def _again(job: _Planned, folder: Path) -> str:
    from seqgen.jobs import Job

    return f"Again: {Job(0, job.overrides, [], folder, {}).again}"


def _on_again(folder: Path) -> str:
    """The command line with which a sweep goes on."""
    from seqgen.settings import key_of, quoted

    given = [argument for argument in sys.argv[1:] if key_of(argument) not in ("hydra.sweep.dir", "sweep.resume")]
    more = [f"hydra.sweep.dir={quoted(str(folder))}", "sweep.resume=true"]
    return shlex.join(["python", "-m", "seqgen.run", *given, *more])
