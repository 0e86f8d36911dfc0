"""A study's journal: the one file that its workers and the jobs of its trials share. Free of torch.

Optuna appends to it under a lock that holds on network file systems too. Who asks for a trial has its turn alone, so
that there are never more trials than were asked for; a trial whose worker died is put back, to be done again.
"""

import contextlib
import json
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgen.errors import UserError
from seqgen.results import best_of, is_alive
from seqgen.settings import key_of
from seqgen.sweeps.jobs import Job, Outcome
from seqgen.tuning import space
from seqgen.tuning.study import Pruner, Study

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

TRIAL = "SEQGEN_TRIAL"  # in the process of a trial: where its study is, and its number
ALIVE = "alive"  # a file of a running trial's folder that its worker touches
BEAT = 20.0  # seconds between two touches
LOST = 300.0  # seconds without, after which its worker counts as dead
TIMES = 3  # that a trial is begun, before it fails for being lost or killed each time


class Journal:
    """A study in its journal, as one worker sees it.

    Args:
        study: The study, which is begun here where it is new.

    Raises:
        UserError: The package or the file cannot be used, or the study was begun with other settings.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.distributions = space.distributions(study.space)
        self.storage = open_storage(study.storage)
        self.lock = f"{study.storage}.turn"
        with self.turn():
            self.optuna = self._begun()

    def _begun(self) -> "OptunaStudy":
        import optuna

        found = optuna.create_study(
            storage=self.storage, study_name=self.study.name, direction="maximize", load_if_exists=True
        )
        wanted, known = self.study.settings, found.user_attrs.get("settings")
        if known is None:
            if self.study.start and not found.get_trials(deepcopy=False):
                found.enqueue_trial(dict(self.study.start))
            found.set_user_attr("settings", wanted)
        elif known != wanted:
            other = sorted(_lines(wanted) ^ _lines(known))
            raise UserError(
                f"The study {self.study.name} in {self.study.storage} was begun with other settings "
                f"({', '.join(other)}); choose another name, hydra.sweeper.study_name=, or go on with the same."
            )
        return found

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Alone among all workers: whoever asks for a trial must know of all the others."""
        from optuna.storages.journal import JournalFileOpenLock

        lock = JournalFileOpenLock(self.lock)
        lock.acquire()
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # taken from this worker, which was asleep for so long
                lock.release()

    def trials(self) -> "list[FrozenTrial]":
        """All trials, by number."""
        return self.optuna.get_trials(deepcopy=False)

    def settled(self) -> "list[FrozenTrial]":
        """All trials, those of dead workers put back first; to be called within a turn."""
        now = os.stat(f"{self.lock}.lock").st_mtime  # by the clock of the file system that all share
        for trial in self.trials():
            if trial.state.name == "RUNNING" and _is_lost(trial, now):
                self.put_back(trial, "Its worker was lost.")
        return self.trials()

    def ask(self, number: int) -> "Trial":
        """A trial to run, one to be done again first; to be called within a turn.

        Args:
            number: Of trials so far, which seeds the draw.
        """
        from optuna.samplers import TPESampler

        study = self.study
        self.optuna.sampler = TPESampler(
            multivariate=True,
            constant_liar=True,
            n_startup_trials=study.startup_trials,
            seed=_seed(study.seed, number),
        )
        trial = self.optuna.ask(self.distributions)
        folder = study.folder / str(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ALIVE).touch()
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        trial.set_user_attr("job", {**process, "folder": str(folder), "again": self.job(trial).again})
        return trial

    def job(self, trial: "Trial | FrozenTrial") -> Job:
        """The run that a trial is."""
        study = self.study
        place = {"study": study.name, "storage": str(study.storage), "number": trial.number}
        told = {TRIAL: json.dumps(place | {"pruner": asdict(study.pruner)})} if study.pruner else {}
        overrides = [*study.overrides, *space.overrides(trial.params, study.space), "test=false"]
        keys = [key_of(key) for key in study.space]
        return Job(trial.number, overrides, keys, study.folder / str(trial.number), {**study.environment, **told})

    def carry_out(self, trial: "Trial", run: Callable[[Job], Outcome]) -> None:
        """Run a trial and tell how it went; where this worker is interrupted, put it back."""
        frozen = self.trials()[trial.number]
        try:
            job = self.job(trial)
            with _beating(job.folder / ALIVE):
                outcome = run(job)
        except BaseException:
            self.put_back(frozen, None)
            raise
        results = outcome.results or {}
        value = best_of(results, self.study.monitor) if "history" in results else -math.inf
        if results.get("pruned"):
            self._tell(frozen, "PRUNED", None)
        elif outcome.finished and math.isfinite(value):
            self._tell(frozen, "COMPLETE", value)
        elif outcome.status in ("stopped", "killed"):
            self.put_back(frozen, outcome.error or "It was stopped.")
        else:
            self.fail(frozen, outcome.error or f"It measured no {self.study.monitor}.")

    def fail(self, trial: "FrozenTrial", error: str) -> None:
        """Have a trial failed, with an error in words."""
        with _unless_ended():
            self.storage.set_trial_user_attr(trial._trial_id, "error", error)
        self._tell(trial, "FAIL", None)

    def put_back(self, trial: "FrozenTrial", why: str | None) -> None:
        """Have a trial done again that ended without a result, unless that happens each time.

        Args:
            trial: The trial.
            why: How it ended; None where it was interrupted on purpose, which does not count.
        """
        times = trial.user_attrs.get("times", 1)
        if why is not None and times >= TIMES:
            self.fail(trial, f"{why} So ended {times} attempts.")
        elif self._tell(trial, "FAIL", None):
            self.optuna.enqueue_trial(trial.params, user_attrs={"times": times + (why is not None)})

    def _tell(self, trial: "FrozenTrial", state: str, value: float | None) -> bool:
        """Whether it was still this trial's to end; another worker may have taken this one for dead."""
        from optuna.trial import TrialState

        with _unless_ended():
            self.optuna.tell(trial.number, value, TrialState[state])
            return True
        return False


@contextlib.contextmanager
def _unless_ended() -> Iterator[None]:
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        yield
    except UpdateFinishedTrialError:
        pass
    except ValueError as error:
        if not str(error).startswith("Cannot tell a"):  # of a trial that has ended
            raise


def is_done_again(trial: "FrozenTrial") -> bool:
    """Whether a trial was put back: it failed, but not for good."""
    return trial.state.name == "FAIL" and "error" not in trial.user_attrs


def _lines(settings: Mapping[str, Any]) -> set[str]:
    searched = {f"{key}={text}" for key, text in settings["space"].items()}
    return {*searched, *settings["overrides"], f"monitor={settings['monitor']}"}


def _seed(seed: int, number: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _is_lost(trial: "FrozenTrial", now: float) -> bool:
    """Whether a trial that runs does so no more, as far as this machine can tell."""
    job = trial.user_attrs.get("job")
    if job is None:  # its worker died in its turn, for nobody else sees a trial before it has one
        return True
    if job["host"] == socket.gethostname() and not is_alive({"status": "running", **job}):
        return True
    try:
        return now - (Path(job["folder"]) / ALIVE).stat().st_mtime > LOST
    except OSError:  # a folder of another machine
        return False


@contextlib.contextmanager
def _beating(file: Path) -> Iterator[None]:
    """Touch a file from time to time, so that other machines know of this worker."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):  # a full disk is no death
                file.touch()

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def open_storage(file: Path) -> "JournalStorage":
    """The journal of a file.

    Raises:
        UserError: The package is not installed, or the file is no journal.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna needs the package optuna: pip install 'seqgen[tune]'.") from error
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        return JournalStorage(JournalFileBackend(str(file), JournalFileOpenLock(str(file))))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is no journal of a study, or a torn one; choose another hydra.sweeper.storage=."
        ) from error


class Reporter:
    """A trial's own word to its study, in the process of its job.

    Args:
        place: What the worker has put into the environment.
    """

    def __init__(self, place: Mapping[str, Any]) -> None:
        import optuna

        self.storage = open_storage(Path(place["storage"]))
        self.study = optuna.load_study(study_name=place["study"], storage=self.storage)
        self.pruner = Pruner(**place["pruner"]).build()
        study_id = self.storage.get_study_id_from_name(place["study"])
        self.trial = self.storage.get_trial_id_from_study_id_trial_number(study_id, place["number"])

    def report(self, epoch: int, value: float) -> None:
        """Tell the validation metric after an epoch, counted from 0."""
        self.storage.set_trial_intermediate_value(self.trial, epoch, value)

    def is_hopeless(self) -> bool:
        """Whether the study's pruner would stop the trial now."""
        return bool(self.pruner.prune(self.study, self.storage.get_trial(self.trial)))


def place_of_trial() -> dict[str, Any] | None:
    """What the environment says of the trial that this process runs; None where it runs none."""
    text = os.environ.get(TRIAL)
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found
