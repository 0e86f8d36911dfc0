"""What parts of a training step take beside torch's plain way: dropout, and Adam on a table of items.

    python benchmarks/step_parts.py

One thread, CPU-seconds, median of several, both ways in turn in one process. Prints a table and writes
benchmarks/results/step_parts.json.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from seqgen.dropout import drop

RESULTS = Path(__file__).parent / "results" / "step_parts.json"
REPEATS = 15
SHAPES = ((6_400, 64), (25_600, 256))  # positions and width: a batch of windows of 50, and of 200 within a block
TABLES = ((3_417, 64), (12_102, 64), (250_000, 128))  # ML-1M, Beauty, a large catalogue


def dropped(x: torch.Tensor, how: Callable[[torch.Tensor, float, bool], torch.Tensor]) -> None:
    x.grad = None
    how(x, 0.4, True).backward(torch.ones_like(x))


def medians(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for shape in SHAPES:
        x = torch.randn(shape, requires_grad=True)
        rows.append(
            ("dropout", shape, medians({"seqgen": partial(dropped, x, drop), "torch": partial(dropped, x, F.dropout)}))
        )
    for shape in TABLES:
        ways: dict[str, Callable[[], object]] = {}
        for name, fused in (("seqgen", True), ("torch", False)):
            parameter = torch.nn.Parameter(torch.randn(shape))
            parameter.grad = torch.randn(shape)
            ways[name] = torch.optim.Adam([parameter], fused=fused).step
        rows.append(("Adam", shape, medians(ways)))
    table = Table("part", "shape", "seqgen, ms", "torch, ms", "ratio")
    for part, shape, found in rows:
        ratio = found["seqgen"] / found["torch"]
        numbers = [f"{1000 * found['seqgen']:.2f}", f"{1000 * found['torch']:.2f}", f"{ratio:.2f}"]
        table.add_row(part, " x ".join(f"{size:,}" for size in shape), *numbers)
    Console().print(table)
    stored = [{"part": part, "shape": shape, "cpu_s": found} for part, shape, found in rows]
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": stored}, indent=1) + "\n")
    print(f"Written: {RESULTS}")


if __name__ == "__main__":
    main()
