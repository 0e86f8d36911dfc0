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


# More items than 16 bits hold apart: their scores would be ties, which count against the model.
MANY = ("data.source.num_items=900", "data.min_item_interactions=1", "logger=none", "trainer.accelerator=cpu")


def metrics_of(name: str, precision: str, folder: Path) -> dict[str, float]:
    run.run(
        config.compose([*TINY, *QUIET, *MANY, f"model={name}", f"trainer.precision={precision}"], output_dir=folder)
    )
    metrics: dict[str, float] = json.loads((folder / "results.json").read_text())["metrics"]
    return metrics


@pytest.mark.parametrize("name", ["popularity", "transition", "oracle"])
def test_mixed_precision_changes_no_metric(name: str, tmp_path: Path) -> None:
    whole, mixed = (metrics_of(name, precision, tmp_path / precision) for precision in ("32-true", "bf16-mixed"))
    assert whole == mixed


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
@pytest.mark.parametrize("name", ["popularity", "transition", "oracle"])
def test_a_precision_that_rounds_scores_to_ties_is_refused(name: str, precision: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^trainer\.precision={precision} rounds the scores of model={name} to ties\.$"
    ):
        metrics_of(name, precision, tmp_path)
