"""Finds where a training step would have the host wait for a GPU, without one.

What lies on torch's `meta` device has a shape and no values: an operator that needs them, which is where the host would
wait, raises. Tensors of the host beside it are real, as beside a GPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seqgen.data import transfer

META = torch.device("meta")


class WouldWait(AssertionError):
    """Of a copy from the host, or of an operator over tensors of both."""


class Strict(TorchDispatchMode):
    """Refuses what `meta` takes and a GPU would wait for.

    That are values of the host, but for those that `sent` sends, and values put where a mask is true.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sending, self.copies = False, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        there = any(isinstance(x, Tensor | torch.device) and _is_meta(x) for x in leaves)
        copies = func is torch.ops.aten._to_copy.default  # elsewhere a number of the host is part of the call
        here = any(isinstance(x, Tensor) and not x.is_meta and (x.ndim or copies) for x in leaves)
        masked = "index_put" in str(func) and any(x is not None and x.dtype == torch.bool for x in args[1])
        if (here and there and not self.sending) or (masked and args[2].numel() != 1):
            raise WouldWait(str(func))
        self.copies += here and there
        return func(*args, **(kwargs or {}))


def _is_meta(x: Tensor | torch.device) -> bool:
    return x.type == "meta" if isinstance(x, torch.device) else x.is_meta


def _refused(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes a tensor of numbers of the host, which no mode sees."""

    def made(*given: Any, **how: Any) -> Tensor:
        tensor = make(*given, **how)
        if tensor.is_meta:
            raise WouldWait(make.__name__)
        return tensor

    return made


@contextlib.contextmanager
def no_waiting() -> Iterator[Strict]:
    """Within, an operator that would wait for what lies on `meta` raises."""
    copied, autocast, mode = transfer._copied, torch.autocast, Strict()

    def sending(*given: Any) -> Any:
        mode.sending = True
        try:
            return copied(*given)
        finally:
            mode.sending = False

    def known(device: str, *given: Any, **how: Any) -> Any:
        return contextlib.nullcontext() if device == "meta" else autocast(device, *given, **how)

    fused = optimizer._get_fused_kernels_supported_devices
    with pytest.MonkeyPatch.context() as patch, mode:
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused(), "meta"])
        patch.setattr(transfer, "_copied", sending)
        patch.setattr(torch, "autocast", known)
        for home, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
            patch.setattr(home, name, _refused(getattr(home, name)))
        yield mode


def waits(call: Callable[[], Any]) -> bool:
    """Whether it would wait."""
    try:
        with no_waiting():
            call()
    except WouldWait:
        return True
    except RuntimeError as error:  # `meta` has no values; NotImplementedError is one too
        if "meta" not in str(error).lower():
            raise
        return True
    return False
