"""The trainer that a configuration makes."""

from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY
from omegaconf import OmegaConf

from seqgen import config
from seqgen.results import RunRecord
from seqgen.stages import make_trainer

DDP = {"_target_": "pytorch_lightning.strategies.DDPStrategy", "broadcast_buffers": True}


@pytest.mark.parametrize(
    ("strategy", "sent"), [("ddp", False), ("auto", False), ("ddp_find_unused_parameters_true", False), (DDP, True)]
)
def test_processes_send_no_buffers_unless_they_are_asked_to(strategy: Any, sent: bool, tmp_path: Path) -> None:
    several = ["model=mqsa_ted", "trainer.accelerator=cpu", "trainer.devices=2", "callbacks=none", "logger=none"]
    cfg = config.compose([*TINY, *QUIET, *several], output_dir=tmp_path)
    OmegaConf.update(cfg, "trainer.strategy", strategy)
    model = config.build_model(cfg, catalog=config.build(cfg, "data").catalog)
    record = RunRecord(tmp_path, config=config.plain(cfg), choices=config.choices(), overrides=[], write=False)
    trainer: Any = make_trainer(cfg, model, record)
    given = trainer.strategy._ddp_kwargs
    assert [given[name] for name in ("broadcast_buffers", "forward_sync_buffers") if name in given] == [sent]
