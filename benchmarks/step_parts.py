"""What parts of a run take beside torch's plain way: dropout, Adam on a table of items, contrast, scores and ranks.

Both ways in one process; last come scores and ranks of a batch with large blocks kept (`seqgen.allocator`), beside the
allocator's own way, which is measured before.

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

from seqgen.allocator import keep_large_blocks
from seqgen.dropout import drop
from seqgen.metrics import target_ranks, top_items
from seqgen.numerics import fast_products, info_nce

RESULTS = Path(__file__).parent / "results" / "step_parts.json"
REPEATS = 15
SHAPES = ((6_400, 64), (25_600, 256))  # positions and width: a batch of windows of 50, and of 200 within a block
TABLES = ((3_417, 64), (12_102, 64), (250_000, 128))  # ML-1M, Beauty, a large catalogue
PAIRS = ((2, 300, 64), (2, 880, 64), (2, 2_400, 64))  # sets, pairs and width: as of CDDRec, a step of 64 to 512 users
SCORED = ((512, 3_417), (512, 12_102), (512, 54_543))  # users and items
TEMPERATURE = 0.5


def dropped(x: torch.Tensor, how: Callable[[torch.Tensor, float, bool], torch.Tensor]) -> None:
    x.grad = None
    how(x, 0.4, True).backward(torch.ones_like(x))


def plain_info_nce(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    rows = F.normalize(torch.cat([first, second], dim=1), dim=-1)
    logits = rows @ rows.mT / temperature
    logits.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    partner = torch.arange(logits.shape[1]).roll(first.shape[1])
    return F.cross_entropy(logits.flatten(0, 1), partner.repeat(len(logits)))


def contrasted(pair: list[torch.Tensor], how: Callable[..., torch.Tensor]) -> None:
    for x in pair:
        x.grad = None
    how(*pair, TEMPERATURE).mean().backward()


def scored(state: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    with fast_products():
        return state @ vectors.T


def plain_ranks(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (~(scores < scores.gather(1, targets[:, None]))).sum(dim=1)


def evaluated(state: torch.Tensor, vectors: torch.Tensor, targets: torch.Tensor) -> None:
    scores = scored(state, vectors)
    target_ranks(scores, targets)
    top_items(scores, 20)


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
    rows: list[tuple[str, tuple[int, ...], dict[str, float]]] = []
    shape: tuple[int, ...]
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
    for shape in PAIRS:
        pair = [torch.randn(shape, requires_grad=True) for _ in range(2)]
        ways = {"seqgen": partial(contrasted, pair, info_nce), "torch": partial(contrasted, pair, plain_info_nce)}
        rows.append(("contrast", shape, medians(ways)))
    for shape in SCORED:
        state, vectors, targets = (
            torch.randn(shape[0], 64),
            torch.randn(shape[1], 64),
            torch.randint(shape[1], shape[:1]),
        )
        scores = state @ vectors.T
        ways = {"seqgen": partial(scored, state, vectors), "torch": partial(torch.matmul, state, vectors.T)}
        rows.append(("scores", shape, medians(ways)))
        ways = {"seqgen": partial(target_ranks, scores, targets), "torch": partial(plain_ranks, scores, targets)}
        rows.append(("ranks", shape, medians(ways)))
    before: list[dict[str, float]] = []
    for keep in (False, True):  # for good, so that the other way comes first
        if keep and not keep_large_blocks():
            print("large blocks cannot be kept here")
            break
        for number, shape in enumerate(SCORED):
            state, vectors, targets = (
                torch.randn(shape[0], 64),
                torch.randn(shape[1], 64),
                torch.randint(shape[1], shape[:1]),
            )
            found = medians({"own": partial(evaluated, state, vectors, targets)})
            if keep:
                rows.append(("blocks kept", shape, {"seqgen": found["own"], "torch": before[number]["own"]}))
            before.append(found)
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
