"""What a sweep shows while it runs: a line for each job that has ended, and on a terminal one display of them all.

Free of torch and of Hydra.
"""

import heapq
import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from seqgen.results import best_of, duration, read_results
from seqgen.sweeps.jobs import LOG, Job, Outcome

SHOWN = 12  # running jobs that the display has a row for


def time_left(ended: Sequence[float], running: Sequence[float], waiting: int, slots: int) -> float | None:
    """Seconds until the last job of a sweep ends, if those to come take as long as those that have ended.

    Args:
        ended: Seconds that each finished job took.
        running: Seconds that each running job has taken so far.
        waiting: Jobs that have not begun.
        slots: Jobs that run at once.

    Returns:
        None where no job has finished yet.
    """
    if not ended:
        return None
    usual = sum(ended) / len(ended)
    free_at = [max(0.0, usual - elapsed) for elapsed in running]
    free_at += [0.0] * (min(slots, waiting + len(running)) - len(running))
    heapq.heapify(free_at)
    last = max(free_at, default=0.0)
    for _ in range(waiting):
        end = heapq.heappop(free_at) + usual
        last = max(last, end)
        heapq.heappush(free_at, end)
    return last


class Tally:
    """How a sweep stands.

    Args:
        total: Number of jobs.
        monitor: Metric of the best so far; larger is better.
    """

    def __init__(self, total: int, monitor: str) -> None:
        self.total, self.monitor = total, monitor
        self.done = self.failed = 0
        self.slots = 1
        self.best, self.best_label = -math.inf, ""
        self.began: dict[int, float] = {}  # by number, of the jobs that run
        self.took: list[float] = []

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return self.total - self.done - len(self.began)

    def begins(self, job: Job) -> None:
        """A job runs."""
        self.began[job.number] = time.monotonic()
        self.slots = max(self.slots, len(self.began))

    def ended(self, job: Job, outcome: Outcome) -> str:
        """A job has ended; the line that says so: how, how many are left and for how long, the best so far."""
        began = self.began.pop(job.number, None)
        self.done += 1
        value = best_of(outcome.results, self.monitor) if outcome.results else -math.inf
        if outcome.finished:
            self.took += [time.monotonic() - began] if began is not None else []
            if value > self.best:
                self.best, self.best_label = value, job.label
        else:
            self.failed += 1
        ended = f"{self.monitor}={value:.4f}" if outcome.finished else f"{outcome.status}: {outcome.error}"
        best = f", best {self.best:.4f}: {self.best_label}" if self.best > -math.inf else ""
        return f"[{self.done}/{self.total}] {job.label}: {ended} ({self.failed} failed, {self.rest()}{best})"

    def rest(self) -> str:
        """How many jobs are left, and for about how long."""
        left = self.total - self.done
        if not left:
            return "all done"
        now = time.monotonic()
        seconds = time_left(self.took, [now - began for began in self.began.values()], self.waiting, self.slots)
        return f"{left} to go" + (f", about {duration(seconds)}" if seconds is not None else "")


class SweepView:
    """Watches over the jobs of a sweep that run side by side; a context.

    A line is printed for each that ends. On a terminal stands below them how many jobs have finished, failed, run and
    wait, the best so far, the time left, and the newest epoch of each running job.

    Args:
        jobs: All of them.
        monitor: Metric of the best so far; larger is better.
        console: Where it is shown; None for the standard output.
    """

    def __init__(self, jobs: Sequence[Job], monitor: str, console: Console | None = None) -> None:
        self.tally = Tally(len(jobs), monitor)
        self.console = console or Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        # A job has begun when something is added to its log; one that is resumed has a log already.
        self.open = {job.number: (job, _size(job)) for job in jobs}

    def __enter__(self) -> "SweepView":
        """Begin to show."""
        if self.live:
            self.live.start()
            self.look()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the display as it is."""
        if self.live:
            self.live.update(self.display(), refresh=True)
            self.live.stop()

    def say(self, line: str) -> None:
        """Print a line, above the display where there is one."""
        if self.live:
            self.console.print(line, soft_wrap=True)
        else:
            print(line, flush=True)

    def look(self) -> None:
        """See which jobs have begun, and bring the display up to date."""
        for number, (job, size) in self.open.items():
            if number not in self.tally.began and _size(job) != size:
                self.tally.begins(job)
        if self.live:
            self.live.update(self.display(), refresh=True)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job has ended."""
        self.open.pop(job.number)
        self.say(self.tally.ended(job, outcome))
        self.look()

    def display(self) -> Group:
        """What stands on a terminal."""
        tally = self.tally
        counts = f"{tally.done - tally.failed} finished, {tally.failed} failed, {len(tally.began)} running, "
        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"{tally.done}/{tally.total}", ProgressBar(max(1, tally.total), tally.done, width=24), tally.rest()
        )
        lines: list[Any] = [head, f"{counts}{tally.waiting} waiting"]
        if tally.best > -math.inf:
            lines.append(f"best {tally.monitor} {tally.best:.4f}: {tally.best_label}")
        rows = Table.grid(padding=(0, 2))
        running = [self.open[number][0] for number in tally.began]
        for job in running[:SHOWN]:
            rows.add_row(" ", *_newest(job, tally.monitor), job.label)
        more = [f"  and {len(running) - SHOWN} more"] if len(running) > SHOWN else []
        return Group(*lines, *([rows] if running else []), *more)


def _size(job: Job) -> int:
    try:
        return (job.folder / LOG).stat().st_size
    except OSError:
        return 0


def _newest(job: Job, monitor: str) -> tuple[str, str]:
    """How far a running job is: its epoch, and the metric there."""
    results = read_results(job.folder)
    if not results or results.get("status") != "running" or not results.get("history"):
        return "begins", ""
    newest = results["history"][-1]
    epochs = results["config"]["trainer"]["max_epochs"]
    value = newest.get(monitor)
    return f"epoch {newest['epoch']}/{epochs - 1}", "" if value is None else f"{monitor} {value:.4f}"
