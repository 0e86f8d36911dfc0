"""Whole runs on generated data: train, resume, test, sweep, report, and how a run ends when it fails."""

import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from commands import command, command_here
from conftest import QUIET, ROOT, TINY
from omegaconf import OmegaConf
from test_properties import CHAIN

from seqgen import config
from seqgen.errors import UserError
from seqgen.run import run

DETERMINED = ("train/loss", "val/ndcg@10", "val/mrr")


def start(folder: Path, *overrides: str) -> dict[str, Any]:
    """Run, and return results.json."""
    value = run(config.compose([*TINY, *QUIET, *overrides], output_dir=folder))
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    validated = [epoch["val/ndcg@10"] for epoch in results["history"] if "val/ndcg@10" in epoch]
    assert value == max(validated or [results["metrics"].get("val/ndcg@10", value)])
    return results


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
    best.unlink()
    with pytest.raises(UserError, match="The best checkpoint of the resumed run is gone: put it back at"):
        start(tmp_path / "again", "trainer.max_epochs=3", *model, last)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model=sasrec"], "attention._target_="),
        (["model.hidden_dim=32"], "model.ffn_dim=32 differs from 64 in ckpt_path="),
        (["optimizer.lr=0.1"], "optimizer.lr=0.1 differs from 0.001 in ckpt_path="),
        (["loss=bce"], "loss._target_="),
        (["seed=9"], "seed=9 differs from 1"),
        (["data.source.seed=8"], "data.source.seed=8 differs from 7"),
        (["trainer.max_epochs=1"], "has trained 1 epochs already; set trainer.max_epochs above that"),
    ],
)
def test_resuming_under_other_settings_is_refused(overrides: list[str], told: str, tmp_path: Path) -> None:
    start(tmp_path / "first", "trainer.max_epochs=1")
    resume = [f"ckpt_path={tmp_path}/first/checkpoints/last.ckpt", "trainer.max_epochs=2"]
    with pytest.raises(UserError) as caught:
        start(tmp_path / "second", *resume, *overrides)
    assert told in str(caught.value)
    failed = json.loads((tmp_path / "second/results.json").read_text())
    assert failed["status"] == "failed"
    assert told in failed["error"]


def test_resuming_may_change_cost_and_place(tmp_path: Path) -> None:
    start(tmp_path / "first", "trainer.max_epochs=1")
    resume = [f"ckpt_path={tmp_path}/first/checkpoints/last.ckpt", "trainer.max_epochs=2"]
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
def test_testing_a_checkpoint_that_does_not_fit_is_refused(overrides: list[str], told: str, tmp_path: Path) -> None:
    start(tmp_path / "first", "trainer.max_epochs=1")
    checkpoint = f"ckpt_path={tmp_path}/first/checkpoints/last.ckpt"
    with pytest.raises(UserError, match=told):
        start(tmp_path / "second", "train=false", checkpoint, *overrides)


def test_a_diverged_run_is_told_and_its_record_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = start(tmp_path, "trainer.max_epochs=2", "optimizer.lr=1e20")
    assert capsys.readouterr().out.count("the training loss is NaN") == 1
    assert results["history"][1]["train/loss"] is None


def test_testing_an_early_best_epoch_leaves_the_record_of_all(tmp_path: Path) -> None:
    results = start(tmp_path, "trainer.max_epochs=3", "optimizer.lr=1e20")
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


def test_two_processes_train_and_rank_as_one(tmp_path: Path) -> None:
    still = ["attention.dropout=0", "model.dropout=0", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    one = start(tmp_path / "one", *still)
    shown = command(
        *("seqgen.run", *TINY, *QUIET, *still, "trainer=ddp", "trainer.devices=2", f"hydra.run.dir={tmp_path}/two"),
        cwd=ROOT,
    )
    assert shown.returncode == 0, shown.stderr
    two = json.loads((tmp_path / "two/results.json").read_text())
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
    ranks = [pl.read_parquet(tmp_path / name / "ranks.parquet") for name in ("one", "two")]
    assert ranks[0]["user"].to_list() == ranks[1]["user"].to_list()
    same = (ranks[0]["rank"] == ranks[1]["rank"]).mean()
    assert same > 0.95  # weights differ in the last bits, which may swap two neighbours


def test_cddrec_trains_in_two_processes(tmp_path: Path) -> None:
    shown = command(
        *(
            "seqgen.run",
            *TINY,
            *QUIET,
            "model=cddrec",
            "model.hidden_dim=16",
            "model.views.crop=0.6",
            "model.views.mask=0.3",
            "model.views.reorder=0.6",
        ),
        *("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=2"),
        f"hydra.run.dir={tmp_path}",
        cwd=ROOT,
    )
    assert shown.returncode == 0, shown.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["history"][1]["train/loss"] < results["history"][0]["train/loss"]
    assert all(math.isfinite(value) for epoch in results["history"] for value in epoch.values())
    assert pl.read_parquet(tmp_path / "ranks.parquet")["user"].to_list() == list(range(60))


@pytest.mark.parametrize("more", [(), CHAIN], ids=["heads", "chain"])
def test_cddrec_trains_under_mixed_precision(more: tuple[str, ...], tmp_path: Path) -> None:
    how = ["model=cddrec", "model.hidden_dim=16", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", *more]
    results = start(tmp_path, *how, "model.views.crop=0.6", "trainer.max_epochs=2")
    assert results["history"][1]["train/loss"] < results["history"][0]["train/loss"]
    assert all(math.isfinite(value) for value in (*results["history"][1].values(), *results["metrics"].values()))


@pytest.mark.slow
def test_metrics_of_one_and_three_processes_are_equal_to_the_last_digit(tmp_path: Path) -> None:
    # 61 users in batches of 10: the last batch holds one, and two processes nothing. A sum over three has an order.
    sizes = ["data.source.num_users=61", "data.eval_batch_size=10"]
    one = start(tmp_path / "one", "model=sasrec", "trainer.max_epochs=1", *sizes)
    checkpoint = f"ckpt_path={tmp_path}/one/checkpoints/last.ckpt"
    shown = command(
        *("seqgen.run", "model=sasrec", *TINY, *QUIET, *sizes, "train=false", checkpoint, "trainer=ddp"),
        *("trainer.accelerator=cpu", "trainer.devices=3", f"hydra.run.dir={tmp_path}/three"),
        cwd=ROOT,
    )
    assert shown.returncode == 0, shown.stderr
    results = json.loads((tmp_path / "three/results.json").read_text())
    tested = {name: value for name, value in one["metrics"].items() if name.startswith("test/")}
    assert {"test/category_coverage@10", "test/ild@10", "test/f@10", "test/gini@10"} < set(tested)
    assert {name: results["metrics"][name] for name in tested} == tested
    ranks = [pl.read_parquet(tmp_path / name / "ranks.parquet") for name in ("one", "three")]
    assert ranks[1].equals(ranks[0])


def test_a_sweep_logs_each_job_to_a_wandb_run_of_its_own_and_the_report_compares_them(tmp_path: Path) -> None:
    sweep = ["-m", "model=popularity,sasrec", "seed=1,2", "logger=wandb", f"hydra.sweep.dir={tmp_path}/sweep"]
    limits = [*TINY, *QUIET, "trainer.max_epochs=1"]
    shown = command("seqgen.run", *sweep, *limits, cwd=tmp_path, PYTHONPATH=str(ROOT), WANDB_MODE="offline")
    assert shown.returncode == 0, shown.stderr
    for job in range(4):
        assert len(list((tmp_path / f"sweep/{job}/wandb").glob("offline-run-*/*.wandb"))) == 1
        assert (tmp_path / f"sweep/{job}/csv/metrics.csv").is_file()
        assert (tmp_path / f"sweep/{job}/.hydra/config.yaml").is_file()

    shown = command("seqgen.report", f"{tmp_path}/sweep", "--csv", f"{tmp_path}/report.csv", cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    table = pl.read_csv(tmp_path / "report.csv")
    assert table["model"].to_list() == ["popularity", "sasrec"]
    assert table["seeds"].to_list() == [2, 2]


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

    summaries = {}
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(Run, "define_metric", lambda self, name, **how: summaries.update({name: how.get("summary")}))
    start(tmp_path, "logger=wandb", "model=popularity", "metrics.k=[5,10]")
    assert (summaries["val/ndcg@10"], summaries["val/mrr"], summaries["val/gini@5"]) == ("max", "max", "min")
    assert "val/unhittable" not in summaries


def test_an_interrupted_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqgen.model.mqsa_ted import MQSATED

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MQSATED, "on_validation_epoch_end", interrupt)
    with pytest.raises(SystemExit):
        start(tmp_path, "trainer.max_epochs=2")
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model=sasrecc"], "model=sasrecc does not exist; did you mean sasrec; choose one of cddrec, genatt,"),
        (["modle=sasrec"], "modle is not a key of this configuration; did you mean model."),
        (["model.hiden_dim=3"], "model.hiden_dim is not a key of this configuration; did you mean model.hidden_dim."),
        (["num_heads=3"], "num_heads is not a key of this configuration; did you mean attention.num_heads."),
        (["tags=[a"], "'tags=[a' cannot be read as key=value"),
        (["attention.num_heads=3"], "attention.num_heads=3 does not divide hidden_dim=64"),
    ],
)
def test_the_command_line_tells_errors_in_one_sentence(arguments: list[str], told: str, tmp_path: Path) -> None:
    shown = command_here("seqgen.run", *arguments, *TINY, *QUIET, cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.startswith("seqgen: ")
    assert told in shown.stderr
    assert shown.stderr.count("\n") == 1
    traced = command_here("seqgen.run", *arguments, *TINY, *QUIET, cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in traced.stderr
    assert traced.returncode == 1


def test_an_error_in_two_processes_is_one_sentence(tmp_path: Path) -> None:
    arguments = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "optimizer.lr=-1", *TINY, *QUIET]
    shown = command("seqgen.run", *arguments, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.count("seqgen: optimizer or scheduler: Invalid learning rate: -1") == 1
    assert "Traceback" not in shown.stderr
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "failed"


def test_a_sweep_over_processes_that_start_themselves_is_refused(tmp_path: Path) -> None:
    arguments = ["-m", "trainer.accelerator=cpu", "trainer.devices=2", *TINY, *QUIET, f"hydra.sweep.dir={tmp_path}"]
    shown = command_here("seqgen.run", *arguments, cwd=tmp_path)
    assert shown.returncode == 1
    assert "--multirun with several devices would start the whole sweep again" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_help_and_composed_configuration_are_shown_without_torch(tmp_path: Path) -> None:
    shown = command("seqgen.run", "--help", cwd=tmp_path)
    assert "model: cddrec, genatt, mqsa_ted, oracle, popularity, sasrec, transition" in shown.stdout
    without_torch = (
        "import sys; sys.modules['torch'] = None; import runpy; runpy.run_module('seqgen.run', run_name='__main__')"
    )
    line = [sys.executable, "-c", without_torch, "--cfg", "job"]
    shown = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.stdout.startswith("task: train")


def test_a_model_and_a_data_set_of_another_package(tmp_path: Path) -> None:
    package = tmp_path / "theirs"
    (package / "conf/model").mkdir(parents=True)
    (package / "conf/data").mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(
        '"""A model and a data set that seqgen knows nothing of."""\n'
        "import polars as pl, torch\n"
        "from seqgen.data.sources import Source\n"
        "from seqgen.model.base import SequentialRecommender\n"
        "class Newest(SequentialRecommender):\n"
        "    trainable = False\n"
        "    def __init__(self, *, catalog, metrics_k, bonus: float):\n"
        "        super().__init__(catalog=catalog, metrics_k=metrics_k)\n"
        "        self.bonus = bonus\n"
        "    def scores(self, batch):\n"
        "        ids = torch.arange(self.num_items + 1.0).repeat(len(batch), 1)\n"
        "        return -(ids - batch.newest()[:, None] - self.bonus).abs()\n"
        "def ring():\n"
        "    rows = [(u, f'i{(u + t) % 20:02d}', t) for u in range(40) for t in range(6)]\n"
        "    frame = pl.LazyFrame(rows, schema=['user_id', 'item_id', 'timestamp'], orient='row')\n"
        "    return Source(name='ring', interactions=lambda: frame, parameters={'v': 1})\n"
    )
    none = "".join(f"  - override /{g}@_global_.{g}: none\n" for g in ("attention", "loss", "optimizer"))
    (package / "conf/model/newest.yaml").write_text(
        f"defaults:\n{none}  - _self_\n_target_: theirs.parts.Newest\nmetrics_k: ${{metrics.k}}\nbonus: 1.0\n"
    )
    (package / "conf/data/ring.yaml").write_text(
        "_target_: seqgen.data.datamodule.SequenceDataModule\ncache_dir: ${paths.cache_dir}\nmax_len: 5\n"
        "source:\n  _target_: theirs.parts.ring\n"
    )
    arguments = ["model=newest", "data=ring", "hydra.searchpath=[pkg://theirs.conf]", f"hydra.run.dir={tmp_path}/run"]
    shown = command("seqgen.run", *arguments, *QUIET, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    # Item t is always followed by t + 1, but for the step from the last back to the first.
    assert results["metrics"]["test/hr@1"] == pytest.approx(0.95, abs=0.06)
    assert pl.read_parquet(tmp_path / "run/ranks.parquet")["target"][0] == "i05"


def test_a_wheel_carries_its_configuration(tmp_path: Path) -> None:
    for name in ("seqgen", "conf"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    shown = command(*build, str(tmp_path / "source"), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    with zipfile.ZipFile(next(tmp_path.glob("seqgen-*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    packed = {path.relative_to(tmp_path / "site/seqgen/conf") for path in (tmp_path / "site").rglob("*.yaml")}
    assert packed == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    modules = {path.relative_to(ROOT) for path in (ROOT / "seqgen").rglob("*.py")} | {Path("seqgen/py.typed")}
    assert all((tmp_path / "site" / module).is_file() for module in modules)
    shown = command("seqgen.run", "--cfg", "job", cwd=tmp_path / "site")
    assert shown.stdout.startswith("task: train"), shown.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_mqsa_ted_stands_between_the_transition_baseline_and_the_oracle(seed: int, tmp_path: Path) -> None:
    value = {}
    for model in ("transition", "mqsa_ted", "oracle"):
        overrides = [f"model={model}", f"seed={seed}", "trainer.max_epochs=20", *QUIET]
        run(config.compose(overrides, output_dir=tmp_path / model))
        value[model] = json.loads((tmp_path / model / "results.json").read_text())["metrics"]["test/ndcg@10"]
    assert value["mqsa_ted"] > 1.2 * value["transition"]
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
