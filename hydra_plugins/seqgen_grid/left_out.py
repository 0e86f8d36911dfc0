"""What a job of a sweep has no use for: settings that its model or attention lacks and that others have."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException


@contextmanager
def as_job(config: DictConfig, folder: Path | None = None) -> Iterator[None]:
    """Have a composed job resolve its references, as when it runs."""
    before = HydraConfig.instance().cfg
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.runtime.output_dir = str((folder or Path()).resolve())
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


class LeftOut:
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
        from seqgen.cli import unknown_key
        from seqgen.settings import key_of

        useless = self.useless.setdefault(groups_of(job), {})
        while True:
            given = [override for override in job if key_of(override) not in useless]
            try:
                config = self.compose(given)
                break
            except HydraException as error:
                key = unknown_key(str(error))
                if key is None or key not in map(key_of, given):
                    raise
                useless[key] = error
        self.useful |= {key_of(override) for override in given}
        if {"model", "experiment"} & set(self.swept):
            with as_job(config):
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

        useless = self.useless[groups_of(job)]
        given = [override for override in job if key_of(override) not in useless]
        name = " ".join(o for o in groups_of(job) if key_of(o) in self.swept)
        self.said |= {(name, override): None for override in job if key_of(override) in useless}
        return given, self.compose(given)

    def say(self) -> None:
        """Print, once for all jobs, what is left out."""
        names: dict[str, dict[str, list[str]]] = {}
        for name, override in self.said:
            key, _, value = override.partition("=")
            names.setdefault(name, {}).setdefault(key, []).append(value)
        for name, settings in names.items():
            listed = ", ".join(f"{key}={','.join(values)}" for key, values in settings.items())
            print(f"{name} has no use for {listed}: its jobs leave it out.", flush=True)


def _unused(config: DictConfig) -> list[str]:
    from seqgen.check import unused
    from seqgen.errors import UserError

    try:
        return unused(config)
    except (UserError, OmegaConfBaseException):  # the job says so itself
        return []


def groups_of(job: Sequence[str]) -> tuple[str, ...]:
    """The choices of groups among a job's overrides."""
    from seqgen.config import CONFIG_DIR
    from seqgen.settings import key_of

    return tuple(o for o in job if Path(CONFIG_DIR, key_of(o).partition("@")[0]).is_dir())


def swept_keys(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys whose values differ between jobs."""
    from seqgen.settings import key_of

    values: dict[str, set[str]] = {}
    for job in jobs:
        for override in job:
            values.setdefault(key_of(override), set()).add(override)
    return [key for key, found in values.items() if len(found) > 1]
