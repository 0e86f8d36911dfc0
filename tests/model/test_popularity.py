"""Popularity: training counts, ties by id, the same for all."""

import torch
from model_cases import catalog_of, evaluation

from seqgen.metrics import top_items
from seqgen.model.popularity import Popularity


def test_order_by_training_count_then_id() -> None:
    catalog = catalog_of([[4, 2, 4], [2, 5, 1], [4]], num_items=6)  # counts: 1, 2, 0, 3, 1, 0
    model = Popularity(catalog=catalog, metrics_k=[1])
    batch = evaluation([[4, 4, 4, 6], [1, 6, 6, 6]])  # what is held out, or is the user's alone, counts nowhere
    assert top_items(model.ranking_scores(batch), 6).tolist() == [[2, 1, 5, 3, 6, 0], [4, 2, 5, 3, 0, 0]]
    scores = model.scores(batch)
    assert torch.equal(scores[0], scores[1])
    assert len(scores[0].unique()) == 7  # no ties are left: a tie would count against the model
    assert not list(model.parameters())
