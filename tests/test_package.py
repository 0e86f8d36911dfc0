"""`import seqgen` gives compose, run and load, at once and in whatever order things are imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command
from conftest import QUIET, ROOT, TINY

import seqgen


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_alone_is_light(tmp_path: Path) -> None:
    heavy = "[name for name in ('torch', 'hydra', 'polars', 'numpy') if name in sys.modules]"
    assert python(f"import sys, seqgen; print({heavy}, seqgen.__version__)", tmp_path) == f"[] {seqgen.__version__}"
    light = "import sys, seqgen; seqgen.compose, seqgen.run; print('torch' in sys.modules)"
    assert python(light, tmp_path) == "False"


@pytest.mark.parametrize(
    "imports",
    [
        "import seqgen",
        "import seqgen.run",
        "import seqgen; seqgen.run; import seqgen.run",
        "import seqgen.run; from seqgen.run import run, main",
        "from seqgen.run import run; import seqgen",
        "from seqgen import run; import seqgen",
        "from seqgen import run, compose, load; import seqgen; assert seqgen.run is run",
        "from seqgen import *; import seqgen; assert load is seqgen.load; assert compose is seqgen.compose",
        "import seqgen.data.datamodule, seqgen.config, seqgen.run, seqgen.checkpoint",
        "import importlib; seqgen = importlib.import_module('seqgen.run') and importlib.import_module('seqgen')",
    ],
)
def test_run_can_be_called_in_whatever_order_it_is_imported(imports: str, tmp_path: Path) -> None:
    called = "module = sys.modules['seqgen.run']; module.run = lambda cfg: cfg + 1; print(seqgen.run(1))"
    assert python(f"{imports}; import sys; seqgen.run; {called}", tmp_path) == "2"


def test_ruff_and_python_have_one_version_each() -> None:
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned
    assert f"rev: v{pinned[1]} " in (ROOT / ".pre-commit-config.yaml").read_text()
    least, below = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())[0]
    versions = json.dumps([f"3.{minor}" for minor in range(int(least), int(below))])
    assert f"python: {versions}" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_the_three_names_are_all_there_is(tmp_path: Path) -> None:
    assert {"compose", "load", "run", "__version__"} <= set(dir(seqgen))
    with pytest.raises(AttributeError, match="module 'seqgen' has no attribute 'train'"):
        seqgen.train  # type: ignore[attr-defined]  # noqa: B018


def test_a_notebook_composes_runs_and_loads(tmp_path: Path) -> None:
    overrides = ["model=sasrec", "model.hidden_dim=16", "trainer.max_epochs=1", *TINY, *QUIET]
    result = seqgen.run(seqgen.compose(overrides, output_dir=tmp_path))
    assert (result.folder, result.status, result.best_epoch) == (tmp_path, "finished", 0)
    assert 0 < result.objective == result.metrics["val/ndcg@10"] == result.record["history"][0]["val/ndcg@10"] < 1
    assert result.metrics == json.loads((tmp_path / "results.json").read_text())["metrics"]
    model = seqgen.load(result.checkpoint)
    assert (model.num_items, model.training) == (40, False)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "RuntimeError"])
def test_an_interrupt_while_modules_are_imported_is_a_sentence(error: str, tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text(f"raise {error}\n")
    shown = command("seqgen.run", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert shown.returncode != 0
    if error == "KeyboardInterrupt":
        assert shown.stderr == "seqgen: stopped before it began\n"
    else:  # ours to mend, with its trace
        assert shown.stderr.startswith("Traceback")
