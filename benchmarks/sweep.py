"""What a sweep under Ray costs and survives: overhead of a job, packing of the slots, killed jobs, a killed node.

    python benchmarks/sweep.py                # about a quarter of an hour on two cores
    python benchmarks/sweep.py --only crash node

- overhead: seconds of one job under `hydra/launcher=ray` above those of the same run alone, both from the start of the
  command to its end, prepared data from the cache. Several jobs share the start of Ray: it is given apart, as the time
  of the whole command, and per job in a sweep of four on one slot.
- packing: 16 jobs of about 20 s on 2 slots, beside the ideal: eight times the time of a job.
- crash: SIGKILL for jobs at random moments of a sweep over two models and three seeds, then `sweep.resume=true` once;
  the runs must be those of the sweep that nobody disturbed, to the last bit.
- node: two nodes of Ray's cluster utility, one killed in the middle; the sweep goes on with the rest and ends with exit
  code 1, and `sweep.resume=true` finishes it, likewise.

Prints a table and writes benchmarks/results/sweep.json.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sweep.json"
RUN = [sys.executable, "-m", "seqgen.run"]
QUIET = ["trainer=cpu", "print_config=false", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"]
SMALL = ["data.source.num_users=400", *QUIET]
SWEPT = ["model=sasrec,genatt", "seed=1,2,3", "trainer.max_epochs=25", *SMALL]


def command(*arguments: str) -> list[str]:
    return [*RUN, *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def timed(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    began = time.perf_counter()
    done = subprocess.run(command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    return time.perf_counter() - began, done


def swept(folder: Path, *arguments: str, launcher: str = "ray") -> tuple[float, subprocess.CompletedProcess[str]]:
    how = [f"hydra/launcher={launcher}"] if launcher != "basic" else []
    return timed("-m", *how, *arguments, f"hydra.sweep.dir={folder}")


def succeeded(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        sys.exit(f"{' '.join(done.args)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def overhead(folder: Path, repeats: int) -> dict[str, Any]:
    """One job, alone and under Ray, in turn, so that other work on the machine weighs on both alike."""
    job = ["model=sasrec", "trainer.max_epochs=10", *SMALL]
    alone, swept_s, four_s = [], [], []
    timed(*job, f"hydra.run.dir={folder}/warm")
    for number in range(repeats):
        seconds, done = timed(*job, f"hydra.run.dir={folder}/alone{number}")
        succeeded(done)
        alone.append(seconds)
        seconds, done = swept(folder / f"one{number}", "hydra.launcher.slots=1", *job, "seed=1")
        succeeded(done)
        swept_s.append(seconds)
        seconds, done = swept(folder / f"four{number}", "hydra.launcher.slots=1", *job, "seed=1,2,3,4")
        succeeded(done)
        four_s.append(seconds)
    middle = [statistics.median(values) for values in (alone, swept_s, four_s)]
    return {
        "alone_s": alone,
        "sweep_of_one_s": swept_s,
        "sweep_of_four_s": four_s,
        "overhead_of_one_s": middle[1] - middle[0],
        "overhead_per_job_of_four_s": middle[2] / 4 - middle[0],
    }


def packing(folder: Path) -> dict[str, Any]:
    """Jobs that sleep for the most part would pack on any machine: these compute."""
    job = ["model=sasrec", *SMALL]
    seconds, done = timed(*job, "trainer.max_epochs=20", f"hydra.run.dir={folder}/try")
    succeeded(done)
    record = json.loads((folder / "try/results.json").read_text())
    epoch = statistics.median(record["timing"]["train_epoch_s"])
    fixed = seconds - record["timing"]["total_s"]
    per_epoch = max(epoch, (record["timing"]["total_s"] - record["timing"]["prepare_s"]) / 20)
    epochs = max(1, round((20 - fixed) / per_epoch))
    limits = [f"trainer.max_epochs={epochs}", "callbacks=checkpoints"]
    alone, done = timed(*job, *limits, f"hydra.run.dir={folder}/alone")
    succeeded(done)
    seeds = ",".join(map(str, range(16)))
    seconds, done = swept(folder / "sixteen", "hydra.launcher.slots=2", *job, *limits, f"seed={seeds}")
    succeeded(done)
    return {"job_alone_s": alone, "sweep_s": seconds, "ideal_s": 8 * alone, "times_the_ideal": seconds / (8 * alone)}


def table_of(folder: Path) -> dict[str, Any]:
    """What two sweeps share that did the same: of each run its metrics and epochs, by its id."""
    found: dict[str, Any] = {}
    for file in folder.glob("*/results.json"):
        results = json.loads(file.read_text())
        kept = {key: results[key] for key in ("status", "metrics", "best_epoch", "epochs", "history")}
        if results["run_id"] in found:
            sys.exit(f"{file} is a run that another folder holds already.")
        found[results["run_id"]] = kept
    return found


def undisturbed(folder: Path) -> dict[str, Any]:
    if not (folder / "whole").exists():
        succeeded(swept(folder / "whole", *SWEPT, launcher="basic")[1])
    return table_of(folder / "whole")


def while_it_runs(work: Callable[[threading.Event], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, beside which something is done until it ends."""
    over = threading.Event()
    beside = threading.Thread(target=work, args=(over,))
    beside.start()
    try:
        return timed(*arguments)[1]
    finally:
        over.set()
        beside.join()


def crash(folder: Path, kills: int) -> dict[str, Any]:
    place, drawn, killed = folder / "crash", random.Random(0), list[dict[str, Any]]()

    def kill(over: threading.Event) -> None:
        """Kill a running job now and then, never the same twice."""
        while len(killed) < kills and not over.wait(drawn.uniform(1.0, 4.0)):
            for file in place.glob("*/results.json"):
                results = json.loads(file.read_text())
                if results["status"] == "running" and file.parent.name not in [one["job"] for one in killed]:
                    os.kill(results["pid"], signal.SIGKILL)
                    killed.append({"job": file.parent.name, "after_epochs": results["epochs"]})
                    break

    whole = undisturbed(folder)
    how = ["-m", "hydra/launcher=ray", "hydra.launcher.slots=2", *SWEPT, f"hydra.sweep.dir={place}"]
    first = while_it_runs(kill, *how)
    said = first.stderr.count("killed: It was killed, perhaps for its memory.")
    again = timed(*how, "sweep.resume=true")[1]
    counts = next((line for line in again.stdout.splitlines() if " have finished, " in line), "")
    return {
        "jobs": len(whole),
        "killed": killed,
        "listed_as_killed": said,
        "exit_codes": [first.returncode, again.returncode],
        "resumed": counts,
        "equal": table_of(place) == whole,
    }


def node(folder: Path) -> dict[str, Any]:
    """Kill the node that runs a job, once both nodes run some."""
    from ray.cluster_utils import Cluster

    place, lost = folder / "node", list[str]()
    whole = undisturbed(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)

    def kill(over: threading.Event) -> None:
        while not over.wait(0.5):
            running = [json.loads(file.read_text()) for file in place.glob("*/results.json")]
            if sum(results["status"] == "running" and results["epochs"] > 2 for results in running) == 2:
                cluster.remove_node(second, allow_graceful=False)
                lost.append("second")
                return

    how = ["-m", "hydra/launcher=ray", *SWEPT, f"hydra.sweep.dir={place}"]
    try:
        first = while_it_runs(kill, *how, f"hydra.launcher.address={cluster.address}")
        finished = sum(one["status"] == "finished" for one in table_of(place).values())
        again = timed(*how, f"hydra.launcher.address={cluster.address}", "sweep.resume=true")[1]
    finally:
        cluster.shutdown()
    return {
        "jobs": len(whole),
        "nodes_killed": len(lost),
        "finished_all_the_same": finished,
        "exit_codes": [first.returncode, again.returncode],
        "said": [line for line in first.stdout.splitlines() if re.match(r"\[\d+/\d+\] ", line)],
        "resumed": next((line for line in again.stdout.splitlines() if " have finished, " in line), ""),
        "equal": table_of(place) == whole,
    }


def show(found: dict[str, Any]) -> None:
    table = Table("", "measured", title="sweep")
    if one := found.get("overhead"):
        table.add_row("overhead of a sweep of one job", f"{one['overhead_of_one_s']:.1f} s")
        table.add_row("overhead per job, of four", f"{one['overhead_per_job_of_four_s']:.1f} s")
    if one := found.get("packing"):
        ideal = (
            f"{one['times_the_ideal']:.2f} times the ideal ({one['sweep_s']:.0f} s, a job {one['job_alone_s']:.0f} s)"
        )
        table.add_row("16 jobs on 2 slots", ideal)
    for name in ("crash", "node"):
        if one := found.get(name):
            what = f"{len(one['killed'])} of {one['jobs']} jobs" if name == "crash" else "one of two nodes"
            same = "equal to" if one["equal"] else "DIFFERENT FROM"
            table.add_row(f"{what} killed, resumed once", f"{same} the undisturbed sweep")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("overhead", "packing", "crash", "node")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="the others keep their stored figures")
    parser.add_argument("--repeats", type=int, default=3, help="of the overhead")
    parser.add_argument("--kills", type=int, default=4, help="of jobs")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["SEQGEN_CACHE"] = str(folder / "cache")
        works: dict[str, Callable[[], dict[str, Any]]] = {
            "overhead": lambda: overhead(folder, options.repeats),
            "packing": lambda: packing(folder),
            "crash": lambda: crash(folder, options.kills),
            "node": lambda: node(folder),
        }
        for name in options.only:
            load = os.getloadavg()[0]
            found[name] = works[name]() | {"load_before": load}
            print(name, json.dumps({k: v for k, v in found[name].items() if k != "said"}), flush=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    print(f"Written: {options.json}")


if __name__ == "__main__":
    main()
