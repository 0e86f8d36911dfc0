"""Catalogues, batches and models small enough to work out by hand."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from conftest import TINY, mechanism
from torch import Tensor

from seqgen import config, losses
from seqgen.data.catalog import Catalog
from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.ragged import Sequences
from seqgen.data.sequences import Group, SequenceBatch, evaluation_batch, training_batch
from seqgen.data.split import leave_one_out
from seqgen.layers import Inference
from seqgen.model.base import SequentialRecommender
from seqgen.model.mqsa_ted import MQSATED
from seqgen.model.sasrec import SASRec

NUM_ITEMS, MAX_LEN = 9, 6
# Training parts: three groups of length, repeats, a repeat in a row; item 8 has no successor, item 9 never occurs.
HISTORIES = [[1, 2, 3, 1, 2], [4, 4, 5], [2, 3], [7, 6, 5, 4, 3, 2, 1, 2, 3, 4, 5, 6], [6, 1, 2, 8]]


def sequences_of(histories: list[list[int]]) -> Sequences:
    lengths = torch.tensor([0, *map(len, histories)])
    values = torch.tensor([item for history in histories for item in history], dtype=torch.int32)
    return Sequences(values=values, offsets=lengths.cumsum(0))


def catalog_of(histories: list[list[int]], num_items: int = NUM_ITEMS, **more: Any) -> Catalog:
    train = sequences_of(histories)
    known = {
        "fingerprint": "0123",
        "num_items": num_items,
        "num_users": len(histories),
        "item_counts": train.values.bincount(minlength=num_items + 1),
        "item_ids": [f"item {i}" for i in range(1, num_items + 1)],
        "user_ids": list(range(len(histories))),
        "train": lambda: train,
    }
    return Catalog(**known | more)


def training(histories: list[list[int]], *, max_len: int = MAX_LEN) -> SequenceBatch:
    """All items of each history are training items."""
    sequences = sequences_of(histories)
    cases = leave_one_out(sequences, held_out=0)
    return training_batch(sequences, cases, torch.arange(len(histories)), max_len=max_len)


def evaluation(histories: list[list[int]], *, max_len: int = MAX_LEN, mask_seen: bool = True) -> SequenceBatch:
    """The last item of each history is the target."""
    sequences = sequences_of(histories)
    cases = leave_one_out(sequences, held_out=1)
    return evaluation_batch(sequences, cases, torch.arange(len(histories)), max_len=max_len, mask_seen=mask_seen)


def generated(folder: Path) -> SequenceDataModule:
    """A tiny generated set; its rare items and users are dropped, so that ids and original ids differ."""
    extra = ["data.min_item_interactions=12", "data.min_user_interactions=6", "data.max_len=6"]
    cfg = config.compose([*TINY, *extra, f"paths.cache_dir={folder}"], output_dir=folder)
    data: SequenceDataModule = config.build(cfg, "data")
    assert data.catalog.num_items < 40
    assert data.catalog.num_users < 60
    assert int(data.train_sequences().lengths.max()) > data.max_len
    return data


def in_one_group(batch: SequenceBatch, extra: int = 0) -> SequenceBatch:
    """The same rows in the same order, padded to one length, and by `extra` columns more."""
    from dataclasses import replace

    columns = max(group.items.shape[1] for group in batch.groups) + extra
    items = torch.cat([torch.nn.functional.pad(g.items, (0, columns - g.items.shape[1])) for g in batch.groups])
    lengths, rows = (torch.cat([getattr(g, name) for g in batch.groups]) for name in ("lengths", "rows"))
    flat_index = torch.tensor([r * columns + t for r, length in enumerate(lengths.tolist()) for t in range(length)])
    return replace(batch, groups=(Group(items=items, lengths=lengths, rows=rows, flat_index=flat_index),))


SIZES: dict[str, Any] = {"hidden_dim": 8, "num_layers": 1, "ffn_dim": 8, "activation": "relu", "norm": "query"}
PARTS: dict[str, Any] = {"optimizer": torch.optim.Adam, "scheduler": None, "metrics_k": [1, 3], "max_len": MAX_LEN}
PARTS["inference"] = Inference(samples=0, temperature=1.0)


def make(kind: type[SequentialRecommender], catalog: Catalog, *, seed: int = 0, **settings: Any) -> Any:
    """A SASRec or MQSA-TED without dropout, its parameters far enough from 0 for mistakes to show."""
    given = SIZES | PARTS | {"dropout": 0.0, "attention": mechanism("softmax"), "loss": losses.cross_entropy}
    if kind is MQSATED:
        given |= {"attention": mechanism("multi_query"), "distill_weight": 0.3, "temperature": 0.5, "time_span": 1}
    model = kind(catalog=catalog, **given | settings)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    with torch.no_grad():
        model.item_vectors[0] = 0.0
    return model


sasrec, mqsa_ted = partial(make, SASRec), partial(make, MQSATED)


def gradients(value: Tensor, model: SequentialRecommender) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}
