"""Attention mechanisms: what stands in a block where self-attention stood.

    b rows, l columns, r query rows (l, or 1 when only the newest is asked for), D width, H heads, d = D / H

One file per mechanism, with a subclass of `Attention` that its YAML names with `_partial_: true` and the mechanism's
own settings; the encoder completes it with `hidden_dim` and `max_len`. A mechanism of several encoders (`multi_query`)
gives branches instead, `[(weight, make_attention), ...]`: one stack of blocks each, whose outputs are added with these
weights.

Mechanisms do not import each other; what two of them share stands here, what generated ones share in `generation`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.dropout import drop
from seqgen.errors import SettingError, check_probability


class Auxiliary(NamedTuple):
    """An auxiliary loss of a layer, or, with weight 0, a quantity that is only logged.

    Attributes:
        value: Scalar, mean over the real query rows.
        weight: Factor in the objective.
        warmup: Training steps over which the weight rises linearly from 0.
    """

    value: Tensor
    weight: float
    warmup: int = 0


Aux = dict[str, Auxiliary]


def added(total: Aux, aux: Aux, share: float = 1.0) -> Aux:
    """Auxiliary losses with `share` times the values of others added by name."""
    summed = dict(total)
    for name, (value, weight, warmup) in aux.items():
        before = total[name].value if name in total else 0.0
        summed[name] = Auxiliary(before + share * value, weight, warmup)
    return summed


class SequenceMask:
    """Who may attend to whom: real columns, and none that is newer than the query row.

    Rows are padded on the right, so causality alone keeps padding out of every real row.

    Args:
        lengths: Number of real columns of each row, (b,).
        num_columns: Padded length l.
        last: The query is only the newest real position of each row (r = 1) instead of all l.

    Attributes:
        columns: 0..l - 1, (l,).
        query_columns: Column of each query row: (1, l), or (b, 1) when only the newest is asked for.
        query_valid: Real query rows, (b, r) bool.
        allowed: Cells a query row may attend to, (1 or b, 1, r, l) bool; no row is empty.
    """

    def __init__(self, lengths: Tensor, num_columns: int, *, last: bool = False) -> None:
        self.lengths, self.num_columns, self.last = lengths, num_columns, last
        # Made at once: a property that keeps its value takes a lock, at which torch.compile would break the graph.
        self.columns = torch.arange(num_columns, device=lengths.device)
        self.query_columns = lengths[:, None] - 1 if last else self.columns[None]
        self.query_valid = self.query_columns < lengths[:, None]
        self.allowed = (self.columns <= self.query_columns[..., None])[:, None]

    def newest(self, x: Tensor) -> Tensor:
        """The newest real position of each row: (b, l, D) -> (b, 1, D)."""
        return x[torch.arange(len(x), device=x.device), self.lengths - 1][:, None]

    def query_rows(self, x: Tensor) -> Tensor:
        """Of a value per column, those of the query rows: (b, l, D) -> (b, r, D)."""
        return self.newest(x) if self.last else x


def glorot_linear(in_features: int, out_features: int) -> nn.Linear:
    """A dense layer with Glorot-uniform weights and zero bias, as in the SASRec and MQSA-TED code."""
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def check_heads(num_heads: int, hidden_dim: int) -> None:
    """Refuse a number of heads that does not divide the width.

    Raises:
        SettingError: Says which numbers would do.
    """
    if num_heads < 1 or hidden_dim % num_heads:
        fitting = ", ".join(str(n) for n in range(1, min(hidden_dim, 16) + 1) if hidden_dim % n == 0)
        raise SettingError(f"num_heads={num_heads} does not divide hidden_dim={hidden_dim}; use one of {fitting}.")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(b, r, D) -> (b, H, r, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(b, H, r, d) -> (b, r, D)."""
    return x.transpose(1, 2).flatten(-2)


class Attention(nn.Module):
    """Rows of a sequence mixed by a map: which items a row draws on, and how much.

    A subclass makes `value` and `out`, and gives `weights`. One that computes map and mixture in one fused call
    overrides `forward` as well, and `weights` still shows the map; a shared test compares the two.

    Args:
        hidden_dim: Width D.
        num_heads: H; must divide the width.
        dropout: Of the weights of the map.

    Attributes:
        value: Projection of what is mixed, (..., D) -> (..., D).
        out: Of the mixture, (..., D) -> (..., D).
        one_target: It is trained on one target a sequence.
        noise_shape: What one draw outside training needs; None where nothing is drawn.
        samples: Draws outside training; 0 is the deterministic map.

    Raises:
        SettingError: A setting is out of its range.
    """

    value: nn.Module
    out: nn.Module
    one_target = False
    noise_shape: tuple[int, ...] | None = None
    samples = 0
    noise: Tensor

    def __init__(self, *, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim)
        check_probability(dropout=dropout)
        self.num_heads, self.dropout = num_heads, dropout

    def source(self, x: Tensor, mask: SequenceMask) -> Tensor:
        """What the block makes the query from, of its input: (b, l, D) -> (b, l, D). The input itself, mostly."""
        return x

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map: query (b, r, D) over context (b, l, D) -> (b, H, r, l), 0 where not allowed; without dropout."""
        raise NotImplementedError

    def mix(self, weights: Tensor, context: Tensor) -> Tensor:
        """Values mixed by a map (b, H, r, l): context (b, l, D) -> (b, r, D)."""
        value = split_heads(self.value(context), self.num_heads)
        return merge_heads(weights.to(value.dtype) @ value)

    def finish(self, mixed: Tensor, query: Tensor) -> Tensor:
        """What becomes of the mixture (b, r, D), beside the query (b, r, D) -> (b, r, D)."""
        out: Tensor = self.out(mixed)
        return out

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        """Query (b, r, D) over context (b, l, D) -> (b, r, D), and in training the auxiliary losses."""
        weights = drop(self.weights(query, context, mask), self.dropout, self.training)
        return self.finish(self.mix(weights, context), query), {}

    @property
    def draws(self) -> bool:
        """Whether it has noise to draw."""
        return self.noise_shape is not None

    def sample(self, samples: int, temperature: float, generator: torch.Generator) -> None:
        """Draw, outside training, `samples` maps a row instead of the deterministic one.

        The noise is drawn here, once: the same for all rows of all users and in every run, and no part of a checkpoint.
        The rows of a batch are then `samples` copies, one below the other (see `Encoder`).

        Args:
            samples: Number of draws; 0 for none.
            temperature: Factor of the noise.
            generator: Of the noise.
        """
        assert self.noise_shape is not None
        self.samples = samples
        noise = temperature * torch.randn((samples, *self.noise_shape), generator=generator)
        self.register_buffer("noise", noise, persistent=False)

    def shared_noise(self, rows: int) -> Tensor:
        """The noise of each row of a batch, (b, ...)."""
        return self.noise.repeat_interleave(rows // self.samples, dim=0)

    def reset_parameters(self, std: float) -> None:
        """Draw the dense layers anew from N(0, std), for a model with starting values of its own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)


MakeAttention = Callable[..., Attention]  # of hidden_dim= and max_len=
Branches = Sequence[tuple[float, MakeAttention]]


class QueryKeyAttention(Attention):
    """Attention whose map compares queries with keys; a subclass says how.

    Args:
        hidden_dim: Width D.
        max_len: Longest sequence, which changes nothing here.
        num_heads: H.
        dropout: Of the weights of the map.
        out_proj: Project the mixture, as a Transformer and generated attention do; SASRec and MQSA-TED do not.
    """

    def __init__(self, *, hidden_dim: int, max_len: int, num_heads: int, dropout: float, out_proj: bool) -> None:
        super().__init__(hidden_dim=hidden_dim, num_heads=num_heads, dropout=dropout)
        self.query, self.key, self.value = (glorot_linear(hidden_dim, hidden_dim) for _ in range(3))
        self.out = glorot_linear(hidden_dim, hidden_dim) if out_proj else nn.Identity()


class DotProductAttention(QueryKeyAttention):
    """Scaled dot products and a softmax, in one fused call."""

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map, (b, H, r, l)."""
        query, key = (split_heads(x, self.num_heads) for x in (self.query(query), self.key(context)))
        return masked_softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, mask.allowed)

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        """Query (b, r, D) over context (b, l, D) -> (b, r, D), no auxiliary loss."""
        projected = self.query(query), self.key(context), self.value(context)
        q, k, v = (split_heads(x, self.num_heads) for x in projected)
        mixed = attend(q, k, v, mask.allowed, dropout=self.dropout if self.training else 0.0, causal=not mask.last)
        return self.finish(merge_heads(mixed), query), {}


def attend(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, *, dropout: float, causal: bool = False
) -> Tensor:
    """Values (b, H, l, d) mixed by scaled dot products and a softmax over the allowed cells -> (b, H, r, d).

    Args:
        query: (b, H, r, d).
        key: (b, H, l, d).
        value: (b, H, l, d).
        allowed: (1 or b, 1, r, l) bool.
        dropout: Of the weights.
        causal: The allowed cells are those up to the row's own, which a fused kernel need not look up.
    """
    if dropout and query.device.type == "cpu" and not torch.compiler.is_compiling():
        # torch has no fused kernel for this either, and its dropout takes longer than all else.
        weights = masked_softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, allowed)
        return drop(weights, dropout, True).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, None if causal else allowed, dropout, is_causal=causal)


def masked_softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Weights over the allowed cells, (b, H, r, l)."""
    return logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
