"""What the processes of a run make together in a training step, with gradients.

    K sets, n rows of this process, N rows of all processes, D width

A process's objective is P times its share of the whole batch's, and DDP takes the mean of the gradients: so a gradient
that reaches rows of another process is summed over the processes, and that is all.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def gathered(rows: Tensor) -> tuple[Tensor, slice]:
    """The rows of all processes in the order of the processes, which may have different numbers of them.

    Args:
        rows: (K, n, D).

    Returns:
        (K, N, D), and which of the N are this process's.
    """
    sizes, rank = counts(rows.shape[1]), distributed.get_rank()
    everyone: Tensor = _Gather.apply(rows, sizes, rank)
    first = sum(sizes[:rank])
    return everyone, slice(first, first + sizes[rank])


def counts(own: int) -> list[int]:
    """A number of each process, in their order. The hosts exchange it, so that no device is waited for."""
    everyone = [torch.empty(1, dtype=torch.long) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, torch.tensor([own]), group=_hosts(distributed.group.WORLD))
    return [int(number) for number in everyone]


@lru_cache(maxsize=1)
def _hosts(world: distributed.ProcessGroup) -> distributed.ProcessGroup:
    """The same processes by a backend that takes tensors of the host, made with the first use in a run."""
    return world if distributed.get_backend(world) == "gloo" else distributed.new_group(backend="gloo")


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, of equal shapes."""
    total: Tensor = _Sum.apply(values)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = rows.new_zeros(rows.shape[0], max(sizes), rows.shape[2])  # a collective takes equal shapes
        padded[:, : rows.shape[1]] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        whole = grad.contiguous()
        distributed.all_reduce(whole)
        return whole.split(ctx.sizes, dim=1)[ctx.rank], None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)
