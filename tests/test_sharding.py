"""Rows of the item embedding divided among processes, against one process that keeps all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from commands import start
from conftest import QUIET, TINY
from processes import among
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from test_losses import HISTORIES, leaves
from test_losses_sampled import ALL
from test_ranking import case
from torch import Tensor, nn

import seqgen
from seqgen import config, losses, numerics, sharding
from seqgen.data.ragged import Sequences
from seqgen.data.sequences import SequenceBatch, sliced, training_batch
from seqgen.data.split import leave_one_out
from seqgen.errors import UserError
from seqgen.finite import StopAtNonFinite
from seqgen.layers import SequenceEmbedding
from seqgen.ranking import rank_in_blocks
from seqgen.run import run
from seqgen.sharding import ShardedEmbedding

CPU = torch.device("cpu")
OBJECTIVES: dict[str, Callable[..., Tensor]] = {"ce": losses.cross_entropy, "bce": losses.binary_cross_entropy, **ALL}


# What a process begins with.


@pytest.mark.parametrize("num_items", [1, 15, 31, 33, 70])
@pytest.mark.parametrize("width", [1, 5, 16])
def test_starting_values_are_those_of_the_whole_table(
    num_items: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "DRAWN", 16)
    sizes: Any = {"num_items": num_items, "hidden_dim": width, "max_len": 3, "dropout": 0.0, "init_std": 0.3}
    torch.manual_seed(4)
    whole, after = SequenceEmbedding(**sizes), torch.rand(2)
    torch.manual_seed(4)
    divided, then = SequenceEmbedding(**sizes, shard_items=True), torch.rand(2)
    assert isinstance(divided.item, ShardedEmbedding)
    assert divided.item.weight.is_meta
    torch.manual_seed(5)
    divided.item.place(CPU)
    assert torch.equal(then, after)
    for name, value in whole.state_dict().items():
        assert torch.equal(divided.state_dict()[name], value), name


def test_the_whole_table_is_never_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, normal = [0], Tensor.normal_
    monkeypatch.setattr(sharding, "DRAWN", 16)
    monkeypatch.setattr(Tensor, "normal_", lambda x, **how: largest.append(len(x)) or normal(x, **how))
    item = ShardedEmbedding(1000, 4)
    item.draw_later(1.0)
    item.place(CPU)
    assert max(largest) < 32


# A table among processes.


def divided(table: Tensor) -> ShardedEmbedding:
    """The same values, of which each process keeps its part."""
    item = ShardedEmbedding(*table.shape)
    item.draw_later(1.0)
    item.place(CPU)
    item.weight = nn.Parameter(item.part(table.detach()))
    return item


def batches(processes: int) -> list[SequenceBatch]:
    """The slices of a batch; that of one process is the whole."""
    lengths = torch.tensor([*map(len, HISTORIES)])
    values = torch.tensor([i for h in HISTORIES for i in h]).int()
    sequences = Sequences(values=values, offsets=F.pad(lengths.cumsum(0), (1, 0)))
    cases, index = leave_one_out(sequences, held_out=0), torch.arange(len(HISTORIES))
    found = []
    for rank in range(processes):
        batch = training_batch(sequences, cases, index[rank::processes], max_len=20, most=0)
        whole = sliced(lengths - 1, rank, processes)
        whole.generator = torch.Generator().manual_seed(3)
        normalizer = whole.targets / processes
        found.append(replace(batch, normalizer=normalizer, whole=whole) if processes > 1 else batch)
    return found


def objectives(rank: int, processes: int) -> dict[str, Any]:
    """Of each loss this process's value, and the gradients of its states and of the table."""
    found, [whole_batch] = {}, batches(1)
    hidden, table = leaves(whole_batch, torch.float64)
    batch = batches(processes)[rank]
    for name, loss in OBJECTIVES.items():
        own = hidden.detach()[batch.whole.place].requires_grad_()
        item = divided(table)
        batch.whole.generator.manual_seed(3)
        value = loss(own, item.table, batch.targets, batch)
        value.backward()
        found[name] = [value.detach(), own.grad, item.whole(item.weight.grad)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "chunk"), [(2, 2**20), (4, 1)])
def test_losses_and_gradients_are_those_of_one_process(
    processes: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "CHUNK_CPU", chunk)
    monkeypatch.setattr(numerics, "LEAST_ROWS", 3)
    results = among(processes, tmp_path / "processes", objectives, processes)
    [batch] = batches(1)
    for name, loss in OBJECTIVES.items():
        hidden, table = leaves(batch, torch.float64)
        torch.manual_seed(3)
        wanted = loss(hidden, table, batch.targets, batch)
        wanted.backward()
        torch.testing.assert_close(torch.stack([each[name][0] for each in results]).mean(), wanted.detach())
        states = torch.empty_like(hidden)
        for own, each in zip(batches(processes), results, strict=True):
            states[own.whole.place] = each[name][1] / processes
        torch.testing.assert_close(states, hidden.grad)
        torch.testing.assert_close(results[0][name][2], table.grad, msg=name)
        assert all(each[name][2].is_meta for each in results[1:])


def lookups(rank: int, processes: int) -> list[Tensor]:
    """Rows of repeated ids in groups, of which a process may have fewer, and the gradient of the table."""
    item = divided(torch.arange(22.0, dtype=torch.float64).view(11, 2))
    groups = [torch.tensor([[1, 10, 0], [5, 5, rank]]), torch.tensor([[9, 2]])][: 2 - rank % 2]
    with item.exchange(torch.cat([group.flatten() for group in groups])):
        rows = [item(group) for group in groups]
    sum((1 + rank) * x.sum() for x in rows).backward()
    return [*rows, item.whole(item.weight.grad)]


@pytest.mark.slow
def test_rows_are_looked_up_where_they_are_kept(tmp_path: Path) -> None:
    results = among(3, tmp_path / "processes", lookups, 3)
    table, counts = torch.arange(22.0, dtype=torch.float64).view(11, 2), torch.zeros(11, dtype=torch.float64)
    for rank, (first, *_) in enumerate(results):
        assert torch.equal(first, table[torch.tensor([[1, 10, 0], [5, 5, rank]])])
        counts += (1 + rank) * torch.tensor([1, 10, 5, 5, rank] + [9, 2] * (rank != 1)).bincount(minlength=11)
    counts[0] = 0.0  # padding is not trained
    torch.testing.assert_close(results[0][-1], counts[:, None].expand(-1, 2) / 3)


USERS = [slice(0, 5), slice(5, 5), slice(5, 11), slice(11, 11)]  # some processes have none


def ranked(rank: int, processes: int, k: int, broken: bool) -> tuple[Tensor, Tensor]:
    state, vectors, targets, (rows, items) = ranking_case(broken)
    own = USERS[rank] if processes == 4 else slice(5 * rank, 5 + 6 * rank)
    mine = (rows >= own.start) & (rows < own.stop)
    seen = rows[mine] - own.start, items[mine]
    with torch.inference_mode():
        return rank_in_blocks(state[own], divided(vectors).table, targets[own], seen, k)


def ranking_case(broken: bool) -> Any:
    state, vectors, targets, seen = case()
    if broken:
        state[1] = vectors[[3, 20, int(targets[5])]] = float("nan")
        vectors[30] = float("inf")
    return state, vectors, targets, seen


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "k", "broken"), [(2, 5, False), (4, 20, False), (4, 7, True)])
def test_ranks_and_lists_are_those_of_one_process(processes: int, k: int, broken: bool, tmp_path: Path) -> None:
    """Many scores are equal, one target is masked; a list is longer than a process has items."""
    results = among(processes, tmp_path / "processes", ranked, processes, k, broken)
    for parts, wanted in zip(zip(*results, strict=True), rank_in_blocks(*ranking_case(broken), k), strict=True):
        assert torch.equal(torch.cat(parts), wanted)


# Whole runs.

STILL = (
    *("model=sasrec", "attention.dropout=0", "model.dropout=0", "data.source.num_users=59"),
    *("scheduler=cosine", "scheduler.T_max=3", "trainer.gradient_clip_val=0.3"),
    *("trainer.accelerator=cpu", "trainer.precision=64-true"),
)


def trained(rank: int, folder: Path, *overrides: str) -> None:
    run(config.compose([*TINY, *QUIET, *STILL, "trainer=ddp", *overrides], output_dir=folder))


def by_processes(processes: int, folder: Path, *overrides: str) -> dict[str, Any]:
    several = ("model.shard_items=true", f"trainer.devices={processes}", *overrides)
    among(processes, folder / "processes", trained, folder, *several, fresh=True)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def compare(folders: tuple[Path, Path], results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for ours, theirs in zip(*(each["history"] for each in results), strict=True):
        assert theirs["train/loss"] == pytest.approx(ours["train/loss"], rel=1e-6)
    assert results[1]["metrics"] == pytest.approx(results[0]["metrics"], rel=1e-6)
    ours, theirs = (pl.read_parquet(folder / "ranks.parquet") for folder in folders)
    assert ours.equals(theirs)
    for name in ("last.ckpt", f"epoch_{results[0]['best_epoch']:03d}.ckpt"):
        kept = [torch.load(folder / "checkpoints" / name) for folder in folders]
        torch.testing.assert_close(kept[1]["state_dict"], kept[0]["state_dict"], rtol=1e-6, atol=1e-6)
        [ours], [theirs] = (each["optimizer_states"] for each in kept)
        assert ours["param_groups"] == theirs["param_groups"]
        for key in ("step", "exp_avg", "exp_avg_sq"):
            values, found = ([x[key] for x in each["state"].values()] for each in (ours, theirs))
            largest = max(float(value.abs().max()) for value in values)
            torch.testing.assert_close(found, values, rtol=1e-6, atol=1e-6 * largest)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, start(folder, *STILL, "trainer.max_epochs=2")


@pytest.mark.slow
def test_four_processes_train_rank_and_save_as_one(alone: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results = by_processes(4, tmp_path, "trainer.max_epochs=2")
    compare((alone[0], tmp_path), (alone[1], results))
    model = seqgen.load(tmp_path / "checkpoints/last.ckpt")
    assert isinstance(model.item_vectors, nn.Parameter)
    assert len(model.item_vectors) == model.num_items + 1


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_from_a_checkpoint(
    first: int, then: int, alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "then"]
    for processes, folder, epochs in ((first, folders[0], 1), (then, folders[1], 2)):
        how = [f"trainer.max_epochs={epochs}"]
        if folder is folders[1]:
            how += [f"ckpt_path={folders[0]}/checkpoints/last.ckpt"]
        if processes > 1:
            results = by_processes(processes, folder, *how)
        else:
            results = start(folder, *STILL, "trainer=cpu", "model.shard_items=false", *how)
    compare((alone[0], folders[1]), (alone[1], results))


def test_one_process_trains_as_ever(alone: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results = start(tmp_path, *STILL, "trainer.max_epochs=2", "model.shard_items=true")
    assert results["run_id"] == alone[1]["run_id"]
    compare((alone[0], tmp_path), (alone[1], results))
    assert [epoch["train/loss"] for epoch in results["history"]] == [e["train/loss"] for e in alone[1]["history"]]


# What is refused.


@pytest.mark.parametrize(
    ("strategy", "precision", "told"),
    [
        (SingleDeviceStrategy(device="cpu"), "32-true", "needs trainer.strategy=ddp"),
        (DDPStrategy(ddp_comm_hook=print), "32-true", "without hooks of its own"),
        (DDPStrategy(), "16-mixed", "trainer.precision=16-mixed, which scales the loss"),
    ],
)
def test_a_training_that_the_rows_cannot_be_divided_in_is_refused(strategy: Any, precision: str, told: str) -> None:
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy, precision=precision)
    with pytest.raises(UserError) as error:
        sharding.divide(nn.Module(), trainer, ShardedEmbedding(9, 2), "item")  # type: ignore[arg-type]
    assert told in str(error.value)


def refusals(rank: int) -> list[str]:
    told = []
    for rows in (4, 3):
        with pytest.raises(UserError) as error:
            ShardedEmbedding(rows, 2).place(CPU)
        told.append(str(error.value))
    item = divided(torch.ones(9, 2))
    with pytest.raises(UserError) as error:
        sharding.share_states(torch.optim.LBFGS(item.parameters()), item)
    return [*told, str(error.value)]


@pytest.mark.slow
def test_too_few_items_and_optimisers_of_whole_tables_are_refused(tmp_path: Path) -> None:
    for told in among(3, tmp_path / "processes", refusals):
        assert told[:2] == [
            f"model.shard_items=true leaves one of 3 processes without any of the {items} items; set "
            "model.shard_items=false."
            for items in (3, 2)
        ]
        assert told[2].startswith("optimizer=LBFGS does not update each number apart")


def not_finite(rank: int) -> str:
    item = divided(torch.ones(9, 2))
    with torch.no_grad():
        item.weight[1] = float("nan") if rank else 1.0
    trainer: Any = SimpleNamespace(world_size=2, current_epoch=3)
    with pytest.raises(UserError) as error:
        StopAtNonFinite().on_train_epoch_end(trainer, item)  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.slow
def test_all_processes_stop_at_a_row_of_one_that_is_not_finite(tmp_path: Path) -> None:
    for told in among(2, tmp_path / "processes", not_finite):
        assert told.startswith("The weights weight are not finite after epoch 3")
