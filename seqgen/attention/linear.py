"""Linear attention: a kernel feature map in place of the softmax (Katharopoulos et al., ICML 2020, arXiv 2006.16236).

    weight_ij = phi(q_i) . phi(k_j) / sum_{j' <= i} phi(q_i) . phi(k_j'),   phi(x) = elu(x) + 1      (equations 5, 7, 8)

The sums are taken over the masked map, not as running sums: at windows of a few hundred items the map costs less, and
it can be looked at and dropped out.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.attention import (
    Aux,
    Branches,
    SequenceMask,
    check_heads,
    check_probability,
    glorot_linear,
    merge_heads,
    split_heads,
)
from seqgen.numerics import full_precision

LEAST_SUM = 1e-6  # features far below 0 round to 0: a row of them attends to nothing, instead of 0 / 0


def branches(*, num_heads: int = 1, dropout: float = 0.0) -> Branches:
    """One branch of `LinearAttention`.

    Args:
        num_heads: Heads; must divide the model's width.
        dropout: Of the attention weights.
    """
    return [(1.0, partial(LinearAttention, num_heads=num_heads, dropout=dropout))]


class LinearAttention(nn.Module):
    """Query-key attention whose weights are normalised products of positive features."""

    def __init__(self, *, hidden_dim: int, max_len: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim)
        check_probability("attention.dropout", dropout)
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value = (glorot_linear(hidden_dim, hidden_dim) for _ in range(3))

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Query (b, r, D) over context (b, l, D) -> (b, r, D), no auxiliary loss."""
        weights = F.dropout(self.weights(query, context, mask), self.dropout, self.training)
        value = split_heads(self.value(context), self.num_heads)
        return merge_heads(weights.to(value.dtype) @ value), {}

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map, (b, H, r, l)."""
        projected = self.query(query), self.key(context)
        query, key = (F.elu(full_precision(split_heads(x, self.num_heads))) + 1 for x in projected)
        products = (query @ key.transpose(-1, -2)) * mask.allowed
        return products / products.sum(-1, keepdim=True).clamp(min=LEAST_SUM)
