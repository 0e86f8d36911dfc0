"""Checkpoints survive what interrupts a run; a stopped run says so."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY

from seqgen import callbacks


def test_a_checkpoint_that_is_cut_off_leaves_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, path = callbacks.AtomicCheckpointIO(), tmp_path / "folder/last.ckpt"
    checkpoints.save_checkpoint({"epoch": 1}, path)

    def cut_off(_: Any, stream: Any) -> None:
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_a_signal_while_a_checkpoint_is_replaced_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, path, replace = callbacks.AtomicCheckpointIO(), tmp_path / "last.ckpt", os.replace
    checkpoints.save_checkpoint({"epoch": 0}, path)

    def told_to_stop(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        raise SystemExit(143)

    monkeypatch.setattr(os, "replace", told_to_stop)
    with pytest.raises(SystemExit):
        checkpoints.save_checkpoint({"epoch": 1}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert torch.load(tmp_path / "previous.ckpt", weights_only=True) == {"epoch": 0}
    assert sorted(found.name for found in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_each_step_has_noise_of_its_own_that_depends_on_its_counters_alone() -> None:
    class Trainer:
        current_epoch = 0
        global_rank = 0

    def noise(seed: int, step: int, whole: Any = None, **counters: int) -> float:
        trainer, batch = Trainer(), SimpleNamespace(whole=whole, targets=torch.zeros(1))
        for name, value in counters.items():
            setattr(trainer, name, value)
        callbacks.StepSeed(seed).on_train_batch_start(trainer, None, batch, step)  # type: ignore[arg-type]
        return torch.rand(()).item()

    first, wholes = noise(1, 0), [SimpleNamespace() for _ in range(2)]
    others = [noise(2, 0), noise(1, 1), noise(1, 0, current_epoch=1)]
    of_processes = [noise(1, 0, whole, global_rank=rank) for rank, whole in enumerate(wholes)]
    assert noise(1, 0) == first
    assert len({first, *others, *of_processes}) == 6
    # What is drawn for the whole batch is the same in all of them, and in one process alone.
    assert [torch.rand((), generator=whole.generator).item() for whole in wholes] == [first, first]


def test_peak_memory_starts_anew() -> None:
    block = torch.ones(60_000_000)  # 240 MB
    high = callbacks.peak_memory_mb(gpu=False)["host"]
    del block
    callbacks.reset_peak_memory()
    low = callbacks.peak_memory_mb(gpu=False)["host"]
    assert high is not None
    assert low is not None
    assert low < high - 150


@pytest.mark.slow
def test_a_terminated_run_is_on_record_as_stopped(tmp_path: Path) -> None:
    arguments = [*TINY, *QUIET, "trainer.max_epochs=100000", "callbacks=checkpoints", f"hydra.run.dir={tmp_path}/run"]
    run = subprocess.Popen([sys.executable, "-m", "seqgen.run", *arguments], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        results, deadline = tmp_path / "run/results.json", time.monotonic() + 120
        while time.monotonic() < deadline:
            if results.exists() and json.loads(results.read_text())["epochs"] > 1:
                break
            time.sleep(0.2)
        os.kill(run.pid, signal.SIGTERM)
        _, shown = run.communicate(timeout=60)
        assert run.returncode == 143
        again = f"; go on with: python -m seqgen.run ckpt_path={tmp_path}/run/checkpoints/last.ckpt\n"
        assert shown.decode().splitlines(keepends=True)[-1].endswith(again)
    finally:
        run.kill()
    content = json.loads(results.read_text())
    assert content["status"] == "stopped"
    assert content["epochs"] == len(content["history"]) > 1
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["epoch"] + 1 >= content["epochs"] - 1
