"""`ckpt_path=` alone: the settings of a checkpoint, what the command line changes, and what a file may not choose."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command_here, start
from test_resume import alone

from seqgen.callbacks import BestCheckpoint
from seqgen.checkpoint import read_checkpoint
from seqgen.errors import UserError

SMALL = ("model=sasrec", "model.hidden_dim=16", "model.dropout=0.1", "optimizer.lr=0.003")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs that is not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGEN_CACHE", str(folder / "cache"))
        start(folder / "run", *SMALL, "trainer.max_epochs=4")
    return folder / "run"


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["callbacks.best.mode=min", "callbacks.best.monitor=train/loss"], "callbacks.best.mode="),
        (["callbacks=checkpoints"], "callbacks.early_stopping._target_=None differs from"),
        (["~callbacks.early_stopping"], "callbacks.early_stopping._target_=None differs from"),
        (["loss=bce"], "loss._target_="),
        (["trainer.max_epochs=2"], "has trained 4 epochs already; set trainer.max_epochs=4 to test it, or a larger"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_settings_are_refused(overrides: list[str], refused: str, tmp_path: Path, whole: Path) -> None:
    with pytest.raises(UserError) as caught:
        alone(whole / "checkpoints/last.ckpt", tmp_path, *overrides)
    assert refused in str(caught.value)


def test_the_command_line_says_what_changes(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    changes = ["trainer=cpu", "logger=none", "data.eval_batch_size=7", "tags=[again]", "trainer.max_epochs=5"]
    results = alone(whole / "checkpoints/last.ckpt", tmp_path, *changes)
    assert results["epochs"] == 5
    stored = json.loads((whole / "results.json").read_text())
    config = results["config"]
    assert (config["trainer"]["accelerator"], config["trainer"]["enable_progress_bar"]) == ("cpu", False)
    assert (config["logger"], config["tags"], config["data"]["eval_batch_size"]) == (None, ["again"], 7)
    assert (config["model"], config["callbacks"]["early_stopping"]) == (
        stored["config"]["model"],
        stored["config"]["callbacks"]["early_stopping"],
    )
    assert config["paths"]["output_dir"] == config["trainer"]["default_root_dir"] == str(tmp_path)
    assert config["callbacks"]["last"]["dirpath"] == f"{tmp_path}/checkpoints"
    assert results["choices"] == stored["choices"] | {"trainer": "cpu", "logger": "none"}
    old = [text for text in stored["overrides"] if text != "trainer.max_epochs=4"]
    assert results["overrides"] == [*old, f"ckpt_path={whole}/checkpoints/last.ckpt", *changes]


def test_a_sweep_over_checkpoints_tests_each_with_its_own_settings(tmp_path: Path, whole: Path) -> None:
    other = start(tmp_path / "other", "model=popularity")
    paths = f"{whole}/checkpoints/last.ckpt,{tmp_path}/other/checkpoints/last.ckpt"
    sweep = ["-m", f"ckpt_path={paths}", "train=false", f"hydra.sweep.dir={tmp_path}/sweep"]
    shown = command_here("seqgen.run", *sweep, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    jobs = [json.loads((tmp_path / f"sweep/{job}/results.json").read_text()) for job in (0, 1)]
    assert [job["choices"]["model"] for job in jobs] == ["sasrec", "popularity"]
    assert jobs[1]["metrics"] == {k: v for k, v in other["metrics"].items() if k.startswith("test/")}


def test_flags_stand_where_they_may(tmp_path: Path, whole: Path) -> None:
    for flags in ((["--cfg", "job"], []), ([], ["--cfg", "job"])):
        line = [*flags[0], "seed=1", f"ckpt_path={whole}/checkpoints/last.ckpt", "trainer.max_epochs=5", *flags[1]]
        shown = command_here("seqgen.run", *line, cwd=tmp_path)
        assert "seqgen.model.sasrec.SASRec" in shown.stdout


def test_a_run_on_other_settings_of_inference_is_tested(tmp_path: Path) -> None:
    how = ["model=genatt", "attention=vae", "data.source.num_items=30", "model.hidden_dim=16", "trainer.max_epochs=1"]
    first = start(tmp_path / "first", *how, "attention.latent_dim=4")
    last = tmp_path / "first/checkpoints/last.ckpt"
    tested = alone(last, tmp_path / "same", "train=false")
    assert tested["metrics"] == {k: v for k, v in first["metrics"].items() if k.startswith("test/")}
    drawn = ("model.inference.samples=4", "model.inference.temperature=8")
    sampled = alone(last, tmp_path / "sampled", "train=false", *drawn, "metrics.k=[5,10]")
    assert sampled["config"]["model"]["inference"]["samples"] == 4
    assert "test/hr@20" not in sampled["metrics"]
    assert sampled["metrics"]["test/gini@10"] != tested["metrics"]["test/gini@10"]


def test_a_model_that_is_not_trained_is_tested_only(tmp_path: Path) -> None:
    first = start(tmp_path / "first", "model=popularity")
    last = tmp_path / "first/checkpoints/last.ckpt"
    with pytest.raises(UserError, match="ckpt_path has no effect with model=popularity"):
        alone(last, tmp_path / "second")
    tested = alone(last, tmp_path / "tested", "train=false")
    assert tested["metrics"] == {k: v for k, v in first["metrics"].items() if k.startswith("test/")}


def test_removed_keys_stay_removed(tmp_path: Path) -> None:
    start(tmp_path / "first", *SMALL, "trainer.max_epochs=1", "~callbacks.early_stopping", "~trainer.detect_anomaly")
    resumed = alone(tmp_path / "first/checkpoints/last.ckpt", tmp_path / "second", "trainer.max_epochs=2")
    assert "early_stopping" not in resumed["config"]["callbacks"]
    assert "detect_anomaly" not in resumed["config"]["trainer"]
    assert resumed["epochs"] == 2


def test_a_run_without_logger_stays_without(tmp_path: Path) -> None:
    start(tmp_path / "first", *SMALL, "trainer.max_epochs=1", "debug=limit")
    resumed = alone(tmp_path / "first/checkpoints/last.ckpt", tmp_path / "second", "trainer.max_epochs=2")
    assert resumed["config"]["logger"] is None
    assert resumed["config"]["trainer"]["limit_test_batches"] == 2
    assert not (tmp_path / "second/csv").exists()
    assert os.listdir(tmp_path / "second/checkpoints")


def forged(whole: Path, folder: Path, key: str, value: Any) -> Path:
    checkpoint = read_checkpoint(whole / "checkpoints/last.ckpt")
    *parents, name = key.split(".")
    node = checkpoint["seqgen"]["config"]
    for parent in parents:
        node = node[parent]
    node[name] = value
    torch.save(checkpoint, folder / "forged.ckpt")
    return folder / "forged.ckpt"


@pytest.mark.parametrize("more", [(), ("train=false",)], ids=["resume", "test"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, {"_target_": "os.system", "command": "touch executed"})
            for key in ("data.source", "model.loss", "callbacks.more", "logger", "logger.csv", "optimizer", "trainer")
        ),
        ("trainer.plugins", [{"_target_": "os.system", "command": "touch executed"}]),
        ("trainer._target_", "torch.utils.collect_env.run"),
        ("model._target_", "seqgen.config.build"),
        ("callbacks.best._target_", "os.system"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_forged_configuration_executes_nothing(
    key: str, value: Any, more: tuple[str, ...], tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"_target_=\S+ is none of the parts that seqgen builds from a file"):
        alone(forged(whole, tmp_path, key, value), tmp_path / "run", *more)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("key", "value", "refused"),
    [
        ("callbacks.best.dirpath", "/elsewhere", "sets callbacks.best.dirpath=/elsewhere, and a file decides neither"),
        ("callbacks.best.filename", "../../x", "sets callbacks.best.filename="),
        ("callbacks.last.dirpath", "here", "sets callbacks.last.dirpath=here, and a file decides"),
        ("logger.csv.save_dir", "..", "sets logger.csv.save_dir=.., and a file decides"),
        ("logger.csv.prefix", "x", "sets logger.csv.prefix=x, and a file decides"),
        ("trainer.default_root_dir", "/", "sets trainer.default_root_dir=/, and a file"),
        ("data.max_len", "${oc.env:HOME}", "has a configuration that refers to other values"),
    ],
)
def test_a_file_chooses_no_place(key: str, value: Any, refused: str, tmp_path: Path, whole: Path) -> None:
    with pytest.raises(UserError) as caught:
        alone(forged(whole, tmp_path, key, value), tmp_path / "run")
    assert refused in str(caught.value)


def test_a_forged_address_is_not_fetched(tmp_path: Path, whole: Path) -> None:
    path = forged(whole, tmp_path, "data.source.url", "http://localhost:1/x")
    assert "url" not in alone(path, tmp_path / "run")["config"]["data"]["source"]


class Other(BestCheckpoint):
    """Somebody's callback."""


def test_classes_of_a_trusted_package_are_built_again(tmp_path: Path) -> None:
    how = [*SMALL, "trainer.max_epochs=1", f"callbacks.best._target_={__name__}.Other"]
    start(tmp_path / "first", *how)
    last = tmp_path / "first/checkpoints/last.ckpt"
    with pytest.raises(UserError, match=rf"add trust=\[{__name__}\]"):
        alone(last, tmp_path / "second", "trainer.max_epochs=2")
    trusted = alone(last, tmp_path / "second", "trainer.max_epochs=2", f"trust=[{__name__}]")
    assert trusted["epochs"] == 2
    # Named on the command line it needs no trust.
    assert alone(last, tmp_path / "third", f"callbacks.best._target_={__name__}.Other")["epochs"] == 1
