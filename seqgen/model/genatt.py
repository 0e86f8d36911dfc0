"""GenAtt: the host network of generated attention (Liu et al., ACM MM 2025, arXiv 2508.02050).

    items -> embedding -> L blocks of generated attention and feed-forward network -> next item at every position

`attention=vae` makes it V-GenAtt, `attention=diffusion` D-GenAtt; every other attention may stand there too, for
comparison. The paper's figure shows this order and that attention is generated; no code of it is public. Our inference:
LayerNorm and dropout on item plus position, two residual norms in a block (the figure draws one), a feed-forward
network 4 D wide with GELU, a tied output, as in PAtt, the first author's earlier code (github.com/l-lyl/PAtt).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from seqgen.attention import Aux, Branches
from seqgen.data.catalog import Catalog
from seqgen.layers import NORM_EPS, Activation, Encoder, Inference, Norm, SequenceEmbedding
from seqgen.model.base import Loss, MakeOptimizer, MakeScheduler, SequentialRecommender

INIT_STD = 0.02  # of the embeddings, as in S3-Rec's code, on which PAtt's is built


class GenAtt(SequentialRecommender):
    """Blocks of generated attention, next item at every position.

    Args:
        catalog: The items.
        max_len: Number of newest items read.
        attention: The mechanism, as branches.
        hidden_dim: Width D.
        num_layers: Blocks per branch.
        ffn_dim: Inner width of the feed-forward network.
        activation: relu, gelu or silu.
        norm: Placement of the normalisations: post, query or pre.
        dropout: Of the embedding and the residuals.
        inference: How generated attention predicts.
        loss: The objective.
        optimizer: Makes the optimiser.
        scheduler: Makes the learning-rate schedule.
        metrics_k: List lengths of the metrics.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        max_len: int,
        attention: Branches,
        hidden_dim: int,
        num_layers: int,
        ffn_dim: int,
        activation: Activation,
        norm: Norm,
        dropout: float,
        inference: Inference,
        loss: Loss,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None,
        metrics_k: Sequence[int],
    ) -> None:
        super().__init__(catalog=catalog, metrics_k=metrics_k, loss=loss, optimizer=optimizer, scheduler=scheduler)
        self.encoder = Encoder(
            attention,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            ffn_dim=ffn_dim,
            activation=activation,
            norm=norm,
            dropout=dropout,
            max_len=max_len,
            inference=inference,
        )
        self.embedding = SequenceEmbedding(
            num_items=catalog.num_items,
            hidden_dim=hidden_dim,
            max_len=max_len,
            dropout=0.0,
            init_std=INIT_STD,
            scale=1.0,
        )
        self.norm_input, self.dropout = nn.LayerNorm(hidden_dim, eps=NORM_EPS), nn.Dropout(dropout)

    def encode(self, items: Tensor, lengths: Tensor, *, last_only: bool = False) -> tuple[Tensor, Aux]:
        """Items (b, l), lengths (b,) -> (b, l, D) or (b, D)."""
        embedded = self.dropout(self.norm_input(self.embedding(items, lengths - 1)))
        return self.encoder(embedded, lengths, last_only=last_only, progress=self.progress)

    @property
    def item_vectors(self) -> Tensor:
        """The item embedding, (I + 1, D)."""
        return self.embedding.item.weight
