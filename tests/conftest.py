"""Fixtures of all tests: where the real data lies, and configurations that run in seconds."""

import importlib.util
import os
import sys

# Before torch is imported, and for the processes that tests start: of several threads here each waits for the others.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from seqgen import config

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SEQGEN_DATA", ROOT.parent / "shared" / "data")).resolve()

# A generated set that is prepared and trained in a blink.
TINY = (
    "data.source.num_users=60",
    "data.source.num_items=40",
    "data.source.num_categories=4",
    "data.source.max_length=12",
    "data.max_len=8",
    "data.batch_size=16",
)
QUIET = ("print_config=false", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false")


def script(path: str) -> ModuleType:
    """A script that belongs to no package, imported by its path below the repository."""
    spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "_"), ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for its own module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache; one cache serves the whole session, all its workers."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGEN_CACHE", str(cache))
        patch.setenv("SEQGEN_DATA", str(DATA))
        yield


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set, or a skip that says what is missing."""

    def folder(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"{DATA / name} is absent: set SEQGEN_DATA to the folder that holds {name}/")
        return DATA / name

    return folder


@cache
def _attention_settings(name: str) -> DictConfig:
    return config.compose(["model=sasrec", f"attention={name}", "attention.dropout=0"], output_dir="unused").attention


def mechanism(name: str, **settings: Any) -> Any:
    """What `attention=name` builds, without dropout unless it is given: as the encoder takes it."""
    return instantiate(_attention_settings(name), **settings, _convert_="all")
