"""What the benchmarks that start measuring processes share: one such process, and the machine it ran on."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


class ProcessFailed(Exception):
    """A measuring process ended with an error, which the text ends with."""


def run_process(
    command: list[str], spec: Mapping[str, Any], folder: Path, *, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a measuring process tells in the last line of its output, its seconds, and the CPU-seconds of all others.

    Args:
        command: Of the process.
        spec: What it reads, as JSON; `started`, the time, is added.
        folder: In which it runs.
        env: Its variables; None is those of this process.

    Raises:
        ProcessFailed: With the end of what it printed.
    """
    start, busy = time.perf_counter(), machine_busy_s()
    text = json.dumps({**spec, "started": time.time()})
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=folder, env=env)
    seconds, busy = time.perf_counter() - start, machine_busy_s() - busy
    if done.returncode:
        raise ProcessFailed(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}".rstrip())
    told = json.loads(done.stdout.splitlines()[-1])
    return told | {"process_s": seconds, "others_cpu_s": max(0.0, busy - told["process_cpu_s"])}


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
