"""How costs grow: interactions and the catalogue doubled four times each, exponents fitted.

    python benchmarks/scaling.py                      # about a quarter of an hour of one core
    python benchmarks/scaling.py --repeats 1

On generated logs (`generated.py`), one thread, each measurement in a process of its own, CPU-seconds, median of
--repeats, sizes in turn so that a busy minute meets all of them. With the interactions the users grow, 25 a user, over
20,000 items: cold preparation, an epoch of a small SASRec with `loss=bce`, and the test of all users. With the
catalogue, over a million interactions: a step with a sampled loss and with the softmax over all items, and the test of
a batch. Imports and a first few batches are not counted; memory is the peak of the process above that of the imports.

An exponent is the slope of a least-squares line through the logarithms: 1 is linear. Prints a table, writes
benchmarks/results/scaling.json and draws docs/scaling.png.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generated import COLUMNS, write_log
from peers.meter import Clock
from processes import machine, parsed, run_process
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RESULTS, PICTURE = HERE / "results" / "scaling.json", HERE.parent / "docs" / "scaling.png"
INTERACTIONS = [500_000 * 2**k for k in range(5)]
CATALOGUE = [10_000 * 2**k for k in range(5)]
PER_USER, ITEMS, ROWS = 25, 20_000, 1_000_000
STEPS = 20  # of training with the catalogue; as many batches are tested
BATCH, EVAL_BATCH, WARM_UP = 128, 256, 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
# axis, task, its setting: what is counted, and the exponent that is expected, None where constant parts remain
MEASURED = {
    ("interactions", "prepare", ""): ("preparation, cold", 1),
    ("interactions", "train", "bce"): ("epoch, loss=bce", 1),
    ("interactions", "evaluate", "bce"): ("test of all users", 1),
    ("items", "train", "bce"): ("step, loss=bce", None),
    ("items", "train", "ce"): ("step, loss=ce", 1),
    ("items", "evaluate", "bce"): ("test of a batch", 1),
}


# What the measuring processes do.


def imported(spec: dict[str, Any]) -> dict[str, Any]:
    """Import what the others import: the memory that no size changes."""
    import pytorch_lightning  # noqa: F401

    import seqgen.data.custom
    import seqgen.model.sasrec  # noqa: F401

    _composed(spec)
    return {}


def _composed(spec: dict[str, Any]) -> Any:
    from seqgen import config

    data = ["data=custom", f"data.path={spec['folder']}", "data.name=log", "data.min_item_interactions=1"]
    data += [f"data.columns.{role}={column}" for role, column in COLUMNS.items()]
    data += [f"data.batch_size={BATCH}", f"data.eval_batch_size={EVAL_BATCH}"]
    model = ["model=sasrec", f"loss={spec['loss'] or 'bce'}", "model.hidden_dim=32"]
    return config.compose([*data, *model, f"paths.cache_dir={spec['cache']}"], output_dir=spec["cache"])


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the cold preparation."""
    import shutil

    from seqgen import config

    data = config.build(_composed(spec), "data")
    shutil.rmtree(spec["cache"], ignore_errors=True)
    clock = Clock()
    meta = data.prepared.meta
    return clock.lap() | {"sizes": {name: meta[f"num_{name}"] for name in ("users", "items", "interactions")}}


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure training or the test, after a few batches that are not counted."""
    import pytorch_lightning as L
    import torch

    from seqgen import config

    torch.manual_seed(0)
    cfg = _composed(spec)
    data = config.build(cfg, "data")
    model = config.build(cfg, "model", catalog=data.catalog)
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    name = "limit_train_batches" if spec["task"] == "train" else "limit_test_batches"
    for limit in (WARM_UP, spec["limit"]):
        trainer = L.Trainer(max_epochs=1, limit_val_batches=0, enable_model_summary=False, **quiet, **{name: limit})
        clock = Clock()
        if spec["task"] == "train":
            trainer.fit(model, datamodule=data)
        else:
            trainer.test(model, datamodule=data, verbose=False)
        told = clock.lap()
    return told


TASKS = {"generate": write_log, "import": imported, "prepare": prepare, "train": work, "evaluate": work}


# What the process that starts them does.


def run_task(task: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "scaling.py"), "--task", task]
    return run_process(command, spec | {"task": task}, folder, env=os.environ | ONE_THREAD)


def points(folder: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Each size of each axis, and what its processes read; the log is generated and prepared where it is not."""
    sizes = [("interactions", rows, rows, ITEMS) for rows in INTERACTIONS]
    sizes += [("items", items, ROWS, items) for items in CATALOGUE]
    for axis, size, rows, items in sizes:
        place = folder / f"{axis}-{size}"
        limit = 1.0 if axis == "interactions" else STEPS
        spec = {"folder": str(place / "log"), "cache": str(place / "cache"), "loss": "", "limit": limit}
        if not place.exists():
            run_task("generate", spec | {"rows": rows, "users": rows // PER_USER, "items": items}, folder)
            run_task("prepare", spec, folder)
        yield axis, size, spec


def measured(folder: Path, repeats: int) -> Iterator[tuple[list[dict[str, Any]], float]]:
    """All measurements so far after each repetition, and the memory of the imports."""
    rows: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    base = 0.0
    for _ in range(repeats):
        for axis, size, spec in points(folder):
            base = base or run_task("import", spec, folder)["peak_mb"]
            for of_axis, task, loss in MEASURED:
                if of_axis != axis:
                    continue
                told = run_task(task, spec | {"loss": loss}, folder)
                known = {"axis": axis, "task": task, "loss": loss, "size": size}
                row = rows.setdefault((axis, task, loss, size), known | {"runs": []})
                row["runs"].append(told)
                print(f"{axis} {size:,} {task} {loss}: {told['cpu_s']:.2f} CPU-s", flush=True)
        for row in rows.values():
            for name in ("s", "cpu_s", "peak_mb", "anon_peak_mb", "others_cpu_s"):
                row[name] = statistics.median(run[name] for run in row["runs"])
        yield list(rows.values()), base


def exponent(sizes: list[int], costs: list[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def fitted(rows: list[dict[str, Any]], base: float) -> list[dict[str, Any]]:
    """A line of the table for each curve: its points, its exponents in CPU-seconds and in memory above the imports."""
    curves = []
    for (axis, task, loss), (name, expected) in MEASURED.items():
        own = [row for row in rows if (row["axis"], row["task"], row["loss"]) == (axis, task, loss)]
        batches = STEPS if axis == "items" else 1
        sizes, cpu = [row["size"] for row in own], [row["cpu_s"] / batches for row in own]
        memory = [row["peak_mb"] - base for row in own]
        found = {"cpu_s": exponent(sizes, cpu), "last_doubling": exponent(sizes[-2:], cpu[-2:])}
        found["memory"] = exponent(sizes, memory)
        holds = None if expected is None else abs(found["cpu_s"] - expected) <= 0.1
        curve = {"axis": axis, "name": name, "sizes": sizes, "cpu_s": cpu, "memory_mb": memory}
        curves.append(curve | {"exponents": found, "expected": expected, "holds": holds})
    return curves


def print_table(curves: list[dict[str, Any]]) -> None:
    for axis, unit in (("interactions", ""), ("items", " (a million interactions)")):
        own = [curve for curve in curves if curve["axis"] == axis]
        table = Table(title=f"CPU-seconds and MB above the imports, by {axis}{unit}", title_justify="left")
        table.add_column("")
        for size in own[0]["sizes"]:
            table.add_column(f"{size:,}", justify="right")
        for name in ("exponent", "last doubling", "of memory", "1.0 ± 0.1"):
            table.add_column(name, justify="right")
        for curve in own:
            cells = [f"{s:.3g} / {mb:,.0f}" for s, mb in zip(curve["cpu_s"], curve["memory_mb"], strict=True)]
            found = [f"{curve['exponents'][name]:.2f}" for name in ("cpu_s", "last_doubling", "memory")]
            table.add_row(curve["name"], *cells, *found, {True: "holds", False: "missed", None: ""}[curve["holds"]])
        Console(width=150).print(table)


def draw(curves: list[dict[str, Any]], path: Path) -> None:
    """Both axes, with a dashed line of exponent 1 through the middle of each curve that should be linear."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    mpl.use("Agg")
    figure, parts = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for part, axis in zip(parts, ("interactions", "items"), strict=True):
        for curve in (curve for curve in curves if curve["axis"] == axis):
            sizes, cpu = curve["sizes"], curve["cpu_s"]
            (line,) = part.loglog(sizes, cpu, "o-", ms=4, label=f"{curve['name']} ({curve['exponents']['cpu_s']:.2f})")
            if curve["expected"] is None:
                continue
            middle = len(sizes) // 2
            linear = [cpu[middle] * size / sizes[middle] for size in sizes]
            part.loglog(sizes, linear, "--", lw=0.8, color=line.get_color(), alpha=0.6)
        part.set(xlabel=axis, ylabel="CPU-seconds, one thread")
        part.legend(fontsize=8, title="(fitted exponent)", title_fontsize=8)
        part.grid(alpha=0.3, which="both", lw=0.4)
        part.set_xticks(sizes, [f"{size / 1e6:g} M" if size >= 500_000 else f"{size // 1000}k" for size in sizes])
        part.xaxis.set_minor_locator(NullLocator())
    figure.suptitle("Cost as the log and the catalogue grow; dashed: linear", fontsize=11)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parsed(parser, TASKS)
    settings = {"per_user": PER_USER, "items": ITEMS, "rows": ROWS, "batch_size": BATCH, "eval_batch_size": EVAL_BATCH}
    content: dict[str, Any] = {"machine": machine(), "settings": settings}
    with tempfile.TemporaryDirectory(prefix="seqgen-benchmark-") as folder:
        for rows, base in measured(Path(folder), options.repeats):
            curves = fitted(rows, base)
            repeats = len(rows[0]["runs"])
            content |= {"repeats": repeats, "imports_mb": base, "curves": curves, "rows": rows}
            # After each repetition, so that one that fails loses none.
            options.json.write_text(json.dumps(content, indent=1) + "\n")
            draw(curves, options.picture)
    print_table(curves)
    print(f"Written: {options.json}, {options.picture}")


if __name__ == "__main__":
    main()
