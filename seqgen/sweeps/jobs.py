"""A run as a process of its own: started, stopped, and what became of it. Free of torch and of Hydra.

What one job of a sweep does, leaking memory, crashing, being killed, harms no other; its output goes to `job.log` in
its folder, and several devices inside it work as in a single run.
"""

import contextlib
import ctypes
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgen.errors import UserError
from seqgen.results import read_results
from seqgen.settings import key_of, quoted

LOG = "job.log"
MARK = "SEQGEN_JOB"  # in the processes of jobs: the keys that the sweep goes through
GRACE = 60.0  # seconds that a job has to write its record and checkpoint before it is killed
POLL = 0.2  # seconds between two looks at a job
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: Within the sweep, from 0.
        overrides: As on the command line of a single run.
        swept: Keys that differ between the jobs.
        folder: Its output folder.
        environment: Variables beside those of the process that starts it.
    """

    number: int
    overrides: Sequence[str]
    swept: Sequence[str]
    folder: Path
    environment: Mapping[str, str]

    @property
    def command(self) -> list[str]:
        """What is started."""
        own = [override for override in self.overrides if not override.startswith("hydra.sweep.")]
        return [sys.executable, "-m", "seqgen.run", *own, f"hydra.run.dir={quoted(str(self.folder))}"]

    @property
    def label(self) -> str:
        """What tells it apart from the other jobs of its sweep; all of its overrides where it is alone."""
        apart = [override for override in self.overrides if key_of(override) in self.swept]
        return " ".join(apart or [override for override in self.overrides if not override.startswith("hydra.")])

    @property
    def again(self) -> str:
        """The command line that runs it alone, to be copied."""
        return shlex.join(["python", *self.command[1:]])


def threads(cpus: float, processes: int = 1) -> dict[str, str]:
    """The variables that have a job compute in as many threads as it holds CPUs, shared by its processes."""
    count = str(max(1, math.floor(cpus / processes)))
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: `finished`, `failed` (an error in words), `stopped` (interrupted) or `killed` (it left no last word).
        error: One sentence; None of a finished job.
        results: Its `results.json`; None where it left none.
    """

    status: str
    error: str | None
    results: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "finished"


class Lost(UserError):
    """A job that did not finish, for a launcher to give back.

    Args:
        outcome: What became of it.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"{outcome.status}: {outcome.error}")
        self.outcome = outcome


def start(job: Job) -> subprocess.Popen[bytes]:
    """Start the process of a job, which ends with the process that started it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / LOG).open("ab") as log:
        log.write(f"$ {job.again}\n".encode())
        log.flush()
        return subprocess.Popen(
            job.command,
            env=os.environ | job.environment | {MARK: ",".join(job.swept)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at a terminal goes to the sweep, which passes it on
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def carry_out(job: Job) -> Outcome:
    """Run a job to its end; where this process is interrupted, stop the job first.

    Raises:
        KeyboardInterrupt, SystemExit: As they came, once the job has ended.
    """
    process = start(job)
    try:
        # Ray interrupts its workers without a signal, which a single long wait would not notice.
        while process.poll() is None:
            time.sleep(POLL)
    except (KeyboardInterrupt, SystemExit):
        stop(process)
        raise
    return outcome(job.folder, process.returncode)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the processes of a job: kindly, so that they write record and checkpoint, then by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def outcome(folder: Path, returncode: int | None) -> Outcome:
    """What a job that has ended has left.

    Args:
        folder: Its folder.
        returncode: Of its process; None where nobody knows, since whoever waited for it is gone too.
    """
    results = read_results(folder)
    status = results.get("status") if results else None
    if results and status in ("finished", "failed", "stopped") and (status != "finished" or returncode in (0, None)):
        return Outcome(str(status), results.get("error"), results)
    if results and status == "running":
        return Outcome("killed", _death(returncode), results)
    return Outcome("failed", last_words(folder) or _death(returncode), results)


def _death(returncode: int | None) -> str:
    if returncode is None:
        return "It was lost with the process or machine that ran it."
    if returncode == -signal.SIGKILL:
        return "It was killed, perhaps for its memory."
    if returncode < 0:
        return f"It ended by signal {-returncode} ({signal.Signals(-returncode).name})."
    return f"It ended with exit code {returncode} and without a last word."


def last_words(folder: Path) -> str | None:
    """The last sentence that a job printed for its user."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    said = [line.removeprefix("seqgen: ") for line in lines if line.startswith("seqgen: ")]
    others = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return [*others, *said][-1] if others else None
