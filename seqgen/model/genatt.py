"""GenAtt: the host network of generated attention (Liu et al., ACM MM 2025, arXiv 2508.02050).

    items -> embedding -> L blocks of generated attention and feed-forward network -> next item at every position

`attention=vae` makes it V-GenAtt, `attention=diffusion` D-GenAtt; every other attention may stand there too, for
comparison. The paper's figure shows this order and that attention is generated; no code of it is public. Our inference:
LayerNorm and dropout on item plus position, two residual norms in a block (the figure draws one), a feed-forward
network 4 D wide with GELU, a tied output, as in PAtt, the first author's earlier code (github.com/l-lyl/PAtt).
"""

from typing import Any

from torch import Tensor, nn

from seqgen.layers import NORM_EPS
from seqgen.model.encoded import EncodedRecommender


class GenAtt(EncodedRecommender):
    """Blocks of generated attention, next item at every position; `norm=post` is the paper's."""

    shardable = True
    init_std = 0.02  # as in S3-Rec's code, on which PAtt's is built
    embedding_scale = 1.0

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.norm_input = nn.LayerNorm(self.hidden_dim, eps=NORM_EPS)

    def embed(self, items: Tensor, newest: Tensor) -> Tensor:
        """Items (b, l), column of the newest item (b,) -> normalised, then dropped out, (b, l, D)."""
        embedded: Tensor = self.embedding.dropout(self.norm_input(self.embedding.add(items, newest)))
        return embedded
