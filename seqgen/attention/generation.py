"""What the mechanisms share whose map is generated instead of compared: context, decoded logits, the layer around them.

    n columns a decoder knows (max_len), R rows it decodes: r, or 1 where one vector stands for the whole sequence

Liu et al., "Why Generate When You Can Transform? Unleashing Generative Attention for Dynamic Recommendation", ACM MM
2025, arXiv 2508.02050, whose main figure shows the structure; no code of it is public. What the figure leaves open
(values, output projection, masks, sizes) is our inference.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.attention import Aux, SequenceMask, check_heads, check_probability, glorot_linear, merge_heads, split_heads
from seqgen.errors import UserError
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
            raise UserError(f"attention.rank={rank} saves nothing with data.max_len={max_len}; leave it null.")
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


def masked_softmax(logits: Tensor, mask: SequenceMask) -> Tensor:
    """Weights over the allowed cells, (b, H, r, l)."""
    return logits.masked_fill(~mask.allowed, float("-inf")).softmax(dim=-1)


class GeneratedAttention(nn.Module):
    """Values mixed by a map that a subclass generates, and an output projection.

    Attributes:
        noise_shape: What one draw outside training needs; None where nothing is drawn.
        one_target: It is trained on one target a sequence (context `last`).
    """

    noise_shape: tuple[int, ...] | None = None
    noise: Tensor

    def __init__(self, *, hidden_dim: int, num_heads: int, dropout: float, context: ContextKind | None = None) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim)
        check_probability("attention.dropout", dropout)
        self.num_heads, self.dropout = num_heads, dropout
        self.value, self.out = (glorot_linear(hidden_dim, hidden_dim) for _ in range(2))
        if context is not None:
            self.context = Context(hidden_dim=hidden_dim, kind=context)
        self.one_target, self.samples = context == "last", 0

    def sample(self, samples: int, temperature: float, generator: torch.Generator) -> None:
        """Draw, outside training, `samples` maps a row instead of the deterministic one.

        The noise is drawn here, once: the same for all rows of all users and in every run, and no part of a checkpoint.
        The rows of a batch are then `samples` copies, one below the other (see `Encoder`).

        Args:
            samples: Number of draws; 0 for none.
            temperature: Factor of the noise.
            generator: Of the noise.
        """
        self.samples = samples
        noise = temperature * torch.randn((samples, *(self.noise_shape or ())), generator=generator)
        self.register_buffer("noise", noise, persistent=False)

    def shared_noise(self, rows: int) -> Tensor:
        """The noise of each row of a batch, (b, ...)."""
        return self.noise.repeat_interleave(rows // self.samples, dim=0)

    def generate(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Logits (b, H, r, l), and in training the auxiliary losses; query (b, r, D), context (b, l, D)."""
        raise NotImplementedError

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """Query (b, r, D) over context (b, l, D) -> (b, r, D), and the auxiliary losses in training."""
        logits, aux = self.generate(query, context, mask, progress)
        # The softmax stays in 32 bits under mixed precision.
        weights = F.dropout(masked_softmax(logits, mask), self.dropout, self.training)
        value = split_heads(self.value(context), self.num_heads)
        return self.out(merge_heads(weights.to(value.dtype) @ value)), aux

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map that `forward` mixes with outside training, (b, H, r, l)."""
        return masked_softmax(self.generate(query, context, mask, 1.0)[0], mask)


def check_generation(*, context: ContextKind, allow_leak: bool, columns: ColumnKind, rank: int | None) -> None:
    """Refuse values out of range of the keys that generated attention shares.

    Raises:
        UserError: Names the key.
    """
    for name, kind, kinds in (("context", context, ContextKind), ("columns", columns, ColumnKind)):
        if kind not in get_args(kinds):
            raise UserError(f"attention.{name}={kind} is not one of {', '.join(get_args(kinds))}.")
    if context == "global" and not allow_leak:
        raise UserError(
            "attention.context=global shows each position its own target in training, where the loss is at all "
            "positions: use prefix, or last (one target a sequence), or say attention.allow_leak=true."
        )
    if context != "global" and allow_leak:
        raise UserError("attention.allow_leak has no effect without attention.context=global; set it to false.")
    if rank is not None:
        check_sizes(rank=rank)


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        UserError: Names the key.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"attention.{name}={value} must be at least 1.")


def check_weights(**weights: float) -> None:
    """Refuse weights below 0.

    Raises:
        UserError: Names the key.
    """
    for name, value in weights.items():
        if not value >= 0:  # nor NaN
            raise UserError(f"attention.{name}={value} must not be negative.")
