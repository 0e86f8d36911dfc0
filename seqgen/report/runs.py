"""The finished runs below some folders, from their ``results.json`` and from the stored runs of experiments."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqgen import stored
from seqgen.errors import UserError
from seqgen.results import identity, went
from seqgen.settings import flatten

# What only shows or logs says nothing about a run; it stays in the identity, which stored runs were given with it.
SHOWN = ("trainer.profiler", "trainer.log_every_n_steps")
# Numbers of a run that are no metrics of its lists.
COSTS = (
    "train_epoch_s",
    "train_epoch_cpu_s",
    "train_s",
    "total_s",
    "peak_memory_mb",
    "peak_device_memory_mb",
    "energy_kj",
    "parameters",
)


@dataclass(frozen=True, eq=False)
class Run:
    """What the report takes from one finished run.

    Attributes:
        file: Its ``results.json``, or the file of stored runs that holds it.
        place: What the notes call it.
        name: Of a stored run.
        seed: The run's, then those its config names, as for the order of users.
        names: Of model, attention and data.
        data: Name and fingerprint; what two runs must share to be compared.
        settings: Dotted key -> JSON text; what the runs of a group share.
        choices: In each group of the configuration where one was made.
        overrides: Of the command line.
        numbers: What a column can show.
        protocol: How the test ranks: split, mask_seen, least interactions, list lengths; None where it is not known.
        monitor: The metric that decides the best epoch.
        history: Epoch, training loss and monitored metric of each epoch.
        device: Where it ran.
        num_items: Size of the catalogue.
        is_list: Whether it stands for the lists of another framework.
        version: Of seqgen, torch and Python, with commit and device.
    """

    file: Path
    place: str
    name: str | None
    run_id: str
    seed: tuple[Any, ...]
    names: list[str]
    data: tuple[str, str]
    settings: dict[str, str]
    choices: dict[str, str]
    overrides: list[str]
    numbers: dict[str, float]
    protocol: dict[str, Any]
    monitor: str | None
    history: list[tuple[int, float | None, float | None]]
    device: str | None
    num_items: int | None
    is_list: bool = False
    version: str | None = None


Groups = dict[str, list[Run]]  # label -> the seeds of one setting
Data = tuple[str, str]  # name and fingerprint of a data set


def of_data(groups: Groups, data: Data) -> Groups:
    """The groups on one data set."""
    return {label: group for label, group in groups.items() if group[0].data == data}


@dataclass(frozen=True)
class LeftOut:
    """A run that is in no row: why, and what can be done.

    Attributes:
        place: What the notes call it.
        status: As in ``results.json``; ``broken`` where that cannot be read.
        sentence: What became of it, and how it goes on.
    """

    place: str
    status: str
    sentence: str

    @property
    def note(self) -> str:
        """The line below the table."""
        between = " is broken " if self.status == "broken" else ", "
        return f"not in the table: {self.place}{between}{self.sentence}"


def _read(file: Path) -> list[Run | LeftOut]:
    """Read a file: its runs, or in place of each that has no whole test what to say of it."""
    try:
        if file.name == stored.RUNS:
            runs = stored.read_runs(file.parent)
            return [_run(file, f"{file.parent}, {run['name']}, seed {run['seed']}", run) for run in runs]
        return [_run(file, str(file.parent), json.loads(file.read_text(encoding="utf-8")))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return [LeftOut(str(file), "broken", f"({error!r}): delete it or run again")]


def _run(file: Path, place: str, results: dict[str, Any]) -> Run | LeftOut:
    if results["status"] != "finished":
        sentence = went(results, file.parent)
        # One on record as running may be dead.
        return LeftOut(place, "dead" if sentence.startswith("dead") else str(results["status"]), sentence)
    names = [(results["choices"].get(name) or "none") for name in ("model", "attention", "data")]
    names = ["-" if option == "none" else option for option in names]
    config = results["config"]
    trainer = config.get("trainer") or {}
    if config.get("test") is False or trainer.get("fast_dev_run"):
        return LeftOut(place, "finished", "not tested")
    if trainer.get("limit_test_batches", 1.0) != 1.0:
        return LeftOut(place, "finished", "tested on a part of the users")
    # A stored run's `equals` are later spellings of its settings, so that it stands beside the runs that have those.
    equals = results.get("equals", {})
    data = (names[2], str(equals.get("data.fingerprint", results["data"]["fingerprint"])))
    settings = {**flatten(identity(config)), **{key: json.dumps(value) for key, value in equals.items()}}
    settings["data.fingerprint"] = data[1]
    for key in SHOWN:
        settings.pop(key, None)
    seeds = [settings.pop(key) for key in sorted(settings) if key == "seed" or key.endswith(".seed")]
    choices = {group: option for group, option in results["choices"].items() if option not in (None, "None")}
    monitor = config.get("monitor")
    history = [(int(e["epoch"]), e.get("train/loss"), e.get(monitor)) for e in results.get("history", [])]
    return Run(
        file=file,
        place=place,
        name=results.get("name"),
        run_id=results["run_id"],
        seed=(results["seed"], *seeds),
        names=names,
        data=data,
        settings=settings,
        choices=choices,
        overrides=results.get("overrides", []),
        numbers=_numbers(results),
        protocol=_protocol(config),
        monitor=monitor,
        history=history,
        device=results.get("device"),
        num_items=results["data"].get("num_items"),
        version=_version(results),
    )


def _version(results: dict[str, Any]) -> str | None:
    version = results.get("version")
    if not version:
        return None
    parts = [f"seqgen {version.get('seqgen')} {(version.get('commit') or '')[:7]}".strip()]
    parts += [f"{name} {version[key]}" for key, name in (("torch", "torch"), ("python", "Python")) if key in version]
    return ", ".join([*parts, *filter(None, [results.get("device")])])


def _numbers(results: dict[str, Any]) -> dict[str, float]:
    """What a column can show: metrics and costs, as far as they were recorded."""
    timing, memory = results["timing"], results.get("peak_memory_mb") or {}
    numbers = {**results["metrics"], "parameters": results["parameters"]}
    for name in ("train_epoch_s", "train_epoch_cpu_s"):
        if epochs := timing.get(name):
            numbers[name] = np.median(epochs)  # the first one pays for compilation and cold caches
    if (results["config"].get("train", True)) is not False:
        numbers["train_s"] = sum(timing.get("train_epoch_s") or [])
    numbers |= {name: timing.get(name) for name in ("total_s", "energy_kj")}
    numbers |= {"peak_memory_mb": memory.get("host"), "peak_device_memory_mb": memory.get("device")}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _protocol(config: dict[str, Any]) -> dict[str, Any]:
    data, metrics = config.get("data") or {}, config.get("metrics") or {}
    keys = ("split", "mask_seen", "min_user_interactions", "min_item_interactions", "min_rating")
    return {f"data.{key}": data.get(key) for key in keys} | {"metrics.k": metrics.get("k")}


def find(folders: Iterable[str | Path], notes: list[str]) -> tuple[list[Run], list[LeftOut]]:
    """Find the finished runs below some folders, each once, and those that have not finished.

    Args:
        folders: Searched recursively.
        notes: Receives a line per run left out.

    Raises:
        UserError: A folder is missing, or there is no finished run.
    """
    roots = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    if missing := [str(root) for root in roots if not root.is_dir()]:
        raise UserError(f"there is no folder {', '.join(missing)}")
    found_files = (file for root in roots for name in ("results.json", stored.RUNS) for file in root.rglob(name))
    files = {str(file.resolve()): file for file in found_files}
    # Job 10 comes after job 9.
    order = sorted(files, key=lambda name: [(s, int(n or 0)) for s, n in re.findall(r"(\D+)(\d*)", name)])
    found = [run for name in order for run in _read(files[name])]
    runs = [run for run in found if isinstance(run, Run)]
    left_out = [run for run in found if isinstance(run, LeftOut)]
    notes += [run.note for run in left_out]
    if not runs:
        raise UserError("; ".join([f"no finished run under {', '.join(map(str, roots))}", *notes]))
    # By settings too: a changed seqgen may give the same settings another run_id.
    for key in (lambda run: (run.run_id, run.seed), lambda run: (run.seed, *sorted(run.settings.items()))):
        kept = {key(run): run for run in sorted(runs, key=lambda run: os.path.getmtime(run.file))}
        pairs = [(run.place, kept[key(run)].place) for run in runs if kept[key(run)] is not run]
        notes += [f"not in the table: {old} is the same run as {new}, which is newer" for old, new in pairs]
        runs = [run for run in runs if kept[key(run)] is run]
    return runs, [run for run in left_out if run.status != "finished"]
