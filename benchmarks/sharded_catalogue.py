"""A million items of 128 numbers whose rows are divided among 1, 2 and 4 processes: memory and time of each.

    python benchmarks/sharded_catalogue.py
    python benchmarks/sharded_catalogue.py --items 100000 --repeats 3

Generated data, SASRec with two layers, softmax over all items, Adam, one thread a process; all processes on this
machine, by gloo. The same batch of 229 users (1,145 targets) and the same 512 evaluated users are divided among them.
For each number of processes: the peak of memory of a process (resident, the largest of all) after the training steps
and an evaluation, over what a process with everything imported has; the same of the first process once it has gathered
a checkpoint; CPU-seconds of a step (median) and of the evaluation in a process. DDP's averaging of the encoder's
gradients (0.3 MB) is left out. Prints a table and writes benchmarks/results/sharded_catalogue.json.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from large_catalogue import EVALUATED, HISTORY, ROWS, TARGETS_A_ROW, model_of, peak, sequences_of
from rich.console import Console
from rich.table import Table
from torch import distributed

from seqgen import losses, sharding
from seqgen.data.ragged import Cases
from seqgen.data.sequences import evaluation_batch, sliced, training_batch
from seqgen.data.split import leave_one_out
from seqgen.model.sasrec import SASRec

RESULTS = Path(__file__).parent / "results" / "sharded_catalogue.json"
PROCESSES = (1, 2, 4)


def process(rank: int, processes: int, folder: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    torch.manual_seed(0)
    before = peak()
    model = model_of(options, SASRec, loss=losses.cross_entropy, shard_items=True).train()
    model.embedding.item.place(torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    sharding.share_states(optimizer, model.embedding.item)
    steps = []
    for _ in range(options.repeats + 1):
        sequences = sequences_of(ROWS, TARGETS_A_ROW + 1, options.items)
        cases, index = leave_one_out(sequences, held_out=0), torch.arange(ROWS)
        batch = training_batch(sequences, cases, index[rank::processes], max_len=HISTORY)
        if processes > 1:
            whole = sliced(torch.full((ROWS,), TARGETS_A_ROW), rank, processes)
            batch = replace(batch, whole=whole, normalizer=whole.targets / processes)
        start = time.process_time()
        optimizer.zero_grad()
        model.loss(batch)["total"].backward()
        optimizer.step()
        steps.append(time.process_time() - start)
    model.eval()
    sequences = sequences_of(EVALUATED, HISTORY, options.items)
    stop = sequences.offsets[1:] - 1
    cases = Cases(users=torch.arange(EVALUATED), start=sequences.offsets[:-1], stop=stop, seen_stop=stop)
    batch = evaluation_batch(
        sequences, cases, torch.arange(EVALUATED)[rank::processes], max_len=HISTORY, mask_seen=True
    )
    start = time.process_time()
    with torch.inference_mode():
        model.test_step(batch, 0)
    found = {"evaluation_s": time.process_time() - start, "step_s": statistics.median(steps[1:])}
    found["peak_gb"] = peak() - before
    kept = model.state_dict(), optimizer.state_dict()
    found |= {"with_checkpoint_gb": peak() - before, "rows": len(model.embedding.item.weight)}
    assert kept[0]["embedding.item.weight"].shape == (options.items + 1, options.width)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def measured(processes: int, options: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        started = [context.Process(target=process, args=(r, processes, folder, options)) for r in range(processes)]
        for each in started:
            each.start()
        for each in started:
            each.join()
            if each.exitcode:
                raise SystemExit(f"A process ended with {each.exitcode}.")
        rows = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    found = {name: max(row[name] for row in rows) for name in rows[0]}
    return found | {"with_checkpoint_gb": rows[0]["with_checkpoint_gb"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 1_000_000), ("width", 128), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    found = {str(processes): measured(processes, options) for processes in PROCESSES}
    columns = (
        "processes",
        "rows of each",
        "peak, GB",
        "first, with checkpoint, GB",
        "step, CPU-s",
        "evaluation, CPU-s",
    )
    table = Table(*columns, title=f"each process, {options.items:,} items x {options.width}")
    for processes, row in found.items():
        numbers = ("peak_gb", "with_checkpoint_gb", "step_s", "evaluation_s")
        table.add_row(processes, f"{row['rows']:,}", *(f"{row[name]:.2f}" for name in numbers))
    Console(width=100).print(table)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    facts = {"torch": torch.__version__, "items": options.items, "width": options.width}
    RESULTS.write_text(json.dumps({**facts, "processes": found}, indent=1))
    print(f"Written: {RESULTS}")


if __name__ == "__main__":
    main()
