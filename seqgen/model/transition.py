"""Transition: a first-order Markov chain. What most often came right after the newest item, in anybody's training part.

Simple, and hard to beat on short sequences: a model that does not beat it has learned nothing from longer context.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqgen.data.catalog import Catalog
from seqgen.data.ragged import count_transitions, ragged
from seqgen.data.sequences import SequenceBatch
from seqgen.errors import SettingError
from seqgen.model.base import SequentialRecommender


class Transition(SequentialRecommender):
    """Scores by the number of transitions from the newest item; ties by popularity, then by id.

    Args:
        catalog: The items, and the training sequences that are counted.
        max_len: Only the last so many training items of a user count, at least 2.
        metrics_k: List lengths of the metrics.

    Raises:
        SettingError: There is no transition among so few items.
    """

    trainable = False
    offsets: Tensor
    tails: Tensor
    counts: Tensor
    tie_break: Tensor

    def __init__(self, *, catalog: Catalog, max_len: int, metrics_k: Sequence[int]) -> None:
        super().__init__(catalog=catalog, metrics_k=metrics_k)
        if max_len < 2:
            raise SettingError(f"max_len={max_len} must be at least 2: a transition is from one item to another.")
        head = tail = count = torch.zeros(0, dtype=torch.long)
        if catalog.train is not None:  # else a checkpoint fills the buffers
            head, tail, count = count_transitions(catalog.train(), num_items=catalog.num_items, last=max_len)
        rows = catalog.num_items + 1
        tie_break = torch.empty(rows, dtype=torch.float64)
        tie_break[catalog.by_popularity()] = torch.arange(rows, 0, -1, dtype=torch.float64) / (
            rows + 1
        )  # below one transition
        self.register_buffer("offsets", torch.cat([torch.zeros(1).long(), head.bincount(minlength=rows).cumsum(0)]))
        self.register_buffer("tails", tail)
        self.register_buffer("counts", count.double())
        self.register_buffer("tie_break", tie_break)

    def scores(self, batch: SequenceBatch) -> Tensor:
        """Transitions from the newest item plus a tie break below 1, (B, I + 1)."""
        newest = batch.newest()
        start = self.offsets[newest]
        row, place = ragged(start, self.offsets[newest + 1] - start)
        scores = self.tie_break.repeat(len(batch), 1)
        scores[row, self.tails[place]] += self.counts[place]
        return scores
