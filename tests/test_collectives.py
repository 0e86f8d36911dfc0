"""What several processes make together against one process that has all rows; with gradients."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed

from seqgen import collectives, numerics

SIZES = (3, 1, 4)  # rows of each process


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two sets of rows and their partners, and a weight for each set."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, sum(SIZES), 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second, torch.tensor([0.3, 2.0])


def contrast(kind: str, first: torch.Tensor, second: torch.Tensor, *, gather: bool) -> torch.Tensor:
    if kind == "exact":
        return numerics.info_nce(first, second, 0.2, gather=gather)
    generator = torch.Generator().manual_seed(5)
    return numerics.fourier_info_nce(first, second, 0.8, 32, gather=gather, generator=generator)


def process(rank: int, kind: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SIZES))
    first, second, weights = rows()
    own = [x.split(SIZES, dim=1)[rank].clone().requires_grad_() for x in (first, second)]
    # As DDP has it: P times this process's share of the whole, and the mean of the gradients.
    value = contrast(kind, *own, gather=True) * SIZES[rank] / sum(SIZES) * len(SIZES)
    (weights * value).sum().backward()
    torch.save([value.detach(), *(x.grad for x in own)], f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["exact", "fourier"])
def test_a_contrast_over_all_processes_is_that_of_one(kind: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=process, args=(rank, kind, str(tmp_path))) for rank in range(len(SIZES))]
    for each in started:
        each.start()
    for each in started:
        each.join(60)
        assert each.exitcode == 0
    values, *grads = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(len(SIZES))), strict=True)
    first, second, weights = rows()
    wanted = contrast(kind, first.requires_grad_(), second.requires_grad_(), gather=False)
    torch.testing.assert_close(torch.stack(values).mean(0), wanted.detach())
    (weights * wanted).sum().backward()
    for x, parts in zip((first, second), grads, strict=True):
        torch.testing.assert_close(torch.cat(parts, dim=1) / len(SIZES), x.grad)


def counting(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SIZES))
    found = [collectives.counts(SIZES[rank])]
    collectives._hosts.cache_clear()
    distributed.get_backend = lambda group: "nccl"  # which takes no tensor of the host
    found += [collectives.counts(SIZES[rank]), collectives.counts(SIZES[rank])]
    assert found == [[*SIZES]] * 3
    assert collectives._hosts(distributed.group.WORLD) is not distributed.group.WORLD
    distributed.barrier()
    distributed.destroy_process_group()


def test_hosts_count_among_themselves_with_any_backend(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=counting, args=(rank, str(tmp_path))) for rank in range(len(SIZES))]
    for each in started:
        each.start()
    for each in started:
        each.join(60)
        assert each.exitcode == 0
