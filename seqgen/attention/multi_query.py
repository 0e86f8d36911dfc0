"""Multi-query self-attention (MQSA) of MQSA-TED (Zhu et al., WSDM 2024, arXiv 2311.01056).

Two encoders read the same embedded sequence: one with the usual query (the current item), one whose query is the mean
of the last L items, which is less at the mercy of a single item. Their outputs are blended by alpha.
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
    dot_product_attention,
    dot_product_weights,
    glorot_linear,
)
from seqgen.errors import UserError


def branches(*, window: int = 3, alpha: float = 0.5, num_heads: int = 1, dropout: float = 0.0) -> Branches:
    """The short-query branch (window 1) with weight alpha, the long-query branch with its complement.

    Args:
        window: L, number of newest items whose mean is the long query.
        alpha: Weight of the short-query branch; 1 leaves only it, 0 only the long one.
        num_heads: Heads; must divide the model's width.
        dropout: Of the attention weights.
    """
    if window < 1:
        raise UserError(f"attention.window={window} must be at least 1.")
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"attention.alpha={alpha} must lie in [0, 1].")
    layer = partial(LQueryAttention, num_heads=num_heads, dropout=dropout)
    return [(alpha, partial(layer, window=1)), (1.0 - alpha, partial(layer, window=window))]


class LQueryAttention(nn.Module):
    """Softmax attention whose query is made from the mean of the last L rows of the block's input."""

    def __init__(self, *, hidden_dim: int, max_len: int, window: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim)
        check_probability("attention.dropout", dropout)
        self.window, self.num_heads, self.dropout = window, num_heads, dropout
        self.query, self.key, self.value = (glorot_linear(hidden_dim, hidden_dim) for _ in range(3))

    def source(self, x: Tensor, mask: SequenceMask) -> Tensor:
        """Mean over the rows t, t-1, ..., t-L+1 that exist: (b, l, D) -> (b, l, D)."""
        if self.window == 1:
            return x
        total = x
        for shift in range(1, min(self.window, mask.num_columns)):
            total = total + F.pad(x[:, :-shift], (0, 0, shift, 0))
        count = (mask.columns + 1).clamp(max=self.window)
        return total / count[:, None]

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Query (b, r, D), made from `source`, over context (b, l, D) -> (b, r, D), no auxiliary loss."""
        dropout = self.dropout if self.training else 0.0
        projected = self.query(query), self.key(context), self.value(context)
        return dot_product_attention(*projected, mask, num_heads=self.num_heads, dropout=dropout), {}

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map, (b, H, r, l)."""
        return dot_product_weights(self.query(query), self.key(context), mask, num_heads=self.num_heads)
