"""RePlay: from a CSV to the first training batch of its SasRec; run by ../prepare_data.py.

The path its documentation shows for the present (not deprecated) API, with polars frames. Included: reading, 5-core,
numbering, leave-one-out, one sequence a user, the parquet file that `ParquetModule` reads, and the transforms of a
batch. Excluded: imports, and the parquet files of validation and test.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import polars as pl
import torch
from meter import Clock, report
from replay.data import FeatureHint, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
from replay.data.nn.utils import groupby_sequences
from replay.nn.transform.template import make_default_sasrec_transforms
from replay.preprocessing import LabelEncoder, LabelEncodingRule
from replay.preprocessing.filters import InteractionEntriesFilter
from replay.splitters import LastNSplitter


def training_part(log: pl.DataFrame) -> pl.DataFrame:
    splitter = LastNSplitter(
        N=1,
        divide_column="user_id",
        query_column="user_id",
        item_column="item_id",
        timestamp_column="timestamp",
        strategy="interactions",
        drop_cold_users=False,
        drop_cold_items=False,
    )
    history, _ = splitter.split(log)
    return splitter.split(history)[0]


def main() -> None:
    spec = json.load(sys.stdin)
    torch.set_num_threads(1)  # what ParquetModule's documentation recommends
    clock = Clock()
    log = pl.read_csv(spec["file"], columns=["user_id", "item_id", "timestamp"])
    log = InteractionEntriesFilter(min_inter_per_user=spec["k_core"], min_inter_per_item=spec["k_core"]).transform(log)
    encoder = LabelEncoder([LabelEncodingRule("user_id"), LabelEncodingRule("item_id")])
    log = encoder.fit_transform(log)
    sizes = {"users": len(encoder.mapping["user_id"]), "items": len(encoder.mapping["item_id"])}
    path = str(Path(spec["folder"], "train.parquet"))
    groupby_sequences(training_part(log), groupby_col="user_id", sort_col="timestamp").write_parquet(path)
    items = TensorFeatureInfo(
        name="item_id",
        is_seq=True,
        padding_value=sizes["items"],
        cardinality=sizes["items"],
        embedding_dim=64,
        feature_type=FeatureType.CATEGORICAL,
        feature_hint=FeatureHint.ITEM_ID,
    )
    transforms = {"train": make_default_sasrec_transforms(TensorSchema([items]))["train"]}
    shape = {"shape": spec["max_len"] + 1, "padding": sizes["items"]}
    module = ParquetModule(
        train_path=path, batch_size=spec["batch_size"], transforms=transforms, metadata={"train": {"item_id": shape}}
    )
    module.setup("fit")
    told = clock.lap()
    module.compiled_transforms["train"](next(iter(module.train_dataloader())))
    told |= clock.lap("first_batch")
    report(told | {"version": version("replay-rec"), "sizes": sizes | {"interactions": log.height}})


if __name__ == "__main__":
    main()
