"""Full softmax cross-entropy, forward and backward: our chunked function, torch's plain one, torch's chunked one.

Ours also with the products left to torch's default, MKL on an x86 processor (`seqgen.numerics.fast_products`).

    python benchmarks/cross_entropy.py

One thread, CPU-seconds, median of several, all variants in turn in one process. Prints a table and writes
benchmarks/results/cross_entropy.json.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from seqgen import numerics
from seqgen.numerics import weighted_logsumexp

RESULTS = Path(__file__).parent / "results" / "cross_entropy.json"
SHAPES = ((1_500, 12_101), (5_000, 3_416), (12_800, 50_000))  # positions and items: a batch of Beauty, ML-1M, larger
WIDTH, REPEATS = 64, 5


def ours(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    weights = torch.full((len(hidden),), 1.0 / len(hidden))
    return weighted_logsumexp(hidden, table, weights) - (hidden * table[targets]).sum() / len(hidden)


def with_default_products(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    with mock.patch.object(numerics, "fast_products", contextlib.nullcontext):
        return ours(hidden, table, targets)


def variants() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    found: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "seqgen": ours,
        "seqgen, torch's default products": with_default_products,
    }
    if hasattr(F, "linear_cross_entropy"):
        default = nn.LinearCrossEntropyOptions()
        rows_256 = nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)
        found["torch, its own chunks"] = lambda h, w, y: F.linear_cross_entropy(h, w, y, options=default)
        found["torch, 256 rows"] = lambda h, w, y: F.linear_cross_entropy(h, w, y, options=rows_256)
    found["torch, plain"] = lambda h, w, y: F.cross_entropy(h @ w.T, y)
    return found


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    table = Table("positions x items", "variant", "CPU-s", "ratio to seqgen")
    for positions, items in SHAPES:
        hidden = torch.randn(positions, WIDTH, requires_grad=True)
        weight = (0.1 * torch.randn(items, WIDTH)).requires_grad_()
        targets = torch.randint(items, (positions,))
        seconds: dict[str, list[float]] = {name: [] for name in variants()}
        for _ in range(REPEATS):
            for name, loss in variants().items():
                hidden.grad = weight.grad = None
                start = time.process_time()
                loss(hidden, weight, targets).backward()
                seconds[name].append(time.process_time() - start)
        reference = statistics.median(seconds["seqgen"])
        for name, values in seconds.items():
            median = statistics.median(values)
            rows.append({"positions": positions, "items": items, "variant": name, "cpu_s": median})
            table.add_row(f"{positions:,} x {items:,}", name, f"{median:.3f}", f"{median / reference:.2f}")
    Console().print(table)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "width": WIDTH, "rows": rows}, indent=1))
    print(f"Written: {RESULTS}")


if __name__ == "__main__":
    main()
