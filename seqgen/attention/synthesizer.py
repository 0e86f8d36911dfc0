"""Logits decoded from each row without a latent: Synthesizer (Tay et al., ICML 2021, arXiv 2005.00743, dense form).

The network of `attention=vae` with z = mu always, and no divergence: what the latent adds is the difference to it.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from seqgen.attention import Aux, Branches, SequenceMask, glorot_linear
from seqgen.attention.generation import (
    ColumnKind,
    ContextKind,
    GeneratedAttention,
    LogitDecoder,
    check_generation,
    check_sizes,
)


def branches(
    *,
    num_heads: int = 1,
    dropout: float = 0.0,
    context: ContextKind = "prefix",
    allow_leak: bool = False,
    columns: ColumnKind = "relative",
    content: bool = True,
    rank: int | None = None,
    latent_dim: int = 32,
    decoder_dim: int = 64,
) -> Branches:
    """One branch of `SynthesizerAttention`.

    Args:
        num_heads: Heads; must divide the model's width.
        dropout: Of the attention weights.
        context: What a row is decoded from: prefix (causal), global (leaks) or last.
        allow_leak: Take `global` although the loss is at all positions.
        columns: Cells by distance (relative) or by slot (absolute).
        content: Add the content term: cells also by the item that stands there.
        rank: Of the position logits, for long sequences; None is full.
        latent_dim: Width between context and decoder, where the VAE has its latent.
        decoder_dim: Width of the shared decoder.
    """
    check_generation(context=context, allow_leak=allow_leak, columns=columns, rank=rank)
    check_sizes(latent_dim=latent_dim, decoder_dim=decoder_dim)
    layer = partial(
        SynthesizerAttention,
        num_heads=num_heads,
        dropout=dropout,
        context=context,
        make_logits=partial(LogitDecoder, columns=columns, content=content, rank=rank, whole=context != "prefix"),
        latent_dim=latent_dim,
        decoder_dim=decoder_dim,
    )
    return [(1.0, layer)]


class SynthesizerAttention(GeneratedAttention):
    """Logits that are a function of the row's context alone, and with `content` of each column's item."""

    def __init__(
        self,
        *,
        hidden_dim: int,
        max_len: int,
        num_heads: int,
        dropout: float,
        context: ContextKind,
        make_logits: Callable[..., LogitDecoder],
        latent_dim: int,
        decoder_dim: int,
    ) -> None:
        super().__init__(hidden_dim=hidden_dim, num_heads=num_heads, dropout=dropout, context=context)
        sizes = (hidden_dim, latent_dim, decoder_dim, decoder_dim)
        first, second, third = (glorot_linear(*pair) for pair in pairwise(sizes))
        self.shared_decoder = nn.Sequential(first, second, nn.GELU(), third, nn.GELU())
        self.logits = make_logits(in_features=decoder_dim, hidden_dim=hidden_dim, num_heads=num_heads, max_len=max_len)

    def generate(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Logits (b, H, r, l); no auxiliary loss."""
        decoded = self.shared_decoder(self.context(query, context, mask))
        return self.logits(decoded, self.logits.keys(context), mask), {}
