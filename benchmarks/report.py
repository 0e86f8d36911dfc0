"""Time and memory of the report over many runs: 200 runs of 22,000 users, bootstrap included.

    python benchmarks/report.py
    python benchmarks/report.py --runs 40 --seeds 5 --users 100000 --samples 2000

Makes run folders as a run leaves them (generated ranks, 30 epochs with all metrics), and reports them in a process of
its own: all that `python -m seqgen.report` does, files included. Prints a table and writes
benchmarks/results/report.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "report.json"
EPOCHS, TOP = 30, 20
KINDS = ("hr", "ndcg", "coverage", "novelty", "popularity", "gini", "f")
NAMES = [f"{kind}@{k}" for kind in KINDS for k in (1, 5, 10, 20)]


def make_runs(folder: Path, runs: int, seeds: int, users: int) -> None:
    """Write run folders: groups of `seeds` runs, whose ranks differ by group, seed and user."""
    rng = np.random.default_rng(0)
    items = 12_000
    cases = {
        "user": [f"A{number:013d}" for number in rng.permutation(users)],
        "target": [f"B{number:09d}" for number in rng.integers(items, size=users)],
        "history_len": rng.geometric(0.15, size=users) + 3,
        "target_count": rng.geometric(0.08, size=users) - 1,
        "transition_seen": rng.random(users) < 0.2,
    }
    hardness = rng.normal(6.0, 2.5, size=users)
    ids = pl.Series([f"B{number:09d}" for number in range(items)])
    for number in range(runs):
        group, seed = divmod(number, seeds)
        place = folder / f"{number}"
        place.mkdir()
        log_rank = hardness - 0.01 * group + rng.normal(0, 0.02) + rng.normal(0, 1.0, size=users)
        ranks = np.clip(np.exp(log_rank), 1, items).astype(np.int64)
        top = ids.gather(rng.integers(items, size=users * TOP)).reshape((users, TOP)).arr.to_list()
        pl.DataFrame(cases | {"rank": ranks, "top": top}).write_parquet(place / "ranks.parquet")
        (place / "results.json").write_text(json.dumps(results(place, group, seed, ranks, users, items), indent=1))


def results(place: Path, group: int, seed: int, ranks: np.ndarray, users: int, items: int) -> dict[str, Any]:
    """The content of a `results.json`."""
    ndcg = float(np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0).mean())
    metrics = {f"{split}/{name}": 0.1 + group / 1e3 for split in ("val", "test") for name in NAMES}
    history = [
        {"epoch": epoch, "train/loss": 9 - epoch / 10, **{f"val/{name}": epoch / 1e3 for name in NAMES}}
        for epoch in range(EPOCHS)
    ]
    data = {"split": "leave_one_out", "mask_seen": True, "min_user_interactions": 5, "min_item_interactions": 5}
    model = {f"key{number}": number for number in range(40)} | {"width": 16 * (group + 1)}
    config = {"seed": seed, "monitor": "val/ndcg@10", "metrics": {"k": [1, 5, 10, 20]}, "data": data, "model": model}
    return {
        "status": "finished",
        "run_id": place.name,
        "choices": {"model": "sasrec", "attention": "softmax", "data": "beauty"},
        "overrides": [f"model.width={model['width']}"],
        "seed": seed,
        "config": config,
        "device": "cpu",
        "data": {"fingerprint": "generated", "num_users": users, "num_items": items},
        "parameters": 800_000 + group,
        "best_epoch": EPOCHS - 1,
        "epochs": EPOCHS,
        "history": history,
        "metrics": metrics | {"test/ndcg@10": ndcg, "test/mrr": float((1 / ranks).mean())},
        "timing": {"train_epoch_s": [2.0 + group / 10] * EPOCHS, "train_epoch_cpu_s": [2.0] * EPOCHS, "total_s": 70.0},
        "peak_memory_mb": {"host": 500.0 + group, "device": None},
    }


def reported(folder: Path, out: Path, samples: int) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of one report, in a process of its own."""
    command = [sys.executable, "-m", "seqgen.report", str(folder), "--samples", str(samples)]
    command += ["--csv", f"{out}/table.csv", "--markdown", f"{out}/table.md", "--latex", f"{out}/table.tex"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=out, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": after.ru_maxrss * 1024 / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 200), ("seeds", 5), ("users", 22_000), ("samples", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary, "runs"), Path(temporary, "out")
        folder.mkdir()
        out.mkdir()
        make_runs(folder, options.runs, options.seeds, options.users)
        row = vars(options) | reported(folder, out, options.samples)
    table = Table("runs", "seeds a row", "users", "samples", "wall s", "CPU-s", "peak MB")
    sizes = (f"{row[name]:,}" for name in ("runs", "seeds", "users", "samples"))
    table.add_row(*sizes, f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['peak_mb']:,.0f}")
    Console().print(table)
    content = {"python": platform.python_version(), "cores": os.cpu_count(), "rows": [row]}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
