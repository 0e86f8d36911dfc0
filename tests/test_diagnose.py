"""The diagnosis of a trained diffusion model: numbers that agree with the run, pictures, W&B, and what is refused."""

import json
from pathlib import Path

import pytest
from conftest import QUIET, ROOT, TINY
from omegaconf import OmegaConf
from test_run import command, start

from seqgen.diagnose import diagnose
from seqgen.errors import UserError

SMALL = ("model=cddrec", "model.hidden_dim=16", "diffusion.steps=6", "trainer.max_epochs=1", *TINY, *QUIET)


def settings(folder: Path, checkpoint: Path | str) -> object:
    paths = {"output_dir": str(folder), "cache_dir": str(folder / "cache"), "data_dir": "unused"}
    node = {"ckpt_path": str(checkpoint), "paths": paths, "logger": None, "seed": 1, "batches": 2}
    return OmegaConf.create(node)


def test_a_diagnosis_agrees_with_the_run_and_is_logged(tmp_path: Path) -> None:
    results = start(tmp_path / "run", *SMALL)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    shown = command(
        *("seqgen.diagnose", f"ckpt_path={checkpoint}", "logger=wandb", f"hydra.run.dir={tmp_path}/out"),
        cwd=ROOT,
        WANDB_MODE="offline",
    )
    assert shown.returncode == 0, shown.stderr
    told = json.loads((tmp_path / "out/diagnose.json").read_text())
    by_setting = {(row["steps"], row["noise"], row["samples"]): row for row in told["inference"]}
    assert set(by_setting) == {(n, False, 0) for n in (1, 2, 4, 6)} | {(1, True, 1), (1, True, 10)}
    for name, value in results["history"][-1].items():
        if name.startswith("val/"):
            assert by_setting[1, False, 0][name] == value
    assert len(told["schedule"]["signal"]) == len(told["loss"]["in_view"]) == 6
    assert told["schedule"]["signal_to_noise"] == sorted(told["schedule"]["signal_to_noise"], reverse=True)
    for name in ("schedule", "loss", "inference"):
        assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out/wandb").glob("offline-run-*/files/media/images/diagnose/*.png"))) == 3
    assert (tmp_path / "out/csv/metrics.csv").is_file()


def test_a_chain_is_diagnosed_by_its_number_of_reverse_steps(tmp_path: Path) -> None:
    chain = ("model.condition_on_x_t=true", "model.noisy_targets=false", "model.inference.steps=4")
    results = start(tmp_path / "run", *SMALL, *chain)
    told = diagnose(settings(tmp_path, tmp_path / "run/checkpoints/last.ckpt"))
    by_setting = {(row["steps"], row["noise"], row["samples"]): row for row in told["inference"]}
    for name, value in results["history"][-1].items():
        if name.startswith("val/"):
            assert by_setting[4, False, 0][name] == value
    assert len({row["val/mrr"] for row in told["inference"]}) > 1
    assert len(told["loss"]["cross_divergence"]) == 6


def test_refused(tmp_path: Path) -> None:
    start(tmp_path / "run", "model=sasrec", "trainer.max_epochs=1")
    with pytest.raises(UserError, match="ckpt_path holds a SASRec, in which nothing diffuses"):
        diagnose(settings(tmp_path, tmp_path / "run/checkpoints/last.ckpt"))
    with pytest.raises(UserError, match=r"ckpt_path=/nowhere\.ckpt is not a file: name a checkpoint"):
        diagnose(settings(tmp_path, "/nowhere.ckpt"))
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        diagnose(settings(tmp_path, tmp_path / "broken.ckpt"))


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    shown = command("seqgen.diagnose", f"hydra.run.dir={tmp_path}", cwd=ROOT)
    assert shown.returncode == 1
    assert shown.stderr == "seqgen: ckpt_path: name a checkpoint such as outputs/.../checkpoints/last.ckpt.\n"
