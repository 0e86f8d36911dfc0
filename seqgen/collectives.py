"""What the processes of a run make together in a training step, with gradients.

    P processes, K sets, n rows of this process, N rows of all processes, D width

A process's objective is P times its share of the whole batch's, and DDP takes the mean of the gradients: so a gradient
that reaches rows of another process is summed over the processes, and that is all. Of a table whose rows are divided
among the processes, a `DTensor`, DDP averages nothing: there the sum is divided by P here (`seqgen.sharding`).
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor


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
    numbers: list[int] = of_each(torch.tensor(own), hosts()).tolist()
    return numbers


def of_each(values: Tensor, group: distributed.ProcessGroup | None = None) -> Tensor:
    """Values of all processes, of equal shapes (...), in their order, (P, ...); without gradients."""
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values, group=group)
    return torch.stack(parts)


def swapped(rows: Tensor, given: list[int], taken: list[int], group: distributed.ProcessGroup | None = None) -> Tensor:
    """Each process gives some rows to each other, and gets theirs; without gradients.

    Args:
        rows: What is given, (sum of `given`, ...), in the order of the processes.
        given: How many rows each process is given, (P,).
        taken: How many each process gives to this one, (P,).
        group: By which they are exchanged; None is the processes' own.

    Returns:
        (sum of `taken`, ...), in the order of the processes.
    """
    received = rows.new_empty(sum(taken), *rows.shape[1:])
    distributed.all_to_all_single(received, rows.contiguous(), taken, given, group=group)
    return received


def swapped_counts(given: list[int]) -> list[int]:
    """What `swapped` needs as `taken`. The hosts exchange it, as `counts`."""
    one_each = [1] * len(given)
    taken: list[int] = swapped(torch.tensor(given), one_each, one_each, hosts()).tolist()
    return taken


def hosts() -> distributed.ProcessGroup:
    """The same processes by a backend that takes tensors of the host, made with the first use in a run."""
    return _hosts(distributed.group.WORLD)


@lru_cache(maxsize=1)
def _hosts(world: distributed.ProcessGroup) -> distributed.ProcessGroup:
    return world if distributed.get_backend(world) == "gloo" else distributed.new_group(backend="gloo")


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, of equal shapes."""
    total: Tensor = _Sum.apply(values)
    return total


def part(rows: int, processes: int, rank: int) -> slice:
    """Which rows of a table that is divided among processes one of them keeps: as many as each, as of `Shard(0)`."""
    each = -(-rows // processes)
    return slice(min(rank * each, rows), min((rank + 1) * each, rows))


def exchanged(table: DTensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of some ids, which other processes may keep; all processes ask at once, each for its own ids.

    Args:
        table: (R, D).
        ids: With repetitions, of any shape; on the host, or a device is waited for.

    Returns:
        The distinct ids in order (n,), and their rows (n, D), both where the table is. The gradient of the rows goes to
        the processes that keep them.
    """
    processes = table.device_mesh.size()
    each = -(-len(table) // processes)
    distinct = ids.unique()
    asked = (distinct // each).bincount(minlength=processes).tolist()  # of each process, which are in order
    answered = swapped_counts(asked)
    there = distinct.to(table.device)
    wanted = swapped(there, asked, answered) - each * distributed.get_rank()
    rows: Tensor = _Rows.apply(table.to_local(), wanted, answered, asked)
    return there, rows


def kept_rows(table: DTensor) -> tuple[Tensor, int]:
    """The rows that this process keeps, and the number of their first."""
    own = part(len(table), table.device_mesh.size(), distributed.get_rank())
    return table.to_local(), own.start


def looked_up(table: DTensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """A small table with the rows of some ids, and the places of the ids in it: `rows[place]` is `table[ids]`.

    Args:
        table: (R, D).
        ids: Of any shape.
    """
    distinct, rows = exchanged(table, ids)
    return rows, torch.searchsorted(distinct, ids.to(distinct.device))


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


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, wanted: Tensor, answered: list[int], asked: list[int]) -> Tensor:
        ctx.save_for_backward(wanted)
        ctx.answered, ctx.asked, ctx.rows = answered, asked, len(local)
        return swapped(F.embedding(wanted, local), answered, asked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (wanted,) = ctx.saved_tensors
        grads = swapped(grad, ctx.asked, ctx.answered) / len(ctx.asked)
        # As the gradient of F.embedding, which does not depend on the number of threads.
        return torch.ops.aten.embedding_dense_backward(grads, wanted, ctx.rows, -1, False), None, None, None
