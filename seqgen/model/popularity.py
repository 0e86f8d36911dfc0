"""Popularity: every user is recommended the most frequent items of the training part. The baseline below all others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqgen.data.catalog import Catalog
from seqgen.data.sequences import SequenceBatch
from seqgen.model.base import SequentialRecommender


class Popularity(SequentialRecommender):
    """Scores by training interactions; ties by id."""

    trainable = False
    order: Tensor

    def __init__(self, *, catalog: Catalog, metrics_k: Sequence[int]) -> None:
        super().__init__(catalog=catalog, metrics_k=metrics_k)
        ids = catalog.by_popularity()
        score = torch.empty(len(ids), dtype=torch.float64)
        score[ids] = torch.arange(len(ids), 0, -1, dtype=torch.float64)
        self.register_buffer("order", score)

    def scores(self, batch: SequenceBatch) -> Tensor:
        """Place in the order of popularity, the same for all rows, (B, I + 1)."""
        return self.order.repeat(len(batch), 1)
