"""What a piece of work costs: a clock within a process, and what the whole process took. Standard library only."""

import json
import resource
import time
from typing import Any

KIB = 1024 / 1e6  # ru_maxrss counts KiB on Linux; told are MB of a million bytes


def cpu_seconds() -> float:
    """CPU-seconds of this process and the children it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Clock:
    """Seconds and CPU-seconds since it was made; made after the imports, it does not count them."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()

    def lap(self, name: str = "") -> dict[str, float]:
        """`s` and `cpu_s` so far, named `NAME_s` and `NAME_cpu_s` where a name is given."""
        prefix = f"{name}_" if name else ""
        return {f"{prefix}s": time.perf_counter() - self.wall, f"{prefix}cpu_s": cpu_seconds() - self.cpu}


class EpochMeter:
    """What each training epoch costs, and the way to the first batch.

    Args:
        started: When the process was started, in seconds since 1970.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.start: dict[str, float] = {}
        self.epochs: list[dict[str, float]] = []

    def begin(self) -> None:
        """An epoch begins."""
        self.clock = Clock()
        self.steps = self.targets = 0

    def batch(self, targets: int) -> None:
        """A batch is there, with so many targets; the first one ends the start."""
        if not self.start:
            self.start = {"start_s": time.time() - self.started, "start_cpu_s": cpu_seconds()}
        self.steps += 1
        self.targets += targets

    def end(self) -> None:
        """The epoch ends."""
        self.epochs.append({**self.clock.lap(), "steps": self.steps, "targets": self.targets})

    def told(self) -> dict[str, Any]:
        """For the result."""
        return {**self.start, "epochs": self.epochs}


def report(told: dict[str, Any]) -> None:
    """Print the result as the last line of the output, with what the process took from its start, imports included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    print("\n" + json.dumps(told | {"process_cpu_s": cpu_seconds(), "peak_mb": peak}), flush=True)
