"""The causal mean: every item up to the row weighs the same. The floor: no attention has learned anything here."""

from functools import partial

from torch import Tensor

from seqgen.attention import Aux, Branches, SequenceMask
from seqgen.attention.generation import GeneratedAttention


def branches(*, num_heads: int = 1, dropout: float = 0.0) -> Branches:
    """One branch of `UniformAttention`.

    Args:
        num_heads: Heads, which differ by the dropout alone; must divide the model's width.
        dropout: Of the attention weights.
    """
    return [(1.0, partial(UniformAttention, num_heads=num_heads, dropout=dropout))]


class UniformAttention(GeneratedAttention):
    """Equal logits; values and output projection are those of generated attention."""

    def __init__(self, *, hidden_dim: int, max_len: int, num_heads: int, dropout: float) -> None:
        super().__init__(hidden_dim=hidden_dim, num_heads=num_heads, dropout=dropout)

    def generate(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Logits of 0, (b, H, r, l); no auxiliary loss."""
        logits = context.new_zeros(()).expand(len(context), self.num_heads, query.shape[1], context.shape[1])
        return logits, {}
