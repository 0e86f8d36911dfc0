"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

Item plus position embedding, blocks of causal attention and feed-forward network, and the dot product of the newest
hidden state with the (tied) item embedding as score. With `attention=` any mechanism stands in for self-attention.

Departures: the default objective is softmax cross-entropy over all items, which is stronger and needs no negatives
(`loss=bce` is the paper's); positions count from the newest item, so that padding changes nothing.
"""

from collections.abc import Sequence

from torch import Tensor

from seqgen.attention import Aux, Branches
from seqgen.data.catalog import Catalog
from seqgen.layers import Activation, Encoder, Inference, Norm, SequenceEmbedding
from seqgen.model.base import Loss, MakeOptimizer, MakeScheduler, SequentialRecommender


class SASRec(SequentialRecommender):
    """Causal attention over the items of a user, next item at every position.

    Args:
        catalog: The items.
        max_len: Number of newest items read.
        attention: The mechanism, as branches.
        hidden_dim: Width D.
        num_layers: Blocks per branch.
        ffn_dim: Inner width of the feed-forward network.
        activation: relu, gelu or silu.
        norm: Placement of the normalisations: query (the paper's code), post or pre.
        dropout: Of the embedding and inside the feed-forward network.
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
            num_items=catalog.num_items, hidden_dim=hidden_dim, max_len=max_len, dropout=dropout
        )

    def encode(self, items: Tensor, lengths: Tensor, *, last_only: bool = False) -> tuple[Tensor, Aux]:
        """Items (b, l), lengths (b,) -> (b, l, D) or (b, D)."""
        return self.encoder(self.embedding(items, lengths - 1), lengths, last_only=last_only, progress=self.progress)

    @property
    def item_vectors(self) -> Tensor:
        """The item embedding, (I + 1, D)."""
        return self.embedding.item.weight
