"""What models share that embed the items, encode them with attention, and score by dot product with the embedding."""

from typing import Any

from torch import Tensor

from seqgen.attention import Aux, Branches, MakeAttention
from seqgen.data.catalog import Catalog
from seqgen.data.sequences import SequenceBatch, one_target
from seqgen.errors import SettingError, argument
from seqgen.layers import Activation, Encoder, Inference, Norm, SequenceEmbedding
from seqgen.model.base import SequentialRecommender


class EncodedRecommender(SequentialRecommender):
    """Base class of models on the shared embedding and encoder.

    Args:
        extra_tokens: Rows of the embedding beyond the items, such as a mask token: ids I + 1 and on.
        catalog: The items; what else a model needs to know of the data.
        max_len: Number of newest items read.
        attention: The mechanism: makes a layer from `hidden_dim` and `max_len`, or several branches of layers.
        hidden_dim: Width D.
        num_layers: Blocks per branch.
        ffn_dim: Inner width of the feed-forward network.
        activation: relu, gelu or silu.
        norm: Placement of the normalisations: query, post or pre (`seqgen.layers`).
        dropout: Of the embedding, and in a block as `norm` says.
        inference: How an attention that draws predicts.
        settings: Of `SequentialRecommender`.

    Attributes:
        init_std: Standard deviation of the embeddings' starting values.
        embedding_scale: Factor of the item embedding; None is sqrt(D).

    Raises:
        SettingError: A setting is out of its range, or without effect.
    """

    init_std = 0.01
    embedding_scale: float | None = None

    def __init__(
        self,
        extra_tokens: int = 0,
        /,
        *,
        catalog: Catalog,
        max_len: int,
        attention: MakeAttention | Branches,
        hidden_dim: int,
        num_layers: int,
        ffn_dim: int,
        activation: Activation,
        norm: Norm,
        dropout: float,
        inference: Inference,
        **settings: Any,
    ) -> None:
        super().__init__(catalog=catalog, **settings)
        self.encoder = Encoder(
            attention,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            ffn_dim=ffn_dim,
            activation=activation,
            norm=norm,
            dropout=dropout,
            max_len=max_len,
        )
        self.embedding = SequenceEmbedding(
            num_items=catalog.num_items + extra_tokens,
            hidden_dim=hidden_dim,
            max_len=max_len,
            dropout=dropout,
            init_std=self.init_std,
            scale=self.embedding_scale,
        )
        self.hidden_dim, self.inference = hidden_dim, inference
        if inference.samples and not self.draws:
            with argument("inference"):
                raise SettingError(f"samples={inference.samples} has no effect: nothing is drawn here; set it to 0.")
        self.encoder.sample(inference)

    @property
    def draws(self) -> bool:
        """Whether there is noise to draw at inference."""
        return self.encoder.draws

    def embed(self, items: Tensor, newest: Tensor) -> Tensor:
        """Items (b, l), column of the newest item (b,) -> input of the encoder, (b, l, D)."""
        embedded: Tensor = self.embedding(items, newest)
        return embedded

    def encode(self, items: Tensor, lengths: Tensor, *, last_only: bool = False) -> tuple[Tensor, Aux]:
        """Items (b, l), lengths (b,) -> hidden states (b, l, D), or (b, D) of the newest position; auxiliary losses."""
        hidden: tuple[Tensor, Aux] = self.encoder(self.embed(items, lengths - 1), lengths, last_only=last_only)
        return hidden

    @property
    def item_vectors(self) -> Tensor:
        """The item embedding, (I + 1, D)."""
        table = self.embedding.item.weight
        return table if len(table) == self.num_items + 1 else table[: self.num_items + 1]

    def trained_on(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch, cut to one target a sequence where the attention asks for it."""
        return one_target(batch) if self.encoder.one_target else batch

    def compile_network(self) -> None:
        """Compile the encoder in place, which keeps the names in a checkpoint."""
        self.encoder.compile(dynamic=True)
