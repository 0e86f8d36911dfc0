"""Logits decoded from each row without a latent: Synthesizer (Tay et al., ICML 2021, arXiv 2005.00743, dense form).

The network of `attention=vae` with z = mu always, and no divergence: what the latent adds is the difference to it.
"""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from seqgen.attention import Aux, SequenceMask, glorot_linear
from seqgen.attention.generation import ContextAttention
from seqgen.errors import check_sizes


class SynthesizerAttention(ContextAttention):
    """Logits that are a function of the row's context alone, and with `content` of each column's item.

    Args:
        latent_dim: Width between context and decoder, where the VAE has its latent.
        decoder_dim: Width of the shared decoder.
        shared: Of `ContextAttention`.
    """

    def __init__(self, *, latent_dim: int, decoder_dim: int, **shared: Any) -> None:
        super().__init__(**shared)
        check_sizes(latent_dim=latent_dim, decoder_dim=decoder_dim)
        sizes = (self.hidden_dim, latent_dim, decoder_dim, decoder_dim)
        first, second, third = (glorot_linear(*pair) for pair in pairwise(sizes))
        self.shared_decoder = nn.Sequential(first, second, nn.GELU(), third, nn.GELU())
        self.logits = self.logit_decoder(decoder_dim, whole=True)

    def generate(self, query: Tensor, context: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        """Logits (b, H, r, l); no auxiliary loss."""
        decoded = self.shared_decoder(self.context(query, context, mask))
        return self.logits(decoded, self.logits.keys(context), mask), {}
