"""Random views of sequences, as tensor operations: crop, mask, reorder (Xie et al., CL4SRec, ICDE 2022, section 3.3).

    b rows, l columns; rows start at column 0, oldest first, with padding (0) on the right

A row of n items has a span, or a set, of floor(ratio * n) items, at least one. What is drawn does not depend on the
number of processes (`seqgen.noise`).
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.data.ragged import places
from seqgen.data.transfer import sent
from seqgen.errors import SettingError
from seqgen.noise import draw


class View(NamedTuple):
    """An augmented view of rows.

    Attributes:
        items: (b, l), 0 is padding.
        lengths: Number of real columns, (b,).
        columns: Column of the original row that each column of the view stands for, (b, l); any on padding.
        causal: Real columns up to which the view holds no item that came later in the original row, (b, l) bool. At the
            others the item that follows may have been seen already, so nothing may be learned there.
    """

    items: Tensor
    lengths: Tensor
    columns: Tensor
    causal: Tensor


@dataclass(frozen=True, kw_only=True)
class Views:
    """Augmented views, one of a row, of a kind drawn among those whose ratio is above 0.

    Args:
        crop: Share of a row that is kept.
        mask: Share of a row that is masked.
        reorder: Share of a row that is shuffled.

    Raises:
        SettingError: A ratio is outside [0, 1].
    """

    crop: float
    mask: float
    reorder: float

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, ratio in vars(self).items():
            if not 0 <= ratio <= 1:
                raise SettingError(f"{name}={ratio} must lie in [0, 1]; 0 leaves this kind of view out.")

    def __bool__(self) -> bool:
        """Whether there is a kind to draw."""
        return any(vars(self).values())

    def __call__(self, items: Tensor, lengths: Tensor, token: int, on_host: Tensor) -> tuple[View, Tensor]:
        """A view of each row, and where in it something may be learned: its `causal` cells, row by row.

        Args:
            items: (b, l).
            lengths: Number of real columns, (b,).
            token: The id of what is masked.
            on_host: The lengths on the host, which tell it the number of these cells.

        Returns:
            The view; places in its flat cells, (m,).
        """
        views, learned = [], []
        if self.crop:
            views.append(crop(items, lengths, self.crop))
            learned.append(_count(on_host, self.crop))
        if self.mask:
            views.append(mask(items, lengths, self.mask, token))
            learned.append(on_host)
        if self.reorder:
            views.append(reorder(items, lengths, self.reorder))
            learned.append(on_host - _count(on_host, self.reorder) + 1)
        drawn = draw(partial(torch.randint, len(views)), (len(items),), device=on_host.device)
        [kind], row = sent([drawn], items.device), torch.arange(len(items), device=items.device)
        view = View(*(torch.stack(parts)[kind, row] for parts in zip(*views, strict=True)))
        return view, places(view.causal.flatten(), int(torch.stack(learned).gather(0, drawn[None]).sum()))


def crop(items: Tensor, lengths: Tensor, ratio: float) -> View:
    """A random contiguous span of each row, moved to column 0."""
    start, size = _span(lengths, ratio)
    column = torch.arange(items.shape[1], device=items.device)
    columns = (start[:, None] + column).clamp(max=items.shape[1] - 1)
    real = column < size[:, None]
    return View(torch.where(real, items.gather(1, columns), 0), size, columns, real)


def mask(items: Tensor, lengths: Tensor, ratio: float, token: int) -> View:
    """Random items of each row replaced by `token`, an id of its own."""
    column = torch.arange(items.shape[1], device=items.device)
    real = column < lengths[:, None]
    points = draw(torch.rand, items.shape, columns=(1,), device=items.device).masked_fill(~real, 2.0)  # padding last
    place = points.argsort(1).argsort(1)  # rank of each column in the draw: a random order of the real ones
    chosen = place < _count(lengths, ratio)[:, None]
    return View(torch.where(chosen, token, items), lengths, column.expand_as(items), real)


def reorder(items: Tensor, lengths: Tensor, ratio: float) -> View:
    """A random contiguous span of each row shuffled; a column keeps its place in time, whatever item comes there."""
    start, size = _span(lengths, ratio)
    column = torch.arange(items.shape[1], device=items.device)
    inside = (column >= start[:, None]) & (column < (start + size)[:, None])
    # Inside the span random keys from [start, start + size): sorting leaves everything outside where it is.
    points = start[:, None] + draw(torch.rand, items.shape, columns=(1,), device=items.device) * size[:, None]
    order = torch.where(inside, points, column.to(points.dtype)).argsort(dim=1, stable=True)
    whole = ~inside | (column == (start + size - 1)[:, None])  # at the last column of the span all of it is past
    causal = whole & (column < lengths[:, None])
    return View(items.gather(1, order), lengths, column.expand_as(items), causal)


def _count(lengths: Tensor, ratio: float) -> Tensor:
    return (lengths.double() * ratio).floor().long().clamp(min=1).minimum(lengths)


def _span(lengths: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """First column and size of a random contiguous span of each row, both (b,)."""
    size = _count(lengths, ratio)
    free = lengths - size + 1
    start = (draw(torch.rand, lengths.shape, device=lengths.device) * free).long().minimum(free - 1)
    return start, size
