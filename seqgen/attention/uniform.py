"""The causal mean: every item up to the row weighs the same. The floor: no attention has learned anything here."""

from torch import Tensor

from seqgen.attention import Aux, SequenceMask
from seqgen.attention.generation import GeneratedAttention


class UniformAttention(GeneratedAttention):
    """Equal logits; values and output projection are those of generated attention. Heads differ by dropout alone."""

    def generate(self, query: Tensor, context: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        """Logits of 0, (b, H, r, l); no auxiliary loss."""
        logits = context.new_zeros(()).expand(len(context), self.num_heads, query.shape[1], context.shape[1])
        return logits, {}
