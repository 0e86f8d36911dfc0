"""What models share that embed the items, encode them with attention, and score by dot product with the embedding."""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from seqgen import sharding
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
        shard_items: Divide the rows of the item embedding among the processes (`seqgen.sharding`); one process alone
            keeps all.
        settings: Of `SequentialRecommender`.

    Attributes:
        shardable: Whether the model sees the item embedding only through `embed`, its loss and the base's ranking.
        init_std: Standard deviation of the embeddings' starting values.
        embedding_scale: Factor of the item embedding; None is sqrt(D).

    Raises:
        SettingError: A setting is out of its range, or without effect.
    """

    shardable = False
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
        shard_items: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(catalog=catalog, **settings)
        if shard_items and not self.shardable:
            raise SettingError(
                f"shard_items=true is for models whose objective is loss= alone, as model=sasrec and genatt, not for "
                f"{type(self).__name__}; set it to false."
            )
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
            shard_items=shard_items,
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
        """The item embedding, (I + 1, D); a `DTensor` where its rows are divided among processes."""
        item = self.embedding.item
        table = item.table if isinstance(item, sharding.ShardedEmbedding) else item.weight
        return table if len(table) == self.num_items + 1 else table[: self.num_items + 1]

    def trained_on(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch, cut to one target a sequence where the attention asks for it."""
        return one_target(batch) if self.encoder.one_target else batch

    def compile_network(self) -> None:
        """Compile the encoder in place, which keeps the names in a checkpoint."""
        self.encoder.compile(dynamic=True)

    # What divided rows of the item embedding need.

    @property
    def divided(self) -> sharding.ShardedEmbedding | None:
        """The item embedding, where several processes keep its rows."""
        item = self.embedding.item
        return item if isinstance(item, sharding.ShardedEmbedding) and item.processes > 1 else None

    def configure_model(self) -> None:
        """Take this process's rows, once the processes have been started."""
        if isinstance(self.embedding.item, sharding.ShardedEmbedding):
            sharding.divide(self, self.trainer, self.embedding.item, "embedding.item")

    def recommendation(self, batch: SequenceBatch) -> Aux:
        """The next-item loss at every real position, and the layers' auxiliary losses."""
        with self._exchange(batch):
            return super().recommendation(batch)

    def user_state(self, batch: SequenceBatch) -> Tensor:
        """Hidden state at the newest position of each row, (B, D)."""
        with self._exchange(batch):
            return super().user_state(batch)

    def _exchange(self, batch: SequenceBatch) -> contextlib.AbstractContextManager[None]:
        if self.divided is None:
            return contextlib.nullcontext()
        groups = batch.host.groups
        ids = [group.items.flatten() for group in groups] or [batch.targets[:0]]
        return self.divided.exchange(torch.cat(ids))

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule where there is one."""
        made = super().configure_optimizers()
        if self.divided is not None:
            sharding.share_states(made["optimizer"] if isinstance(made, dict) else made, self.divided)
        return made

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by value, or by the norm of what all processes have."""
        if self.divided is None or gradient_clip_val is None or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            sharding.clip_by_norm([*self.parameters()], self.divided, gradient_clip_val)
