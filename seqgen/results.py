"""`results.json` and `ranks.parquet`: what a run leaves behind for `seqgen.report` and for anyone's own scripts.

`results.json` is written at the start (`running`) and replaced atomically after each epoch and at the end, in
whatever way the run ends. Keys are added, never renamed.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seqgen
from seqgen.ending import Ending
from seqgen.errors import Pruned
from seqgen.settings import quoted

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import polars as pl

FILE = "results.json"
LOST = "A process of this run was lost: killed, perhaps for its memory, or failed, as its own output says."
# What does not change a run's outcome is not part of its identity.
NOT_IDENTITY = (
    *("paths", "logger", "print_config", "tags", "task", "ckpt_path"),
    *("train", "test", "compile", "trust", "sweep", "show"),
)
NOT_IDENTITY_BELOW = {"trainer": "enable_.*|default_root_dir", "optimizer": "fused", "model": "shard_items"}


class RunRecord:
    """The content of one run's `results.json`.

    Args:
        folder: The run's output folder.
        config: The composed configuration as plain containers.
        choices: Option chosen in each group.
        overrides: The command line's overrides.
        write: False on all processes but the first, which never touch the file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: dict[str, Any],
        choices: dict[str, str],
        overrides: list[str],
        write: bool,
    ) -> None:
        self.folder, self.write_file = folder, write
        self.lock = threading.RLock()  # a run that is told to stop is put on record by a thread
        self.content: dict[str, Any] = {
            "status": "running",
            "error": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "run_id": None,
            "choices": choices,
            "overrides": overrides,
            "seed": config["seed"],
            "config": config,
            "version": _versions(),
            "device": None,
            "data": None,
            "parameters": None,
            "best_epoch": None,
            "epochs": 0,
            "history": [],
            "metrics": {},
            "timing": {},
            "peak_memory_mb": {},
        }
        self.update()

    def update(self, **content: Any) -> None:
        """Set these keys and write the file."""
        with self.lock:
            self._update(content)

    def _update(self, content: dict[str, Any]) -> None:
        self.content |= content
        if self.write_file:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / FILE) as beside:
                beside.write_text(json.dumps(_finite(self.content), indent=1, allow_nan=False))

    def bereaved(self) -> None:
        """Put on record, in a process that does not write, that the first one was killed before it could."""
        there = None if self.write_file else read_results(self.folder)
        if there is None or there.get("status") != "running" or there.get("host") != socket.gethostname():
            return
        deadline = time.monotonic() + 1.0  # a process that is being killed closes its connections first
        while is_alive(there):
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        with replacing(self.folder / FILE) as beside:
            beside.write_text(json.dumps(there | {"status": "failed", "error": LOST}, indent=1, allow_nan=False))

    def identify(self, fingerprint: str) -> None:
        """Set the run's id, from its configuration and its data."""
        self.update(run_id=run_id(self.content["config"], fingerprint))


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Write a file beside its place and move it there, so that a reader sees the old one or the new one, whole.

    Yields:
        Where to write.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    yield beside
    os.replace(beside, file)


def read_results(folder: Path) -> dict[str, Any] | None:
    """The `results.json` of a folder; None where there is none that can be read."""
    try:
        results = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return results if isinstance(results, dict) else None


def duration(seconds: float) -> str:
    """A duration in its two largest units, as in 45s, 13m, 2h05m, 3d04h."""
    if seconds < 59.5:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"


def best_of(results: dict[str, Any], monitor: str) -> float:
    """The largest value of a metric over a run's epochs; of a model without epochs its only value.

    Args:
        results: The content of its `results.json`.
        monitor: The metric, such as `val/ndcg@10`.

    Returns:
        Minus infinity where the metric is NaN or was not measured.
    """
    values = [epoch[monitor] for epoch in results["history"] if epoch.get(monitor) is not None]
    best = max(values, default=results["metrics"].get(monitor))
    return -math.inf if best is None or math.isnan(best) else best


def is_alive(results: dict[str, Any]) -> bool:
    """Whether the process that writes a `results.json` is still there, as far as this machine can tell."""
    pid = results.get("pid")
    if results.get("status") != "running" or results.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is there, and somebody else's
        return True
    with contextlib.suppress(OSError, IndexError):  # not Linux
        # Killed, and its parent has not looked yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def went(results: dict[str, Any], folder: Path) -> str:
    """What became of a run that has not finished, and how it goes on.

    Args:
        results: The content of its `results.json`.
        folder: Its folder.
    """
    status = results["status"]
    if results.get("pruned"):
        return str(results["error"])
    here = results.get("host") == socket.gethostname()
    if status == "running" and is_alive(results):
        return "running"
    if status == "running" and not here:
        return f"running on {results.get('host')}, or dead"
    return ("dead" if status == "running" else f"{status} ({results.get('error') or 'no error'})") + _again(folder)


def _again(folder: Path) -> str:
    # In place of a last one that was not written yet the best is taken.
    if not any(folder.glob("checkpoints/*.ckpt")):
        return ""
    override = f"ckpt_path={quoted(str(folder / 'checkpoints' / 'last.ckpt'))}"
    return f"; go on with: python -m seqgen.run {shlex.quote(override)}"


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides a run's outcome; two runs that share it are the same experiment."""
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    for group, keys in NOT_IDENTITY_BELOW.items():
        if kept.get(group):
            kept[group] = {key: value for key, value in kept[group].items() if not re.fullmatch(keys, key)}
    # Other keys hold copies of the paths, such as a checkpoint's folder, and of the checkpoint resumed from.
    text = json.dumps(kept)
    copies = {**(config.get("paths") or {}), "ckpt_path": config.get("ckpt_path")}
    for name, place in sorted(copies.items(), key=lambda item: -len(str(item[1]))):
        if place is not None and "/" in str(place):
            text = text.replace(json.dumps(str(place))[1:-1], f"<{name}>")
    same: dict[str, Any] = json.loads(text.replace('"<ckpt_path>"', "null"))
    return same


def run_id(config: dict[str, Any], fingerprint: str) -> str:
    """The id of a run.

    Args:
        config: Plain and resolved.
        fingerprint: Of its data.
    """
    text = json.dumps([identity(config), fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finite(value: Any) -> Any:
    """NaN and infinity as null, since JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def recorded(record: RunRecord, sentence: Callable[[BaseException], str | None], *, announce: bool) -> Iterator[None]:
    """Say in the record how the run ended, and finish its W&B run, in whatever way it ends.

    Args:
        record: The run's record.
        sentence: The sentence for an error; None where its type and text have to do.
        announce: Print an error at once, since Hydra reports an error of a sweep's job only after the last one.
    """
    environment = dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(ValueError):  # only the main thread may set a handler
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wandb_run = _wandb_run()
    failed = True

    def stopped() -> None:
        if ending.lost:
            record.update(status="failed", error=LOST)
        else:
            record.update(status="stopped", error="The run was interrupted.")
        record.bereaved()

    ending = Ending(stopped)
    try:
        with ending:
            yield
        record.update(status="finished", error=None)
        failed = False
    except Pruned as end:
        record.update(status="stopped", error=str(end), pruned=True)
        failed = False
        raise
    except (KeyboardInterrupt, SystemExit) as end:
        stopped()
        _say_stopped(record, end)
        if isinstance(end, SystemExit) and isinstance(end.__context__, KeyboardInterrupt):  # Lightning exits with 1
            raise SystemExit(128 + signal.SIGINT) from end
        raise
    except BaseException as error:
        if ending.signalled:  # what is lost in its wake, such as the other processes, is no failure
            stopped()
            _say_stopped(record, error)
            raise SystemExit(128 + signal.SIGTERM) from error
        text = sentence(error) or f"{type(error).__name__}: {error}"
        record.update(status="failed", error=text)
        record.bereaved()
        if announce and record.write_file:
            print(f"seqgen: {' '.join(record.content['overrides'])}: {text}", file=sys.stderr)
        raise
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, handler)
        if _wandb_run() is not wandb_run:
            sys.modules["wandb"].finish(exit_code=int(failed))
        # An offline W&B logger sets WANDB_MODE for the process, which would stick for the next job of a sweep.
        os.environ.clear()
        os.environ.update(environment)


def _say_stopped(record: RunRecord, end: BaseException) -> None:
    lost = "a process was lost" if record.content["error"] == LOST else "stopped"
    text = f"seqgen: {lost} after {record.content['epochs']} epochs{_again(record.folder)}"  # no stop: it is copied
    if isinstance(end, KeyboardInterrupt):  # which a command line prints with what it was told, and nothing else
        end.add_note(text)
    elif record.write_file:
        print(text, file=sys.stderr)


def _wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def write_ranks(folder: Path, cases: "pl.DataFrame", ranked: list[dict[str, Any]], item_ids: list[Any]) -> None:
    """Write `ranks.parquet`: the test cases with the target's rank and the ids of the recommended items.

    Args:
        folder: The run's output folder.
        cases: All test cases in order (`SequenceDataModule.test_cases`).
        ranked: Case indices (B,), ranks (B,) and recommended items (B, K) of each tested batch, in any order.
        item_ids: Original ids; item i is `item_ids[i - 1]`.
    """
    import polars as pl

    ids = pl.Series("id", [None, *item_ids])
    frames = []
    for part in ranked:
        top = part["top"].numpy()
        lists = ids.gather(top.ravel()).reshape(top.shape).arr.to_list().list.drop_nulls()
        frames.append(pl.DataFrame({"case": part["case"].numpy(), "rank": part["rank"].numpy(), "top": lists}))
    numbered = cases.with_row_index("case").with_columns(pl.col("case").cast(pl.Int64))
    joined = numbered.join(pl.concat(frames), on="case", how="inner").sort("case").drop("case")
    joined.write_parquet(folder / "ranks.parquet")


def _versions() -> dict[str, str | None]:
    import torch

    place = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(place), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        commit = found.stdout.strip() or None if (place / ".git").exists() else None
    except OSError:  # no git on this machine
        commit = None
    versions = {"seqgen": seqgen.__version__, "commit": commit, "torch": torch.__version__}
    return versions | {"python": platform.python_version()}
