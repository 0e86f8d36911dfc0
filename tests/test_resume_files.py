"""What is left of a run is enough to go on to the result it would have had, or is refused in a sentence."""

import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import pytorch_lightning as L
from commands import start
from conftest import QUIET, TINY
from test_resume import Killed, alone

from seqgen.callbacks import AtomicCheckpointIO, BestCheckpoint
from seqgen.checkpoint import read_checkpoint
from seqgen.errors import UserError

SMALL = ("model=sasrec", "model.hidden_dim=16", "model.dropout=0.1", "optimizer.lr=0.003", "seed=13")


def outcome(folder: Path) -> tuple[Any, ...]:
    """What two runs of the same outcome share, to the last bit."""
    results = json.loads((folder / "results.json").read_text())
    weights = read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]
    best = read_checkpoint(folder / f"checkpoints/epoch_{results['best_epoch']:03d}.ckpt")["state_dict"]
    tensors = {name: [part[name].numpy().tobytes() for part in (weights, best)] for name in weights}
    kept = [results[name] for name in ("status", "run_id", "history", "metrics", "best_epoch", "epochs")]
    return *kept, tensors, pl.read_parquet(folder / "ranks.parquet").to_dicts()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs that is not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGEN_CACHE", str(folder / "cache"))
        results = start(folder / "run", *SMALL, "trainer.max_epochs=4")
    scores = [epoch["val/ndcg@10"] for epoch in results["history"]]
    assert scores[2] > max(scores[:2])  # the kills below happen in an epoch that improves
    return folder / "run"


DIES = """
import os, sys, torch
save = torch.save
def save_half(checkpoint, stream):
    if "last" in stream.name and checkpoint["epoch"] == 2:
        stream.write(b"PK half")
        stream.flush()
        os._exit(9)
    save(checkpoint, stream)
torch.save = save_half
from seqgen.run import main
main()
"""


@pytest.mark.slow
def test_a_process_killed_in_the_midst_of_a_checkpoint_is_resumed(tmp_path: Path, whole: Path) -> None:
    arguments = [*TINY, *QUIET, *SMALL, "trainer.max_epochs=4", f"hydra.run.dir={tmp_path}/killed"]
    (tmp_path / "dies.py").write_text(DIES)  # Hydra finds its main module by the name of a file
    line = [sys.executable, "dies.py", *arguments]
    died = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert died.returncode == 9, died.stderr
    assert (tmp_path / "killed/checkpoints/last.ckpt.part").read_bytes() == b"PK half"
    alone(tmp_path / "killed/checkpoints/last.ckpt", tmp_path / "resumed")
    assert outcome(tmp_path / "resumed") == outcome(whole)


def test_a_checkpoint_depends_on_no_other_file(tmp_path: Path, whole: Path) -> None:
    start(tmp_path / "first", *SMALL, "trainer.max_epochs=4", "optimizer.lr=0.2")
    results = json.loads((tmp_path / "first/results.json").read_text())
    assert results["best_epoch"] < 3  # so that last.ckpt is not the best itself
    (tmp_path / "moved").mkdir()
    (tmp_path / "first/checkpoints/last.ckpt").rename(tmp_path / "moved/any.ckpt")
    for file in (tmp_path / "first/checkpoints").iterdir():
        file.unlink()
    again = alone(tmp_path / "moved/any.ckpt", tmp_path / "again")
    assert again["metrics"] == results["metrics"]
    assert again["best_epoch"] == results["best_epoch"]
    best = tmp_path / f"again/checkpoints/epoch_{results['best_epoch']:03d}.ckpt"
    with pytest.raises(UserError, match=r"holds weights alone; resume from last\.ckpt"):
        alone(best, tmp_path / "weights")
    tested = alone(best, tmp_path / "tested", "train=false")
    assert tested["metrics"] == {k: v for k, v in results["metrics"].items() if k.startswith("test/")}


def test_altered_bytes_are_recognised(tmp_path: Path, whole: Path) -> None:
    intact = (whole / "checkpoints/last.ckpt").read_bytes()
    original = read_checkpoint(whole / "checkpoints/last.ckpt")["state_dict"]
    path, generator = tmp_path / "altered.ckpt", random.Random(1)
    refused = 0
    for _ in range(100):
        altered = bytearray(intact)
        for place in generator.sample(range(len(intact)), 4):
            altered[place] ^= 1 << generator.randrange(8)
        path.write_bytes(altered)
        try:
            kept = read_checkpoint(path)["state_dict"]
        except UserError:
            refused += 1
        else:  # four bytes of padding between the parts
            assert all(kept[name].equal(value) for name, value in original.items())
    assert refused > 80
    for cut in (0, 1, len(intact) // 2, len(intact) - 1):
        path.write_bytes(intact[:cut])
        with pytest.raises(UserError, match=r"altered\.ckpt cannot be read as a checkpoint; it is cut off"):
            read_checkpoint(path)


def altered(path: Path) -> None:
    """A bit of the largest part: between the parts are bytes that nobody reads."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
        place = content.index(archive.read(part), part.header_offset)
    content[place + part.file_size // 2] ^= 1
    path.write_bytes(content)


def test_in_place_of_a_last_checkpoint_that_is_gone_the_best_is_resumed(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "first", *SMALL, "trainer.max_epochs=3")
    last = tmp_path / "first/checkpoints/last.ckpt"
    last.unlink()
    resumed = alone(last, tmp_path / "resumed", "trainer.max_epochs=4")
    printed = capsys.readouterr().out
    assert printed.count("Warning: ") == 1
    assert f"The run goes on from {tmp_path}/first/checkpoints/epoch_002.ckpt, after epoch 2." in printed
    assert resumed["config"]["ckpt_path"].endswith("epoch_002.ckpt")
    assert outcome(tmp_path / "resumed") == outcome(whole)


def test_in_place_of_an_altered_last_checkpoint_the_one_before_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = (*SMALL, "optimizer.lr=0.2", "trainer.max_epochs=6")
    whole = start(tmp_path / "whole", *how)
    assert whole["best_epoch"] < 3  # so that the best would cost more
    assert not (tmp_path / "whole/checkpoints/previous.ckpt").exists()
    save = AtomicCheckpointIO.save_checkpoint

    def until(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if checkpoint["epoch"] == 5:
            raise Killed
        save(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patched:
        patched.setattr(AtomicCheckpointIO, "save_checkpoint", until)
        with pytest.raises(Killed):
            start(tmp_path / "cut", *how)
    last = tmp_path / "cut/checkpoints/last.ckpt"
    altered(last)
    alone(last, tmp_path / "resumed")
    assert f"The run goes on from {tmp_path}/cut/checkpoints/previous.ckpt, after epoch 3." in capsys.readouterr().out
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")


def test_where_nothing_else_is_left_a_broken_checkpoint_is_refused(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes((whole / "checkpoints/last.ckpt").read_bytes())
    altered(path)
    for more in ((), ("train=false",)):
        with pytest.raises(UserError, match=r"last\.ckpt was altered after it was written: the checksum of its part"):
            alone(path, tmp_path / "resumed", *more)
    assert json.loads((tmp_path / "resumed/results.json").read_text())["status"] == "failed"
    with pytest.raises(UserError, match=r"none\.ckpt is not a file"):
        alone(whole / "checkpoints/none.ckpt", tmp_path / "resumed")


def test_early_stopping_waits_for_the_least_epochs_after_a_resume_too(tmp_path: Path) -> None:
    how = [*SMALL, "optimizer.lr=0.5", "callbacks.early_stopping.patience=1", "trainer.max_epochs=9"]
    whole = start(tmp_path / "whole", *how, "trainer.min_epochs=6")
    assert whole["epochs"] == 6
    start(tmp_path / "first", *how[:-1], "trainer.max_epochs=5", "trainer.min_epochs=5")
    last = tmp_path / "first/checkpoints/last.ckpt"
    again = alone(last, tmp_path / "again", "trainer.max_epochs=9", "trainer.min_epochs=6")
    assert again["history"] == whole["history"]
    assert again["metrics"] == whole["metrics"]


@pytest.mark.parametrize("scheduler", ["cosine", "warmup"])
def test_schedules_go_on_where_they_were(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = [*SMALL, f"scheduler={scheduler}", "trainer.max_epochs=4"]
    start(tmp_path / "whole", *how)

    class Stop(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 2:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BestCheckpoint, "on_train_epoch_start", Stop.on_train_epoch_start)
        with pytest.raises(Killed):
            start(tmp_path / "killed", *how)
    alone(tmp_path / "killed/checkpoints/last.ckpt", tmp_path / "resumed")
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")
