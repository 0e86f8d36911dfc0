"""Whole runs on generated data: train, resume, test, and how a run ends when it fails."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from commands import command_here, start
from conftest import QUIET, TINY
from omegaconf import OmegaConf
from test_properties import CHAIN

from seqgen import config
from seqgen.errors import UserError
from seqgen.run import run

LOGGERS = ("tensorboard", "many")
DETERMINED = ("train/loss", "val/ndcg@10", "val/mrr")


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of one epoch, which nobody changes."""
    folder = tmp_path_factory.mktemp("one_epoch")
    start(folder, "trainer.max_epochs=1")
    return folder / "checkpoints/last.ckpt"


def test_a_run_leaves_results_ranks_and_checkpoints(tmp_path: Path) -> None:
    results = start(tmp_path, "trainer.max_epochs=2")
    assert results["status"] == "finished"
    assert results["choices"]["model"] == "mqsa_ted"
    assert results["choices"]["attention"] == "multi_query"
    assert results["data"]["num_users"] == 60
    assert results["data"]["split"] == "leave_one_out"
    assert results["parameters"] == sum(
        v.numel() for v in torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"].values()
    )
    assert len(results["history"]) == results["epochs"] == 2
    assert {"test/hr@10", "test/ndcg@5", "test/mrr", "test/coverage@10", "val/ndcg@10"} <= set(results["metrics"])
    diversity = {f"{split}/{name}@5" for split in ("val", "test") for name in ("category_coverage", "ild", "f", "gini")}
    assert diversity <= set(results["metrics"])
    assert results["timing"]["train_targets_per_s"] > 0
    assert len(results["timing"]["train_epoch_s"]) == 2
    assert results["timing"]["validate_s"] > 0  # which the epochs leave out
    assert results["peak_memory_mb"]["host"] > 0
    assert (tmp_path / f"checkpoints/epoch_{results['best_epoch']:03d}.ckpt").is_file()

    ranks = pl.read_parquet(tmp_path / "ranks.parquet")
    columns = ["user", "target", "history_len", "target_count", "transition_seen", "rank", "top"]
    assert ranks.columns == columns
    assert ranks["user"].to_list() == list(range(60))
    assert ranks.select((pl.col("rank") <= 10).mean()).item() == pytest.approx(results["metrics"]["test/hr@10"])
    in_list = ranks.select(pl.col("top").list.contains(pl.col("target")) == (pl.col("rank") <= 20))
    assert in_list.to_series().all()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", "trainer.max_epochs=4")
    start(tmp_path / "half", "trainer.max_epochs=2")
    last = tmp_path / "half/checkpoints/last.ckpt"
    resumed = start(tmp_path / "resumed", "trainer.max_epochs=4", f"ckpt_path={last}")
    for key in DETERMINED:
        assert [e[key] for e in resumed["history"]] == [e[key] for e in whole["history"]]
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["best_epoch"] == whole["best_epoch"]


def test_the_best_epoch_survives_a_resume_that_brings_no_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqgen.model.mqsa_ted import MQSATED

    first = start(tmp_path / "first", "trainer.max_epochs=2")
    monkeypatch.setattr(MQSATED, "user_state", lambda self, batch: self.item_vectors.new_zeros(len(batch), 64))
    last = tmp_path / "first/checkpoints/last.ckpt"
    worse = start(tmp_path / "worse", "trainer.max_epochs=3", f"ckpt_path={last}")
    assert worse["history"][2]["val/ndcg@10"] == 0  # equal scores count against the model
    assert worse["best_epoch"] == first["best_epoch"]
    assert (tmp_path / f"worse/checkpoints/epoch_{first['best_epoch']:03d}.ckpt").is_file()


def test_a_checkpoint_is_tested_to_the_same_numbers(tmp_path: Path) -> None:
    trained = start(tmp_path / "trained", "trainer.max_epochs=2", "model=sasrec", "attention=vae")
    best = tmp_path / f"trained/checkpoints/epoch_{trained['best_epoch']:03d}.ckpt"
    tested = start(tmp_path / "tested", "train=false", f"ckpt_path={best}", "model=sasrec", "attention=vae")
    test_metrics = {name: value for name, value in trained["metrics"].items() if name.startswith("test/")}
    assert tested["metrics"] == test_metrics


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    one, again, other = (
        start(tmp_path / name, "trainer.max_epochs=1", f"seed={seed}")
        for name, seed in (("one", 3), ("again", 3), ("other", 4))
    )
    assert one["metrics"] == again["metrics"]
    assert one["run_id"] == again["run_id"]
    assert one["history"][0]["train/loss"] != other["history"][0]["train/loss"]
    assert one["run_id"] != other["run_id"]


def test_a_resumed_run_may_stand_alone(tmp_path: Path) -> None:
    """The old folder is moved away: history, times and the best checkpoint are in what is left."""
    model = ["model=sasrec", "attention=vae", "attention.kl_warmup=0"]  # a warm-up counts in trainer.max_epochs
    whole = start(tmp_path / "whole", "trainer.max_epochs=3", *model)
    first = start(tmp_path / "first", "trainer.max_epochs=2", *model)
    (tmp_path / "first").rename(tmp_path / "moved")
    last = f"ckpt_path={tmp_path}/moved/checkpoints/last.ckpt"
    resumed = start(tmp_path / "resumed", "trainer.max_epochs=3", *model, last)
    assert len(resumed["history"]) == len(resumed["timing"]["train_epoch_s"]) == 3
    assert resumed["history"][:2] == first["history"]
    assert resumed["metrics"] == whole["metrics"]

    best = tmp_path / f"moved/checkpoints/epoch_{first['best_epoch']:03d}.ckpt"
    best.unlink()  # its weights are in the last checkpoint too
    assert start(tmp_path / "again", "trainer.max_epochs=3", *model, last)["metrics"] == whole["metrics"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model=sasrec"], "attention._target_="),
        (["model.hidden_dim=32"], "model.ffn_dim=32 differs from 64 in ckpt_path="),
        (["optimizer.lr=0.1"], "optimizer.lr=0.1 differs from 0.001 in ckpt_path="),
        (["loss=bce"], "loss._target_="),
        (["seed=9"], "seed=9 differs from 1"),
        (["data.source.seed=8"], "data.source.seed=8 differs from 7"),
        (["monitor=val/mrr"], 'monitor="val/mrr" differs from "val/ndcg@10"'),
        (["callbacks.early_stopping.patience=3"], "callbacks.early_stopping.patience=3 differs from 20"),
    ],
)
def test_resuming_under_other_settings_is_refused(
    overrides: list[str], told: str, one_epoch: Path, tmp_path: Path
) -> None:
    resume = [f"ckpt_path={one_epoch}", "trainer.max_epochs=2"]
    with pytest.raises(UserError) as caught:
        start(tmp_path / "second", *resume, *overrides)
    assert told in str(caught.value)
    failed = json.loads((tmp_path / "second/results.json").read_text())
    assert failed["status"] == "failed"
    assert told in failed["error"]


def test_resuming_may_change_cost_and_place(one_epoch: Path, tmp_path: Path) -> None:
    resume = [f"ckpt_path={one_epoch}", "trainer.max_epochs=2"]
    resumed = start(tmp_path / "second", *resume, "data.eval_batch_size=7", "tags=[again]", "logger=none")
    assert resumed["epochs"] == 2


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model=sasrec"], "holds a seqgen.model.mqsa_ted.MQSATED, but this run builds a seqgen.model.sasrec.SASRec"),
        (["model.hidden_dim=32"], "network of another shape, trained with model.ffn_dim=64, model.hidden_dim=64"),
        (["data.source.seed=8"], "choose the same data and settings"),
    ],
)
def test_testing_a_checkpoint_that_does_not_fit_is_refused(
    overrides: list[str], told: str, one_epoch: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        start(tmp_path / "second", "train=false", f"ckpt_path={one_epoch}", *overrides)


def test_testing_an_early_best_epoch_leaves_the_record_of_all(tmp_path: Path) -> None:
    results = start(tmp_path, "trainer.max_epochs=3", "optimizer.lr=1e-20")
    assert results["best_epoch"] == 0  # no epoch brings a gain
    assert len(results["history"]) == len(results["timing"]["train_epoch_s"]) == results["epochs"] == 3
    checkpoint = f"ckpt_path={tmp_path}/checkpoints/last.ckpt"
    tested = start(tmp_path / "tested", "train=false", checkpoint)
    assert tested["history"] == []
    assert "train_epoch_s" not in tested["timing"]


def test_the_best_epoch_is_known_whatever_the_file_is_called(tmp_path: Path) -> None:
    results = start(tmp_path, "trainer.max_epochs=3", "callbacks.best.filename=weights")
    validated = [epoch["val/ndcg@10"] for epoch in results["history"]]
    assert results["best_epoch"] == validated.index(max(validated))
    assert results["metrics"]["val/ndcg@10"] == max(validated)
    untested = start(tmp_path / "untested", "trainer.max_epochs=3", "test=false")
    assert untested["best_epoch"] == results["best_epoch"]
    assert untested["metrics"] == {k: v for k, v in results["metrics"].items() if k.startswith("val/")}


def test_what_a_model_logs_itself_is_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqgen.model.base import SequentialRecommender

    measure = SequentialRecommender.on_validation_epoch_end

    def and_more(self: SequentialRecommender) -> None:
        measure(self)
        self.log("val/own", 0.25)

    monkeypatch.setattr(SequentialRecommender, "on_validation_epoch_end", and_more)
    trained = start(tmp_path / "trained", "trainer.max_epochs=1")
    assert trained["history"][0]["val/own"] == trained["metrics"]["val/own"] == 0.25
    assert start(tmp_path / "counted", "model=popularity")["metrics"]["val/own"] == 0.25


def test_a_history_holds_no_validation_of_another_epoch(tmp_path: Path) -> None:
    results = start(tmp_path, "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    assert ["val/mrr" in epoch for epoch in results["history"]] == [False, True, False]


def test_loggers_are_given_the_choices(tmp_path: Path) -> None:
    start(tmp_path, "trainer.max_epochs=1", "model=sasrec", "attention=vae")
    logged = OmegaConf.load(tmp_path / "csv/hparams.yaml")
    assert logged.choices.model == "sasrec"
    assert logged.choices.attention == "vae"
    assert logged.model.hidden_dim == 64


def test_compile_keeps_the_names_in_a_checkpoint(tmp_path: Path) -> None:
    from seqgen.model.base import SequentialRecommender

    cfg = config.compose([*TINY], output_dir=tmp_path)
    data = config.build(cfg, "data")
    plain, compiled = (config.build(cfg, "model", catalog=data.catalog) for _ in range(2))
    assert isinstance(compiled, SequentialRecommender)
    compiled.compile_network()
    assert list(compiled.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("option", ["fdr", "overfit", "limit"])
def test_debug_modes_run(option: str, tmp_path: Path) -> None:
    epochs = [] if option == "fdr" else ["trainer.max_epochs=2"]
    results = start(tmp_path, f"debug={option}", *epochs)
    assert results["status"] == "finished"
    assert (tmp_path / "ranks.parquet").exists() == (option != "fdr")


@pytest.mark.parametrize("more", [(), CHAIN], ids=["heads", "chain"])
def test_cddrec_trains_under_mixed_precision(more: tuple[str, ...], tmp_path: Path) -> None:
    how = ["model=cddrec", "model.hidden_dim=16", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", *more]
    results = start(tmp_path, *how, "model.views.crop=0.6", "trainer.max_epochs=2")
    assert results["history"][1]["train/loss"] < results["history"][0]["train/loss"]
    assert all(math.isfinite(value) for value in (*results["history"][1].values(), *results["metrics"].values()))


def test_wandb_is_finished_as_failed_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    codes = []
    monkeypatch.setenv("WANDB_MODE", "offline")
    finish = wandb.finish
    monkeypatch.setattr(wandb, "finish", lambda exit_code: (codes.append(exit_code), finish(exit_code))[1])
    with pytest.raises(UserError):
        start(tmp_path, "logger=wandb", "optimizer.lr=-1")
    assert codes == [1]
    assert wandb.run is None


def test_wandb_summarises_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.wandb_run import Run

    defined, costs = {}, {}
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(Run, "define_metric", lambda self, name, **how: defined.update({name: how}))
    monkeypatch.setattr("wandb.sdk.wandb_summary.Summary.update", lambda self, values: costs.update(values))
    results = start(tmp_path, "logger=wandb", "model=sasrec", "trainer.max_epochs=2", "metrics.k=[5,10]")
    best = {name: defined[f"val/{name}"]["summary"] for name in ("ndcg@10", "mrr", "gini@5", "unhittable")}
    assert best == {"ndcg@10": "max", "mrr": "max", "gini@5": "min", "unhittable": "last"}
    assert {defined[name]["step_metric"] for name in ("train/*", "test/*", "val/ndcg@10")} == {"epoch"}
    assert costs["best/epoch"] == results["best_epoch"]
    assert costs["best/val/mrr"] == results["metrics"]["val/mrr"]
    assert {"timing/train_epoch_s", "timing/total_s", "peak_memory_mb/host"} < set(costs)


def test_wandb_groups_seeds_and_knows_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    runs: list[Any] = []
    monkeypatch.setenv("WANDB_MODE", "offline")
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **how: (runs.append(init(**how)), runs[-1])[1])
    results = start(tmp_path, "logger=wandb", "model=popularity", "task=first", "tags=[mine]")
    (run,) = runs
    assert run.group == "first/popularity/synthetic"
    assert run.tags == ("mine",)
    assert run.config["run_id"] == results["run_id"]
    assert dict(run.config["choices"])["model"] == "popularity"


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ([], "sasrec-softmax-synthetic-1 loss=bce model.dropout=0.2"),
        (["logger.wandb.name=mine"], "mine"),
    ],
)
def test_a_run_of_a_sweep_is_named_by_what_the_sweep_goes_through(
    more: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqgen.stages import _name_by_sweep

    swept = ["model=sasrec", "loss=bce", "++model.dropout=0.2", "seed=1"]
    cfg = config.compose([*swept, "logger=wandb", "trainer=cpu", *more], output_dir=tmp_path)
    keys = [text.lstrip("+").partition("=")[0] for text in swept]
    monkeypatch.setattr(config, "sweeps_over", lambda key: key in keys)
    _name_by_sweep(cfg.logger.wandb)
    assert cfg.logger.wandb.name == name


def test_many_loggers_stand_beside_one_another(tmp_path: Path) -> None:
    kinds = {option: set(config.compose([f"logger={option}"], output_dir=tmp_path).logger) for option in LOGGERS}
    assert kinds == {"tensorboard": {"csv", "tensorboard"}, "many": {"csv", "wandb", "tensorboard"}}


def test_an_interrupted_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqgen.model.mqsa_ted import MQSATED

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MQSATED, "on_validation_epoch_end", interrupt)
    with pytest.raises(SystemExit):
        start(tmp_path, "trainer.max_epochs=2")
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "stopped"


@pytest.mark.parametrize(
    ("place", "said"),
    [("summary.quiet", "stopped before it began"), ("stages.make_trainer", "stopped after 0 epochs")],
)
def test_ctrl_c_before_the_first_epoch_leaves_a_sentence_and_no_trace(
    place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"seqgen.{place}", interrupt)
    shown = command_here("seqgen.run", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (130, f"seqgen: {said}\n")


@pytest.mark.slow
def test_mqsa_ted_stands_between_the_transition_baseline_and_the_oracle(tmp_path: Path) -> None:
    value = {}
    for model in ("transition", "mqsa_ted", "oracle"):
        run(config.compose([f"model={model}", "trainer.max_epochs=5", *QUIET], output_dir=tmp_path / model))
        value[model] = json.loads((tmp_path / model / "results.json").read_text())["metrics"]["test/ndcg@10"]
    assert value["mqsa_ted"] > 1.3 * value["transition"]  # 1.40 to 1.44 with three seeds
    assert value["mqsa_ted"] < 0.95 * value["oracle"]


@pytest.mark.data
def test_diversity_of_a_real_catalogue(tmp_path: Path, real_data: Any) -> None:
    real_data("ml-100k")
    cfg = config.compose(["data=ml100k", "model=popularity", *QUIET], output_dir=tmp_path)
    categories = config.build(cfg, "data").catalog.categories
    assert len({name for names in categories for name in names}) == 19  # "unknown" is a genre of the set's own
    run(cfg)
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    for split in ("val", "test"):
        covered = [metrics[f"{split}/category_coverage@{k}"] for k in (1, 5, 10, 20)]
        assert 0 < covered[0] < covered[1] < covered[2] < covered[3] < 1
        assert all(0 < metrics[f"{split}/ild@{k}"] < 1 for k in (5, 10, 20))
        assert metrics[f"{split}/gini@20"] > 0.9  # nearly the same list for everyone


def test_a_test_on_a_part_says_how_many_cases_were_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = start(tmp_path, "model=popularity", "trainer.limit_test_batches=1", "data.eval_batch_size=16")
    assert results["test_cases_ranked"] == 16
    assert "16 of 60" in capsys.readouterr().out


def test_a_profile_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path, "model=sasrec", "trainer.max_epochs=1", "trainer.profiler=simple")
    assert "run_training_epoch" in capsys.readouterr().out
