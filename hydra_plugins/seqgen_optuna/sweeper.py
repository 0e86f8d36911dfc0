"""The sweeper that tunes: it makes a study of the command line, starts its workers, and says what they found.

The workers are `seqgen.tuning.worker.work`: one in this process with the basic launcher, several under Ray with
`hydra/launcher=ray`. The same command in another terminal, or on another machine that shares the folder, joins in.
"""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from seqgen.tuning.worker import Best, Study

RESULTS = "optimization_results.yaml"  # as Hydra's own sweepers call it


class OptunaSweeper(Sweeper):
    """Tunes one model on one data set.

    Args:
        n_workers: Side by side under Ray; None for as many as there is place for.
        study: The settings of the study, which `seqgen.tuning.search` reads where the command line is composed.
    """

    def __init__(self, *, n_workers: int | None, **study: Any) -> None:
        self.n_workers = n_workers

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher, and keep what Hydra was told."""
        self.hydra = config.hydra
        self.whole = config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

        # By name: Hydra's search for plugins may have imported the class a second time.
        self.kind = type(self.launcher).__name__

    def sweep(self, arguments: list[str]) -> None:
        """Run the study, or what is left of it.

        Args:
            arguments: Overrides of the command line.

        Raises:
            UserError: The space or a setting is wrong, or too many trials failed.
        """
        from seqgen.cli import stopped_in_words
        from seqgen.tuning import worker

        setup_globals()
        study = self._study(arguments)
        study.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.whole, study.folder / "multirun.yaml")
        print(
            f"Study {study.name}: {study.n_trials} trials of {', '.join(study.space)}, by {study.monitor}; journal: "
            f"{study.storage}",
            flush=True,
        )
        watch = _Watch(study)
        with stopped_in_words(f"stopped; the same command goes on with the study {study.name}"):
            if self.kind == "RayLauncher":
                self._work_under_ray(study, watch)
            else:
                with _exit_at_sigterm():  # the trial that runs is put back, as at Ctrl-C
                    worker.work(study, told=watch.look)
        watch.look()
        self._conclude(study, worker.best(study))

    def _study(self, arguments: list[str]) -> "Study":
        from seqgen.errors import UserError
        from seqgen.signatures import check_type
        from seqgen.sweeps.jobs import threads
        from seqgen.tuning.search import study_of

        check_type("hydra.sweeper.n_workers", self.n_workers, int | None)
        if self.n_workers is not None and self.n_workers < 1:
            raise UserError(f"hydra.sweeper.n_workers={self.n_workers} must be at least 1.")
        environment = {}
        if self.kind == "RayLauncher":
            environment = threads(self.launcher.num_cpus)
        elif self.kind != "BasicLauncher":
            name = self.hydra.runtime.choices["hydra/launcher"]
            raise UserError(
                f"hydra/launcher={name} starts jobs, not workers of a study; use hydra/launcher=ray, or start the "
                "command as often as there is to be a worker."
            )
        elif self.n_workers not in (None, 1):
            raise UserError(f"hydra.sweeper.n_workers={self.n_workers} needs hydra/launcher=ray.")
        told = [text for text in self.hydra.overrides.hydra if not text.startswith("hydra.mode=")]
        return study_of([*told, *arguments], environment=environment)

    def _work_under_ray(self, study: "Study", watch: "_Watch") -> None:
        from seqgen.tuning.worker import work_under_ray

        with self.launcher._ray() as ray:
            errors = work_under_ray(
                ray,
                [study],
                n_workers=self.n_workers,
                num_cpus=self.launcher.num_cpus,
                num_gpus=self.launcher.num_gpus,
                look=watch.look,
            )
        for error in errors.values():
            raise error

    def _conclude(self, study: "Study", best: "Best") -> None:
        from seqgen.results import replacing
        from seqgen.tuning import space

        found = {
            "name": "optuna",
            "best_params": space.values(best.parameters),
            "best_value": best.value,
            "spread": None if math.isnan(best.spread) else best.spread,
            "monitor": study.monitor,
            "best_trial": best.number,
            "folder": str(best.folder),
            "trials": {"complete": best.counts.complete, "pruned": best.counts.pruned, "failed": best.counts.failed},
            "study_name": study.name,
            "storage": str(study.storage),
            "command": best.command,
        }
        with replacing(study.folder / RESULTS) as beside:
            OmegaConf.save(OmegaConf.create(found), beside)
        counts = best.counts
        spread = "" if math.isnan(best.spread) else f" (spread of the complete trials {best.spread:.4f})"
        print(
            f"{counts.complete} trials complete, {counts.pruned} pruned, {counts.failed} failed.\n"
            f"Best: {study.monitor}={best.value:.4f}{spread}, trial {best.number}: {' '.join(best.parameters)}\n"
            f"Train and test it over seeds, which nothing has done yet:\n  {best.command}",
            flush=True,
        )


@contextlib.contextmanager
def _exit_at_sigterm() -> Iterator[None]:
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


class _Watch:
    """A line for each trial that has ended, whoever ran it."""

    def __init__(self, study: "Study") -> None:
        from seqgen.tuning import worker
        from seqgen.tuning.journal import Journal

        self.study, self.journal = study, Journal(study)
        there = self.journal.trials()
        self.seen = {trial.number for trial in there if trial.state.is_finished()}
        self.started, self.before = time.monotonic(), len(self.seen)
        if finished := worker.count(there).finished:
            print(f"{finished} of them are there already.", flush=True)

    def look(self) -> None:
        from seqgen.results import duration
        from seqgen.tuning import space, worker

        trials = self.journal.trials()
        for trial in trials:
            if not trial.state.is_finished() or trial.number in self.seen:
                continue
            self.seen.add(trial.number)
            counts = worker.count(trials)
            complete = [(t.value, -t.number) for t in trials if t.state.name == "COMPLETE" and t.value is not None]
            state = trial.state.name.lower()
            if state == "complete":
                ended = f"{self.study.monitor}={trial.value:.4f}"
            elif state == "pruned":
                ended = f"pruned after epoch {trial.last_step}"
            else:
                ended = (
                    f"failed: {trial.user_attrs['error']}" if "error" in trial.user_attrs else "lost, to be done again"
                )
            best = f", best {max(complete)[0]:.4f} of trial {-max(complete)[1]}" if complete else ""
            left = max(0, self.study.n_trials - counts.finished)
            seconds = (time.monotonic() - self.started) / (len(self.seen) - self.before) * left
            rest = f"about {duration(seconds)} left" if left else "all done"
            print(
                f"[{counts.finished}/{self.study.n_trials}] trial {trial.number}, "
                f"{' '.join(space.overrides(trial.params, self.study.space))}: {ended} "
                f"({counts.pruned} pruned, {counts.failed} failed, {rest}{best})",
                flush=True,
            )
