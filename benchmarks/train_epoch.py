"""Cost of a training epoch: seconds, CPU-seconds, sequences/s, targets/s, peak memory.

    SEQGEN_DATA=../shared/data python benchmarks/train_epoch.py experiment=mqsa_ted_beauty
    python benchmarks/train_epoch.py model=sasrec,mqsa_ted attention=softmax,vae data=ml1m --epochs 3

Takes overrides as `seqgen.run` does; a comma makes a sweep. Each combination runs in a process of its own, with one
thread unless --threads says otherwise, through the ordinary Trainer, without validation, checkpoints or logger. The
first epoch, which also warms up, is trained but not counted. Prints a table and writes
benchmarks/results/train_epoch.json.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "train_epoch.json"
QUIET = ["print_config=false", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"]
BARE = ["callbacks=none", "logger=none", "test=false", "trainer.limit_val_batches=0", *QUIET]


def measure(overrides: list[str], *, epochs: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "seqgen.run", *overrides, *BARE, f"trainer.max_epochs={epochs + 1}"]
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        done = subprocess.run(
            [*command, f"hydra.run.dir={folder}"], env=os.environ | limits, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr)
        run = json.loads(Path(folder, "results.json").read_text())
    timing = run["timing"]
    if "train_epoch_s" not in timing:
        sys.exit(f"{' '.join(overrides)}: this model is not trained, so there is no epoch to time.")
    seconds = statistics.median(timing["train_epoch_s"][1:])
    mean_epoch = statistics.mean(timing["train_epoch_s"])
    return {
        "overrides": overrides,
        "choices": run["choices"],
        "threads": threads,
        "device": run["device"],
        "epochs": epochs,
        "epoch_s": seconds,
        "epoch_cpu_s": statistics.median(timing["train_epoch_cpu_s"][1:]),
        "sequences_per_s": timing["train_sequences_per_s"] * mean_epoch / seconds,
        "targets_per_s": timing["train_targets_per_s"] * mean_epoch / seconds,
        "peak_memory_mb": run["peak_memory_mb"],
        "version": run["version"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--epochs", type=int, default=3, help="epochs counted, after one that is not")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    # A comma inside brackets belongs to a list, which is one value.
    pairs = [override.partition("=") for override in options.overrides]
    axes = [[f"{key}={value}" for value in re.split(r",(?![^\[]*\])", values)] for key, _, values in pairs]
    rows = []
    table = Table(title=f"training epoch, {options.threads} thread(s), median of {options.epochs}")
    for name in ("overrides", "s", "CPU-s", "sequences/s", "targets/s", "peak MB", "GPU MB"):
        table.add_column(name, justify="left" if name == "overrides" else "right")
    for combination in itertools.product(*axes):
        row = measure(list(combination), epochs=options.epochs, threads=options.threads)
        rows.append(row)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1))  # after each, so that a failing one loses none
        memory = row["peak_memory_mb"]
        gpu = f"{memory['device']:,.0f}" if memory["device"] else "-"
        numbers = [f"{row['epoch_s']:.2f}", f"{row['epoch_cpu_s']:.2f}", f"{row['sequences_per_s']:,.0f}"]
        table.add_row(" ".join(combination), *numbers, f"{row['targets_per_s']:,.0f}", f"{memory['host']:,.0f}", gpu)
    Console().print(table)
    print(f"Written: {options.json}")


if __name__ == "__main__":
    main()
