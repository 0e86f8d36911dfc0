"""seqgen: SASRec through its Python API, trained and tested; run by ../compare_peers.py.

Its cache lies ready. The sequences that all others read are those that seqgen prepared.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytorch_lightning as L
import torch
from meter import Clock, EpochMeter
from omegaconf import DictConfig, open_dict
from training import EVALUATION_BATCH, KS, LISTED, EpochHooks, Sequences, keep_lists, main

import seqgen
from seqgen import config


class Meter(EpochHooks, L.Callback):
    """Tells the meter of Lightning's epochs, and keeps when training ended, and the model."""

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """What comes now is the test."""
        self.ranking, self.model = Clock(), module


metering: list[Meter] = []  # the configuration names `make_meter`, which returns this one


def make_meter() -> Meter:
    return metering[0]


def composed(spec: dict[str, Any]) -> DictConfig:
    overrides = [
        "model=sasrec",
        f"data={spec['data']}",
        f"data.max_len={spec['max_len']}",
        f"data.batch_size={spec['batch_size']}",
        f"data.eval_batch_size={EVALUATION_BATCH}",
        "loss=ce",
        f"model.hidden_dim={spec['width']}",
        f"model.num_layers={spec['blocks']}",
        f"model.dropout={spec['dropout']}",
        f"attention.num_heads={spec['heads']}",
        f"attention.dropout={spec['dropout']}",
        f"optimizer.lr={spec['lr']}",
        f"optimizer.betas={spec['betas']}",
        f"metrics.k=[{','.join(map(str, KS))}]",
        f"seed={spec['seed']}",
        f"paths.data_dir={spec['data_dir']}",
        f"paths.cache_dir={spec['cache']}",
        "trainer=cpu",
        f"trainer.max_epochs={spec['epochs']}",
        f"trainer.limit_train_batches={spec['steps'] or 1.0}",
        "trainer.limit_val_batches=0",
        "callbacks=none",
        "logger=none",
        "print_config=false",
        "trainer.enable_progress_bar=false",
        "trainer.enable_model_summary=false",
    ]
    return seqgen.compose(overrides, output_dir=spec["folder"])


def sequences_of(data: Any) -> Sequences:
    return Sequences(data.sequences.values.numpy(), data.sequences.offsets.numpy())


def lay_out(spec: dict[str, Any]) -> None:
    """Write the sequences for all."""
    values, offsets = sequences_of(config.build(composed(spec), "data"))
    np.savez(spec["sequences"], values=values.astype(np.int64), offsets=offsets.astype(np.int64))


def train(spec: dict[str, Any]) -> dict[str, Any]:
    meter = EpochMeter(spec["started"])
    torch.set_num_threads(1)
    hooks = Meter(meter, lambda batch: len(batch.targets))
    metering.append(hooks)
    cfg = composed(spec)
    with open_dict(cfg):
        cfg.callbacks = {"meter": {"_target_": "__main__.make_meter"}}
    result = seqgen.run(cfg)
    told = hooks.ranking.lap("evaluate")
    data = config.build(cfg, "data")
    if spec["lists"]:
        keep_seen_removed(spec, result.folder, data)
        keep_all_items(spec, hooks.model, data)
    own = {name: value for name, value in result.metrics.items() if name.startswith("test/")}
    names = ("seqgen", "torch", "pytorch-lightning", "polars", "numpy")
    versions = {name: version(name) for name in names} | {"commit": result.record["version"]["commit"]}
    return {**meter.told(), **told, "own_metrics": own, "digest": sequences_of(data).digest} | {
        "parameters": result.record["parameters"],
        "versions": versions,
    }


def keep_seen_removed(spec: dict[str, Any], folder: Path, data: Any) -> None:
    """The lists that a run leaves, by the numbers that the sequences have."""
    numbers = {item: number for number, item in enumerate(data.catalog.item_ids, start=1)}
    users = {user: number for number, user in enumerate(data.catalog.user_ids)}
    ranked = pl.read_parquet(folder / "ranks.parquet", columns=["user", "top"])
    lists = [[numbers[item] for item in top[:LISTED]] for top in ranked["top"].to_list()]
    keep_lists(spec, "seen_removed", [users[user] for user in ranked["user"].to_list()], lists)


@torch.inference_mode()
def keep_all_items(spec: dict[str, Any], model: Any, data: Any) -> None:
    """The lists without any item removed, which `data.mask_seen=false` asks for."""
    users, lists = [], []
    for batch in data.test_dataloader():
        scores = model.eval().scores(batch)
        scores[:, 0] = float("-inf")  # padding
        users.append(batch.users)
        lists.append(scores.topk(LISTED).indices)
    keep_lists(spec, "all_items", torch.cat(users).numpy(), torch.cat(lists).numpy())


if __name__ == "__main__":
    main(lay_out, train)
