"""The LightningDataModule of every data set: prepared interactions, the split, and loaders of batches."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import polars as pl
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from seqgen.data.catalog import Catalog, Sequences, count_transitions
from seqgen.data.prepare import Prepared, prepare
from seqgen.data.sequences import Cases, SequenceBatch, evaluation_batch, leave_one_out, training_batch
from seqgen.data.sources import Source
from seqgen.errors import UserError


class SequenceDataModule(L.LightningDataModule):
    """Leave-one-out over a prepared interaction log.

    The last item of each user is the test target, the one before it the validation target, the rest is training.

    Args:
        source: What is read.
        cache_dir: Where prepared sets are kept.
        min_user_interactions: Users with fewer are dropped (k-core); at least 3, which the split needs.
        min_item_interactions: Items with fewer are dropped (k-core).
        max_len: Number of newest items a model sees. A training window holds one more, whose next items are targets.
        batch_size: Users in a training batch, over all processes together.
        eval_batch_size: Users in an evaluation batch, over all processes together.
        mask_seen: Leave items of the user's whole history out of the ranking.
        num_workers: Processes that make batches; 0 is fastest for data in memory.
        seed: Decides, with the epoch, the order of users.
    """

    def __init__(
        self,
        *,
        source: Source,
        cache_dir: str,
        min_user_interactions: int = 5,
        min_item_interactions: int = 5,
        max_len: int = 50,
        batch_size: int = 256,
        eval_batch_size: int = 512,
        mask_seen: bool = True,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"min_item_interactions": (min_item_interactions, 1), "max_len": (max_len, 1)}
        sizes |= {"batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1)}
        sizes |= {"min_user_interactions": (min_user_interactions, 3), "num_workers": (num_workers, 0)}
        for name, (value, least) in sizes.items():
            if value < least:
                why = " (a training item, a validation and a test target)" if least == 3 else ""
                raise UserError(f"data.{name}={value} must be at least {least}{why}.")
        self.source, self.cache_dir = source, cache_dir
        self.minima = {
            "min_user_interactions": min_user_interactions,
            "min_item_interactions": min_item_interactions,
        }
        self.max_len, self.mask_seen, self.num_workers, self.seed = max_len, mask_seen, num_workers, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared set; the first use reads it."""
        return prepare(self.source, cache_dir=self.cache_dir, **self.minima)

    @cached_property
    def sequences(self) -> Sequences:
        """All interactions, held-out ones included."""
        interactions = self.prepared.interactions
        lengths = torch.from_numpy(interactions["user"].to_numpy().copy()).bincount()
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        values = torch.from_numpy(interactions["item"].to_numpy().copy())
        return Sequences(values=values, offsets=offsets)

    @cached_property
    def train_sequences(self) -> Sequences:
        """The training part: every user without the last two items."""
        values, offsets = self.sequences.values, self.sequences.offsets
        owner = torch.repeat_interleave(self.sequences.lengths)
        kept = torch.arange(len(values)) < offsets[1:][owner] - 2
        return Sequences(values=values[kept], offsets=offsets - 2 * torch.arange(len(offsets)))

    @cached_property
    def catalog(self) -> Catalog:
        """Items, users and training part, for a model to be built from."""
        items, users, meta = self.prepared.items, self.prepared.users, self.prepared.meta
        known = set(items.columns)
        return Catalog(
            fingerprint=meta["fingerprint"],
            num_items=items.height,
            num_users=users.height,
            item_counts=self.train_sequences.values.bincount(minlength=items.height + 1),
            item_ids=items["item_id"].to_list(),
            user_ids=users["user_id"].to_list(),
            titles=items["title"].to_list() if "title" in known else None,
            categories=items["categories"].to_list() if "categories" in known else None,
            train=self.train_sequences,
            truth=self.source.truth,
        )

    def train_dataloader(self) -> DataLoader:
        """Batches of users in an order that depends on (seed, epoch) alone."""
        cases = leave_one_out(self.sequences, held_out=2)
        has_target = cases.stop - cases.start >= 2
        cases = Cases(users=cases.users[has_target], start=cases.start[has_target], stop=cases.stop[has_target])
        if len(cases) == 0:
            raise UserError(f"{self.source.name}: no user has two training items, so nothing can be learned.")
        return self._loader(cases, self.batch_size, train=True)

    def val_dataloader(self) -> DataLoader:
        """One case per user: the second last item."""
        return self._loader(leave_one_out(self.sequences, held_out=2), self.eval_batch_size, train=False)

    def test_dataloader(self) -> DataLoader:
        """One case per user: the last item."""
        return self._loader(self._test_cases, self.eval_batch_size, train=False)

    def test_cases(self) -> pl.DataFrame:
        """What is known of each test case, in order: user, target, history_len, target_count, transition_seen.

        `target_count` is the target's number of training interactions; `transition_seen` says whether the training part
        of any user has the target right after the item that comes before it here.
        """
        values, stop = self.sequences.values.long(), self._test_cases.stop
        target, before, stride = values[stop], values[stop - 1], self.catalog.num_items + 1
        head, tail, _ = count_transitions(self.train_sequences, num_items=self.catalog.num_items)
        item_ids, user_ids = pl.Series(self.catalog.item_ids), pl.Series(self.catalog.user_ids)
        return pl.DataFrame(
            {
                "user": user_ids.gather(self._test_cases.users.numpy()),
                "target": item_ids.gather((target - 1).numpy()),
                "history_len": (stop - self._test_cases.start).numpy(),
                "target_count": self.catalog.item_counts[target].numpy(),
                "transition_seen": torch.isin(before * stride + target, head * stride + tail).numpy(),
            }
        )

    @cached_property
    def _test_cases(self) -> Cases:
        return leave_one_out(self.sequences, held_out=1)

    def _loader(self, cases: Cases, batch_size: int, *, train: bool) -> DataLoader:
        rank = self.trainer.global_rank if self.trainer else 0
        world = self.trainer.world_size if self.trainer else 1
        smallest = len(cases) % batch_size or batch_size
        if train and smallest < world:
            raise UserError(
                f"data.batch_size={batch_size} gives a batch of {smallest} of the {len(cases)} users, fewer than the "
                f"{world} processes; choose another batch size."
            )
        batches = _Batches(self, cases, train=train, rank=rank, world=world)
        overfit = bool(getattr(self.trainer, "overfit_batches", 0))
        order = _BatchOrder(len(cases), batch_size, seed=self.seed if train and not overfit else None)
        pin = bool(self.trainer and self.trainer.strategy.root_device.type == "cuda")
        return DataLoader(
            batches,
            batch_size=None,
            sampler=order,
            num_workers=self.num_workers,
            collate_fn=_as_is,
            pin_memory=pin,
        )


class _BatchOrder(SequentialSampler):
    """Yields the case indices of each whole batch; shuffled by (seed, epoch), or in order without a seed.

    A SequentialSampler by name only: `trainer.overfit_batches` replaces any other by one over single cases.
    """

    def __init__(self, num_cases: int, batch_size: int, *, seed: int | None) -> None:
        self.num_cases, self.batch_size, self.seed, self.epoch = num_cases, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, a resumed one included."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_cases // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        order = torch.arange(self.num_cases)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.num_cases, generator=generator)
        yield from order.split(self.batch_size)


class _Batches(Dataset[SequenceBatch]):
    """Makes this process's slice of a batch from the case indices of the whole batch."""

    def __init__(self, data: SequenceDataModule, cases: Cases, *, train: bool, rank: int, world: int) -> None:
        self.sequences, self.cases, self.train, self.rank, self.world = (
            data.sequences,
            cases,
            train,
            rank,
            world,
        )
        self.max_len, self.mask_seen = data.max_len, data.mask_seen

    def __getitem__(self, index: Tensor) -> SequenceBatch:
        mine = index[self.rank :: self.world]
        if not self.train:
            return evaluation_batch(self.sequences, self.cases, mine, max_len=self.max_len, mask_seen=self.mask_seen)
        batch = training_batch(self.sequences, self.cases, mine, max_len=self.max_len)
        if self.world == 1:
            return batch
        lengths = self.cases.stop[index] - self.cases.start[index] - 1
        return replace(batch, normalizer=float(lengths.clamp(max=self.max_len).sum()) / self.world)


def _as_is(batch: Any) -> Any:
    return batch
