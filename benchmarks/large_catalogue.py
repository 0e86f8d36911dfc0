"""A million items of 128 numbers: a training step with each loss, and the evaluation of 10,000 users.

    python benchmarks/large_catalogue.py
    python benchmarks/large_catalogue.py --items 100000 --repeats 3

Generated data, SASRec with two layers, Adam, one thread. Each row is a process of its own: CPU-seconds of a step
(median) or of the whole evaluation, and the peak of memory. Of a step the peak is given over what any step holds: the
table, its gradient and Adam's two moments of it; of the evaluation, over the table. Evaluation "of whole rows" is what
a model with scores of its own gets. Prints a table and writes benchmarks/results/large_catalogue.json.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from processes import parsed, run_process
from rich.console import Console
from rich.table import Table

from seqgen import losses
from seqgen.attention.softmax import SoftmaxAttention
from seqgen.data.catalog import Catalog
from seqgen.data.ragged import Cases, Sequences
from seqgen.data.sequences import SequenceBatch, evaluation_batch, training_batch
from seqgen.data.split import leave_one_out
from seqgen.layers import Inference
from seqgen.model.sasrec import SASRec

RESULTS = Path(__file__).parent / "results" / "large_catalogue.json"
ROWS, TARGETS_A_ROW = 229, 5  # 1,145 targets a step, as with data=beauty
SIZES = {"items": 1_000_000, "width": 128, "repeats": 5, "users": 10_000}
HISTORY, EVALUATED = 50, 512  # items of a user who is evaluated, and users at once
SAMPLED = {"num_negatives": 1000, "sampler": "uniform", "alpha": None, "shared": True}
# As in conf/loss, where nothing else is said.
STEPS: dict[str, Any] = {
    "ce": losses.cross_entropy,
    "sampled_softmax": SAMPLED,
    "sampled_softmax sampler=popularity": SAMPLED | {"sampler": "popularity"},
    "sampled_softmax shared=false num_negatives=256": SAMPLED | {"shared": False, "num_negatives": 256},
    "in_batch": None,
    "gbce": partial(losses.gbce, num_negatives=256, calibration=0.75),
    "bce": losses.binary_cross_entropy,
    "bce num_negatives=256": partial(losses.binary_cross_entropy, num_negatives=256),
}
EVALUATIONS = ("in blocks", "of whole rows")


class WholeRows(SASRec):
    """With scores of its own, as far as the base class can tell."""

    def ranking_scores(self, batch: SequenceBatch) -> torch.Tensor:
        """What the base class makes."""
        return super().ranking_scores(batch)


def loss_of(name: str) -> Any:
    if name.startswith("sampled_softmax"):
        return losses.SampledSoftmax(**STEPS[name])
    return losses.InBatchSoftmax() if name == "in_batch" else STEPS[name]


def drawn(number: int, items: int) -> torch.Tensor:
    """Items of a popularity that falls with their number, as a power."""
    return (items ** torch.rand(number, dtype=torch.float64)).long().clamp(max=items).int()


def sequences_of(rows: int, length: int, items: int) -> Sequences:
    return Sequences(values=drawn(rows * length, items), offsets=torch.arange(rows + 1) * length)


def model_of(options: argparse.Namespace, kind: type[SASRec], **settings: Any) -> SASRec:
    counts = (10 * options.items / torch.arange(options.items + 1).clamp(min=1)).long()  # as `drawn` draws, about
    counts[0] = 0
    known: Any = {"item_counts": counts, "item_ids": [], "user_ids": []}
    return kind(
        catalog=Catalog(fingerprint="generated", num_items=options.items, num_users=0, **known),
        metrics_k=[5, 10, 20],
        max_len=HISTORY,
        attention=partial(SoftmaxAttention, num_heads=2, dropout=0.0, out_proj=False),
        hidden_dim=options.width,
        num_layers=2,
        ffn_dim=options.width,
        activation="relu",
        norm="query",
        dropout=0.5,
        inference=Inference(samples=0, temperature=1.0),
        **settings,
    )


def step(options: argparse.Namespace, name: str) -> dict[str, Any]:
    before = peak()
    model = model_of(options, SASRec, loss=loss_of(name)).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    forward, update = [], []
    for _ in range(options.repeats + 1):
        sequences = sequences_of(ROWS, TARGETS_A_ROW + 1, options.items)
        cases = leave_one_out(sequences, held_out=0)
        batch = training_batch(sequences, cases, torch.arange(ROWS), max_len=HISTORY)
        start = time.process_time()
        optimizer.zero_grad()
        model.loss(batch)["total"].backward()
        middle = time.process_time()
        optimizer.step()
        forward.append(middle - start)
        update.append(time.process_time() - middle)
    over = peak() - before - 4 * table_gb(options)
    cost = {"loss_s": statistics.median(forward[1:]), "optimiser_s": statistics.median(update[1:])}
    return {"targets": len(batch.targets), **cost, "peak_gb": peak(), "over_gb": over}


def evaluation(options: argparse.Namespace, name: str) -> dict[str, Any]:
    before = peak()
    model = model_of(options, SASRec if name == "in blocks" else WholeRows).eval()
    sequences = sequences_of(options.users, HISTORY, options.items)
    stop = sequences.offsets[1:] - 1
    cases = Cases(users=torch.arange(options.users), start=sequences.offsets[:-1], stop=stop, seen_stop=stop)
    start = time.process_time()
    with torch.inference_mode():
        for index in torch.arange(options.users).split(EVALUATED):
            model.test_step(evaluation_batch(sequences, cases, index, max_len=HISTORY, mask_seen=True), 0)
    spent = time.process_time() - start
    return {"users": options.users, "cpu_s": spent, "peak_gb": peak(), "over_gb": peak() - before - table_gb(options)}


def table_gb(options: argparse.Namespace) -> float:
    return (options.items + 1) * options.width * 4 / 1e9


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


TASKS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "step": lambda spec: step(argparse.Namespace(**spec), spec["name"]),
    "evaluation": lambda spec: evaluation(argparse.Namespace(**spec), spec["name"]),
}


def alone(task: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--task", task]
    return run_process(command, {key: getattr(options, key) for key in SIZES} | {"name": name}, Path.cwd())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, default=RESULTS)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = parsed(parser, TASKS)
    steps = {name: alone("step", name, options) for name in STEPS}
    evaluations = {name: alone("evaluation", name, options) for name in EVALUATIONS}
    shape = f"{options.items:,} items x {options.width}"
    table = Table("loss=", "loss, CPU-s", "optimiser, CPU-s", "peak, GB", "over, GB", title=f"a training step, {shape}")
    for name, row in steps.items():
        numbers = (row["loss_s"], row["optimiser_s"], row["peak_gb"], row["over_gb"])
        table.add_row(name, *(f"{number:.2f}" for number in numbers))
    Console(width=100).print(table)
    table = Table("ranking", "CPU-s", "peak, GB", "over, GB", title=f"evaluation of {options.users:,} users, {shape}")
    for name, row in evaluations.items():
        table.add_row(name, f"{row['cpu_s']:.1f}", f"{row['peak_gb']:.2f}", f"{row['over_gb']:.2f}")
    Console(width=100).print(table)
    facts = {"torch": torch.__version__, "items": options.items, "width": options.width, "table_gb": table_gb(options)}
    options.json.write_text(json.dumps({**facts, "steps": steps, "evaluations": evaluations}, indent=1))
    print(f"Written: {options.json}")


if __name__ == "__main__":
    main()
