"""Layers small enough to work out by hand, and the formulas of generated attention, cell by cell."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from conftest import mechanism
from torch import Tensor, nn

from seqgen.attention import SequenceMask
from seqgen.attention.generation import LOGIT_BOUND, Context, GeneratedAttention, LogitDecoder

MAX_LEN, WIDTH, HEADS, LENGTHS, NUM_COLUMNS = 7, 4, 2, torch.tensor([5, 2, 3, 1]), 5
CONTEXTS = ({"context": "prefix"}, {"context": "global", "allow_leak": True}, {"context": "last"})


def make_layer(name: str, **settings: Any) -> Any:
    """What `attention=name` builds, with no parameter near its starting value."""
    torch.manual_seed(0)
    layer = mechanism(name, **{"num_heads": HEADS} | settings)(hidden_dim=WIDTH, max_len=MAX_LEN)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.double()


def drawn_input(*, last: bool, lengths: Tensor = LENGTHS) -> tuple[Tensor, Tensor, SequenceMask]:
    """Query (b, r, D), context (b, l, D), mask."""
    query, context = torch.randn(
        2, len(lengths), NUM_COLUMNS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    mask = SequenceMask(lengths, NUM_COLUMNS, last=last)
    return mask.query_rows(query), context, mask


def real_rows(mask: SequenceMask) -> Iterator[tuple[int, int, int, int]]:
    """Of each real query row: sequence, row, position, length of the sequence."""
    for b, length in enumerate(mask.lengths.tolist()):
        for position in [length - 1] if mask.last else range(length):
            yield b, 0 if mask.last else position, position, length


def place(columns: str, length: int, position: int, column: int, known: int = MAX_LEN) -> int:
    """Which of the known cells of a row a column has, the farthest first."""
    return known - 1 - ((position if columns == "relative" else length - 1) - column)


def plain_context(module: Context, query: Tensor, context: Tensor, position: int) -> Tensor:
    """Query of the row (D,), context without padding (length, D) -> (D,)."""
    if module.kind == "prefix":
        return F.gelu(module.dense(query + sum(context[: position + 1]) / (position + 1)))
    return F.gelu(module.dense(sum(context) / len(context)))


def plain_logits(decoder: LogitDecoder, hidden: Tensor, context: Tensor, position: int) -> Tensor:
    """Hidden vector of the row (F,), context without padding (length, D) -> (H, position + 1)."""
    n, rank, length, width = MAX_LEN, decoder.rank, len(context), WIDTH // HEADS
    values = decoder.position(hidden)
    logits = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        for column in range(position + 1):
            cell = place(decoder.columns, length, position, column)
            if decoder.whole:
                row = n - 1 - (length - 1 - position)
                if rank:
                    left, right = values.reshape(2, HEADS, n, rank)
                    value = left[head, row] @ right[head, cell]
                else:
                    value = values.reshape(HEADS, n, n)[head, row, cell]
            elif rank:
                value = values.reshape(HEADS, rank)[head] @ decoder.table[head, :, cell]
            else:
                value = values.reshape(HEADS, n)[head, cell]
            if decoder.content:
                value = value + decoder.query(hidden)[part] @ decoder.key(context[column])[part] / width**0.5
            logits.append(LOGIT_BOUND * torch.tanh(value / LOGIT_BOUND))
    return torch.stack(logits).reshape(HEADS, position + 1)


def plain_output(layer: GeneratedAttention, logits: Tensor, context: Tensor) -> Tensor:
    """Logits of a row (H, position + 1), context (length, D) -> (D,)."""
    value, width, mixed = layer.value(context), WIDTH // HEADS, []
    for head in range(HEADS):
        exp = logits[head].exp()
        part = value[: logits.shape[1], head * width : (head + 1) * width]
        mixed.append((exp[:, None] * part).sum(dim=0) / exp.sum())
    return layer.out(torch.cat(mixed))
