"""MQSA-TED: multi-query self-attention with transition-aware embedding distillation.

Zhu et al., "Collaboration and Transition: Distilling Item Transitions into Multi-Query Self-Attention for Sequential
Recommendation", WSDM 2024, arXiv 2311.01056.

- MQSA: two encoders, one whose query is the current item and one whose query is the mean of the last L items, blended
  by alpha (`attention=multi_query`). With `attention=softmax` this model is SASRec + TED.
- TED: the item embeddings alone must predict, for every input item, which items follow it in the training data.
  Teacher: the item's transition counts divided by their maximum, softmax with temperature tau. Student: softmax of
  the products of item embeddings, same temperature. Weighted by `distill_weight`.

The reference code is the authority where the paper is silent. Kept from it: the teacher is a softmax of counts over
the row maximum (not row-normalised counts); items without a successor have a uniform teacher; only the last `max_len`
training items of a user give transitions; the distillation is a mean over all input tokens, with repetitions.
Changed: the padding class is no class of the softmax (its logit is the constant 0, one among all items); positions
count from the newest item, and a training window holds `max_len` inputs where the reference has `max_len` - 1; the
distillation is computed once per distinct item of a batch and weighted by its count, so that a repeated item has one
dropout mask instead of one per occurrence. The L2 term of the paper is `optimizer=adam_l2`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqgen.attention import Auxiliary
from seqgen.data.catalog import Catalog
from seqgen.data.ragged import count_transitions, ragged
from seqgen.data.sequences import SequenceBatch
from seqgen.data.transfer import sent
from seqgen.dropout import drop
from seqgen.errors import check_positive, check_sizes, check_weights
from seqgen.model.encoded import EncodedRecommender
from seqgen.numerics import full_precision, rows_of, weighted_logsumexp


class MQSATED(EncodedRecommender):
    """SASRec's network with distillation of item transitions into the item embedding.

    Args:
        catalog: The items, and the training sequences whose transitions are the teacher.
        max_len: Number of newest items read, and of newest training items that give transitions.
        dropout: Of the embedding, inside the feed-forward network, and of the student's embedding.
        distill_weight: lambda, weight of the distillation; 0 leaves MQSA alone.
        temperature: tau of teacher and student.
        time_span: Largest distance of two items that counts as a transition.
        settings: Of `EncodedRecommender`.
    """

    teacher_offsets: Tensor
    teacher_items: Tensor
    teacher_excess: Tensor
    teacher_floor: Tensor
    num_successors: Tensor

    def __init__(
        self,
        *,
        catalog: Catalog,
        max_len: int,
        dropout: float,
        distill_weight: float,
        temperature: float,
        time_span: int,
        **settings: Any,
    ) -> None:
        super().__init__(catalog=catalog, max_len=max_len, dropout=dropout, **settings)
        check_positive(temperature=temperature)
        check_sizes(time_span=time_span)
        check_weights(distill_weight=distill_weight)
        self.distill_weight, self.temperature, self.dropout = distill_weight, temperature, dropout
        if distill_weight > 0 and catalog.train is not None:  # a model loaded to score needs no teacher
            for name, value in teacher(catalog, temperature=temperature, time_span=time_span, last=max_len).items():
                self.register_buffer(f"teacher_{name}", value, persistent=False)
            self.num_successors = self.teacher_offsets.diff()  # stays on the host: (I + 1,)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Next-item loss, auxiliary losses of the attention, and `distillation`."""
        parts = self.recommendation(batch)
        if self.distill_weight > 0:
            parts["distillation"] = Auxiliary(self.distillation(batch), self.distill_weight)
        return self.weighted(parts)

    def distillation(self, batch: SequenceBatch) -> Tensor:
        """Cross-entropy of the student against the teacher, mean over the input tokens that have a target.

        A teacher row is a floor for most items plus an excess for its successors, so the cross-entropy with logits
        z_j = h . e_j is logsumexp(z) - floor * (h . sum_j e_j) - h . (sum over successors of excess_j e_j): no row of
        the teacher is ever made dense.
        """
        distinct, count = batch.host.inputs().unique(return_counts=True)
        total = int(self.num_successors[distinct].sum())
        heads, count = sent([distinct, count], batch.targets.device)
        weights = count / batch.normalizer  # (n,)
        table = full_precision(self.item_vectors[1:])  # row j - 1 is item j
        inputs = self.embedding.scale * rows_of(table, heads - 1)
        student = drop(inputs, self.dropout, self.training) / self.temperature
        start = self.teacher_offsets[heads]
        length = self.teacher_offsets[heads + 1] - start
        _, place = ragged(start, length, total)
        successors = F.embedding_bag(
            self.teacher_items[place] - 1,
            table,
            length.cumsum(0) - length,
            mode="sum",
            per_sample_weights=self.teacher_excess[place].to(table.dtype),
        )  # (n, D)
        expected = successors + self.teacher_floor[heads, None] * table.sum(dim=0)
        return weighted_logsumexp(student, table, weights) - (weights[:, None] * student * expected).sum()


def teacher(catalog: Catalog, *, temperature: float, time_span: int, last: int) -> dict[str, Tensor]:
    """Teacher rows softmax_j((C_ij / max_j C_ij) / tau), sparse: what successors have beyond the floor of the rest.

    Returns:
        `offsets (I + 2,)`: item i's successors are `items[offsets[i]:offsets[i + 1]]`; `items (P,)` their ids;
        `excess (P,)` their probability beyond the floor; `floor (I + 1,)`, each row's probability of any other item.
    """
    train = catalog.training_part()
    head, tail, count = count_transitions(train, num_items=catalog.num_items, time_span=time_span, last=last)
    rows = catalog.num_items + 1
    largest = torch.zeros(rows, dtype=torch.long).scatter_reduce(0, head, count, "amax")
    odds = torch.exp(count.double() / largest[head] / temperature)  # of a successor, against 1 of any other item
    mass = torch.zeros(rows, dtype=torch.float64).index_add(0, head, odds - 1.0) + catalog.num_items
    floor = 1.0 / mass
    return {
        "offsets": torch.cat([torch.zeros(1, dtype=torch.long), head.bincount(minlength=rows).cumsum(0)]),
        "items": tail,
        "excess": ((odds - 1.0) * floor[head]).float(),
        "floor": floor.float(),
    }
