"""RePlay: SASRec of its present API (ParquetModule, LightningModule), trained and ranked; run by ../compare_peers.py.

Its Parquet files lie ready, which its users write once.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L  # noqa: TID251  # which RePlay is built on
import polars as pl
import torch
from meter import Clock, EpochMeter
from replay.data import FeatureHint, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import ComputeMetricsCallback, PolarsTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.sequential import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms
from training import BARE, EVALUATION_BATCH, KS, LISTED, EpochHooks, Sequences, keep_lists, main, trained_by


class Meter(EpochHooks, L.Callback):
    """Tells the meter of Lightning's epochs."""


def lay_out(spec: dict[str, Any]) -> None:
    """Write a row per user, items from 0: the training part, and the history with what was seen and the target."""
    sequences = Sequences.read(spec)
    for name, held_out in (("train", 2), ("test", 1)):
        users, items, _ = sequences.without_last(held_out).columns()
        rows = pl.DataFrame({"user_id": users, "item_id": items - 1}).group_by("user_id", maintain_order=True).all()
        if name == "test":
            targets = [[item] for item in (sequences.values[sequences.offsets[1:] - 1] - 1).tolist()]
            rows = rows.with_columns(seen_ids="item_id", ground_truth=pl.Series(targets))
        rows.write_parquet(Path(spec["forms"]) / f"replay_{name}.parquet")


def network_of(spec: dict[str, Any]) -> tuple[SasRec, Any]:
    """The network, and what is done to its batches."""
    item = TensorFeatureInfo(
        name="item_id",
        is_seq=True,
        padding_value=spec["num_items"],
        cardinality=spec["num_items"],
        embedding_dim=spec["width"],
        feature_type=FeatureType.CATEGORICAL,
        feature_hint=FeatureHint.ITEM_ID,
    )
    schema = TensorSchema([item])
    network = SasRec.from_params(
        schema=schema,
        embedding_dim=spec["width"],
        max_sequence_length=spec["max_len"],
        num_heads=spec["heads"],
        num_blocks=spec["blocks"],
        dropout=spec["dropout"],
        hidden_dim=spec["width"],
    )
    return network, make_default_sasrec_transforms(schema)


def train(spec: dict[str, Any]) -> dict[str, Any]:
    meter = EpochMeter(spec["started"])
    torch.set_num_threads(1)
    L.seed_everything(spec["seed"])
    num_items, longest = spec["num_items"], spec["longest"]
    network, transforms = network_of(spec)
    adam = OptimizerFactory(learning_rate=spec["lr"], betas=tuple(spec["betas"]))
    model = LightningModule(network, optimizer_factory=adam)

    def data(stage: str, file: str, batch_size: int, **shapes: int | None) -> ParquetModule:
        padded = {name: {"shape": size, "padding": num_items} if size else {} for name, size in shapes.items()}
        path = {f"{stage}_path": str(Path(spec["forms"]) / f"replay_{file}.parquet")}
        return ParquetModule(batch_size=batch_size, transforms=transforms, metadata={stage: padded}, **path)

    def targets(batch: dict[str, Any]) -> int:
        # A short history's first item too is scored, at the padding before it: no target of the others.
        return int((batch["target_padding_mask"][..., 0] & batch["padding_mask"]).sum())

    trainer = L.Trainer(callbacks=[Meter(meter, targets)], **trained_by(spec))
    trainer.fit(model, datamodule=data("train", "train", spec["batch_size"], item_id=spec["max_len"] + 1))

    history = {"user_id": None, "item_id": spec["max_len"], "seen_ids": longest}
    clock = Clock()
    measured = ComputeMetricsCallback(
        metrics=["recall", "ndcg", "mrr"], ks=list(KS), postprocessors=[SeenItemsFilter(num_items)], verbose=False
    )
    L.Trainer(callbacks=[measured], **BARE).test(
        model, datamodule=data("test", "test", EVALUATION_BATCH, **history, ground_truth=1), verbose=False
    )
    told = clock.lap("evaluate")
    if spec["lists"]:
        for name, filters in (("seen_removed", [SeenItemsFilter(num_items)]), ("all_items", [])):
            lists = PolarsTopItemsCallback(
                top_k=LISTED,
                query_column="user_id",
                item_column="item_id",
                rating_column="score",
                postprocessors=filters,
            )
            predict = data("predict", "test", EVALUATION_BATCH, **history)
            L.Trainer(callbacks=[lists], **BARE).predict(model, datamodule=predict, return_predictions=False)
            best_first = lists.get_result().sort("score", descending=True)
            of_users = best_first.group_by("user_id", maintain_order=True).agg("item_id")
            items = [[item + 1 for item in row] for row in of_users["item_id"]]
            keep_lists(spec, name, of_users["user_id"].to_numpy(), items)
    names = ("replay-rec", "torch", "lightning", "polars", "numpy")
    return {**meter.told(), **told, "own_metrics": measured.get_metrics("test")[0]} | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {name: version(name) for name in names},
    }


if __name__ == "__main__":
    main(lay_out, train)
