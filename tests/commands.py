"""A run from Python; `python -m module argument …`, in a process of its own or within the test's."""

import contextlib
import io
import json
import logging
import os
import runpy
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY
from hydra.core.global_hydra import GlobalHydra

from seqgen import cli, config
from seqgen.run import run


def start(folder: Path, *overrides: str) -> dict[str, Any]:
    """Run, and return results.json."""
    value = run(config.compose([*TINY, *QUIET, *overrides], output_dir=folder)).objective
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    validated = [epoch["val/ndcg@10"] for epoch in results["history"] if "val/ndcg@10" in epoch]
    assert value == max(validated or [results["metrics"].get("val/ndcg@10", value)])
    return results


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: about three seconds, most of them the import of torch and Lightning."""
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(
        line, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300
    )


def command_here(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Within this process. Each command line has a test in a process of its own besides."""
    module, *rest = arguments
    out, error = io.StringIO(), io.StringIO()
    before, handlers, code = dict(os.environ), logging.root.handlers[:], 0
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
            warnings.catch_warnings(action="ignore", category=RuntimeWarning),  # the module is there already
        ):
            os.environ |= environment
            patch.chdir(cwd)
            patch.setattr(sys, "argv", [module, *rest])
            patch.setattr(cli, "_failure", [])
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                code = int(end.code or 0)
            except Exception:
                traceback.print_exc()
                code = 1
    finally:
        os.environ.clear()
        os.environ |= before
        logging.root.handlers[:] = handlers
        GlobalHydra.instance().clear()
    return subprocess.CompletedProcess([*arguments], code, out.getvalue(), error.getvalue())
