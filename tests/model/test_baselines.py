"""Popularity and transition on generated data, against loops over the sequences without their last two items."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import TINY
from model_cases import generated

from seqgen import config


@pytest.mark.parametrize("name", ["popularity", "transition"])
def test_baselines_count_the_training_part_alone(name: str, tmp_path: Path) -> None:
    data = generated(tmp_path)
    cfg = config.compose([*TINY, f"model={name}", "data.max_len=6"], output_dir=tmp_path)
    model, num_items = config.build(cfg, "model", catalog=data.catalog), data.catalog.num_items
    offsets, values = data.sequences.offsets.tolist(), data.sequences.values.tolist()
    train = [values[a : b - 2] for a, b in pairwise(offsets)]
    popularity = Counter(item for history in train for item in history)
    follows = Counter(pair for h in train for pair in pairwise(h[-6:]) if name == "transition")
    for batch in data.test_dataloader():
        scores, newest = model.scores(batch)[:, 1:], batch.newest().tolist()
        for row, user in enumerate(batch.users.tolist()):
            last = values[offsets[user + 1] - 2]
            assert newest[row] == last
            best = sorted(range(1, num_items + 1), key=lambda i: (-follows[last, i], -popularity[i], i))
            assert (scores[row].argsort(descending=True) + 1).tolist() == best
            assert torch.unique(scores[row]).numel() == num_items
