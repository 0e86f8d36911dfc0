"""The LightningDataModule of every data set: prepared interactions, the split, and loaders of batches."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

import polars as pl
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from seqgen.data.cache import Prepared
from seqgen.data.catalog import Catalog
from seqgen.data.prepare import Filters, Repeats, prepare
from seqgen.data.ragged import Sequences, most_seen, ragged, transitions_occur
from seqgen.data.sequences import SequenceBatch, evaluation_batch, sliced, training_batch
from seqgen.data.sources import Source
from seqgen.data.split import (
    TIME_SHARES,
    Cases,
    Split,
    Target,
    global_time_split,
    leave_one_out_split,
    training_windows,
    without_cold_targets,
)
from seqgen.errors import SettingError, UserError

SplitName = Literal["leave_one_out", "global_time"]
ColdTargets = Literal["keep", "exclude"]
Windows = Literal["last", "all"]
Storage = Literal["memory", "device", "mmap"]
MOST_WORKERS = 256  # processes


class SequenceDataModule(L.LightningDataModule):
    """A prepared interaction log, split, and loaders of its batches.

    Args:
        source: What is read.
        cache_dir: Where prepared sets are kept.
        min_rating: Interactions rated lower are dropped.
        repeats: `keep`, `drop_consecutive` or `drop_repeats` of a user's interactions with one item.
        min_user_interactions: Users with fewer are dropped (k-core); at least 3 for leave-one-out.
        min_item_interactions: Items with fewer are dropped (k-core).
        split: `leave_one_out`, or `global_time`, as drawn in `seqgen.data.split`.
        val_from: Beginning of the validation period of `global_time`: a date, or the share of interactions before it.
        test_from: Beginning of the test period, likewise.
        target: Which of a user's events in a period are targets; `global_time` only.
        cold_targets: `keep`, or `exclude` cases whose target never occurs in training.
        max_len: Number of newest items a model sees. A training window holds one more, whose next items are targets.
        windows: Training windows of a user: the `last` one, or `all` of them, so that every interaction is a target.
        stride: Between the ends of two windows, at most `max_len`, which is the default; `windows=all` only.
        batch_size: Users (windows) in a training batch, over all processes together.
        eval_batch_size: Cases in an evaluation batch, over all processes together.
        mask_seen: Leave items of the user's whole history out of the ranking.
        storage: Where the interactions lie while batches are made: in `memory`, on the training `device`, or on disk,
            mapped (`mmap`).
        num_workers: Processes that make batches; 0 is fastest for data in memory.
        seed: Decides, with the epoch, the order of users.

    Raises:
        SettingError: A number is too small, or a setting has no effect beside the others.
    """

    def __init__(
        self,
        *,
        source: Source,
        cache_dir: str,
        min_rating: float | None = None,
        repeats: Repeats = "keep",
        min_user_interactions: int = 5,
        min_item_interactions: int = 5,
        split: SplitName = "leave_one_out",
        val_from: float | str | None = None,
        test_from: float | str | None = None,
        target: Target | None = None,
        cold_targets: ColdTargets = "keep",
        max_len: int = 50,
        windows: Windows = "last",
        stride: int | None = None,
        batch_size: int = 256,
        eval_batch_size: int = 512,
        mask_seen: bool = True,
        storage: Storage = "memory",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = {"max_len": 1, "batch_size": 1, "eval_batch_size": 1, "num_workers": 0}
        least |= {"min_user_interactions": 3 if split == "leave_one_out" else 1, "min_item_interactions": 1}
        given = dict(locals())
        for name, value in least.items():
            if given[name] < value:
                why = " (a training item, a validation and a test target)" if value == 3 else ""
                raise SettingError(f"{name}={given[name]} must be at least {value}{why}.")
        if num_workers > MOST_WORKERS:
            raise SettingError(f"num_workers={num_workers} must be at most {MOST_WORKERS}.")
        self._refuse_without_effect(given)
        self.source, self.cache_dir = source, cache_dir
        self.filters = Filters(
            min_rating=min_rating,
            repeats=repeats,
            min_user_interactions=min_user_interactions,
            min_item_interactions=min_item_interactions,
        )
        self.split_name, self.exclude_cold = split, cold_targets == "exclude"
        self.val_from = TIME_SHARES[0] if val_from is None else val_from
        self.test_from = TIME_SHARES[1] if test_from is None else test_from
        self.target: Target = target or "last"
        self.max_len, self.mask_seen, self.num_workers, self.seed = max_len, mask_seen, num_workers, seed
        self.stride = stride or max_len if windows == "all" else None
        self.batch_size, self.eval_batch_size, self.storage = batch_size, eval_batch_size, storage

    @staticmethod
    def _refuse_without_effect(given: dict[str, Any]) -> None:
        for name in ("val_from", "test_from", "target"):
            if given["split"] != "global_time" and given[name] is not None:
                raise SettingError(f"{name} has no effect with split={given['split']}; leave it null.")
        if given["stride"] is not None and given["windows"] != "all":
            raise SettingError("stride has no effect with windows=last; leave it null, or set windows=all.")
        if given["stride"] is not None and not 1 <= given["stride"] <= given["max_len"]:
            raise SettingError(f"stride={given['stride']} must lie in 1 to max_len={given['max_len']}.")
        if given["storage"] == "device" and given["num_workers"]:
            raise SettingError("storage=device needs num_workers=0: other processes cannot share the device.")

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared set; the first use reads it."""
        mapped = self.storage == "mmap"
        return prepare(self.source, cache_dir=self.cache_dir, filters=self.filters, mapped=mapped)

    @cached_property
    def sequences(self) -> Sequences:
        """All interactions, held-out ones included."""
        values, offsets = self.prepared.values, self.prepared.offsets
        return Sequences(values=torch.from_numpy(values), offsets=torch.from_numpy(offsets))

    @cached_property
    def split(self) -> Split:
        """Training part, validation and test cases, and facts about them."""
        if self.split_name == "global_time":
            bounds: Any = {"val_from": self.val_from, "test_from": self.test_from}
            split = global_time_split(self.sequences, self.prepared, **bounds, target=self.target)
        else:
            split = leave_one_out_split(self.sequences, self.prepared.items.height)
        return without_cold_targets(split, self.sequences.values, exclude=self.exclude_cold)

    def train_sequences(self) -> Sequences:
        """The training part of every user, as sequences of their own."""
        train = self.split.train
        length = train.stop - train.start
        _, place = ragged(train.start, length)
        offsets = torch.cat([length.new_zeros(1), length.cumsum(0)])
        return Sequences(values=self.sequences.values[place], offsets=offsets)

    @cached_property
    def catalog(self) -> Catalog:
        """Items, users and training part, for a model to be built from."""
        items, users, meta = self.prepared.items, self.prepared.users, self.prepared.meta
        known = set(items.columns)
        # A model must not be tested on what another split let it train on.
        moment = [self.split.facts["val_from"]] if self.split_name == "global_time" else []
        return Catalog(
            fingerprint="-".join([meta["fingerprint"], *moment]),
            num_items=items.height,
            num_users=users.height,
            item_counts=self.split.item_counts,
            item_ids=items["item_id"].to_list(),
            user_ids=users["user_id"].to_list(),
            titles=items["title"].to_list() if "title" in known else None,
            categories=items["categories"].to_list() if "categories" in known else None,
            train=self.train_sequences,
            truth=self.source.truth,
        )

    def facts(self) -> dict[str, Any]:
        """What `results.json` says of the data: the preparation and the split."""
        facts = {name: value for name, value in self.prepared.meta.items() if name != "settings"} | self.split.facts
        # Two runs are compared where this is the same: the data, and what is asked of it.
        asked = [facts[name] for name in ("val_from", "test_from", "target") if name in facts]
        facts["fingerprint"] = "-".join([facts["fingerprint"], *asked, *(["warm"] if self.exclude_cold else [])])
        return facts

    def train_dataloader(self) -> DataLoader:
        """Batches of users in an order that depends on (seed, epoch) alone."""
        cases = training_windows(self.split.train, max_len=self.max_len, stride=self.stride)
        if len(cases) == 0:
            raise UserError(f"{self.source.name}: no user has two training items, so nothing can be learned.")
        return self._loader(cases, self.batch_size, train=True)

    def val_dataloader(self) -> DataLoader:
        """The validation cases, in order."""
        return self._loader(self.split.val, self.eval_batch_size, train=False)

    def test_dataloader(self) -> DataLoader:
        """The test cases, in order."""
        return self._loader(self.split.test, self.eval_batch_size, train=False)

    def test_cases(self) -> pl.DataFrame:
        """What is known of each test case, in order: user, target, history_len, target_count, transition_seen.

        `target_count` is the target's number of training interactions; `transition_seen` says whether the training part
        of any user has the target right after the item that comes before it here.
        """
        values, cases, num_items = self.sequences.values, self.split.test, self.catalog.num_items
        target, before = values[cases.stop].long(), values[cases.stop - 1].long()
        seen = transitions_occur(self.sequences, self.split.train, before, target, num_items=num_items)
        item_ids, user_ids = pl.Series(self.catalog.item_ids), pl.Series(self.catalog.user_ids)
        return pl.DataFrame(
            {
                "user": user_ids.gather(cases.users.numpy()),
                "target": item_ids.gather((target - 1).numpy()),
                "history_len": (cases.stop - cases.start).numpy(),
                "target_count": self.catalog.item_counts[target].numpy(),
                "transition_seen": seen.numpy(),
            }
        )

    def _loader(self, cases: Cases, batch_size: int, *, train: bool) -> DataLoader:
        rank = self.trainer.global_rank if self.trainer else 0
        world = self.trainer.world_size if self.trainer else 1
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        smallest = len(cases) % batch_size or batch_size
        if train and smallest < world:
            raise UserError(
                f"data.batch_size={batch_size} gives a batch of {smallest} of the {len(cases)} users, fewer than the "
                f"{world} processes; choose another batch size."
            )
        sequences = self.sequences
        if self.storage == "device":
            sequences = self._on(device)
        batches = _Batches(self, sequences, cases, train=train, rank=rank, world=world)
        overfit = bool(getattr(self.trainer, "overfit_batches", 0))
        order = _BatchOrder(len(cases), batch_size, seed=self.seed if train and not overfit else None)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=order,
            num_workers=self.num_workers,
            collate_fn=_as_is,  # and no pin_memory: a batch sees to it where it goes to a GPU
        )

    def _on(self, device: torch.device) -> Sequences:
        """The sequences with their values on a device, moved there once."""
        if self._moved is None or self._moved.values.device != device:
            self._moved = replace(self.sequences, values=self.sequences.values.to(device))
        return self._moved

    _moved: Sequences | None = None


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

    def __init__(
        self,
        data: SequenceDataModule,
        sequences: Sequences,
        cases: Cases,
        *,
        train: bool,
        rank: int,
        world: int,
    ) -> None:
        self.sequences, self.on_host, self.cases = sequences, data.sequences, cases
        self.train, self.rank, self.world = train, rank, world
        self.max_len, self.mask_seen = data.max_len, data.mask_seen
        part, num_items = data.split.train, data.prepared.items.height
        # Only a history as long as the catalogue can hold all of it, which no other number is asked for.
        self.most_seen = most_seen(data.sequences, part[part.seen_stop - part.start >= num_items]) if train else 0

    def __getitem__(self, index: Tensor) -> SequenceBatch:
        if self.train:
            batch = self._training(self.sequences, index)
            if self.sequences.values.device.type == "cpu":
                return batch
            return replace(batch, origin=partial(self._training, self.on_host, index))
        mine = index[self.rank :: self.world]
        return evaluation_batch(self.sequences, self.cases, mine, max_len=self.max_len, mask_seen=self.mask_seen)

    def _training(self, sequences: Sequences, index: Tensor) -> SequenceBatch:
        mine = index[self.rank :: self.world]
        batch = training_batch(sequences, self.cases, mine, max_len=self.max_len, most=self.most_seen)
        if self.world == 1:
            return batch
        lengths = (self.cases.stop[index] - self.cases.start[index] - 1).clamp(max=self.max_len)
        whole = sliced(lengths, self.rank, self.world)
        return replace(batch, normalizer=whole.targets / self.world, whole=whole)


def _as_is(batch: Any) -> Any:
    return batch
