"""An end within seconds for a run of several processes, whichever of them is told to stop.

A process that waits for another in a collective runs no Python, so neither its signal handler nor its `finally`. The
signal still reaches a thread here, by a pipe: it passes the word on to the first process, has the record written, and
ends the process where it does not end by itself. A process whose parent is gone ends too, and so does the first one
when another is lost (`watch_children`).
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

GRACE = 5.0  # seconds that a process of several has to end by itself
LOOK = 1.0  # seconds between two looks at the parent
STOPPING = (signal.SIGTERM, signal.SIGINT)
_watched = threading.Event()  # this process has started others of its run
_lost = threading.Event()  # one of which ended as nobody told it to


class Ending:
    """Watches over a run, as a context.

    Args:
        stopped: Has the record written; called within a thread, as soon as a signal arrives.

    Attributes:
        signalled: Whether the run was told to stop.
    """

    def __init__(self, stopped: Callable[[], None]) -> None:
        self.stopped, self.signalled = stopped, False
        self.over = threading.Event()
        self.parent = os.getppid()

    @property
    def lost(self) -> bool:
        """Whether the run ends since another of its processes was lost."""
        return _lost.is_set()

    def __enter__(self) -> "Ending":
        """Begin to watch; only the main thread can."""
        _watched.clear()
        _lost.clear()
        if threading.current_thread() is not threading.main_thread():
            return self
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.before = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="ending", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        self.over.set()
        if hasattr(self, "writer"):
            signal.set_wakeup_fd(self.before)
            with contextlib.suppress(OSError):
                os.write(self.writer, b"\0")  # the thread closes the pipe

    def _watch(self) -> None:
        while not self.over.is_set():
            ready, _, _ = select.select([self.reader], [], [], LOOK)
            numbers = os.read(self.reader, 64) if ready else b""
            if self.over.is_set():
                break
            orphaned = _is_started_by_another() and os.getppid() != self.parent
            if orphaned or any(number in STOPPING for number in numbers):
                self.signalled = True
                self.stopped()
                if _of_several() or _watched.is_set():
                    self._end_soon(orphaned)
        os.close(self.reader)
        os.close(self.writer)

    def _end_soon(self, orphaned: bool) -> None:
        if _is_started_by_another() and not orphaned:
            with contextlib.suppress(OSError):
                os.kill(self.parent, signal.SIGTERM)
        if not self.over.wait(0.0 if orphaned else GRACE):
            if not _is_started_by_another():
                lost = "a process of it was lost" if self.lost else "it was told to stop"
                print(f"seqgen: the run was ended, since {lost}", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGTERM)


def watch_children(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End this process in words when one that it has started for its run is lost, also while they find each other.

    Lightning's own watch would kill this process, which leaves no last word.
    """

    def watch() -> None:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(LOOK / 2)
        codes = [code for process in processes if (code := process.poll())]
        if not codes:
            return
        if all(code > 0 for code in codes):
            time.sleep(GRACE)  # what failed there mostly fails here too, with a sentence of its own
        if not {-number for number in STOPPING} & set(codes) and 128 + signal.SIGTERM not in codes:
            _lost.set()
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    _watched.set()
    threading.Thread(target=watch, name="children", daemon=True).start()


def _of_several() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def _is_started_by_another() -> bool:
    """Whether Lightning's first process started this one."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ
