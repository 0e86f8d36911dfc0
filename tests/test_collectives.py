"""What several processes make together against one process that has all rows; with gradients."""

from pathlib import Path

import pytest
import torch
from processes import among
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


def process(rank: int, kind: str) -> list[torch.Tensor | None]:
    first, second, weights = rows()
    own = [x.split(SIZES, dim=1)[rank].clone().requires_grad_() for x in (first, second)]
    # As DDP has it: P times this process's share of the whole, and the mean of the gradients.
    value = contrast(kind, *own, gather=True) * SIZES[rank] / sum(SIZES) * len(SIZES)
    (weights * value).sum().backward()
    return [value.detach(), *(x.grad for x in own)]


@pytest.mark.parametrize("kind", ["exact", "fourier"])
def test_a_contrast_over_all_processes_is_that_of_one(kind: str, tmp_path: Path) -> None:
    values, *grads = zip(*among(len(SIZES), tmp_path / "processes", process, kind), strict=True)
    first, second, weights = rows()
    wanted = contrast(kind, first.requires_grad_(), second.requires_grad_(), gather=False)
    torch.testing.assert_close(torch.stack(values).mean(0), wanted.detach())
    (weights * wanted).sum().backward()
    for x, parts in zip((first, second), grads, strict=True):
        torch.testing.assert_close(torch.cat(parts, dim=1) / len(SIZES), x.grad)


def counting(rank: int) -> None:
    found = [collectives.counts(SIZES[rank])]
    collectives._hosts.cache_clear()
    distributed.get_backend = lambda group: "nccl"  # which takes no tensor of the host
    found += [collectives.counts(SIZES[rank]), collectives.counts(SIZES[rank])]
    assert found == [[*SIZES]] * 3
    assert collectives._hosts(distributed.group.WORLD) is not distributed.group.WORLD


def test_hosts_count_among_themselves_with_any_backend(tmp_path: Path) -> None:
    among(len(SIZES), tmp_path / "processes", counting)
