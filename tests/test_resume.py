"""A run that was cut off goes on to the result it would have had, from `ckpt_path=` alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from commands import command, start
from conftest import QUIET, TINY

import seqgen
from seqgen import config
from seqgen.callbacks import AtomicCheckpointIO
from seqgen.errors import UserError

MODEL = ("model=sasrec", "model.hidden_dim=16", "attention=vae", "trainer.max_epochs=3")


class Killed(BaseException):
    pass


def alone(checkpoint: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Resume with `ckpt_path=` and nothing else, which the settings of the tests do not stand in."""
    seqgen.run(config.compose([f"ckpt_path={checkpoint}", *more], output_dir=folder))
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def same(resumed: Path, whole: Path) -> None:
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (resumed, whole))
    for key in ("status", "run_id", "history", "metrics", "best_epoch", "epochs", "parameters", "seed"):
        assert first[key] == second[key], key
    assert pl.read_parquet(resumed / "ranks.parquet").equals(pl.read_parquet(whole / "ranks.parquet"))
    states = [torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (resumed, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    start(folder, *MODEL)
    return folder


def killed_when(monkeypatch: pytest.MonkeyPatch, folder: Path, moment: Callable[[str, int], bool]) -> None:
    """Run until the moment before a checkpoint is written: its name, and how many there were before it."""
    written: list[str] = []
    save = AtomicCheckpointIO.save_checkpoint

    def until(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if moment(Path(path).name, len(written)):
            raise Killed
        written.append(str(path))
        save(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patched:
        patched.setattr(AtomicCheckpointIO, "save_checkpoint", until)
        with pytest.raises(Killed):
            start(folder, *MODEL)


@pytest.mark.parametrize("before", ["last.ckpt", "epoch"])
def test_killed_while_checkpoints_of_an_epoch_are_written(
    before: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_when(monkeypatch, tmp_path / "cut", lambda name, count: count >= 2 and name.startswith(before))
    alone(tmp_path / "cut/checkpoints/last.ckpt", tmp_path / "on")
    same(tmp_path / "on", whole)


def test_killed_in_its_test_a_run_is_finished(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqgen.model.sasrec import SASRec

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(SASRec, "test_step", die)
        with pytest.raises(Killed):
            start(tmp_path / "cut", *MODEL)
    alone(tmp_path / "cut/checkpoints/last.ckpt", tmp_path / "on")
    same(tmp_path / "on", whole)


def test_a_last_checkpoint_needs_no_other_file(whole: Path, tmp_path: Path) -> None:
    start(tmp_path / "cut", *MODEL, "trainer.max_epochs=2")
    for file in (tmp_path / "cut/checkpoints").glob("epoch_*.ckpt"):
        file.unlink()
    alone(tmp_path / "cut/checkpoints/last.ckpt", tmp_path / "on", "trainer.max_epochs=3")
    same(tmp_path / "on", whole)


@pytest.mark.parametrize("damage", ["torn", "altered"])
def test_a_broken_last_checkpoint_is_seen_and_the_one_before_it_taken(
    damage: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "cut", *MODEL, "trainer.max_epochs=2")
    last = tmp_path / "cut/checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "torn":
        content = content[: len(content) // 2]
    else:
        weights = torch.load(last, weights_only=True)["state_dict"]["embedding.item.weight"]
        place = content.index(weights.numpy().tobytes()[:64])
        content[place : place + 4] = bytes(255 - byte for byte in content[place : place + 4])
    last.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.ckpt (was altered|cannot be read)"):
        seqgen.load(last)
    alone(last, tmp_path / "on", "trainer.max_epochs=3")
    assert "Warning: " in capsys.readouterr().out
    same(tmp_path / "on", whole)


def test_an_early_stopped_run_is_not_trained_on(tmp_path: Path) -> None:
    stopped = ("callbacks.early_stopping.patience=1", "optimizer.lr=1e-20", "trainer.max_epochs=9")
    first = start(tmp_path / "first", *MODEL, *stopped)
    assert first["epochs"] < 9
    again = alone(tmp_path / "first/checkpoints/last.ckpt", tmp_path / "on")
    assert (again["history"], again["metrics"]) == (first["history"], first["metrics"])


def test_the_middle_of_an_epoch_is_refused(tmp_path: Path) -> None:
    within = [
        "+callbacks.within._target_=pytorch_lightning.callbacks.ModelCheckpoint",
        "+callbacks.within.every_n_train_steps=2",
    ]
    within += [f"+callbacks.within.dirpath={tmp_path}/within", "+callbacks.within.save_top_k=-1"]
    start(tmp_path / "first", *MODEL, *within)
    checkpoints = sorted((tmp_path / "within").glob("*.ckpt"))
    assert len(checkpoints) > 1
    with pytest.raises(UserError, match="was written in the middle of epoch 0"):
        start(tmp_path / "second", *MODEL, *within, f"ckpt_path='{checkpoints[0]}'")


def test_overrides_beside_the_checkpoint_say_what_changes(whole: Path, tmp_path: Path) -> None:
    last = whole / "checkpoints/last.ckpt"
    results = alone(last, tmp_path, "train=false", "data.eval_batch_size=7", "tags=[again]")
    assert results["metrics"].keys() >= {"test/ndcg@10"}
    assert results["config"]["data"]["eval_batch_size"] == 7
    assert results["config"]["model"]["hidden_dim"] == 16
    with pytest.raises(UserError, match=r"optimizer\.lr=0\.5 differs from 0\.001"):
        alone(last, tmp_path / "other", "optimizer.lr=0.5")


@pytest.mark.slow
def test_on_the_command_line_a_checkpoint_is_enough(whole: Path, tmp_path: Path) -> None:
    start(tmp_path / "cut", *MODEL, "trainer.max_epochs=2")
    last = f"ckpt_path={tmp_path}/cut/checkpoints/last.ckpt"
    shown = command("seqgen.run", last, "trainer.max_epochs=3", f"hydra.run.dir={tmp_path}/on", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    same(tmp_path / "on", whole)
    assert json.loads((tmp_path / "on/results.json").read_text())["choices"]["model"] == "sasrec"


def test_the_form_with_all_overrides_still_resumes(whole: Path, tmp_path: Path) -> None:
    start(tmp_path / "cut", *MODEL, "trainer.max_epochs=2")
    start(tmp_path / "on", *MODEL, f"ckpt_path={tmp_path}/cut/checkpoints/last.ckpt")
    same(tmp_path / "on", whole)
    assert {*TINY, *QUIET} <= set(json.loads((tmp_path / "on/results.json").read_text())["overrides"])
