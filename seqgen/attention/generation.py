"""What the mechanisms share whose map is generated instead of compared: context, decoded logits, the layer around them.

    n columns a decoder knows (max_len), R rows it decodes: r, or 1 where one vector stands for the whole sequence

Liu et al., "Why Generate When You Can Transform? Unleashing Generative Attention for Dynamic Recommendation", ACM MM
2025, arXiv 2508.02050, whose main figure shows the structure; no code of it is public. What the figure leaves open
(values, output projection, masks, sizes) is our inference.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.attention import Attention, Aux, SequenceMask, glorot_linear, masked_softmax, split_heads
from seqgen.dropout import drop
from seqgen.errors import SettingError, check_sizes
from seqgen.numerics import full_precision

ContextKind = Literal["prefix", "global", "last"]
ColumnKind = Literal["relative", "absolute"]
LOGIT_BOUND = 8.0  # logits lie within; a softmax over 50 columns can still give one of them 0.98 of the weight
INIT_STD = 0.02  # of what makes the logits: training starts near uniform attention


class Context(nn.Module):
    """The vector that a row of the map is generated from.

    - `prefix`: of each row its query and the mean of the items up to it. Causal: all positions train at once.
    - `global`: of the whole sequence the mean of its items, as the paper's figure draws it. A row then depends on items
      newer than itself, its own target among them: a leak in training, refused unless `allow_leak`.
    - `last`: `global`, trained on the newest position of a random prefix of each sequence (see
      `seqgen.model.base`): as the figure, without the leak, at one target a sequence instead of one an item.

    Args:
        hidden_dim: Width D.
        kind: prefix, global or last.
    """

    def __init__(self, *, hidden_dim: int, kind: ContextKind) -> None:
        super().__init__()
        self.kind, self.dense = kind, glorot_linear(hidden_dim, hidden_dim)

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """Query (b, r, D) and block input (b, l, D) -> (b, R, D)."""
        if self.kind != "prefix":
            real = (mask.columns < mask.lengths[:, None])[..., None]
            return F.gelu(self.dense((context * real).sum(1, keepdim=True) / mask.lengths[:, None, None]))
        # A running sum, not a product with a triangle of ones: a later item must change no earlier mean, exactly.
        mean = mask.query_rows(context.cumsum(dim=1) / (mask.columns + 1)[:, None])
        return F.gelu(self.dense(query + mean))


class LogitDecoder(nn.Module):
    """From one hidden vector per row to the logits of its cells.

    A cell is addressed by its distance i - j to the row (`relative`), or by the slot of its column, counted from the
    newest item of the whole sequence, as positions are (`absolute`); with `content` also by what stands there: the
    vector makes a query, the block's input the keys. The content term is an extension of ours; without it a map cannot
    tell items apart.

    Args:
        in_features: Size of the hidden vector.
        hidden_dim: Width D of the block's input.
        num_heads: H.
        max_len: n.
        columns: relative or absolute.
        content: Add the content term.
        rank: Rank of the position logits; None is full.
        whole: One vector decodes all rows of an absolute map, n x n cells, as in the paper's figure.
    """

    def __init__(
        self,
        *,
        in_features: int,
        hidden_dim: int,
        num_heads: int,
        max_len: int,
        columns: ColumnKind,
        content: bool,
        rank: int | None,
        whole: bool,
    ) -> None:
        super().__init__()
        self.num_heads, self.max_len, self.columns, self.rank = num_heads, max_len, columns, rank
        self.whole = whole and columns == "absolute"
        largest = max_len // 2 if self.whole else max_len  # beyond it two factors are larger than what they make
        if rank is not None and rank >= largest:
            raise SettingError(f"rank={rank} saves nothing with max_len={max_len}; leave it null.")
        cells = rank or max_len
        if self.whole:
            cells = 2 * rank * max_len if rank else max_len**2
        self.position = nn.Linear(in_features, num_heads * cells)
        nn.init.normal_(self.position.weight, std=INIT_STD)
        nn.init.zeros_(self.position.bias)
        if rank and not self.whole:
            self.table = nn.Parameter(torch.randn(num_heads, rank, max_len))
        if content:
            self.query, self.key = nn.Linear(in_features, hidden_dim), glorot_linear(hidden_dim, hidden_dim)
            nn.init.normal_(self.query.weight, std=INIT_STD)
            nn.init.zeros_(self.query.bias)
        self.content = content

    def keys(self, context: Tensor) -> Tensor | None:
        """Keys of the content term, (b, H, l, d)."""
        return split_heads(self.key(context), self.num_heads) if self.content else None

    def forward(self, hidden: Tensor, keys: Tensor | None, mask: SequenceMask) -> Tensor:
        """Hidden vectors (b, R, in_features) -> logits (b, H, r, l) within the bound; anything where not allowed."""
        logits = full_precision(self._whole_map(hidden, mask) if self.whole else self._rows(hidden, mask))
        if keys is not None:
            query = split_heads(self.query(hidden), self.num_heads)
            logits = logits + full_precision(query @ keys.transpose(-1, -2)) / keys.shape[-1] ** 0.5
        return LOGIT_BOUND * torch.tanh(logits / LOGIT_BOUND)

    def _rows(self, hidden: Tensor, mask: SequenceMask) -> Tensor:
        if self.rank:
            factors = self.position(hidden).unflatten(-1, (self.num_heads, self.rank)).transpose(1, 2)
            values = factors @ self.table.to(factors.dtype)
        else:
            # Shorter sequences need the nearest cells only, which stand last.
            known = self.max_len if mask.last or self.columns == "absolute" else mask.num_columns
            weight = self.position.weight.unflatten(0, (self.num_heads, self.max_len))[:, -known:].flatten(0, 1)
            bias = self.position.bias.unflatten(0, (self.num_heads, self.max_len))[:, -known:].flatten()
            values = F.linear(hidden, weight, bias).unflatten(-1, (self.num_heads, known)).transpose(1, 2)
        return to_columns(values, mask, self.columns)

    def _whole_map(self, hidden: Tensor, mask: SequenceMask) -> Tensor:
        heads, n = self.num_heads, self.max_len
        if self.rank:
            row, column = self.position(hidden[:, 0]).unflatten(-1, (2, heads, n, self.rank)).unbind(1)
            cells = (row[:, :, -1:] if mask.last else row) @ column.transpose(-1, -2)
        elif mask.last:
            newest = [x.unflatten(0, (heads, n, n))[:, -1].flatten(0, 1) for x in self.position.parameters()]
            cells = F.linear(hidden[:, 0], *newest).unflatten(-1, (heads, 1, n))
        else:
            cells = self.position(hidden[:, 0]).unflatten(-1, (heads, n, n))
        if mask.last:
            return to_columns(cells, mask, "absolute")
        slot = (n - 1 - (mask.lengths[:, None] - 1 - mask.query_columns).clamp(min=0))[:, None, :, None]
        rows = cells.gather(2, slot.expand(-1, heads, -1, n))  # (b, H, r, n)
        return to_columns(rows, mask, "absolute")


def to_columns(values: Tensor, mask: SequenceMask, columns: ColumnKind) -> Tensor:
    """Values by distance or slot, the farthest first, (b, H, R, n) -> by column, (b, H, r, l)."""
    length, known = mask.num_columns, values.shape[-1]
    if columns == "relative" and not mask.last:
        values = values.expand(-1, -1, length, -1)[..., known - length :]
        # Row i moves l - 1 - i to the left: read with one more column a row, it does so by itself. No index is made.
        flat = F.pad(values, (0, 1)).flatten(-2)
        return flat[..., length - 1 : length - 1 + length**2].unflatten(-1, (length, length))
    rows, place = mask.query_columns.shape[1], _place(mask, columns, known)
    values = values.expand(-1, -1, rows, -1)
    return values.gather(-1, place.expand(*values.shape[:2], rows, -1))


def from_columns(values: Tensor, mask: SequenceMask, columns: ColumnKind, known: int) -> Tensor:
    """The inverse of `to_columns`, 0 where there is no column: (b, H, r, l) -> (b, H, r, n).

    Args:
        values: 0 in cells that are not allowed.
        mask: Of the map.
        columns: relative or absolute.
        known: n.
    """
    length = mask.num_columns
    if columns == "relative" and not mask.last:
        moved = F.pad(values.flatten(-2), (length - 1, 1)).unflatten(-1, (length, length + 1))[..., :length]
        return F.pad(moved, (known - length, 0))
    # Cells not allowed share a place with an allowed one, to which they add 0.
    place = _place(mask, columns, known).expand(values.shape)
    return values.new_zeros(*values.shape[:-1], known).scatter_add(-1, place, values)


def _place(mask: SequenceMask, columns: ColumnKind, known: int) -> Tensor:
    newest = mask.query_columns if columns == "relative" else mask.lengths[:, None] - 1
    return (known - 1 - (newest[..., None] - mask.columns).clamp(min=0))[:, None]  # (1 or b, 1, 1 or r, l)


class GeneratedAttention(Attention):
    """Values mixed by a map whose logits a subclass makes, and an output projection. It keeps its starting values.

    Args:
        hidden_dim: Width D.
        max_len: n.
        num_heads: H.
        dropout: Of the weights of the map.
    """

    def __init__(self, *, hidden_dim: int, max_len: int, num_heads: int, dropout: float) -> None:
        super().__init__(hidden_dim=hidden_dim, num_heads=num_heads, dropout=dropout)
        self.value, self.out = (glorot_linear(hidden_dim, hidden_dim) for _ in range(2))

    def generate(self, query: Tensor, context: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        """Logits (b, H, r, l), and in training the auxiliary losses; query (b, r, D), context (b, l, D)."""
        raise NotImplementedError

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        """Query (b, r, D) over context (b, l, D) -> (b, r, D), and the auxiliary losses in training."""
        logits, aux = self.generate(query, context, mask)
        # The softmax stays in 32 bits under mixed precision.
        weights = drop(masked_softmax(logits, mask.allowed), self.dropout, self.training)
        return self.finish(self.mix(weights, context), query), aux

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map that `forward` mixes with outside training, (b, H, r, l)."""
        return masked_softmax(self.generate(query, context, mask)[0], mask.allowed)

    def reset_parameters(self, std: float) -> None:
        """Leave all as it is: what makes the logits starts near uniform attention."""


class ContextAttention(GeneratedAttention):
    """Logits decoded from a vector of the row's context: what `vae`, `diffusion` and `synthesizer` share.

    Args:
        hidden_dim: Width D.
        max_len: n.
        num_heads: H.
        dropout: Of the weights of the map.
        context: What a row is generated from: prefix (causal), global (leaks) or last (one target a sequence).
        allow_leak: Take `global` although the loss is at all positions.
        columns: Cells by distance (relative) or by slot (absolute).
        content: Add the content term: cells also by the item that stands there.
        rank: Of the position logits, for long sequences; None is full.
    """

    def __init__(
        self,
        *,
        hidden_dim: int,
        max_len: int,
        num_heads: int,
        dropout: float,
        context: ContextKind,
        allow_leak: bool,
        columns: ColumnKind,
        content: bool,
        rank: int | None,
    ) -> None:
        super().__init__(hidden_dim=hidden_dim, max_len=max_len, num_heads=num_heads, dropout=dropout)
        if context == "global" and not allow_leak:
            raise SettingError(
                "context=global shows each position its own target in training, where the loss is at all positions: "
                "use prefix, or last (one target a sequence), or say allow_leak=true."
            )
        if context != "global" and allow_leak:
            raise SettingError("allow_leak has no effect without context=global; set it to false.")
        if rank is not None:
            check_sizes(rank=rank)
        self.context = Context(hidden_dim=hidden_dim, kind=context)
        self.one_target = context == "last"
        self.hidden_dim, self.max_len, self.columns, self.content, self.rank = (
            hidden_dim,
            max_len,
            columns,
            content,
            rank,
        )

    def logit_decoder(self, in_features: int, *, whole: bool) -> LogitDecoder:
        """What makes logits of hidden vectors (b, R, in_features).

        Args:
            in_features: Size of a vector.
            whole: One vector may decode all rows.
        """
        return LogitDecoder(
            in_features=in_features,
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            max_len=self.max_len,
            columns=self.columns,
            content=self.content,
            rank=self.rank,
            whole=whole and self.context.kind != "prefix",
        )
