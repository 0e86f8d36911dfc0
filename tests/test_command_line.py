"""The command line: its errors, sweeps, several processes, other people's packages, an installed wheel."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import polars as pl
import pytest
from commands import command, command_here, start
from conftest import QUIET, ROOT, TINY

VIEWS = ("model.views.crop=0.6", "model.views.mask=0.3", "model.views.reorder=0.6", "model.augmented_weight=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "model"),
    [
        (2, ["model=sasrec", "loss=bce"]),
        (2, ["model=mqsa_ted", "loss=sampled_softmax", "loss.num_negatives=20", "loss.sampler=popularity"]),
        (4, ["model=sasrec", "loss=in_batch"]),
        # The pictures of one process, after the test, wait for nobody.
        (2, ["model=cddrec", "model.hidden_dim=16", "model.decoder.dropout=0", "logger=tensorboard"]),
        (4, ["model=cddrec", "model.hidden_dim=16", "model.decoder.dropout=0", *VIEWS]),
        (2, ["model=genatt", "attention=vae", "model.num_layers=2"]),
        (4, ["model=genatt", "attention=diffusion", "attention.clean_map=teacher", "attention.reverse_steps=2"]),
        (2, ["model=sasrec", "attention=vae", "attention.context=last"]),
        (2, ["model=mqsa_ted"]),
    ],
)
def test_several_processes_train_and_rank_as_one(processes: int, model: list[str], tmp_path: Path) -> None:
    # 59 users in batches of 16: in the last one the processes have slices of different sizes.
    still = ["attention.dropout=0", "model.dropout=0", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    still += ["data.source.num_users=59", *model]
    one = start(tmp_path / "one", *still)
    several = ["trainer=ddp", f"trainer.devices={processes}", f"hydra.run.dir={tmp_path}/several"]
    shown = command("seqgen.run", *TINY, *QUIET, *still, *several, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    results = json.loads((tmp_path / "several/results.json").read_text())
    for ours, theirs in zip(one["history"], results["history"], strict=True):
        parts = [name for name in ours if name.startswith("train/")]
        assert {name: theirs[name] for name in parts} == pytest.approx({name: ours[name] for name in parts}, rel=1e-5)
    ranks = [pl.read_parquet(tmp_path / name / "ranks.parquet") for name in ("one", "several")]
    assert ranks[0]["user"].to_list() == ranks[1]["user"].to_list()
    same = (ranks[0]["rank"] == ranks[1]["rank"]).mean()
    assert same > 0.95  # weights differ in the last bits, which may swap two neighbours


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_help_and_composed_configuration_are_shown_without_torch_and_polars(tmp_path: Path) -> None:
    without = (
        "import sys; sys.modules |= {'torch': None, 'polars': None}; import runpy; "
        "runpy.run_module('seqgen.run', run_name='__main__')"
    )
    for arguments, beginning in ((["--help"], "seqgen: train, compare"), (["--cfg", "job"], "task: train")):
        line = [sys.executable, "-c", without, *arguments]
        shown = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert shown.stdout.startswith(beginning), shown.stderr
        if arguments == ["--help"]:
            assert "model: cddrec, genatt, mqsa_ted, oracle, popularity, sasrec, transition" in shown.stdout


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_wheel_carries_its_configuration(tmp_path: Path) -> None:
    for name in ("seqgen", "conf", "hydra_plugins"):
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
    shown = command("seqgen.run", "--cfg", "job", cwd=tmp_path / "site")
    assert shown.stdout.startswith("task: train"), shown.stderr


@pytest.mark.parametrize("stopped", ["first", "second"])
def test_of_two_processes_whichever_is_told_to_stop_both_end_on_record(stopped: str, tmp_path: Path) -> None:
    how = ["model=sasrec", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=100000"]
    line = [
        sys.executable,
        "-m",
        "seqgen.run",
        *TINY,
        *QUIET,
        *how,
        "callbacks=checkpoints",
        f"hydra.run.dir={tmp_path}",
    ]
    run = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    end = time.monotonic() + 60
    while not (tmp_path / "checkpoints/last.ckpt").is_file():
        assert time.monotonic() < end
        assert run.poll() is None
        time.sleep(0.1)
    second = next(pid for pid in map(int, children.read_text().split()) if b"seqgen" in cmdline(pid))
    os.kill({"first": run.pid, "second": second}[stopped], signal.SIGTERM)
    assert run.wait(timeout=20) != 0
    end = time.monotonic() + 20
    while Path(f"/proc/{second}").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "early"), [("first", False), ("second", False), ("second", True)])
def test_of_two_processes_whichever_is_killed_the_other_ends_on_record(
    killed: str, early: bool, tmp_path: Path
) -> None:
    how = ["model=sasrec", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "callbacks=checkpoints"]
    how += [*TINY, *QUIET, "trainer.max_epochs=80"]
    line = [sys.executable, "-m", "seqgen.run", *how, f"hydra.run.dir={tmp_path}"]
    run = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def second() -> int | None:
        tasks = Path(f"/proc/{run.pid}/task").glob("*/children")
        children = [int(pid) for task in tasks for pid in task.read_text().split()]
        return next((pid for pid in children if b"train_ddp_process_1" in cmdline(pid)), None)

    end = time.monotonic() + 60
    while second() is None if early else not (tmp_path / "checkpoints/last.ckpt").is_file():
        assert time.monotonic() < end
        assert run.poll() is None
        time.sleep(0.05)
    other = second()
    assert other is not None
    os.kill({"first": run.pid, "second": other}[killed], signal.SIGKILL)
    assert run.wait(timeout=60) != 0
    end = time.monotonic() + 60
    while Path(f"/proc/{other}").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["status"] == "failed"
    assert "rocess of this run was lost" in results["error"]
    if killed == "second" and not early:
        assert results["epochs"] < 80
        resumed = command("seqgen.run", *how, f"ckpt_path={tmp_path}/checkpoints/last.ckpt", cwd=tmp_path)
        undisturbed = command("seqgen.run", *how, f"hydra.run.dir={tmp_path}/undisturbed", cwd=tmp_path)
        assert resumed.returncode == undisturbed.returncode == 0, resumed.stderr + undisturbed.stderr
        again, whole = (json.loads(f.read_text()) for f in tmp_path.glob("[ou]*/**/results.json"))
        for key in ("metrics", "history", "best_epoch"):
            assert again[key] == whole[key]


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
