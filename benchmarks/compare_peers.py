"""seqgen beside RePlay, RecTools and RecBole at the same work: SASRec with full cross-entropy, on a CPU, one thread.

    SEQGEN_DATA=../shared/data python benchmarks/compare_peers.py
    python benchmarks/compare_peers.py --only seqgen replay --work ml1m_50 --rounds 2
    python benchmarks/compare_peers.py --steps 0      # no epoch cut short: hours

Each peer has a virtual environment of its own, made below --envs where it is not there. A round trains each project
once in a process of its own, one after another, and the next round does so again. All have the same sequences, which
seqgen prepared: training is all but a user's last two items, test the last. Epochs of the slow are cut after some
steps, and a whole epoch is reckoned by steps; both numbers are stored. The first epoch of a process, which also warms
up, is trained but not counted. Each process ranks all users over all items with its project's own metrics, and hands
over ten items a user, which one function scores after whole epochs, as many for all: that shows how fast each gets
going and not who is best.

Each measurement is stored at once, and the same command goes on with what is missing; --again measures anew. A project
that cannot be installed or fails is reported with the last line of its error. Prints tables and writes
benchmarks/results/peers.json.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peers.environments import ENVS, NotInstalled, environment
from peers.quality import list_quality
from peers.summary import COLUMNS, PROJECTS, circumstances, summary, tables
from processes import ProcessFailed, machine, run_process
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "peers.json"
SETTINGS = {"width": 64, "blocks": 2, "heads": 2, "dropout": 0.2, "lr": 1e-3, "betas": [0.9, 0.98], "batch_size": 128}
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "ARROW")  # each has a variable NAME_NUM_THREADS
READING = (
    "A whole epoch is reckoned by steps where not all were measured. RecBole trains on every prefix of a history, one "
    "target each, and ranks seen items too: compare its CPU-seconds a target. The scores, after equal epochs and only "
    "where they were whole, show how fast each gets going and not who is best."
)
CUT_EPOCHS = 2  # of a process whose epochs are cut; the first of any process warms up and is not counted


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        title: In the tables.
        data: seqgen's name of the data set.
        max_len: Newest items a model sees.
        epochs: Of each process that trains whole ones.
        steps: After which the epochs of a project are cut.
    """

    title: str
    data: str
    max_len: int
    epochs: int
    steps: dict[str, int] = field(default_factory=dict)


WORKS = {
    "ml1m_50": Work("ML-1M, 50 items", "ml1m", 50, 5, {"recbole": 30}),
    "ml1m_200": Work("ML-1M, 200 items", "ml1m", 200, 2, {"replay": 12, "rectools": 12, "recbole": 15}),
    "beauty_50": Work("Beauty, 50 items", "beauty", 50, 2, {"replay": 15, "rectools": 15, "recbole": 30}),
}


class Comparison:
    """Measures the cells that are missing, and stores each.

    Args:
        options: Of the command line.
        folder: For the forms in which the projects read the sequences.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        file = options.json
        self.content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"cells": {}}
        self.content |= {"machine": machine(), "settings": SETTINGS}
        self.content["works"] = {name: asdict(work) for name, work in WORKS.items()}
        self.pythons: dict[str, Path] = {"seqgen": Path(sys.executable)}
        self.failures: dict[str, str] = {}
        self.laid_out: set[tuple[str, str]] = set()
        threads = {f"{name}_NUM_THREADS": "1" for name in THREADS}
        self.env = os.environ | threads | {"POLARS_MAX_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def measure(self, name: str, project: str, number: int) -> None:
        """One cell: a project's training, ranking and lists in one round."""
        rounds = self.content["cells"].setdefault(name, {}).setdefault(project, [])
        asked = self.asked(WORKS[name], project, seed=number + 1)
        known = rounds[number] if number < len(rounds) and not self.options.again else {}
        if known.get("asked") == asked and "error" not in known:
            return
        try:
            cell = self.measured(WORKS[name], project, asked)
        except (ProcessFailed, NotInstalled) as error:
            print(error, file=sys.stderr)
            cell = {"error": str(error).splitlines()[-1]}
        rounds[number : number + 1] = [{"asked": asked, **cell}]
        said = cell.get("error") or f"{sum(epoch['cpu_s'] for epoch in cell['epochs']):.1f} CPU-s of training"
        print(f"{name}, round {number + 1}, {project}: {said}", flush=True)
        self.store()

    def asked(self, work: Work, project: str, *, seed: int) -> dict[str, Any]:
        """What a cell depends on: with another answer it is measured anew."""
        steps = work.steps.get(project) if self.options.steps is None else self.options.steps or None
        epochs = min(work.epochs, CUT_EPOCHS) if steps else work.epochs
        return {"data": work.data, "max_len": work.max_len, "epochs": epochs, "steps": steps, "seed": seed, **SETTINGS}

    def measured(self, work: Work, project: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Start the process, and score its lists."""
        forms = self.folder / work.data
        forms.mkdir(exist_ok=True)
        spec: dict[str, Any] = {"forms": str(forms), "sequences": str(forms / "sequences.npz"), **asked}
        spec |= {"data_dir": str(self.options.data), "cache": str(self.folder / "cache"), "folder": str(forms)}
        for one in ("seqgen", project):  # the others read what seqgen has prepared
            if (work.data, one) not in self.laid_out:
                self.process(one, spec | {"lay_out": True}, forms)
                self.laid_out.add((work.data, one))
        with np.load(spec["sequences"]) as stored:
            values, offsets = stored["values"], stored["offsets"]
        lengths = np.diff(offsets)
        sizes = {"num_users": len(lengths), "num_items": int(values.max()), "longest": int(lengths.max() - 1)}
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            work_spec = {"lay_out": False, "lists": not asked["steps"], "folder": place}
            cell = self.process(project, spec | sizes | work_spec, forms)
            targets, quality = values[offsets[1:] - 1], {}
            for file in sorted(Path(place).glob("lists_*.npz")):
                with np.load(file) as lists:
                    quality[file.stem.removeprefix("lists_")] = list_quality(lists["users"], lists["items"], targets)
        digests = self.content.setdefault("digests", {})
        if cell.get("digest", digests.get(work.data)) != digests.get(work.data):
            raise ProcessFailed("seqgen trained on other sequences than the peers have")
        whole = {
            "steps_of_epoch": -(-len(lengths) // asked["batch_size"]),
            "targets_of_epoch": int(np.minimum(lengths - 3, work.max_len).sum()),
        }
        cell = {**whole, **cell, "quality": quality, "load_average": load, "cpu": self.content["machine"]["cpu"]}
        for epoch in cell["epochs"]:
            if not asked["steps"] and epoch["targets"] != cell["targets_of_epoch"]:
                raise ProcessFailed(f"an epoch had {epoch['targets']} targets in place of {cell['targets_of_epoch']}")
        return cell

    def process(self, project: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Run a project's script in its environment; an environment that cannot be made is tried once."""
        if project in self.failures:
            raise NotInstalled(self.failures[project])
        try:
            if project not in self.pythons:
                self.pythons[project] = environment(self.options.envs, project)
        except NotInstalled as error:
            self.failures[project] = str(error)
            raise
        command = [str(self.pythons[project]), str(HERE / "peers" / f"{project}_sasrec.py")]
        told = run_process(command, spec, folder, env=self.env)
        if spec["lay_out"] and project == "seqgen":
            self.content.setdefault("digests", {})[spec["data"]] = told["digest"]
        return told

    def store(self) -> None:
        """Write all that is known, so that an interrupted command loses the cell it was at alone."""
        self.content["load_average_at_end"] = os.getloadavg()
        self.content |= {"summary": summary(self.content["cells"]), "columns": COLUMNS, "reading": READING}
        self.content |= {"tables": tables(self.content), "circumstances": circumstances(self.content["cells"])}
        file = self.options.json
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(beside, file)


def show(content: dict[str, Any]) -> None:
    """Print the tables and how to read them."""
    console = Console(width=max(Console().width, 165))  # a file counts as 80 wide, which breaks each name
    for one in content["tables"]:
        table = Table(title=f"{one['title']}; in brackets times seqgen's", title_justify="left")
        for column in content["columns"]:
            table.add_column(column, justify="right" if column else "left")
        for row in one["rows"]:
            table.add_row(*row)
        console.print(table)
    print(f"{content['circumstances']}\n{READING}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PROJECTS, default=list(PROJECTS), help="of the projects")
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="cut every epoch after so many; 0 cuts none")
    parser.add_argument("--again", action="store_true", help="measure also what is stored")
    parser.add_argument("--envs", type=Path, default=ENVS, help="folder of the peers' virtual environments")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.data = Path(os.environ.get("SEQGEN_DATA", "data")).expanduser().resolve()
    with tempfile.TemporaryDirectory(prefix="seqgen-peers-") as folder:
        comparison = Comparison(options, Path(folder))
        for number in range(options.rounds):
            for name in options.work:
                for project in options.only:
                    comparison.measure(name, project, number)
    comparison.store()
    show(comparison.content)
    print(f"Written: {options.json}")


if __name__ == "__main__":
    main()
