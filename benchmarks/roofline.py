"""How near a training step comes to what the machine can do: operations and bytes of its parts against ceilings.

    SEQGEN_DATA=../shared/data python benchmarks/roofline.py model=sasrec data=ml1m loss=ce data.max_len=200
    SEQGEN_DATA=../shared/data python benchmarks/roofline.py model=sasrec data=beauty loss=ce --device cuda

Takes overrides as `seqgen.run` does, of a model with `loss=ce`. Three parts, each timed in this process, medians over
the first batches of an epoch:

- body: the forward and backward pass of the network, with a sum of the hidden states in place of the loss. Its matrix
  products are counted by torch's own counter, padding included; the share of real positions is given beside it.
- head: the step with its loss above the body. Three products of targets x items x width: logits, and both gradients.
- optimiser: reads parameters, gradients and two moments, writes parameters and moments; the gradients are set to zero.

Ceilings are measured in the same run: a product of large square matrices, as the head makes its own, and a copy of a
large tensor. The least time of a part is operations / ceiling or bytes / ceiling, whichever is longer; its share is
that time over the measured one. Bytes of body and head are the parameters that they read and the gradients that they
write, once, since what lies between may stay in caches. One thread unless --threads says otherwise.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from seqgen.check import check_shape, drop_unused
from seqgen.config import build, build_model, compose
from seqgen.data.sequences import SequenceBatch
from seqgen.losses import cross_entropy
from seqgen.numerics import fast_products

RESULTS = Path(__file__).parent / "results" / "roofline.json"
SIDE, COPIED = 2048, 2**26  # of the square matrices; elements of the copied tensor
FLOAT = 4  # bytes


def _sdpa_on_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop(query, key, value))


def _sdpa_on_cpu_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    return int(2.5 * sdpa_flop(query, key, value))  # five products in place of two


# torch's counter knows the attention of GPUs only.
COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_on_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_on_cpu_backward,
}


@dataclass
class Part:
    """Medians over steps.

    Attributes:
        name: What it is.
        flop: Floating-point operations of its matrix products.
        moved: Bytes that it cannot help but move.
        seconds: Measured.
    """

    name: str
    flop: float
    moved: float
    seconds: float

    def least(self, ceilings: dict[str, float]) -> float:
        """Seconds that the ceilings allow."""
        return max(self.flop / ceilings["flop_per_s"], self.moved / ceilings["bytes_per_s"])


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """CPU-seconds, on a GPU seconds until it has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    return statistics.median([seconds(work, device) for _ in range(repeats + 1)][1:])


def measured_ceilings(device: torch.device) -> dict[str, float]:
    a, b = (torch.randn(SIDE, SIDE, device=device) for _ in range(2))
    source = torch.randn(COPIED, device=device)
    target = torch.empty_like(source)
    with fast_products():
        product = median_seconds(lambda: a @ b, device)
    copy = median_seconds(lambda: target.copy_(source), device)
    return {"flop_per_s": 2 * SIDE**3 / product, "bytes_per_s": 2 * FLOAT * COPIED / copy}


def flops_of(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        work()
    return counter.get_total_flops()


def parts_of(overrides: list[str], *, device: torch.device, steps: int) -> tuple[list[Part], dict[str, float]]:
    """The parts of a training step, and what else is to be known of it."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose(overrides, output_dir=folder)
    check_shape(cfg)
    drop_unused(cfg)
    torch.manual_seed(cfg.seed)
    data = build(cfg, "data")
    data.trainer = None
    model = build_model(cfg, catalog=data.catalog).to(device).train()
    if model.loss_function is not cross_entropy and getattr(model.loss_function, "func", None) is not cross_entropy:
        raise SystemExit(
            "benchmarks/roofline.py counts the operations of loss=ce alone; choose a model with that loss."
        )
    found = model.configure_optimizers()
    optimizer = found["optimizer"] if isinstance(found, dict) else found
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def step(batch: SequenceBatch, loss: Callable[..., Tensor]) -> Callable[[], object]:
        def work() -> None:
            model.loss_function = loss
            model.loss(batch)["total"].backward()

        return work

    def body_alone(hidden: Tensor, *_: Any) -> Tensor:
        return hidden.sum()

    rows: list[dict[str, float]] = []
    for number, batch in enumerate(data.train_dataloader()):
        if number > steps:
            break
        batch = model.trained_on(batch).to(device)
        body = seconds(step(batch, body_alone), device)
        optimizer.zero_grad()
        whole = seconds(step(batch, cross_entropy), device)
        update = seconds(lambda: (optimizer.step(), optimizer.zero_grad()), device)
        body_flop = flops_of(step(batch, body_alone))
        optimizer.zero_grad()
        targets, padded = len(batch.targets), sum(group.items.numel() for group in batch.groups)
        if number:  # the first warms up
            rows.append({"body": body, "whole": whole, "update": update, "flop": body_flop})
            rows[-1] |= {"targets": targets, "real": targets / padded}
    of = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    table = model.item_vectors.numel()
    parts = [
        Part("body", of["flop"], 2 * FLOAT * (parameters - table), of["body"]),
        Part("head", 6 * of["targets"] * table, 2 * FLOAT * table, of["whole"] - of["body"]),
        Part("optimiser", 0, 7 * FLOAT * parameters, of["update"]),
    ]
    flop, moved = sum(part.flop for part in parts), sum(part.moved for part in parts)
    parts.append(Part("step", flop, moved, of["whole"] + of["update"]))
    return parts, {"targets": of["targets"], "real_positions": of["real"], "steps": len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    ceilings = measured_ceilings(device)
    parts, step = parts_of(options.overrides, device=device, steps=options.steps)
    least = [part.least(ceilings) for part in parts]
    least[-1] = sum(least[:-1])  # the parts follow each other
    table = Table(title=" ".join(options.overrides))
    for name in ("part", "GFLOP", "MB", "ms", "GFLOP/s", "least ms", "share of the limit"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for part, limit in zip(parts, least, strict=True):
        numbers = [f"{part.flop / 1e9:.2f}", f"{part.moved / 1e6:.1f}", f"{1e3 * part.seconds:.1f}"]
        rate = f"{part.flop / part.seconds / 1e9:.0f}"
        table.add_row(part.name, *numbers, rate, f"{1e3 * limit:.1f}", f"{limit / part.seconds:.0%}")
    Console().print(table)
    gigas = {name: value / 1e9 for name, value in ceilings.items()}
    print(f"ceilings: {gigas['flop_per_s']:.0f} GFLOP/s, {gigas['bytes_per_s']:.1f} GB/s; ", end="")
    print(f"{step['targets']:.0f} targets a step, {step['real_positions']:.0%} of the positions are real")
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    key = {"overrides": options.overrides, "device": str(device), "threads": options.threads}
    rows = [row for row in rows if {name: row[name] for name in key} != key]
    shares = [
        vars(part) | {"least_s": limit, "share": limit / part.seconds} for part, limit in zip(parts, least, strict=True)
    ]
    rows.append(key | {"torch": torch.__version__, "ceilings": ceilings, "step": step, "parts": shares})
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"Written: {RESULTS}")


if __name__ == "__main__":
    main()
