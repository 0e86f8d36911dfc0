"""A device is not waited for: neither where a batch is made nor on its way there. Steps: `test_properties`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY
from waiting import META, no_waiting, waits

from seqgen import config, noise
from seqgen.data import transfer
from seqgen.data.datamodule import SequenceDataModule, _Batches
from seqgen.data.sequences import one_target
from seqgen.data.split import training_windows

HOST = torch.device("cpu")
THERE = torch.arange(4, device="meta")
INDEX = torch.arange(0, 59, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: THERE.sum().item(),
        lambda: bool(THERE.any()),
        lambda: THERE.tolist(),
        lambda: THERE.nonzero(),
        lambda: torch.where(THERE > 1),
        lambda: THERE[THERE > 1],
        lambda: THERE.clone().__setitem__(THERE > 1, THERE),
        lambda: THERE.masked_select(THERE > 1),
        lambda: THERE.unique(),
        lambda: torch.unique_consecutive(THERE),
        lambda: torch.repeat_interleave(THERE),
        lambda: torch.bincount(THERE, minlength=9),
        lambda: torch.equal(THERE, THERE),
        lambda: THERE.cpu(),
        lambda: torch.arange(4).to("meta"),
        lambda: THERE[torch.arange(4)],
        lambda: torch.tensor(1, device="meta"),
        lambda: THERE.new_tensor([1, 2]),
    ],
)
def test_what_waits_is_found(call: Callable[[], Any]) -> None:
    assert waits(call)


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.repeat_interleave(THERE, output_size=6),
        lambda: torch.where(THERE > 1, THERE, 0),
        lambda: THERE * torch.arange(4)[1],  # a number of the host
        lambda: THERE.clone().__setitem__(THERE > 1, 0),
        lambda: THERE[THERE] + torch.arange(4, device="meta"),
        lambda: transfer.sent([torch.arange(4)], META),
        lambda: torch.arange(4).unique().tolist(),
    ],
)
def test_what_does_not_wait_is_let_through(call: Callable[[], Any]) -> None:
    assert not waits(call)


@pytest.fixture
def data(tmp_path: Any) -> SequenceDataModule:
    cfg = config.compose([*TINY, *QUIET, f"paths.cache_dir={tmp_path}"], output_dir=tmp_path)
    built: SequenceDataModule = config.build(cfg, "data")
    return built


def batches(data: SequenceDataModule, device: torch.device, *, rank: int, world: int) -> _Batches:
    sequences = replace(data.sequences, values=data.sequences.values.to(device))
    cases = training_windows(data.split.train, max_len=data.max_len, stride=None)
    return _Batches(data, sequences, cases, train=True, rank=rank, world=world)


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 3)])
def test_a_batch_made_on_a_device_waits_for_nothing_and_knows_itself_on_the_host(
    rank: int, world: int, data: SequenceDataModule
) -> None:
    wanted, made = batches(data, HOST, rank=rank, world=world)[INDEX], batches(data, META, rank=rank, world=world)
    with no_waiting() as mode:
        batch = made[INDEX]
        assert mode.copies == 1
        moved = batch.to(META)
        host = moved.host
    assert moved.targets.is_meta
    assert moved.targets.shape == wanted.targets.shape
    assert torch.equal(host.inputs(), wanted.inputs())
    assert (host.whole is None) == (world == 1)
    assert wanted.host is wanted


@pytest.mark.parametrize("storage", ["memory", "device"])
def test_of_one_target_and_of_a_draw_the_host_knows_the_same(storage: str, data: SequenceDataModule) -> None:
    alone = replace(batches(data, HOST, rank=0, world=1)[INDEX], seed=7)
    there = alone.to(META) if storage == "memory" else batches(data, META, rank=0, world=1)[INDEX]
    torch.manual_seed(3)
    wanted = one_target(alone)
    torch.manual_seed(3)
    with no_waiting():
        cut = one_target(replace(there, seed=7))
        host = cut.host
    assert cut.groups[0].items.is_meta
    assert torch.equal(host.inputs(), wanted.inputs())
    assert torch.equal(host.targets, wanted.targets)
    drawn = []
    for batch in (alone, replace(there, seed=7)):
        with noise.rows(batch.rows_of_group(0)):
            draw = partial(noise.draw, torch.rand, (len(alone.groups[0].rows), 2), device=HOST)
            drawn.append((draw(), draw()))
    assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))
    assert not torch.equal(*drawn[0])


def test_what_is_sent_together_arrives_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [torch.arange(6).view(2, 3), torch.empty(0, dtype=torch.long), torch.rand(2), torch.tensor(4)]
    with no_waiting() as mode:
        there = transfer.sent([*own, THERE], META)
    assert mode.copies == 2  # one a type
    assert there[-1] is THERE
    assert [(x.shape, x.dtype) for x in there[:-1]] == [(x.shape, x.dtype) for x in own]
    monkeypatch.setattr(transfer, "_comes", lambda x, device: True)
    for x, back in zip(own, transfer.sent(own, HOST), strict=True):
        assert back is not x
        assert torch.equal(back, x)


def test_a_batch_goes_in_one_copy(data: SequenceDataModule) -> None:
    batch = batches(data, HOST, rank=0, world=2)[INDEX]
    with no_waiting() as mode:
        moved = batch.to(META)
    assert mode.copies == 1
    assert moved.whole is not None
    assert moved.whole.shares[0].place.is_meta
    assert batch.to("cpu") is batch
