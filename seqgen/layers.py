"""Embedding, block and encoder: the parts that all attention-based models share.

    b rows, l columns, r query rows (l, or 1 when only the newest is asked for), D width

A block owns its normalisations, whatever the attention inside. With S(x) the attention's query source (mostly x
itself):

    query  q = LN(S(x));  y = LN(q + Attention(q, x));   out = y + FFN(y)      SASRec and MQSA-TED: the residual is the
                                                                               normalised query; key and value are raw
    post   s = S(x);      y = LN(s + Attention(s, x));   out = LN(y + FFN(y))  Transformer, CDDRec, GenAtt
    pre    n = LN(x);     y = x + Attention(LN(S(x)), n); out = y + FFN(LN(y))

After the last block `query` and `pre` normalise once more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.attention import (
    Attention,
    Aux,
    Branches,
    MakeAttention,
    SequenceMask,
    added,
    attend,
    check_heads,
    glorot_linear,
    merge_heads,
    split_heads,
)
from seqgen.dropout import Dropout
from seqgen.errors import SettingError, argument, check_positive, check_probability, check_sizes
from seqgen.sharding import ShardedEmbedding

Norm = Literal["query", "post", "pre"]
Activation = Literal["relu", "gelu", "silu"]
TimeIn = Literal["query", "memory", "both"]
NORM_EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How generated attention predicts, once fitted.

    Args:
        samples: Draws of its noise, over which scores are averaged; 0 is the deterministic map (z = mu, A_T = 0).
        temperature: Factor of the noise.

    Raises:
        SettingError: A setting is out of its range, or without effect.
    """

    samples: int
    temperature: float

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.samples < 0:
            raise SettingError(f"samples={self.samples} must not be negative; 0 is without noise.")
        check_positive(temperature=self.temperature)
        if self.temperature != 1 and not self.samples:
            raise SettingError(f"temperature={self.temperature} has no effect with samples=0; set samples.")


def reset_dense(module: nn.Module, std: float) -> None:
    """Draw all dense layers anew from N(0, std), with zero biases; an attention does so in its own way."""
    for child in module.children():
        if isinstance(child, Attention):
            child.reset_parameters(std)
        elif isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=std)
            nn.init.zeros_(child.bias)
        else:
            reset_dense(child, std)


class SequenceEmbedding(nn.Module):
    """Item embedding plus learned position embedding, with dropout.

    Positions count from the newest item (0), so padding never changes them. Items are multiplied by `scale`, positions
    are not: sqrt(D) unless given (SASRec's and MQSA-TED's code). Row 0 of the item table is padding: zero, and never
    trained. With `shard_items` the rows of the table are divided among the processes (`seqgen.sharding`).
    """

    def __init__(
        self,
        *,
        num_items: int,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        init_std: float = 0.01,
        scale: float | None = None,
        shard_items: bool = False,
    ) -> None:
        super().__init__()
        check_probability(dropout=dropout)
        self.item: nn.Embedding | ShardedEmbedding
        if shard_items:
            self.item = ShardedEmbedding(num_items + 1, hidden_dim)
        else:
            self.item = nn.Embedding(num_items + 1, hidden_dim, padding_idx=0)
        self.position = nn.Embedding(max_len, hidden_dim)
        if isinstance(self.item, ShardedEmbedding):
            self.item.draw_later(init_std)
        else:
            nn.init.normal_(self.item.weight[1:], std=init_std)
        nn.init.normal_(self.position.weight, std=init_std)
        self.dropout = Dropout(dropout)
        self.scale = hidden_dim**0.5 if scale is None else scale

    def add(self, items: Tensor, newest: Tensor) -> Tensor:
        """As `forward`, without dropout."""
        column = torch.arange(items.shape[1], device=items.device)
        position = (newest[:, None] - column).clamp(min=0)
        added: Tensor = self.scale * self.item(items) + self.position(position)
        return added

    def forward(self, items: Tensor, newest: Tensor) -> Tensor:
        """Items (b, l), column of the newest item (b,), from which positions count back -> (b, l, D)."""
        dropped: Tensor = self.dropout(self.add(items, newest))
        return dropped


class Block(nn.Module):
    """Attention and a feed-forward network with their residuals and normalisations."""

    def __init__(
        self,
        attention: Attention,
        *,
        hidden_dim: int,
        ffn_dim: int,
        activation: Activation,
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention, self.norm = attention, norm
        self.norm_attention, self.norm_ffn = (nn.LayerNorm(hidden_dim, eps=NORM_EPS) for _ in range(2))
        self.inner, self.outer = glorot_linear(hidden_dim, ffn_dim), glorot_linear(ffn_dim, hidden_dim)
        self.activation: Callable[[Tensor], Tensor] = getattr(F, activation)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        """(b, l, D) -> (b, r, D) and the attention's auxiliary losses."""
        source = mask.query_rows(self.attention.source(x, mask))
        if self.norm == "query":
            query = self.norm_attention(source)
            attended, aux = self.attention(query, x, mask)
            y = self.norm_ffn(query + attended)
            return y + self._feed_forward(y), aux
        if self.norm == "post":
            attended, aux = self.attention(source, x, mask)
            y = self.norm_attention(source + self.dropout(attended))
            return self.norm_ffn(y + self._feed_forward(y)), aux
        attended, aux = self.attention(self.norm_attention(source), self.norm_attention(x), mask)
        y = mask.query_rows(x) + self.dropout(attended)
        return y + self._feed_forward(self.norm_ffn(y)), aux

    def _feed_forward(self, y: Tensor) -> Tensor:
        return self.dropout(self.outer(self.dropout(self.activation(self.inner(y)))))


class Encoder(nn.Module):
    """One stack of blocks per branch of the attention, all on the same input; the outputs are added with their weights.

    A branch of weight 0 is not built. With draws (`sample`), outside training, each row goes through once a draw, and
    the mean is returned: a score is linear in it, so this is the mean score.

    Raises:
        SettingError: A setting is out of its range.
    """

    def __init__(
        self,
        attention: MakeAttention | Branches,
        *,
        hidden_dim: int,
        num_layers: int,
        ffn_dim: int,
        activation: Activation,
        norm: Norm,
        dropout: float,
        max_len: int,
    ) -> None:
        super().__init__()
        check_probability(dropout=dropout)
        check_sizes(hidden_dim=hidden_dim, num_layers=num_layers, ffn_dim=ffn_dim)
        branches = [(1.0, attention)] if callable(attention) else [branch for branch in attention if branch[0] != 0]
        self.weights = [weight for weight, _ in branches]
        self.stacks = nn.ModuleList()
        sizes = {"hidden_dim": hidden_dim, "ffn_dim": ffn_dim}
        for _, make in branches:
            with argument("attention"):
                layers = _layers(make, num_layers, hidden_dim=hidden_dim, max_len=max_len)
            blocks = (Block(layer, **sizes, activation=activation, norm=norm, dropout=dropout) for layer in layers)
            self.stacks.append(nn.ModuleList(blocks))
        normed = norm in ("query", "pre")
        self.norms = nn.ModuleList(
            nn.LayerNorm(hidden_dim, eps=NORM_EPS) if normed else nn.Identity() for _ in branches
        )
        self.attentions = tuple(module for module in self.modules() if isinstance(module, Attention))
        self.one_target = any(attention.one_target for attention in self.attentions)
        self.draws = any(attention.draws for attention in self.attentions)
        self.samples = 0

    def sample(self, inference: Inference) -> None:
        """Set how often, and how far, an attention that draws is drawn outside training."""
        generator = torch.Generator().manual_seed(0)
        for attention in self.attentions:
            if attention.draws:
                attention.sample(inference.samples, inference.temperature, generator)
        self.samples = inference.samples if self.draws else 0

    def forward(self, x: Tensor, lengths: Tensor, *, last_only: bool = False, each: bool = False) -> tuple[Tensor, Aux]:
        """(b, l, D), lengths (b,) -> (b, l, D), or (b, D) of the newest position; auxiliary losses over layers.

        Args:
            x: Embedded items.
            lengths: Number of real columns of each row.
            last_only: Only the newest position.
            each: Return the rows of each draw instead of their mean, one draw below the other.
        """
        draws = 0 if self.training else self.samples
        if draws:
            x, lengths = x.repeat(draws, 1, 1), lengths.repeat(draws)
        every, newest = SequenceMask(lengths, x.shape[1]), SequenceMask(lengths, x.shape[1], last=True)
        outputs = []
        total: Aux = {}
        for weight, stack, norm in zip(self.weights, self.stacks, self.norms, strict=True):
            hidden = x
            assert isinstance(stack, nn.ModuleList)
            for depth, block in enumerate(stack):
                only_newest = last_only and depth == len(stack) - 1
                hidden, aux = block(hidden, newest if only_newest else every)
                total = added(total, aux)
            outputs.append(weight * norm(hidden))
        blended = torch.stack(outputs).sum(dim=0) if len(outputs) > 1 else outputs[0]
        hidden = blended[:, 0] if last_only else blended
        return hidden.unflatten(0, (draws, -1)).mean(0) if draws and not each else hidden, total


def _layers(make: MakeAttention, count: int, *, hidden_dim: int, max_len: int) -> list[Attention]:
    for name in ("hidden_dim", "max_len"):
        if name in getattr(make, "keywords", ()):
            raise SettingError(f"{name} is set by the model; remove it.")
    return [make(hidden_dim=hidden_dim, max_len=max_len) for _ in range(count)]


class StepDecoder(nn.Module):
    """Cross-attention of each position and step to the user's own past, and a feed-forward network (post-norm).

    Args:
        steps: T.
        hidden_dim: Width D.
        num_heads: Heads of the attention.
        ffn_dim: Inner width of the feed-forward network.
        dropout: Of the attention weights, of both residuals and inside the feed-forward network.
        time_in: Where the step's embedding is added: `query`, `memory` (keys and values), or `both`.
        condition_on_x_t: There is a noisy target to read. It enters the stream of its own position only, never keys and
            values.

    Raises:
        SettingError: A setting is out of its range.
    """

    def __init__(
        self,
        *,
        steps: int,
        hidden_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        time_in: TimeIn,
        condition_on_x_t: bool,
    ) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim)
        check_probability(dropout=dropout)
        check_sizes(ffn_dim=ffn_dim)
        self.num_heads, self.time_in = num_heads, time_in
        self.step = nn.Embedding(steps, hidden_dim)  # row t - 1 is step t
        self.query, self.key, self.value, self.merge = (nn.Linear(hidden_dim, hidden_dim) for _ in range(4))
        self.inner, self.outer = nn.Linear(hidden_dim, ffn_dim), nn.Linear(ffn_dim, hidden_dim)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.dropout = Dropout(dropout)
        self.noisy = nn.Linear(hidden_dim, hidden_dim) if condition_on_x_t else None

    def forward(self, context: Tensor, past: SequenceMask, steps: Tensor, x_t: Tensor | None = None) -> Tensor:
        """Context (b, l, D), steps (K,) of 1..T, x_t (K, b, r, D) -> (K, b, r, D), for the query rows of the mask."""
        rows, step = past.query_rows(context), self.step(steps - 1)[:, None, None]
        stream, query = rows[None], self.query(rows)[None]  # (K, b, r, D), or 1 for all K where no step is in it
        for part in [step] * (self.time_in != "memory") + ([self.noisy(x_t)] if self.noisy is not None else []):
            # The query is linear: rows and steps are projected once each, not once a pair.
            stream, query = stream + part, query + F.linear(part, self.query.weight)
        count, batch, length, _ = query.shape  # steps then lie beside rows
        query = split_heads(query.transpose(0, 1).reshape(batch, count * length, -1), self.num_heads)
        key, value = split_heads(self.key(context), self.num_heads), split_heads(self.value(context), self.num_heads)
        allowed = past.allowed.repeat(1, 1, count, 1)
        dropout = self.dropout.p if self.training else 0.0
        attended = merge_heads(attend(query, key, value, allowed, dropout=dropout))
        attended = attended.unflatten(1, (count, length)).transpose(0, 1)
        if self.time_in != "query":
            # In keys it raises all scores of a query alike; weights sum to 1, so of the values the step's own is left.
            attended = attended + F.linear(step, self.value.weight)
        y = self.norm_attention(stream + self.dropout(self.merge(attended)))
        return self.norm_ffn(y + self.dropout(self.outer(self.dropout(F.gelu(self.inner(y))))))
