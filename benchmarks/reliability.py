"""What a run survives and what it refuses: kills, broken and forged checkpoints, malformed logs, bad settings.

    python benchmarks/reliability.py            # about ten minutes on two cores
    python benchmarks/reliability.py --kills 4

- Kills: SIGKILL at a random moment of training, validation, checkpoint or test, of four model families on generated
  data. The run goes on from `ckpt_path=` alone, or starts again where it had no checkpoint yet, and must end as the run
  that was never killed: the same history, metrics, ranks and weights to the last bit.
- Forged checkpoints: a class outside seqgen in the stored configuration, given to resume, test, diagnose and
  `seqgen.load`.
- Malformed logs (`tests/data/malformed.py`) and bad settings (`tests/bad_settings.py`): refused in words, read with a
  line that says so, a bare trace, or silence. The last two must be 0.

Prints a table and writes benchmarks/results/reliability.json.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "data")]

FAMILIES = {
    "sasrec": ["model=sasrec"],
    "mqsa_ted": ["model=mqsa_ted"],
    "cddrec": ["model=cddrec", "model.hidden_dim=32", "model.views.crop=0.6"],
    "genatt": ["model=genatt", "attention=vae"],
}
DATA = ["data.source.num_users=400", "trainer=cpu", "trainer.max_epochs=6", "print_config=false"]
QUIET = ["trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"]


def started(folder: Path, *overrides: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "seqgen.run", *overrides, f"hydra.run.dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until_built(run: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait until a run has built its model, and is about to train."""
    while run.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((folder / "results.json").read_text())["parameters"]:
                return
        time.sleep(0.02)


def outcome(folder: Path, trained: Path) -> dict[str, Any]:
    """What two equal runs share."""
    results = json.loads((folder / "results.json").read_text())
    state = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    kept = {key: results[key] for key in ("status", "run_id", "history", "metrics", "best_epoch", "epochs")}
    return kept | {"state": state, "ranks": pl.read_parquet(folder / "ranks.parquet")}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    plain = all(one[key] == other[key] for key in one.keys() - {"state", "ranks"})
    weights = all(torch.equal(one["state"][name], value) for name, value in other["state"].items())
    return plain and weights and one["ranks"].equals(other["ranks"])


def kills(count: int, folder: Path) -> list[dict[str, Any]]:
    """Kill and go on, in turn over the families."""
    drawn, rows, whole = random.Random(0), [], {}
    for name, overrides in FAMILIES.items():
        run = started(folder / name, *overrides, *DATA, *QUIET)
        until_built(run, folder / name)
        began = time.monotonic()
        if run.wait():
            sys.exit(f"{name} does not run at all.")
        whole[name] = (outcome(folder / name, folder / name), time.monotonic() - began)
    for number in range(count):
        name = list(FAMILIES)[number % len(FAMILIES)]
        expected, seconds = whole[name]
        place = folder / f"{name}-{number}"
        run = started(place, *FAMILIES[name], *DATA, *QUIET)
        until_built(run, place)
        time.sleep(drawn.uniform(0.1, 1.0) * seconds)
        run.send_signal(signal.SIGKILL)
        run.wait()
        last = place / "checkpoints" / "last.ckpt"
        cut = json.loads((place / "results.json").read_text()) if (place / "results.json").is_file() else {}
        again = place.with_name(f"{place.name}-on")
        more = [f"ckpt_path={last}"] if last.is_file() else [*FAMILIES[name], *DATA, *QUIET]
        code = started(again, *more).wait()
        ended = again / "checkpoints/last.ckpt"
        same = code == 0 and equal(outcome(again, again if ended.is_file() else place), expected)
        how = "resumed" if last.is_file() else "started again"
        rows.append({"family": name, "killed_after_epochs": cut.get("epochs", 0), "then": how, "equal": same})
        print(rows[-1], flush=True)
    return rows


def forged(folder: Path) -> dict[str, str]:
    """What becomes of a checkpoint whose configuration would execute code, by who is given it."""
    import seqgen
    from seqgen import config

    run = folder / "honest"
    started(run, "model=sasrec", *DATA, *QUIET, "trainer.max_epochs=1").wait()
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    mark = folder / "executed"
    node = {"_target_": "os.system", "command": f"touch {mark}"}
    for group in ("data", "model", "logger", "callbacks", "optimizer"):
        checkpoint["seqgen"]["config"][group] = node
    path = folder / "forged.ckpt"
    torch.save(checkpoint, path)
    answers = {}
    for name, line in {
        "resume": ["seqgen.run", f"ckpt_path={path}", "trainer.max_epochs=2"],
        "test": ["seqgen.run", f"ckpt_path={path}", "train=false"],
        "diagnose": ["seqgen.diagnose", f"ckpt_path={path}"],
    }.items():
        command = [sys.executable, "-m", *line, f"hydra.run.dir={folder}/{name}"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        answers[name] = "blocked" if shown.returncode and not mark.exists() else "EXECUTED" if mark.exists() else "ran"
    try:
        seqgen.load(path)
        answers["load"] = "ran"
    except Exception as error:
        refused = config.sentence(error, []) is not None and not mark.exists()
        answers["load"] = "blocked" if refused else "EXECUTED"
    return answers


def answered(work: Any) -> str:
    """How something wrong is answered: refused, line, trace or silent."""
    from seqgen import config

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            work()
    except BaseException as error:
        return "trace" if config.sentence(error, []) is None else "refused"
    return "line" if "Notice: " in printed.getvalue() else "silent"


def malformed_logs(folder: Path) -> Counter[str]:
    from malformed import MALFORMED  # type: ignore[import-not-found]

    from seqgen import config

    counts: Counter[str] = Counter()
    for number, (_, write, _) in enumerate(MALFORMED):
        place = folder / f"log{number}"
        (place / "raw").mkdir(parents=True)
        overrides = [*write(place / "raw"), f"paths.cache_dir={place}/cache"]
        cfg = config.compose(overrides, output_dir=place)
        counts[answered(lambda cfg=cfg: config.build(cfg, "data").catalog)] += 1
    return counts


def bad_settings(folder: Path) -> Counter[str]:
    from bad_settings import BAD_SETTINGS  # type: ignore[import-not-found]
    from conftest import TINY  # type: ignore[import-not-found]

    from seqgen import config
    from seqgen.run import run

    os.chdir(ROOT)
    counts: Counter[str] = Counter()
    for number, (overrides, _) in enumerate(BAD_SETTINGS):
        tiny = [] if "data=ml1m" in overrides else [*TINY]
        given = [*tiny, *QUIET, "print_config=false", *overrides]
        place = folder / f"setting{number}"
        counts[answered(lambda given=given, place=place: run(config.compose(given, output_dir=place)))] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):  # that W&B has no account is one bad setting
        os.environ.pop(name, None)
    os.environ["NETRC"] = os.devnull
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["SEQGEN_CACHE"] = str(folder / "cache")
        killed = kills(options.kills, folder)
        found: dict[str, Any] = {"kills": killed, "forged": forged(folder)}
        found["malformed_logs"] = dict(malformed_logs(folder))
        found["bad_settings"] = dict(bad_settings(folder))
    table = Table(title="reliability")
    for title in ("", "tried", "answered"):
        table.add_column(title)
    survived = sum(row["equal"] for row in killed)
    table.add_row("kills", str(len(killed)), f"{survived} ended as the run that was never killed")
    blocked = sum(answer == "blocked" for answer in found["forged"].values())
    table.add_row("forged checkpoints", str(len(found["forged"])), f"{blocked} blocked")
    for kind in ("malformed_logs", "bad_settings"):
        counts = {how: found[kind].get(how, 0) for how in ("refused", "line", "trace", "silent")}
        table.add_row(
            kind.replace("_", " "), str(sum(counts.values())), ", ".join(f"{n} {h}" for h, n in counts.items())
        )
    Console().print(table)
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Written: {options.json}")


if __name__ == "__main__":
    main()
