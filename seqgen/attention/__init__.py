"""Attention mechanisms: what stands in a block where self-attention stood.

    b rows, l columns, r query rows (l, or 1 when only the newest is asked for), D width, H heads, d = D / H

One file per mechanism. Each has a function `branches(...)`, which its YAML calls with the mechanism's own settings
and which returns `[(weight, make_layer), ...]`: the encoder builds one stack of blocks per branch and adds their
outputs with these weights. `make_layer(hidden_dim=..., max_len=...)` builds a module with

    forward(query (b, r, D), context (b, l, D), mask, progress) -> (hidden (b, r, D), aux)

and, optionally, `source(x (b, l, D), mask) -> (b, l, D)`, which the block applies to its input to get the query's
source. `aux` maps the name of an auxiliary loss to (value, weight): the value is the mean over the real query rows,
the weight may follow `progress`, the share of training done, from 0 to 1; with weight 0 a value is only logged. It is
empty outside training. `weights(query, context, mask) -> (b, H, r, l)` gives the map that is mixed with outside
training, for who wants to look at it. A mechanism that can draw (`noise_shape`, `sample`) or that is trained on one
target a sequence (`one_target`) is a `seqgen.attention.generation.GeneratedAttention`.

Mechanisms do not import each other; what two of them share stands here, what generated ones share in `generation`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.errors import UserError

Aux = dict[str, tuple[Tensor, float]]
Branches = Sequence[tuple[float, Callable[..., nn.Module]]]


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


def check_heads(num_heads: int, hidden_dim: int, key: str = "attention.num_heads") -> None:
    """Refuse a number of heads that does not divide the width.

    Raises:
        UserError: Names both keys and the numbers that would do.
    """
    if num_heads < 1 or hidden_dim % num_heads:
        fitting = ", ".join(str(n) for n in range(1, min(hidden_dim, 16) + 1) if hidden_dim % n == 0)
        raise UserError(f"{key}={num_heads} does not divide model.hidden_dim={hidden_dim}; use one of {fitting}.")


def check_probability(name: str, value: float) -> None:
    """Refuse a dropout probability outside [0, 1).

    Raises:
        UserError: Names the key and the value.
    """
    if not 0.0 <= value < 1.0:
        raise UserError(f"{name}={value} must lie in [0, 1).")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(b, r, D) -> (b, H, r, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(b, H, r, d) -> (b, r, D)."""
    return x.transpose(1, 2).flatten(-2)


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: SequenceMask, *, num_heads: int, dropout: float
) -> Tensor:
    """Scaled dot-product attention over heads: query (b, r, D), key and value (b, l, D) -> (b, r, D)."""
    query, key, value = (split_heads(x, num_heads) for x in (query, key, value))
    allowed = mask.allowed if mask.last else None
    attended = F.scaled_dot_product_attention(query, key, value, allowed, dropout, is_causal=not mask.last)
    return merge_heads(attended)


def dot_product_weights(query: Tensor, key: Tensor, mask: SequenceMask, *, num_heads: int) -> Tensor:
    """The map of `dot_product_attention`, (b, H, r, l)."""
    query, key = (split_heads(x, num_heads) for x in (query, key))
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return logits.masked_fill(~mask.allowed, float("-inf")).softmax(dim=-1)
