"""What a run shows in W&B and TensorBoard after its test, read back from their files."""

import json
from pathlib import Path

import polars as pl
import pytest
from commands import start
from conftest import QUIET, TINY

from seqgen import config

SMALL = ("model=genatt", "attention=vae", "model.hidden_dim=16", "trainer.max_epochs=1", *TINY, *QUIET)


@pytest.mark.slow
def test_lists_and_pictures_are_in_wandb_and_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="seqgen[tensorboard] is not installed"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    start(tmp_path, "logger=many", "show.users=5", *SMALL)
    media = next((tmp_path / "wandb").glob("offline-run-*")) / "files/media"
    assert {file.name.rpartition("_")[0].rpartition("_")[0] for file in media.glob("images/diagnose/*.png")} == {
        "attention",
        "attention_statistics",
    }
    (file,) = media.glob("table/examples_*.json")
    table = json.loads(file.read_text())
    assert table["columns"][:4] == ["user", "history, the newest last (at most 10)", "target", "rank of the target"]
    assert table["columns"][4:] == [f"{place}." for place in range(1, 11)]
    # The same cases, from the ranks that the run keeps; the generated items are called by their ids.
    ranks = pl.read_parquet(tmp_path / "ranks.parquet").with_columns(pl.col("user").cast(pl.String))
    assert len(table["data"]) == 5
    assert [row[0] for row in (table["data"][0], table["data"][-1])] == [ranks["user"][0], ranks["user"][-1]]
    for user, history, target, rank, *listed in table["data"]:
        kept = ranks.row(by_predicate=pl.col("user") == user, named=True)
        assert (target, rank) == (f"item {kept['target']}", kept["rank"])
        assert listed == [f"item {item}" for item in kept["top"][:10]]
        assert len(history.split(" → ")) == min(10, kept["history_len"])
    board = events.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    board.Reload()
    assert set(board.Tags()["images"]) == {"diagnose/attention", "diagnose/attention_statistics"}
    text = board.Tensors("examples/text_summary")[0].tensor_proto.string_val[0].decode().splitlines()
    assert text[0].startswith("| user | history, the newest last (at most 10) | target | rank of the target | 1. |")
    assert len(text) == 2 + 5


@pytest.mark.slow
def test_a_diffusion_shows_its_schedule_and_its_loss_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    small = ("model.hidden_dim=16", "trainer.max_epochs=1", *TINY, *QUIET)
    start(tmp_path, "model=cddrec", "diffusion.steps=4", "logger=wandb", "show.users=0", *small)
    media = next((tmp_path / "wandb").glob("offline-run-*")) / "files/media"
    assert {file.name.split("_")[0] for file in media.glob("images/diagnose/*.png")} == {
        "attention",
        "schedule",
        "loss",
    }
    assert not list(media.glob("table/*"))


def test_a_run_does_not_fail_for_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard", reason="seqgen[tensorboard] is not installed")

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("seqgen.diagnosis.whole.look_into", fail)
    results = start(tmp_path, "logger=tensorboard", *SMALL)
    assert results["status"] == "finished"
    assert "Pictures left out, as they could not be drawn: ValueError('no ink')" in caplog.text


@pytest.mark.parametrize(
    ("settings", "shows"),
    [
        (("logger=csv",), False),
        (("logger=tensorboard",), True),
        (("logger=tensorboard", "show.users=0"), True),
        (("logger=tensorboard", "show.users=0", "show.pictures=false"), False),
    ],
)
def test_it_is_there_for_loggers_that_take_tables_and_pictures(
    settings: tuple[str, ...], shows: bool, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="seqgen[tensorboard] is not installed")
    from seqgen.results import RunRecord
    from seqgen.showcase import Showcase
    from seqgen.stages import make_trainer

    cfg = config.compose([*SMALL, *(text for text in settings)], output_dir=tmp_path)
    data = config.build(cfg, "data")
    model = config.build_model(cfg, catalog=data.catalog)
    record = RunRecord(tmp_path, config=config.plain(cfg), choices=config.choices(), overrides=[], write=False)
    trainer = make_trainer(cfg, model, record)
    assert any(isinstance(callback, Showcase) for callback in trainer.callbacks) == shows
