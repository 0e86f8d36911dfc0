"""Popularity and transition on generated data, against loops over the sequences without their last two items."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY
from model_cases import generated

from seqgen import config, run
from seqgen.errors import UserError


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


@pytest.mark.parametrize("name", ["popularity", "transition", "oracle"])
def test_precision_changes_no_rank_or_is_refused(name: str, tmp_path: Path) -> None:
    """Scores of 16 bits would hold only a few hundred items apart, and ties count against the model."""
    many = ["data.source.num_items=900", "data.min_item_interactions=1", f"model={name}", "logger=none"]
    metrics = []
    for precision in ("32-true", "bf16-true"):
        overrides = [*TINY, *QUIET, *many, "trainer.accelerator=cpu", f"trainer.precision={precision}"]
        overrides.remove("data.source.num_items=40")
        folder = tmp_path / precision
        try:
            run.run(config.compose(overrides, output_dir=folder))
        except UserError as refused:
            assert "trainer.precision" in str(refused)  # noqa: PT017
            return
        metrics.append(json.loads((folder / "results.json").read_text())["metrics"])
    assert metrics[0] == metrics[1]
