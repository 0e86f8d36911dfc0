"""HSTU: pointwise SiLU attention with a relative bias and a gate (Zhai et al., ICML 2024, arXiv 2402.17152, section 3).

    U, V, Q, K = SiLU(f(X));   A = SiLU(Q K^T + bias(i - j)) / n;   Y = f_out(LN(A V) * U)

Departures: no bias of time differences, since a batch holds no times; and the block around it keeps its feed-forward
network, which HSTU goes without, so that every attention here stands in the same block.
"""

from functools import partial

import torch
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
from seqgen.attention.generation import to_columns
from seqgen.numerics import full_precision

NORM_EPS = 1e-6  # as HSTU's code; A V is small, since its weights are divided by n


def branches(*, num_heads: int = 1, dropout: float = 0.0) -> Branches:
    """One branch of `HSTUAttention`.

    Args:
        num_heads: Heads; must divide the model's width.
        dropout: Of the attention weights.
    """
    return [(1.0, partial(HSTUAttention, num_heads=num_heads, dropout=dropout))]


class HSTUAttention(nn.Module):
    """Attention whose weights do not sum to 1, so that the strength of a preference is kept."""

    def __init__(self, *, hidden_dim: int, max_len: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim)
        check_probability("attention.dropout", dropout)
        self.num_heads, self.max_len, self.dropout = num_heads, max_len, dropout
        self.query, self.key, self.value, self.gate = (glorot_linear(hidden_dim, hidden_dim) for _ in range(4))
        self.bias = nn.Parameter(torch.zeros(num_heads, max_len))  # by distance, the farthest first
        self.norm, self.out = nn.LayerNorm(hidden_dim, eps=NORM_EPS), glorot_linear(hidden_dim, hidden_dim)

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Query (b, r, D) over context (b, l, D) -> (b, r, D), no auxiliary loss."""
        weights = F.dropout(self.weights(query, context, mask), self.dropout, self.training)
        value = split_heads(F.silu(self.value(context)), self.num_heads)
        mixed = self.norm(merge_heads(weights.to(value.dtype) @ value))
        return self.out(mixed * F.silu(self.gate(query))), {}

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map, (b, H, r, l)."""
        projected = self.query(query), self.key(context)
        query, key = (split_heads(F.silu(x), self.num_heads) for x in projected)
        bias = to_columns(
            full_precision(self.bias)[None, :, None].expand(len(query) if mask.last else 1, -1, -1, -1),
            mask,
            "relative",
        )
        return F.silu(full_precision(query @ key.transpose(-1, -2)) + bias) / self.max_len * mask.allowed
