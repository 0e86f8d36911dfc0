"""The rounds of a comparison: one measured epoch of each candidate, a study of each, the winners over seeds.

Each round finds in the comparison's folder what it has done before and does what is missing, so that a comparison can
be stopped at any time and goes on with the same command. Free of torch and of Hydra.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from seqgen.compare.candidates import Candidate, place
from seqgen.compare.costs import cost_of, table_of
from seqgen.errors import UserError
from seqgen.results import read_results, replacing
from seqgen.settings import key_of, quoted
from seqgen.sweeps.jobs import Job, carry_out
from seqgen.sweeps.parallel import carry_out_all, places
from seqgen.sweeps.resuming import checkpoint_of
from seqgen.tuning import space
from seqgen.tuning.journal import Journal, is_done_again
from seqgen.tuning.study import Best, Study
from seqgen.tuning.worker import best, count, work_under_ray

MEASURED, TUNING, FINAL = "measured", "tuning", "final"


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        candidates: Compared with one another on each data set.
        swept: Keys that differ between them.
        folder: Of the comparison.
        monitor: The validation metric that decides.
        seeds: Of the final runs.
        tuning_seed: Of all other runs.
        trials: Of each study, the budget that all share.
        workers: Of each study, side by side.
        num_cpus: CPUs of a run.
        num_gpus: GPUs of a run, or a share of one.
        environment: Variables of the runs' processes.
    """

    candidates: Sequence[Candidate]
    swept: Sequence[str]
    folder: Path
    monitor: str
    seeds: Sequence[int]
    tuning_seed: int
    trials: int
    workers: int
    num_cpus: float
    num_gpus: float
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be carried out.

        Raises:
            UserError: Names the key.
        """
        for key, value, least in (("trials", self.trials, 0), ("workers", self.workers, 1)):
            if value < least:
                raise UserError(f"compare.{key}={value} must be at least {least}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seed={','.join(map(str, self.seeds))} must list each seed of the final runs once.")
        if self.trials and self.tuning_seed in self.seeds:
            raise UserError(
                f"compare.tuning_seed={self.tuning_seed} is a seed of the final runs too, for which settings would be "
                "chosen by its luck; set another."
            )

    def runs(self, candidate: Candidate) -> int:
        """How many runs a candidate has, trials and final runs together."""
        return (self.trials if candidate.study else 0) + len(self.seeds)

    def job(self, number: int, candidate: Candidate, overrides: Sequence[str], *folders: str) -> Job:
        """A run of a candidate, in a folder below the comparison's."""
        last = {key_of(text): text for text in overrides}
        where = self.folder.joinpath(folders[0], place(candidate.name, candidate.data), *folders[1:])
        return Job(number, list(last.values()), [*self.swept, "seed"], where, self.environment)


def measure(ray: Any, plan: Plan) -> list[dict[str, Any]]:
    """One epoch of each candidate as it is set, without a test.

    Returns:
        The `results.json` of each.

    Raises:
        UserError: Some candidates cannot run.
    """
    more = (f"seed={plan.tuning_seed}", "trainer.max_epochs=1", "test=false", "logger=none")
    jobs = [plan.job(n, c, [*c.overrides, *more], MEASURED) for n, c in enumerate(plan.candidates)]
    return _carried_out(ray, plan, jobs)


def show_costs(ray: Any, plan: Plan, measured: Sequence[Mapping[str, Any]]) -> None:
    """Print what the comparison costs, from the measured epochs."""
    costs = [
        cost_of(c.label, record, jobs=plan.runs(c), max_epochs=int(c.config["trainer"]["max_epochs"]))
        for c, record in zip(plan.candidates, measured, strict=True)
    ]
    table, total = table_of(costs, slots=places(ray, num_cpus=plan.num_cpus, num_gpus=plan.num_gpus))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table, total)


def show_found(plan: Plan, found: Sequence[Best | None]) -> None:
    """Print what each study found.

    Args:
        plan: The comparison.
        found: From `tune`.
    """
    for candidate, winner in zip(plan.candidates, found, strict=True):
        if winner is not None:
            settings = " ".join(winner.parameters)
            print(f"{candidate.label}: {plan.monitor}={winner.value:.4f} in its study, with {settings}")


def tune(ray: Any, plan: Plan) -> list[Best | None]:
    """The studies of all candidates, as many workers at once as there is place for.

    Returns:
        What each found; None where there is nothing to tune.

    Raises:
        UserError: Studies that failed, each with its error; the others have come to their end.
    """
    tuned = [(n, c.label, c.study) for n, c in enumerate(plan.candidates) if c.study]
    studies = [study for _, _, study in tuned]
    errors = work_under_ray(
        ray,
        studies,
        n_workers=plan.workers,
        num_cpus=plan.num_cpus,
        num_gpus=plan.num_gpus,
        look=_Watch({label: study for _, label, study in tuned}).look,
    )
    if errors:
        lines = [f"{tuned[n][1]}: {error}" for n, error in errors.items()]
        raise UserError("\n".join([f"{len(errors)} of {len(studies)} studies did not come to their end.", *lines]))
    found = {n: best(study) for n, _, study in tuned}
    return [found.get(n) for n in range(len(plan.candidates))]


class _Watch:
    """A line for each study as its trials end."""

    def __init__(self, studies: Mapping[str, Study]) -> None:
        self.journals = {label: Journal(study) for label, study in studies.items()}
        self.shown: dict[str, str] = {}

    def look(self) -> None:
        for label, journal in self.journals.items():
            trials = journal.trials()
            counts = count(trials)
            values = [trial.value for trial in trials if trial.state.name == "COMPLETE" and trial.value is not None]
            line = f"{label}: {counts.finished} of {journal.study.n_trials} trials ({counts.pruned} pruned, "
            line += f"{counts.failed} failed)" + (f", best {journal.study.monitor}={max(values):.4f}" if values else "")
            if self.shown.get(label, line) != line:
                print(line, flush=True)
            self.shown[label] = line


def finish(ray: Any, plan: Plan, found: Sequence[Best | None]) -> list[Path]:
    """The winner of each study, or the candidate as it is set, over the seeds, with a test.

    Args:
        ray: The package, initialised.
        plan: The comparison.
        found: From `tune`.

    Returns:
        The folder of each run.

    Raises:
        UserError: Some runs did not finish; the others have.
    """
    jobs: list[Job] = []
    for candidate, winner in zip(plan.candidates, found, strict=True):
        fixed = [text for text in (winner.overrides if winner else candidate.overrides) if key_of(text) != "seed"]
        name = f"trial_{winner.number}" if winner else "as_set"
        for seed in plan.seeds:
            jobs.append(plan.job(len(jobs), candidate, [*fixed, f"seed={seed}"], FINAL, name, f"seed_{seed}"))
    _carried_out(ray, plan, jobs)
    return [job.folder for job in jobs]


def baseline(plan: Plan, folders: Sequence[Path]) -> str | None:
    """What the report calls the first candidate; None where another one of a data set has its model and attention.

    Args:
        plan: The comparison.
        folders: Of the final runs, from `finish`.
    """
    kinds = []
    for candidate, folder in zip(plan.candidates, folders[:: len(plan.seeds)], strict=True):
        choices = (read_results(folder) or {})["choices"]
        attention = choices.get("attention", "none")
        kinds.append((candidate.data, choices["model"] + ("" if attention == "none" else f"/{attention}")))
    first = kinds[0][1]
    alike = [data for data, kind in kinds if kind == first]
    return first if len(set(alike)) == len(alike) else None


def write_trials(plan: Plan, file: Path) -> None:
    """Write the trials of all studies as a CSV, a row each: how it ended, the best of `monitor`, what was searched.

    A `stopped` one was interrupted and is done again by a later trial with the same settings.

    Args:
        plan: The comparison.
        file: Written anew.
    """
    rows: list[dict[str, Any]] = []
    for candidate, study in [(c, c.study) for c in plan.candidates if c.study]:
        for trial in Journal(study).trials():
            row = {"data": candidate.data, "candidate": candidate.name, "trial": trial.number}
            row |= {"state": "stopped" if is_done_again(trial) else trial.state.name.lower(), plan.monitor: trial.value}
            row |= {"epochs": len(trial.intermediate_values)}
            drawn = space.values(space.overrides(trial.params, study.space))
            rows.append(row | {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in drawn.items()})
    with replacing(file) as beside:
        pl.DataFrame(rows, infer_schema_length=None).write_csv(beside)


def _carried_out(ray: Any, plan: Plan, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Run those of the jobs that have not finished; the `results.json` of each.

    Raises:
        UserError: Some did not finish, each with the command that runs it again.
    """
    known = {job.number: read_results(job.folder) or {} for job in jobs}
    for job in jobs:
        _refuse_other(job, known[job.number])
    left = [job for job in jobs if known[job.number].get("status") != "finished"]
    if len(left) < len(jobs):
        print(f"{len(jobs) - len(left)} of {len(jobs)} runs have finished before.", flush=True)
    if left:
        outcomes = carry_out_all(
            ray,
            [_continued(job, known[job.number]) for job in left],
            carry_out,
            num_cpus=plan.num_cpus,
            num_gpus=plan.num_gpus,
            monitor=plan.monitor,
        )
        pairs = list(zip(left, outcomes, strict=True))
        known |= {job.number: end.results or {} for job, end in pairs}
        if broken := [f"{end.status}: {end.error} Again: {job.again}" for job, end in pairs if not end.finished]:
            raise UserError("\n".join([f"{len(broken)} of {len(jobs)} runs did not finish.", *broken]))
    return [known[job.number] for job in jobs]


def _refuse_other(job: Job, results: Mapping[str, Any]) -> None:
    """Refuse the folder of a run with other settings.

    Raises:
        UserError: Names the folder and a setting.
    """
    if "overrides" not in results:
        return
    mine, theirs = ({o for o in given if not key_of(o).startswith(("hydra.", "ckpt_path"))}
                    for given in (job.overrides, results["overrides"]))  # fmt: skip
    if mine != theirs:
        raise UserError(
            f"{job.folder} holds a run with other settings ({', '.join(sorted(mine ^ theirs))}); go on with the same, "
            "or choose another compare.name=."
        )


def _continued(job: Job, results: Mapping[str, Any]) -> Job:
    """The job, from its last checkpoint where an earlier attempt left one with an epoch."""
    checkpoint = checkpoint_of(job.folder, results)
    if checkpoint is None:
        return job
    return replace(job, overrides=[*job.overrides, f"ckpt_path={quoted(str(checkpoint))}"])
