"""A log larger than memory should hold: 100 million interactions prepared, and trained on from mapped files.

    python benchmarks/big_log.py                                    # about ten minutes of one core, 3 GB of disk
    python benchmarks/big_log.py --rows 10000000 --users 200000 --items 100000 --steps 100
    python benchmarks/big_log.py --log /a/folder --only prepare     # the log is kept there; only this is measured again

Generates the log in a temporary folder (parquet), prepares it cold with `data.storage=mmap`, and trains the first
--steps steps of an epoch of a small SASRec with `loss=bce`, each in a process of its own. Their memory is watched from
outside: `anonymous` is the process's own, `mapped files` are pages that the kernel may drop at any time and read again,
the libraries among them; `peak` is the largest sum as the kernel counts it. Prints a table and writes
benchmarks/results/big_log.json.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from generated import COLUMNS, write_log
from peers.meter import Clock
from processes import machine, parsed, run_process
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "big_log.json"
LIMIT_MB = 4000
SIZES = {"rows": 100_000_000, "users": 2_000_000, "items": 1_000_000, "steps": 1000, "threads": 1}
MODEL = ["model=sasrec", "loss=bce", "model.hidden_dim=32", "trainer=cpu"]
QUIET = ["print_config=false", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"]
BARE = ["callbacks=none", "logger=none", "test=false", "trainer.max_epochs=1", "trainer.limit_val_batches=0", *QUIET]


def overrides(spec: dict[str, Any]) -> list[str]:
    data = ["data=custom", f"data.path={spec['folder']}", "data.name=big", "data.storage=mmap"]
    columns = [f"data.columns.{role}={column}" for role, column in COLUMNS.items()]
    return [*data, *columns, f"paths.cache_dir={spec['cache']}", *MODEL]


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the preparation, from the raw files to mapped arrays."""
    from seqgen import config

    data = config.build(config.compose(overrides(spec), output_dir=spec["cache"]), "data")
    clock = Clock()
    prepared = data.prepared
    told = clock.lap()
    files = {file.name: file.stat().st_size / 1e6 for file in Path(spec["cache"]).glob("big-*/*")}
    sizes = {name: prepared.meta[f"num_{name}"] for name in ("users", "items", "interactions")}
    return told | {"sizes": sizes, "files_mb": files}


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure a run as a user starts it, with the prepared set in the cache."""
    import seqgen

    limit = f"trainer.limit_train_batches={spec['steps']}"
    clock = Clock()
    result = seqgen.run(seqgen.compose([*overrides(spec), limit, *BARE], output_dir=spec["output"]))
    timing = result.record["timing"]
    told = {name: sum(timing[f"train_epoch_{name}"]) for name in ("s", "cpu_s")}
    loss = result.record["history"][0]["train/loss"]
    return clock.lap("run") | told | {"loss": loss, "parameters": result.record["parameters"]}


TASKS = {"generate": write_log, "prepare": prepare, "train": train}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--log", type=Path, help="folder of the log, which is kept; the default is a temporary one")
    parser.add_argument("--only", nargs="+", choices=("prepare", "train"), default=("prepare", "train"))
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parsed(parser, TASKS)
    sizes = {name: getattr(options, name) for name in SIZES}
    content: dict[str, Any] = {"machine": machine(), "asked": sizes, "overrides": MODEL, "limit_mb": LIMIT_MB}
    if len(options.only) == 1:
        content |= {name: told for name, told in json.loads(options.json.read_text()).items() if name in TASKS}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), str(options.threads))
    table = Table("", "s", "CPU-s", "anonymous, MB", "mapped files, MB", "peak, MB", "limit, MB")
    with tempfile.TemporaryDirectory(prefix="seqgen-benchmark-") as work:
        spec = sizes | {name: f"{work}/{name}" for name in ("folder", "cache", "output")}
        spec |= {"folder": str(options.log.resolve())} if options.log else {}
        for task in TASKS:
            if (task == "generate" and Path(spec["folder"]).exists()) or (task == "train" and task not in options.only):
                continue  # what is trained on is prepared in any case
            command = [sys.executable, str(Path(__file__).resolve()), "--task", task]
            told = run_process(command, spec, Path(work), env=os.environ | threads)
            print(json.dumps({task: told}), flush=True)
            if task == "generate" or task in options.only:
                content[task] = told | {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        content["raw_mb"] = sum(file.stat().st_size for file in Path(spec["folder"]).iterdir()) / 1e6
    for task in (name for name in TASKS if name in content):
        told = content[task]
        seconds, cpu = told.get("s", told["process_s"]), told.get("cpu_s", told["process_cpu_s"])
        memory = [f"{told[name]:,.0f}" for name in ("anon_peak_mb", "file_peak_mb", "peak_mb")]
        table.add_row(task, f"{seconds:,.1f}", f"{cpu:,.1f}", *memory, f"{LIMIT_MB:,}" if task != "generate" else "")
    content["holds"] = all(content[task]["peak_mb"] <= LIMIT_MB for task in ("prepare", "train"))
    options.json.write_text(json.dumps(content, indent=1) + "\n")
    Console(width=120).print(table)
    print(f"Written: {options.json}")


if __name__ == "__main__":
    main()
