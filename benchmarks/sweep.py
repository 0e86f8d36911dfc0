"""What a sweep under Ray costs and survives: overhead of a job, packing of the slots, killed jobs, a killed node.

    python benchmarks/sweep.py                # about a quarter of an hour on two cores
    python benchmarks/sweep.py --only crash node
    SEQGEN_DATA=... python benchmarks/sweep.py --only page --keep page.html    # about twenty minutes more

- overhead: seconds of one job under `hydra/launcher=ray` above those of the same run alone, both from the start of the
  command to its end, prepared data from the cache. Several jobs share the start of Ray: it is given apart, as the time
  of the whole command, and per job in a sweep of four on one slot.
- packing: 16 jobs of about 20 s on 2 slots, beside the ideal: eight times the time of a job.
- crash: SIGKILL for jobs at random moments of a sweep over two models and three seeds, then `sweep.resume=true` once;
  the runs must be those of the sweep that nobody disturbed, to the last bit.
- node: two nodes of Ray's cluster utility, one killed in the middle; the sweep goes on with the rest and ends with exit
  code 1, and `sweep.resume=true` finishes it, likewise.
- page: two real data sets x four kinds of attention x three seeds, and a fifth kind whose six jobs fail by design. A
  job is killed, then one of two nodes; resumed once, the report must hold the numbers of the sweep that nobody
  disturbed, and the jobs that fail by design as such.

Prints a table and writes benchmarks/results/sweep.json.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sweep.json"
RUN = [sys.executable, "-m", "seqgen.run"]
QUIET = ["trainer=cpu", "print_config=false", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"]
SMALL = ["data.source.num_users=400", *QUIET]
DATA, KINDS, BROKEN = ("ml100k", "ml_latest_small"), ("softmax", "multi_query", "vae", "diffusion"), "three_heads"
REAL = ["model=genatt", "trainer.max_epochs=6", "data.batch_size=128", "seed=1,2,3", *QUIET]
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


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """Ray's address, and what kills the second node."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    try:
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in folder.glob("*/results.json")]


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
    place, lost = folder / "node", list[str]()
    whole = undisturbed(folder)
    how = ["-m", "hydra/launcher=ray", *SWEPT, f"hydra.sweep.dir={place}"]
    with two_nodes() as (address, kill_second):

        def kill(over: threading.Event) -> None:
            while not over.wait(0.5):
                if sum(one["status"] == "running" and one["epochs"] > 2 for one in records(place)) == 2:
                    kill_second()
                    lost.append("second")
                    return

        first = while_it_runs(kill, *how, f"hydra.launcher.address={address}")
        finished = sum(one["status"] == "finished" for one in table_of(place).values())
        again = timed(*how, f"hydra.launcher.address={address}", "sweep.resume=true")[1]
    return {
        "jobs": len(whole),
        "nodes_killed": len(lost),
        "finished_all_the_same": finished,
        "exit_codes": [first.returncode, again.returncode],
        "said": [line for line in first.stdout.splitlines() if re.match(r"\[\d+/\d+\] ", line)],
        "resumed": next((line for line in again.stdout.splitlines() if " have finished, " in line), ""),
        "equal": table_of(place) == whole,
    }


def page(folder: Path, keep: Path | None) -> dict[str, Any]:
    """A comparison on real data that a job, a node and six failing jobs disturb, from the command to its page."""
    (folder / "conf/attention").mkdir(parents=True)
    broken = (ROOT / "conf/attention/softmax.yaml").read_text().replace("num_heads: 1", "num_heads: 3")
    (folder / f"conf/attention/{BROKEN}.yaml").write_text(broken)
    kinds = ",".join((KINDS[0], BROKEN, *KINDS[1:]))
    swept = [f"data={','.join(DATA)}", *REAL]
    how = ["-m", "hydra/launcher=ray", f"attention={kinds}", *swept, f"hydra.searchpath=[file://{folder}/conf]"]
    quiet = ["-m", "hydra/launcher=ray", f"attention={','.join(KINDS)}", *swept, f"hydra.sweep.dir={folder}/quiet"]
    succeeded(timed(*quiet, "hydra.launcher.slots=2")[1])
    whole, place, killed, pids = table_of(folder / "quiet"), folder / "page", list[str](), set[int]()
    with two_nodes() as (address, kill_second):

        def kill(over: threading.Event) -> None:
            """A job in the middle of its training once three have finished, a node once six have and both run one."""
            while len(killed) < 2 and not over.wait(0.3):
                found = records(place)
                finished = sum(one["status"] == "finished" for one in found)
                running = [one for one in found if one["status"] == "running" and one["epochs"] < 5]
                running = [one for one in running if one["pid"] not in pids]  # a killed one's record stays as it was
                training = [one["pid"] for one in running if one["epochs"] > 1]
                if not killed and finished >= 3 and training:
                    pids.add(training[0])
                    os.kill(training[0], signal.SIGKILL)
                    killed.append("job")
                elif killed and finished >= 6 and len(running) == 2:
                    kill_second()
                    killed.append("node")

        how += [f"hydra.sweep.dir={place}", f"hydra.launcher.address={address}"]
        first = while_it_runs(kill, *how)
        again = timed(*how, "sweep.resume=true")[1]
    output = folder / "page.html"
    told = [*("-m", "seqgen.report", str(place), "--html", str(output), "--csv", str(folder / "page.csv"))]
    subprocess.run([sys.executable, *told], cwd=ROOT, env=environment(), check=True, capture_output=True)
    if keep:
        shutil.copy(output, keep)
    ended = {one["run_id"]: one["status"] for one in records(place) if one["run_id"]}
    return {
        "jobs": len(whole) + 6,
        "killed": killed,
        "exit_codes": [first.returncode, again.returncode],
        "listed_at_first": re.findall(r"^(killed|failed|stopped): ", first.stderr, flags=re.MULTILINE),
        "resumed": next((line for line in again.stdout.splitlines() if " have finished, " in line), ""),
        "failed_by_design": sum(status == "failed" for status in ended.values()),
        "equal": {k: v for k, v in table_of(place).items() if v["status"] == "finished"} == whole,
        "page_equal": means_of(folder / "page.csv") == means(records(folder / "quiet")),
    }


def means(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Test NDCG@10 of each data set and kind of attention, seeds averaged, as far as the CSV shows digits."""
    found = defaultdict[str, list[float]](list)
    for run in runs:
        found[f"{run['choices']['data']} {run['choices']['attention']}"].append(run["metrics"]["test/ndcg@10"])
    return {name: round(statistics.mean(values), 12) for name, values in found.items()}


def means_of(file: Path) -> dict[str, float]:
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    return {f"{row['data']} {row['attention']}": round(float(row["test/ndcg@10"]), 12) for row in rows}


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
    if one := found.get("page"):
        same = "equal to" if one["equal"] and one["page_equal"] else "DIFFERENT FROM"
        what = f"{one['jobs']} jobs on real data, {' and '.join(one['killed'])} killed, {one['failed_by_design']} fail"
        table.add_row(f"{what}, resumed once", f"runs and page {same} the undisturbed sweep's")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("overhead", "packing", "crash", "node", "page")
    usual = parts if os.environ.get("SEQGEN_DATA") else parts[:-1]
    parser.add_argument("--only", nargs="+", choices=parts, default=usual, help="the others keep their stored figures")
    parser.add_argument("--keep", type=Path, help="where to keep the page")
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
            "page": lambda: page(folder, options.keep),
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
