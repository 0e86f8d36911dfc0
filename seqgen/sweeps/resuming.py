"""What a sweep that goes on has to do: which jobs are done, which resume, which start. Free of torch and of Hydra.

A job is known by what it computes, never by its number: lists of values may have grown since. Two runs are the same
where their `run_id` is, the hash of what decides a run's outcome and of its data.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgen.errors import UserError
from seqgen.results import FILE, identity, is_alive, read_results, run_id

LAST = Path("checkpoints", "last.ckpt")


@dataclass(frozen=True)
class Wanted:
    """A job as composed.

    Attributes:
        config: Plain and resolved; None where it cannot be resolved, which the job itself will say.
        fingerprint: Prepares its data, from the cache where it is there, and says which they are; None where they
            cannot be prepared.
        name: Its folder's name within the sweep, by the number of a job.
    """

    config: dict[str, Any] | None
    fingerprint: Callable[[], str | None]
    name: Callable[[int], str]


@dataclass(frozen=True)
class Step:
    """What is left of a job.

    Attributes:
        number: Of the job, within those that were asked for.
        name: Of its folder within the sweep.
        checkpoint: Where it goes on from; None where it starts.
    """

    number: int
    name: str
    checkpoint: Path | None


@dataclass(frozen=True)
class _Record:
    folder: Path
    results: dict[str, Any]

    @property
    def finished(self) -> bool:
        return bool(self.results["status"] == "finished")

    @property
    def checkpoint(self) -> Path | None:
        return checkpoint_of(self.folder, self.results)

    def has_done(self, config: dict[str, Any]) -> bool:
        """Whether it trained and tested where that is asked for."""
        own = self.results["config"]
        return self.finished and all(own.get(k, True) or not config.get(k, True) for k in ("train", "test"))


def checkpoint_of(folder: Path, results: Mapping[str, Any]) -> Path | None:
    """Where a run that has not finished goes on from; None where it starts again.

    Args:
        folder: Of the run.
        results: Its `results.json`.
    """
    # Without an epoch on record there is nothing to go on from: a model of counts has a checkpoint all the same.
    # In place of a last one that was not written yet the best is taken.
    held = results.get("epochs") and any(folder.glob("checkpoints/*.ckpt"))
    return folder / LAST if held else None


def what_is_left(wanted: Sequence[Wanted], folder: Path) -> list[Step]:
    """Hold the jobs of a sweep against the records below its folder.

    A finished run is not repeated. One that has not finished resumes in its folder from its last checkpoint, or starts
    again there without one. Whatever is new takes a folder that holds no other run.

    Args:
        wanted: The jobs.
        folder: Of the sweep.

    Raises:
        UserError: A run is going on, or there is no folder for a new one.
    """
    records: dict[str, list[_Record]] = {}
    for file in sorted(folder.rglob(FILE)):
        results = read_results(file.parent)
        if results and "status" in results and isinstance(results.get("config"), dict):
            records.setdefault(_key(results["config"]), []).append(_Record(file.parent, results))
    taken: set[Path] = set()
    steps, new = [], []
    for number, job in enumerate(wanted):
        own = _own_records(job, records.get(_key(job.config), []) if job.config else [])
        if any(record.has_done(job.config or {}) for record in own):
            continue
        if record := _to_go_on(own, taken):
            taken.add(record.folder)
            steps.append(Step(number, str(record.folder.relative_to(folder)), record.checkpoint))
        else:
            new.append(number)
    for number in new:
        name = _free_name(wanted[number], number, len(wanted), folder, taken)
        taken.add(folder / name)
        steps.append(Step(number, name, None))
    return sorted(steps, key=lambda step: step.number)


def _key(config: dict[str, Any]) -> str:
    return json.dumps(identity(config), sort_keys=True)


def _own_records(job: Wanted, alike: Sequence[_Record]) -> list[_Record]:
    """Of the records with a job's settings those that were made from its data, or did not come as far."""
    if not any(record.results.get("run_id") for record in alike):
        return list(alike)
    fingerprint = job.fingerprint()
    if fingerprint is None or job.config is None:
        return []
    return [record for record in alike if record.results.get("run_id") in (None, run_id(job.config, fingerprint))]


def _to_go_on(records: Sequence[_Record], taken: set[Path]) -> _Record | None:
    """The record that came farthest, among those that can go on in their folder."""
    for record in records:
        if is_alive(record.results):
            raise UserError(
                f"{record.folder} is the folder of a run that is going on (process {record.results['pid']}): wait for "
                "its end, or stop it."
            )
    open_ones = [r for r in records if r.folder not in taken and (not r.finished or r.checkpoint)]
    return max(open_ones, key=lambda r: (r.checkpoint is not None, r.results.get("epochs") or 0), default=None)


def _free_name(job: Wanted, number: int, count: int, folder: Path, taken: set[Path]) -> str:
    names = (job.name(n) for n in (number, *range(count + len(taken) + sum(1 for _ in folder.rglob(FILE)) + 1)))
    for name in names:
        place = folder / name
        if place not in taken and not (place / FILE).exists():
            return name
    raise UserError(
        f"{folder / job.name(number)} holds another run; let hydra.sweep.subdir= tell the jobs apart, as by its "
        "default, the number of the job."
    )
