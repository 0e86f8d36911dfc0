"""What a run survives and what it refuses: kills, broken and forged checkpoints, malformed logs, bad settings.

    python benchmarks/reliability.py            # about ten minutes on two cores
    python benchmarks/reliability.py --kills 4

- Kills: SIGKILL at a random moment of training, validation, the writing of a checkpoint or the test, of four model
  families on generated data. The run goes on from `ckpt_path=` alone, or starts again where it had no checkpoint yet,
  and must end as the run that was never killed: the same history, metrics, ranks and weights to the last bit.
  With two threads, as their order must not matter.
- Broken checkpoints: a last.ckpt that is torn, altered, emptied or gone is resumed all the same, from the one before
  it, with a warning, and must end likewise.
- Forged checkpoints: a class outside seqgen in a part of the stored configuration, given to resume, test, diagnose and
  `seqgen.load`.
- Malformed logs (`tests/data/malformed.py`) and bad settings (`tests/bad_settings.py`): refused in words, read with a
  line that says so, a bare trace, or silence. The last two must be 0.

Prints a table and writes benchmarks/results/reliability.json.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2
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


# What is being done, and how many times in a run at the least, before the kill.
PHASES = {"training": 12, "validation": 6, "checkpoint": 7, "test": 1}


def started(folder: Path, *overrides: str, dies: str = "") -> int:
    """Run `seqgen.run`, here in the name of this file, so that it can die; its exit code."""
    command = [sys.executable, __file__, "--run", dies, *overrides, f"hydra.run.dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode


def run_here(dies: str, arguments: list[str]) -> None:
    """`seqgen.run`, killed some milliseconds after something is done for the n-th time: `training:3:2.5`."""
    from seqgen.callbacks import AtomicCheckpointIO
    from seqgen.model.base import SequentialRecommender
    from seqgen.run import main as run

    if dies:
        phase, count, milliseconds = dies.split(":")
        places = {"training": "training_step", "validation": "validation_step", "test": "test_step"}
        owner: Any = AtomicCheckpointIO if phase == "checkpoint" else SequentialRecommender
        name = places.get(phase, "save_checkpoint")
        do, left = getattr(owner, name), [int(count)]

        def until(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                threading.Timer(float(milliseconds) / 1e3, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return do(*given, **named)

        setattr(owner, name, until)
    sys.argv[1:] = arguments
    run()


def outcome(folder: Path) -> dict[str, Any]:
    """What two equal runs share."""
    results = json.loads((folder / "results.json").read_text())
    kept = {key: results[key] for key in ("status", "run_id", "history", "metrics", "best_epoch", "epochs")}
    for name in ("last", f"epoch_{results['best_epoch']:03d}"):
        state = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        kept[name] = {key: value.numpy().tobytes() for key, value in state.items()}
    return kept | {"ranks": pl.read_parquet(folder / "ranks.parquet").to_dicts()}


def kills(count: int, folder: Path) -> list[dict[str, Any]]:
    """Kill and go on, in turn over the families and what they are doing."""
    drawn, rows = random.Random(0), []
    for name, overrides in FAMILIES.items():
        if started(folder / name, *overrides, *DATA, *QUIET):
            sys.exit(f"{name} does not run at all.")
    for number in range(count):
        name = list(FAMILIES)[number % len(FAMILIES)]
        phases = [*PHASES, drawn.choice(list(PHASES))]
        phase = phases[number // len(FAMILIES) % len(phases)]
        turn, milliseconds = drawn.randint(1, PHASES[phase]), drawn.uniform(0, 8)
        place = folder / f"{name}-{number}"
        while started(place, *FAMILIES[name], *DATA, *QUIET, dies=f"{phase}:{turn}:{milliseconds}") != -signal.SIGKILL:
            milliseconds /= 2  # it had ended before
            shutil.rmtree(place)
        cut = json.loads((place / "results.json").read_text())
        resumable = any(place.glob("checkpoints/*.ckpt"))
        more = [f"ckpt_path={place}/checkpoints/last.ckpt"] if resumable else [*FAMILIES[name], *DATA, *QUIET]
        again = place.with_name(f"{place.name}-on")
        same = started(again, *more) == 0 and outcome(again) == outcome(folder / name)
        row = {"family": name, "killed_in": phase, "killed_after_epochs": cut["epochs"]}
        rows.append(row | {"then": "resumed" if resumable else "started again", "equal": same})
        print(rows[-1], flush=True)
    return rows


def damages(content: bytes) -> Iterator[tuple[str, bytes | None]]:
    """What can become of a file: its new content, None where it is gone."""
    drawn = random.Random(1)
    for share in (0.0, 0.001, 0.3, 0.7, 0.999):
        yield "torn", content[: int(share * len(content))]
    for count in (1, 1, 1, 4, 4, 4):
        altered = bytearray(content)
        for _ in range(count):
            altered[drawn.randrange(len(content) // 4, len(content) // 2)] ^= 1 << drawn.randrange(8)
        yield "altered", bytes(altered)
    for start in (0.25, 0.5):
        first, size = int(start * len(content)), len(content) // 8
        yield "zeroed", content[:first] + bytes(size) + content[first + size :]
    yield "another kind of file", b"last.ckpt"
    yield "gone", None


def broken(folder: Path) -> list[dict[str, Any]]:
    """Resume from the folder of a run of sasrec, four epochs of six long, whose last.ckpt is broken."""
    cut = folder / "four"
    started(cut, *FAMILIES["sasrec"], *DATA, *QUIET, "trainer.max_epochs=4")
    rows = []
    for number, (damage, content) in enumerate(damages((cut / "checkpoints/last.ckpt").read_bytes())):
        place = folder / f"broken{number}"
        shutil.copytree(cut, place)
        last = place / "checkpoints/last.ckpt"
        last.unlink()
        if content is not None:
            last.write_bytes(content)
        again = folder / f"broken{number}-on"
        code = started(again, f"ckpt_path={last}", "trainer.max_epochs=6")
        used = json.loads((again / "results.json").read_text())["config"]["ckpt_path"]
        same = code == 0 and outcome(again) == outcome(folder / "sasrec")
        rows.append({"damage": damage, "recognised": used != str(last), "equal": same})
        print(rows[-1], flush=True)
    return rows


def forged(folder: Path) -> dict[str, str]:
    """What becomes of a checkpoint whose configuration would execute code, by the part and who is given it."""
    import seqgen
    from seqgen import cli

    mark = folder / "executed"
    node = {"_target_": "os.system", "command": f"touch {mark}"}
    answers = {}
    honest = torch.load(folder / "sasrec/checkpoints/last.ckpt", weights_only=True)
    for key in ("data", "data.source", "model", "model.loss", "model.attention", "callbacks.more", "trainer", "logger"):
        checkpoint = copy.deepcopy(honest)
        *parents, last = key.split(".")
        place = checkpoint["seqgen"]["config"]
        for parent in parents:
            place = place[parent]
        place[last] = node
        path = folder / "forged.ckpt"
        torch.save(checkpoint, path)
        lines = {"resume": ["seqgen.run"], "test": ["seqgen.run", "train=false"]}
        lines |= {"diagnose": ["seqgen.diagnose"]} if key.startswith(("data", "model")) else {}
        for name, line in lines.items():
            command = [sys.executable, "-m", *line, f"ckpt_path={path}", f"hydra.run.dir={folder}/{name}"]
            shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            refused = shown.returncode and "none of the parts that seqgen builds" in shown.stderr
            answers[f"{name}, {key}"] = "EXECUTED" if mark.exists() else "blocked" if refused else "ran"
        if key.startswith("model"):
            try:
                seqgen.load(path)
                answers[f"load, {key}"] = "ran"
            except Exception as error:
                refused = cli.sentence(error, []) is not None and not mark.exists()
                answers[f"load, {key}"] = "blocked" if refused else "EXECUTED"
    return answers


def answered(work: Any) -> str:
    """How something wrong is answered: refused, line, trace or silent."""
    from seqgen import cli

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            work()
    except BaseException as error:
        return "trace" if cli.sentence(error, []) is None else "refused"
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
    torch.set_num_threads(THREADS)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):  # that W&B has no account is one bad setting
        os.environ.pop(name, None)
    os.environ["NETRC"] = os.devnull
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["SEQGEN_CACHE"] = str(folder / "cache")
        killed = kills(options.kills, folder)
        found: dict[str, Any] = {"kills": killed, "broken": broken(folder), "forged": forged(folder)}
        found["malformed_logs"] = dict(malformed_logs(folder))
        found["bad_settings"] = dict(bad_settings(folder))
    table = Table(title="reliability")
    for title in ("", "tried", "answered"):
        table.add_column(title)
    survived = sum(row["equal"] for row in killed)
    table.add_row("kills", str(len(killed)), f"{survived} ended as the run that was never killed")
    went_on = sum(row["equal"] for row in found["broken"])
    table.add_row("broken checkpoints", str(len(found["broken"])), f"{went_on} ended as the run that was never stopped")
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
    if sys.argv[1:2] == ["--run"]:
        run_here(sys.argv[2], sys.argv[3:])
    else:
        main()
