"""What is drawn in a training step for the rows of a group, the same for any number of processes.

Where a batch is divided among processes, each draws for all rows that the group has in the whole batch, and takes those
of its own. Who draws need not know: the loop over groups says which rows it is about (`rows`).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The rows that are drawn for, among those that the group has in the whole batch.

    Attributes:
        seed: Of the group, the same in all processes.
        device: Where is drawn.
        count: Number of rows of the whole group.
        columns: Its padded length.
        place: Which of its rows these are, (b,); None for all.
        of_host: Gives the same rows on the host, for what it has to know of a draw; None where they lie there.
    """

    seed: int
    device: torch.device
    count: int
    columns: int
    place: Tensor | None
    of_host: "Callable[[], Rows | None] | None" = None

    @cached_property
    def generator(self) -> torch.Generator:
        """Made with the first draw, which most models never make."""
        return torch.Generator(self.device).manual_seed(self.seed)

    @cached_property
    def on_host(self) -> "Rows":
        """Whose generator is one of the host."""
        return (self.of_host and self.of_host()) or self


_current: Rows | None = None


@contextlib.contextmanager
def rows(current: Rows | None) -> Iterator[None]:
    """Have `draw` draw for these rows; None leaves all to torch's own generator."""
    global _current
    before, _current = _current, current
    try:
        yield
    finally:
        _current = before


def draw(
    sample: Callable[..., Tensor],
    shape: Sequence[int],
    *,
    device: torch.device,
    columns: Sequence[int] = (),
    **how: Any,
) -> Tensor:
    """Random values of the rows of a group.

    Under `torch.compile`, which knows no generators, each process draws for itself.

    Args:
        sample: Such as `torch.randn`.
        shape: Of the result; the rows come first.
        device: Of the result: that of the rows, or the host.
        columns: Other dimensions that have the padded length of the group.
        how: What else `sample` takes.
    """
    if _current is None or torch.compiler.is_compiling():
        return sample(shape, device=device, **how)
    current = _current.on_host if device.type == "cpu" else _current
    whole = [current.count, *shape[1:]]
    for dim in columns:
        whole[dim] = current.columns
    values = sample(whole, generator=current.generator, device=device, **how)
    if current.place is not None:
        values = values.index_select(0, current.place)
    for dim in columns:
        values = values.narrow(dim, 0, shape[dim])
    return values
