"""What the benchmarks that start measuring processes share: one such process, and the machine it ran on."""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers.meter import report

EVERY = 0.02  # seconds between two looks at the memory of a process


def parsed(parser: argparse.ArgumentParser, tasks: Mapping[str, Callable[[Any], dict[str, Any]]]) -> argparse.Namespace:
    """The options of a benchmark; a measuring process, which has a task, does it here, tells the result, and ends."""
    parser.add_argument("--task", choices=tasks, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        report(tasks[options.task](json.load(sys.stdin)))
        sys.exit()
    return options


class ProcessFailed(SystemExit):
    """A measuring process ended with an error, which the text ends with; it ends the benchmark that does not mind."""


def run_process(
    command: list[str], spec: Mapping[str, Any], folder: Path, *, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a measuring process tells in its last line (`peers.meter.report`), and what it was seen to take.

    Args:
        command: Of the process.
        spec: What it reads, as JSON; `started`, the time, is added.
        folder: In which it runs.
        env: Its variables; None is those of this process.

    Returns:
        With what it tells: its seconds (`process_s`), the CPU-seconds of all other processes (`others_cpu_s`), and the
        largest memory seen, in MB of a million bytes: `anon_peak_mb` is its own, `file_peak_mb` pages of mapped files,
        which the kernel may drop at any time, libraries among them. They need not have been that large at once.

    Raises:
        ProcessFailed: With the end of what it printed.
    """
    start, busy = time.perf_counter(), machine_busy_s()
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, cwd=folder, env=env)
    peaks: dict[str, float] = {}
    watch = threading.Thread(target=_watch_memory, args=(process, peaks), daemon=True)
    watch.start()
    output, errors = process.communicate(json.dumps({**spec, "started": time.time()}))
    seconds, busy = time.perf_counter() - start, machine_busy_s() - busy
    watch.join()
    if process.returncode:
        raise ProcessFailed(f"{' '.join(command)}\n{output[-2000:]}\n{errors[-6000:]}".rstrip())
    told = json.loads(output.splitlines()[-1])
    return told | peaks | {"process_s": seconds, "others_cpu_s": max(0.0, busy - told["process_cpu_s"])}


def _watch_memory(process: subprocess.Popen[str], peaks: dict[str, float]) -> None:
    status = Path(f"/proc/{process.pid}/status")  # Linux alone has it
    while process.poll() is None and status.exists():
        for line in status.read_text().splitlines():
            for name, kind in (("anon_peak_mb", "RssAnon:"), ("file_peak_mb", "RssFile:")):
                if line.startswith(kind):
                    peaks[name] = max(peaks.get(name, 0.0), int(line.split()[1]) * 1024 / 1e6)
        time.sleep(EVERY)


def machine_busy_s() -> float:
    """CPU-seconds that all processes of this machine have used; 0 where it does not tell (it is Linux that does)."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0.0
    user, nice, system, _, _, *rest = map(int, file.read_text().splitlines()[0].split()[1:9])  # without idle, iowait
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """The machine, what of seqgen's environment decides its speed, the load average and the time."""
    return {
        "cpus": os.cpu_count(),
        "cpu": cpu_name(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "polars", "numpy", "seqgen")},
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average": os.getloadavg(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
