"""What a study is, and what it has found. Free of torch, and of Optuna but where it is built."""

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgen.errors import UserError
from seqgen.settings import key_of

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

# Settings that may change between two starts of a study, since no result depends on them.
FREE = ("print_config", "tags", "task", "logger", "show", "paths", "trainer.enable_", "hydra")


@dataclass(frozen=True)
class Pruner:
    """Stops a trial whose best value is below the median of the others at the same epoch: Optuna's median rule.

    Attributes:
        startup_trials: That end before any is stopped.
        warmup_epochs: Of each trial before it can be stopped.
        interval_epochs: From one look to the next.
        min_trials: That must have come as far as that epoch.
    """

    startup_trials: int = 4
    warmup_epochs: int = 5
    interval_epochs: int = 1
    min_trials: int = 2

    def check(self) -> None:
        """Refuse numbers that are too small.

        Raises:
            UserError: Names the key.
        """
        for name, value in asdict(self).items():
            least = 0 if name in ("startup_trials", "warmup_epochs") else 1
            if value < least:
                raise UserError(f"hydra.sweeper.pruner.{name}={value} must be at least {least}.")

    def build(self) -> "BasePruner":
        """Optuna's."""
        from optuna.pruners import MedianPruner

        return MedianPruner(
            n_startup_trials=self.startup_trials,
            n_warmup_steps=self.warmup_epochs,
            interval_steps=self.interval_epochs,
            n_min_trials=self.min_trials,
        )


@dataclass(frozen=True)
class Study:
    """What is tuned and how, the same for all workers.

    Attributes:
        name: Of the study within its storage.
        storage: The journal, a file.
        folder: Holds a folder for each trial, by its number.
        space: Key -> what its values are drawn from, in Hydra's words for sweeps.
        overrides: That all trials share, without `test`.
        monitor: The validation metric that is maximised.
        start: Parameters of the first trial, the configuration as it is; those that are missing are drawn.
        n_trials: That end or are pruned, over all workers.
        seed: Of the draws: each has a seed of its own, made of this one and the trial's number.
        startup_trials: Drawn at random; the sampler, multivariate TPE, learns from them.
        pruner: None stops no trial early.
        environment: Variables of the trials' processes.
    """

    name: str
    storage: Path
    folder: Path
    space: Mapping[str, str]
    overrides: Sequence[str]
    monitor: str
    start: Mapping[str, Any] = field(default_factory=dict)
    n_trials: int = 20
    seed: int = 1
    startup_trials: int = 8
    pruner: Pruner | None = Pruner()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be carried out.

        Raises:
            UserError: Names the key.
        """
        for key, value, least in (
            ("n_trials", self.n_trials, 1),
            ("seed", self.seed, 0),
            ("startup_trials", self.startup_trials, 0),
        ):
            if value < least:
                raise UserError(f"hydra.sweeper.{key}={value} must be at least {least}.")
        for text in self.overrides:
            if key_of(text) in ("test", "train", "ckpt_path"):
                raise UserError(f"{text}: the trials of a study train without a test; leave {key_of(text)}= out.")

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change while the study goes on."""
        fixed = sorted(text for text in self.overrides if not key_of(text).startswith(FREE))
        return {"space": dict(sorted(self.space.items())), "overrides": fixed, "monitor": self.monitor}


@dataclass(frozen=True)
class Counts:
    """How many trials are in which state."""

    complete: int
    pruned: int
    failed: int
    running: int

    @property
    def finished(self) -> int:
        """Those that count towards the number of trials."""
        return self.complete + self.pruned


@dataclass(frozen=True)
class Best:
    """What a study has found.

    Attributes:
        number: Of the best trial.
        value: Its best validation metric.
        parameters: The overrides that were searched.
        overrides: All of them, those that the trials share first.
        folder: Of the trial.
        values: Of all complete trials, largest first.
        counts: How many trials went how.
    """

    number: int
    value: float
    parameters: list[str]
    overrides: list[str]
    folder: Path
    values: list[float]
    counts: Counts

    @property
    def command(self) -> str:
        """The command line that trains and tests the winner over seeds."""
        settings = [text for text in self.overrides if key_of(text) != "seed"]
        return shlex.join(["python", "-m", "seqgen.run", "-m", *settings, "seed=1,2,3"])

    @property
    def spread(self) -> float:
        """Sample standard deviation of the complete trials' values; NaN of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan
