"""Cost of the data: raw text to tensors, warm starts, 25 million rows, batches; with --peers also RecBole and RePlay.

    SEQGEN_DATA=../shared/data python benchmarks/prepare_data.py
    SEQGEN_DATA=../shared/data python benchmarks/prepare_data.py --peers --big

Each measurement is a fresh process, all with medians of --repeats. Its seconds begin after the imports; the CPU-seconds
and the peak of memory of the whole process are told beside them. Where other processes took CPU-seconds meanwhile, the
seconds are too high, and the CPU-seconds are the ones to compare.

--big generates two logs of 25 million rows, 0.7 GB of text each, in a temporary folder. --peers makes a virtual
environment for each peer below --envs where it is not there. Prints tables and writes
benchmarks/results/prepare_data.json.
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.environments import ENVS, NotInstalled, environment
from peers.meter import Clock
from processes import ProcessFailed, machine, parsed, run_process
from rich.console import Console
from rich.table import Table

# Torch, polars and seqgen are imported by the measuring processes only, within functions: on Linux a child begins with
# the peak memory of the process that started it.
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "prepare_data.json"
ML25M = {"users": 162_541, "items": 59_047, "rows": 25_000_095, "least": 20}
MILLION = {"users": 1_000_000, "items": 100_000, "rows": 25_000_000, "least": 5}
SETTINGS = {"k_core": 5, "max_len": 50, "batch_size": 256}
WARM_UP, STEPS = 2, 20  # batches; an epoch of ML-1M has 23 whole ones
SHARE = 0.02  # limit of making a batch, of the step on it


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes:
        name: What is measured.
        command: Of the measuring process.
        spec: What that process reads.
        cache: Cache folder of seqgen.
        cold: The cache is emptied before each repetition.
        limits: Largest median of a measured value.
    """

    name: str
    command: list[str]
    spec: dict[str, Any]
    cache: Path | None = None
    cold: bool = False
    limits: dict[str, float] = field(default_factory=dict)


# What the measuring processes do.


def generate(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a log that has the skew of MovieLens-25M in users and items, the same one each time.

    `movielens` is `ratings.csv` by user and item, with `movies.csv`; `text` has text ids and is in order of time.
    """
    import numpy as np
    import polars as pl

    users, items, rows, least = (spec[name] for name in ("users", "items", "rows", "least"))
    rng = np.random.default_rng(0)
    activity = rng.lognormal(0, 1.4, users)
    activity = least + np.floor(activity * ((rows - least * users) / activity.sum())).astype(np.int64)
    activity[: rows - activity.sum()] += 1  # what rounding down has left over
    user = np.repeat(np.arange(users), activity)
    popularity = np.exp(-((np.arange(items) / 80) ** 0.38)).cumsum()
    item = np.searchsorted(popularity / popularity[-1], rng.random(rows)).clip(max=items - 1)
    item[rng.choice(rows, items, replace=False)] = np.arange(items)  # each occurs
    folder = Path(spec["folder"])
    folder.mkdir(parents=True)
    if spec["form"] == "text":
        order, moment = rng.permutation(rows), np.sort(rng.integers(1_400_000_000, 1_700_000_000, rows))
        frame = pl.LazyFrame({"user": user[order], "item": item, "timestamp": moment})
        names = {"user_id": ("u{}", "user", 7), "item_id": ("B{}", "item", 6)}
        texts = [
            pl.format(form, pl.col(of).cast(pl.String).str.zfill(width)).alias(name)
            for name, (form, of, width) in names.items()
        ]
        frame.select(*texts, "timestamp").sink_csv(folder / "log.csv")
        return {}
    number = np.sort(rng.choice(209_171, items, replace=False)) + 1  # ids have gaps
    rank = rng.permutation(items)
    pairs = np.sort(user * items + rank[item])
    user, item = pairs // items, pairs % items
    moment = rng.integers(800_000_000, 1_550_000_000, users)[user] + rng.integers(0, 3_000_000, rows)
    columns = {"userId": user + 1, "movieId": number[item], "rating": rng.integers(1, 11, rows) / 2}
    pl.DataFrame({**columns, "timestamp": moment}).write_csv(folder / "ratings.csv")
    titles = {"movieId": number, "title": [f"Film, The {n} (1999)" for n in number], "genres": "Drama|Comedy"}
    pl.DataFrame(titles).write_csv(folder / "movies.csv")
    return {}


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure seqgen from the raw files, or from its cache, to tensors and catalogue, then to the first batch."""
    import pytorch_lightning  # noqa: F401
    import torch  # noqa: F401

    from seqgen.data.custom import CustomDataModule
    from seqgen.data.datamodule import SequenceDataModule
    from seqgen.data.sources import movielens_1m, movielens_csv

    clock = Clock()
    how: dict[str, Any] = {"cache_dir": spec["cache"], "storage": spec["storage"]}
    how |= {"max_len": SETTINGS["max_len"], "batch_size": SETTINGS["batch_size"]}
    how |= {f"min_{name}_interactions": SETTINGS["k_core"] for name in ("user", "item")}
    if spec["data"] == "text":
        columns: dict[str, str | None] = {name: f"{name}_id" for name in ("user", "item")} | {"timestamp": "timestamp"}
        data: SequenceDataModule = CustomDataModule(path=spec["folder"], columns=columns, **how)
    elif spec["data"] == "ml1m":
        data = SequenceDataModule(source=movielens_1m(spec["folder"]), **how)
    else:
        data = SequenceDataModule(source=movielens_csv(spec["folder"], "ml-25m"), **how)
    sequences, catalog = data.sequences, data.catalog
    told = clock.lap()
    next(iter(data.train_dataloader()))
    told |= clock.lap("first_batch")
    sizes = {"users": catalog.num_users, "items": catalog.num_items, "interactions": len(sequences.values)}
    return told | {"sizes": sizes}


def batches(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure making a training batch, and the training step on it, in turn, with one thread."""
    import torch

    from seqgen import config

    torch.set_num_threads(1)
    torch.manual_seed(1)
    overrides = [f"data={spec['data']}", "model=sasrec", f"paths.cache_dir={spec['cache']}"]
    overrides += [f"paths.data_dir={spec['folder']}", f"data.max_len={SETTINGS['max_len']}"]
    cfg = config.compose([*overrides, f"data.batch_size={SETTINGS['batch_size']}"], output_dir=spec["cache"])
    data = config.build(cfg, "data")
    model = config.build(cfg, "model", catalog=data.catalog)
    optimizer = model.configure_optimizers()
    made, stepped = [], []
    loader = iter(data.train_dataloader())
    for _ in range(WARM_UP + STEPS):
        start = time.process_time()
        batch = next(loader)
        middle = time.process_time()
        optimizer.zero_grad()
        model.loss(batch)["total"].backward()
        optimizer.step()
        made.append(middle - start)
        stepped.append(time.process_time() - middle)
    batch_s, step_s = (statistics.median(values[WARM_UP:]) for values in (made, stepped))
    return {"batch_us": batch_s * 1e6, "step_cpu_s": step_s, "share": batch_s / step_s}


TASKS = {"generate": generate, "prepare": prepare, "batches": batches}


# What the process that starts them does.


def own(task: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--task", task]


def lay_out_ml1m(raw: Path, folder: Path) -> None:
    """Write the ratings as each project wants them: `::`, RecBole's atomic file, a CSV with a header."""
    for name in ("ml-1m", "ml1m"):
        (folder / name).mkdir()
    ratings, rebuilt = raw / "ml-1m" / "ratings.dat", raw / "ml-1m" / "ratings_rebuilt.dat.gz"
    if not ratings.exists() and not rebuilt.exists():
        sys.exit(f"{ratings} is absent; set SEQGEN_DATA to the folder that holds ml-1m.")
    # Unpacked here, since unpacking is no work of the project measured.
    text = ratings.read_text() if ratings.exists() else gzip.decompress(rebuilt.read_bytes()).decode()
    (folder / "ml-1m" / "ratings.dat").write_text(text)
    shutil.copyfile(raw / "ml-1m" / "movies.dat", folder / "ml-1m" / "movies.dat")
    header = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    (folder / "ml1m" / "ml1m.inter").write_text("\t".join(header) + "\n" + text.replace("::", "\t"))
    (folder / "ml1m.csv").write_text("user_id,item_id,rating,timestamp\n" + text.replace("::", ","))


def seqgen_case(name: str, data: str, folder: Path, work: Path, **more: Any) -> Case:
    cache = work / f"cache-{data}"
    spec = {"data": data, "folder": str(folder), "cache": str(cache), "storage": more.pop("storage", "memory")}
    return Case(name=f"seqgen, {name}", command=own("prepare"), spec=spec, cache=cache, **more)


def cases(options: argparse.Namespace, raw: Path, work: Path) -> Iterator[tuple[str, Case]]:
    """All cases asked for, and which table they belong to."""
    lay_out_ml1m(raw, work)
    yield "rows", seqgen_case("ML-1M, raw text", "ml1m", work, work, cold=True, limits={"s": 2})
    yield "rows", seqgen_case("ML-1M, warm cache", "ml1m", work, work, limits={"s": 0.5})
    for data, title, folder in (("ml1m", "ML-1M", work), ("beauty", "Beauty", raw)):
        spec = {"data": data, "folder": str(folder), "cache": str(work / "cache-batches")}
        yield "batches", Case(name=title, command=own("batches"), spec=spec, limits={"share": SHARE})
    if options.peers:
        yield from (("rows", case) for case in peer_cases(work, options.envs))
    if options.big:
        yield from (("rows", case) for case in big_cases(work))


def big_cases(work: Path) -> Iterator[Case]:
    """The cases of 25 million rows; each log is generated when its first case is asked for."""
    run_process(own("generate"), {**ML25M, "form": "movielens", "folder": str(work / "ml-25m")}, work)
    limits = {"s": 45, "peak_mb": 4000}
    yield seqgen_case("25 M rows as ML-25M, raw text", "ml25m", work, work, cold=True, limits=limits)
    yield seqgen_case("25 M rows, warm cache", "ml25m", work, work)
    yield seqgen_case("25 M rows, warm cache, storage=mmap", "ml25m", work, work, storage="mmap")
    shutil.rmtree(work / "ml-25m")
    run_process(own("generate"), {**MILLION, "form": "text", "folder": str(work / "log")}, work)
    folder = work / "log" / "log.csv"
    limits = {"peak_mb": 24_000}
    yield seqgen_case("25 M rows, 1 M users, text ids, raw text", "text", folder, work, cold=True, limits=limits)
    yield seqgen_case("25 M rows, 1 M users, text ids, warm cache", "text", folder, work)


def peer_cases(work: Path, envs: Path) -> Iterator[Case]:
    specs = {"recbole": {"folder": str(work)}, "replay": {"folder": str(work), "file": str(work / "ml1m.csv")}}
    for peer, title in (("recbole", "RecBole"), ("replay", "RePlay")):
        command = [str(environment(envs, peer)), str(HERE.resolve() / "peers" / f"{peer}_data.py")]
        yield Case(name=f"{title}, ML-1M, raw text", command=command, spec=SETTINGS | specs[peer])


def measure(case: Case, repeats: int, work: Path) -> dict[str, Any]:
    runs = []
    for _ in range(repeats):
        if case.cold and case.cache:
            shutil.rmtree(case.cache, ignore_errors=True)
        runs.append(run_process(case.command, case.spec, work))
    told = {name: value for name, value in runs[0].items() if not isinstance(value, float)}
    numbers = [name for name, value in runs[0].items() if isinstance(value, float)]
    medians = {name: statistics.median(run[name] for run in runs) for name in numbers}
    row = {"name": case.name, **told, **medians, "limits": case.limits}
    holds = all(medians[name] <= limit for name, limit in case.limits.items()) if case.limits else None
    return row | {"holds": holds, "runs": [{name: run[name] for name in numbers} for run in runs]}


def verdict(row: dict[str, Any]) -> str:
    return {True: "holds", False: "missed", None: ""}[row["holds"]]


def print_tables(rows: list[dict[str, Any]], batch_rows: list[dict[str, Any]], repeats: int) -> None:
    table = Table(title=f"raw text or cache to tensors; median of {repeats}", title_justify="left")
    names = ("", "s", "CPU-s", "s with a batch", "process s", "its CPU-s", "others' CPU-s", "peak MB", "limit", "")
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    values = ("s", "cpu_s", "first_batch_s", "process_s", "process_cpu_s", "others_cpu_s")
    for row in rows:
        name = f"{row['name']} ({row['version']})" if "version" in row else row["name"]
        limit = ", ".join(f"{value:g} {unit}" for unit, value in row["limits"].items()).replace("peak_mb", "MB")
        numbers = [f"{row[value]:.2f}" for value in values]
        table.add_row(name, *numbers, f"{row['peak_mb']:,.0f}", limit, verdict(row))
    batch_table = Table(title=f"batch of {SETTINGS['batch_size']} users, one thread, CPU time", title_justify="left")
    for name in ("", "µs a batch", "ms a step of sasrec", "share", "limit", ""):
        batch_table.add_column(name, justify="right" if name else "left")
    for row in batch_rows:
        numbers = [f"{row['batch_us']:,.0f}", f"{row['step_cpu_s'] * 1e3:,.1f}", f"{row['share']:.2%}"]
        batch_table.add_row(row["name"], *numbers, f"{SHARE:.0%}", verdict(row))
    console = Console(width=max(Console().width, 165))  # a file counts as 80 wide, which breaks each name
    console.print(table)
    console.print(batch_table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="RecBole and RePlay as well")
    parser.add_argument("--big", action="store_true", help="25 million rows as well")
    parser.add_argument("--envs", type=Path, default=ENVS, help="folder of the peers' virtual environments")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parsed(parser, TASKS)
    try:
        measure_all(options)
    except (ProcessFailed, NotInstalled) as error:
        sys.exit(str(error))


def measure_all(options: argparse.Namespace) -> None:
    raw = Path(os.environ.get("SEQGEN_DATA", "data")).expanduser().resolve()
    content: dict[str, Any] = {"machine": machine(), "settings": SETTINGS, "repeats": options.repeats}
    content |= {"rows": [], "batches": []}
    with tempfile.TemporaryDirectory(prefix="seqgen-benchmark-") as work:
        for kind, case in cases(options, raw, Path(work)):
            row = measure(case, options.repeats, Path(work))
            print(
                f"{case.name}: {', '.join(f'{k} {v:.4g}' for k, v in row.items() if isinstance(v, float))}", flush=True
            )
            content[kind].append(row)
            content["load_average_at_end"] = os.getloadavg()
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(content, indent=1))  # after each, so that a failing one loses none
    print_tables(content["rows"], content["batches"], options.repeats)
    print(f"Written: {options.json}")


if __name__ == "__main__":
    main()
