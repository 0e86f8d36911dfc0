"""Tensors on their way from the host to a device: together, and without the host waiting for them."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor


def sent(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors on a device. Those that come from the host are copied at once, all of a type together.

    To an NVIDIA GPU they go out of pinned memory: neither the host nor what the GPU is at waits for the copy.
    """
    moved = list(tensors)
    for dtype in {x.dtype for x in tensors}:
        own = [place for place, x in enumerate(tensors) if x.dtype == dtype and _comes(x, device)]
        parts = _copied([tensors[place].flatten() for place in own], dtype, device) if own else ()
        for place, part in zip(own, parts, strict=True):
            moved[place] = part.view(tensors[place].shape)
    return [x.to(device) for x in moved]


def _comes(x: Tensor, device: torch.device) -> bool:
    return x.device.type == "cpu" and device.type != "cpu"


def _copied(parts: list[Tensor], dtype: torch.dtype, device: torch.device) -> Sequence[Tensor]:
    sizes, pinned = [len(part) for part in parts], device.type == "cuda"
    flat = torch.cat(parts, out=torch.empty(sum(sizes), dtype=dtype, pin_memory=pinned))
    return flat.to(device, non_blocking=pinned).split(sizes)


class Movable:
    """A dataclass of tensors, and of tuples of them and of others of its kind, that moves as one."""

    def to(self, device: torch.device | str) -> Self:
        """The same on a device, itself where it is there; Lightning calls this for each batch."""
        own: list[Tensor] = []

        def noted(x: Tensor) -> Tensor:
            own.append(x)
            return x

        self._map(noted)
        device = torch.device(device)
        if all(x.device == device for x in own):
            return self
        there = iter(sent(own, device))
        return self._map(lambda _: next(there))

    def _map(self, move: Callable[[Tensor], Tensor]) -> Self:
        """With each tensor replaced, in the order of the fields."""

        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(part) for part in value)
            if isinstance(value, Movable):
                return value._map(move)
            return move(value) if isinstance(value, Tensor) else value

        return replace(self, **{part.name: moved(getattr(self, part.name)) for part in fields(self)})  # type: ignore[type-var,arg-type]
