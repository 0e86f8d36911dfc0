"""HSTU: pointwise SiLU attention with a relative bias and a gate (Zhai et al., ICML 2024, arXiv 2402.17152, section 3).

    U, V, Q, K = SiLU(f(X));   A = SiLU(Q K^T + bias(i - j)) / n;   Y = f_out(LN(A V) * U)

Departures: no bias of time differences, since a batch holds no times; and the block around it keeps its feed-forward
network, which HSTU goes without, so that every attention here stands in the same block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.attention import Attention, SequenceMask, glorot_linear, merge_heads, split_heads
from seqgen.attention.generation import to_columns
from seqgen.numerics import full_precision

NORM_EPS = 1e-6  # as HSTU's code; A V is small, since its weights are divided by n


class HSTUAttention(Attention):
    """Attention whose weights do not sum to 1, so that the strength of a preference is kept.

    Args:
        hidden_dim: Width D.
        max_len: n, longest sequence.
        num_heads: H.
        dropout: Of the weights of the map.
    """

    def __init__(self, *, hidden_dim: int, max_len: int, num_heads: int, dropout: float) -> None:
        super().__init__(hidden_dim=hidden_dim, num_heads=num_heads, dropout=dropout)
        self.max_len = max_len
        self.query, self.key, self.value, self.gate = (glorot_linear(hidden_dim, hidden_dim) for _ in range(4))
        self.bias = nn.Parameter(torch.zeros(num_heads, max_len))  # by distance, the farthest first
        self.norm, self.out = nn.LayerNorm(hidden_dim, eps=NORM_EPS), glorot_linear(hidden_dim, hidden_dim)

    def mix(self, weights: Tensor, context: Tensor) -> Tensor:
        """Values, activated, mixed by a map (b, H, r, l): context (b, l, D) -> (b, r, D)."""
        value = split_heads(F.silu(self.value(context)), self.num_heads)
        return merge_heads(weights.to(value.dtype) @ value)

    def finish(self, mixed: Tensor, query: Tensor) -> Tensor:
        """Normalise the mixture (b, r, D), gate it by the query (b, r, D), project it."""
        out: Tensor = self.out(self.norm(mixed) * F.silu(self.gate(query)))
        return out

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
