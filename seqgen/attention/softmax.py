"""Causal softmax self-attention, as in SASRec (Kang and McAuley, 2018, arXiv 1808.09781)."""

from functools import partial

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


def branches(*, num_heads: int = 1, dropout: float = 0.0) -> Branches:
    """One branch of `SoftmaxAttention`.

    Args:
        num_heads: Heads; must divide the model's width.
        dropout: Of the attention weights.
    """
    return [(1.0, partial(SoftmaxAttention, num_heads=num_heads, dropout=dropout))]


class SoftmaxAttention(nn.Module):
    """Query-key softmax attention without an output projection (SASRec, equation 2)."""

    def __init__(self, *, hidden_dim: int, max_len: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim)
        check_probability("attention.dropout", dropout)
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value = (glorot_linear(hidden_dim, hidden_dim) for _ in range(3))

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Query (b, r, D) over context (b, l, D) -> (b, r, D), no auxiliary loss."""
        dropout = self.dropout if self.training else 0.0
        projected = self.query(query), self.key(context), self.value(context)
        return dot_product_attention(*projected, mask, num_heads=self.num_heads, dropout=dropout), {}

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map, (b, H, r, l)."""
        return dot_product_weights(self.query(query), self.key(context), mask, num_heads=self.num_heads)
