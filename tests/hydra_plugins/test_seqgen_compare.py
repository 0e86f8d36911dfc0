"""`python -m seqgen.compare`: from a command line to tuned winners over seeds and their page."""

import json
from pathlib import Path

import polars as pl
import pytest
from commands import command, command_here
from conftest import QUIET, TINY

ray = pytest.importorskip("ray", reason="the package ray is absent")
pytest.importorskip("optuna", reason="the package optuna is absent")

LINE = (
    "seqgen.compare",
    *TINY,
    *QUIET,
    "model=popularity,sasrec",
    "trainer.max_epochs=2",
    "seed=1,2",
    "compare.trials=2",
)


@pytest.mark.slow
def test_a_comparison_is_reckoned_tuned_run_and_reported(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    line = (*LINE, f"hydra.sweep.dir={folder}", "hydra.launcher.slots=2")
    shown = command(*line, "compare.estimate=true", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "6 runs, at most 8 epochs" in shown.stdout
    assert not (folder / "final").exists()
    assert not (folder / "tuning").exists()

    shown = command(*line, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "2 of 2 runs have finished before." in shown.stdout  # the measured ones
    trials = [json.loads(file.read_text()) for file in folder.glob("tuning/synthetic/sasrec/*/results.json")]
    assert len(trials) == 2
    assert {run["seed"] for run in trials} == {0}
    assert not any(name.startswith("test/") for run in trials for name in run["metrics"])
    final = [json.loads(file.read_text()) for file in folder.glob("final/synthetic/*/*/*/results.json")]
    assert sorted((run["choices"]["model"], run["seed"]) for run in final) == [
        ("popularity", 1),
        ("popularity", 2),
        ("sasrec", 1),
        ("sasrec", 2),
    ]
    winner = max(trials, key=lambda run: max(epoch["val/ndcg@10"] for epoch in run["history"]))
    of_sasrec = next(run for run in final if run["choices"]["model"] == "sasrec")
    assert of_sasrec["config"]["optimizer"]["lr"] == winner["config"]["optimizer"]["lr"]
    assert "<html" in (folder / "report.html").read_text()[:200]
    report = pl.read_csv(folder / "report.csv")
    assert report["seeds"].to_list() == [2, 2]
    assert report["baseline"].unique().to_list() == ["popularity / - / synthetic"]  # the first that was listed
    listed = pl.read_csv(folder / "trials.csv")
    assert listed.select("data", "candidate", "trial", "epochs").rows() == [
        ("synthetic", "sasrec", 0, 2),
        ("synthetic", "sasrec", 1, 2),
    ]
    best = listed.sort("val/ndcg@10").row(-1, named=True)
    assert best["optimizer.lr"] == winner["config"]["optimizer"]["lr"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["compare.trials=-1"], "compare.trials=-1 must be at least 0."),
        (["compare.workers=0"], "compare.workers=0 must be at least 1."),
        (["seed=0,1"], "compare.tuning_seed=0 is a seed of the final runs too"),
        (["seed=1,1"], "seed=1,1 must list each seed of the final runs once."),
        (["seed=a"], "seed=a must list whole numbers, such as seed=1,2,3."),
        (["compare.trials=many"], "compare.trials"),
        (["compare.trails=3"], "compare.trails is not a key of this configuration; did you mean compare.trials."),
        (["hparams_search=sasrec"], "is no setting of this sweeper; leave it out, or hparams_search="),
        (["hydra/launcher=basic"], "hydra/launcher=basic: seqgen.compare runs with hydra/launcher=ray, its default."),
        (["optimizer.lr=nan"], "optimizer.lr=nan"),
        (["model=sasrec,sasrec"], "sasrec on synthetic is listed twice; leave one out."),
        (["optimizer.lr=interval(1,1)"], "optimizer.lr=interval(1,1) holds nothing to choose from"),
        (["trainer.max_epochs=2,3"], "trainer.max_epochs is 2 for"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(more: list[str], sentence: str, tmp_path: Path) -> None:
    shown = command_here(*LINE, *more, cwd=tmp_path)
    assert shown.returncode == 1
    assert sentence in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not (tmp_path / "outputs").exists()
