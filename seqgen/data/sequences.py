"""Batches of sequences by index arithmetic over flat values and offsets.

    B rows of a batch, b rows of a group, l columns of a group, N targets of a batch

Rows start at column 0, oldest first, with padding (0) on the right. A batch is a random set of users; each group of it
holds rows of similar length, cut to their own longest, so that little padding is ever computed. Grouping changes the
cost, never the result.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from seqgen.data.ragged import Cases, Sequences, most_seen, ragged
from seqgen.data.transfer import Movable, sent
from seqgen.noise import Rows

GROUP_BOUNDS = (4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(kw_only=True)  # not frozen: Lightning sets the fields when a precision plugin converts a batch
class Group(Movable):
    """Rows of similar length.

    Attributes:
        items: (b, l), 0 is padding.
        lengths: Number of real columns of each row, (b,).
        rows: Which rows of the batch these are, (b,).
        flat_index: Real positions of `items.flatten()`, row by row, (n,).
    """

    items: Tensor
    lengths: Tensor
    rows: Tensor
    flat_index: Tensor


@dataclass(kw_only=True)
class Share(Movable):
    """Of a group that several processes have rows of, what one of them has.

    Attributes:
        rows: Number of rows that the group has in the whole batch.
        columns: Its padded length there.
        place: Which of them these are, (b,).
    """

    rows: int
    columns: int
    place: Tensor


@dataclass(kw_only=True)
class Whole(Movable):
    """The batch of all processes together, of which one of several has a slice.

    Attributes:
        rows: Number of its rows.
        targets: Number of its targets.
        row_place: Place of each row of the slice, in the order of the groups, among all rows in that order, (B,).
        place: Place of each target of the slice among all targets in the order of the groups, (N,).
        processes: Number of slices.
        shares: Of each group of the slice, its share of that group.
        generator: Of what is drawn for the whole batch, seeded alike in all processes; None is torch's own.
    """

    rows: int
    targets: int
    row_place: Tensor
    place: Tensor
    processes: int
    shares: tuple[Share, ...]
    generator: torch.Generator | None = None


@dataclass(kw_only=True)
class SequenceBatch(Movable):
    """A batch: input sequences in groups, what is to be predicted, and what the user has seen.

    Attributes:
        groups: The input sequences.
        targets: Training: the next item at every real position, in the order of the groups, (N,).
            Evaluation: one held-out item per row, (B,).
        target_rows: Row of the batch that each target belongs to, same shape as `targets`.
        users: (B,).
        cases: Index of each row within its split, (B,).
        seen_rows: With `seen_items`, the (row, item) pairs a user has seen: to be left out of a ranking, (S,).
        seen_items: (S,).
        normalizer: Number of targets of the whole batch over all processes, divided by their number: a loss is the sum
            over this process's targets divided by it, so that any number of processes gives the same training.
        most_seen: Of a training batch, the largest number of different items that a user of the data set has seen; of
            users whose history is shorter than the catalogue 0 will do.
        whole: Of a training batch that is one process's slice, what it is a slice of.
        seed: Of the training step, the same in all processes; None leaves what is drawn to torch's own generator.
        origin: Gives the same batch on the host; None where it lies there.
    """

    groups: tuple[Group, ...]
    targets: Tensor
    target_rows: Tensor
    users: Tensor
    cases: Tensor
    seen_rows: Tensor
    seen_items: Tensor
    normalizer: float
    most_seen: int = 0
    whole: Whole | None = None
    seed: int | None = None
    origin: "Callable[[], SequenceBatch] | None" = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.users)

    def to(self, device: torch.device | str) -> Self:
        """The same on a device, which knows itself on the host."""
        moved = super().to(device)
        return moved if moved is self else replace(moved, origin=self.origin or (lambda: self))

    @property
    def host(self) -> "SequenceBatch":
        """The same on the host, which tells a training step its sizes: asked for them, a device would be waited for."""
        if self.origin is None:
            return self
        made = self.origin()
        whole = made.whole
        if whole is not None and self.seed is not None:
            whole = replace(whole, generator=torch.Generator().manual_seed(self.seed))
        return replace(made, seed=self.seed, whole=whole)

    @property
    def generator(self) -> torch.Generator | None:
        """Of what is drawn for the whole batch, the same in all processes; None is torch's own."""
        return self.whole.generator if self.whole else None

    def draw(self, sample: Callable[..., Tensor], shape: Sequence[int], *, dim: int = 0, **how: Any) -> Tensor:
        """Random values of the targets; what a target is given does not depend on the number of processes.

        Each process draws for the whole batch, and takes its own.

        Args:
            sample: Such as `torch.rand`.
            shape: Of the result.
            dim: Where in the shape the targets are.
            how: What else `sample` takes.
        """
        how["device"] = self.targets.device
        if self.whole is None:
            return sample(shape, **how)
        everyone = [*shape[:dim], self.whole.targets, *shape[dim + 1 :]]
        return sample(everyone, generator=self.whole.generator, **how).index_select(dim, self.whole.place)

    def rows_of_group(self, number: int) -> Rows | None:
        """The rows that are drawn for in a group of a training step; None where torch's own generator draws."""
        if self.seed is None:
            return None
        items = self.groups[number].items
        count, columns, place = items.shape[0], items.shape[1], None
        if self.whole is not None:
            share = self.whole.shares[number]
            count, columns, place = share.rows, share.columns, share.place
        # By its lengths, since a process may have no row of another group.
        seed = hash((self.seed, bisect_left(GROUP_BOUNDS, columns)))
        of_host = None if self.origin is None else lambda: self.host.rows_of_group(number)
        return Rows(seed=seed, device=items.device, count=count, columns=columns, place=place, of_host=of_host)

    def rows(self, start: int, stop: int) -> "SequenceBatch":
        """Some consecutive rows of an evaluation batch, which has one target a row."""
        device = self.targets.device
        groups = []
        for group in self.groups:
            chosen = ((group.rows >= start) & (group.rows < stop)).nonzero()[:, 0]
            if len(chosen):
                lengths = group.lengths[chosen]
                longest = int(lengths.max())
                _, flat_index = ragged(torch.arange(len(chosen), device=device) * longest, lengths)
                kept = {"items": group.items[chosen, :longest], "lengths": lengths, "rows": group.rows[chosen] - start}
                groups.append(replace(group, **kept, flat_index=flat_index))
        seen = (self.seen_rows >= start) & (self.seen_rows < stop)
        return replace(
            self,
            groups=tuple(groups),
            targets=self.targets[start:stop],
            target_rows=torch.arange(stop - start, device=device),
            users=self.users[start:stop],
            cases=self.cases[start:stop],
            seen_rows=self.seen_rows[seen] - start,
            seen_items=self.seen_items[seen],
            normalizer=float(stop - start),
            origin=None,
        )

    def inputs(self) -> Tensor:
        """Real input items in the order of the groups; in training `targets` follow them one by one, (N,)."""
        parts = [group.items.flatten()[group.flat_index] for group in self.groups]
        return _concat(parts, self.targets.device)

    def newest(self) -> Tensor:
        """The newest input item of each row, (B,)."""
        newest = torch.empty_like(self.users)
        for group in self.groups:
            newest[group.rows] = group.items.gather(1, group.lengths[:, None] - 1)[:, 0]
        return newest


def training_batch(
    sequences: Sequences, cases: Cases, index: Tensor, *, max_len: int, most: int | None = None
) -> SequenceBatch:
    """The last `max_len + 1` items of each history: up to `max_len` inputs, each with the next item as its target.

    Args:
        sequences: All interactions.
        cases: The histories.
        index: Which of them, (B,).
        max_len: Number of newest items read.
        most: `SequenceBatch.most_seen`; None finds that of these histories.
    """
    stop = cases.stop[index] - 1
    batch = _batch(sequences, cases, index, stop, max_len=max_len, with_seen=True, every_position=True)
    return replace(batch, most_seen=most_seen(sequences, cases[index]) if most is None else most)


def one_target(batch: SequenceBatch) -> SequenceBatch:
    """Each sequence of a training batch cut after a random position, whose next item is its one target.

    For a model that reads the whole sequence at every position and must not be trained on what it has read. Then
    `flat_index` and `inputs()` are of the positions that have a target, not of all real ones.
    """
    host = batch.host  # which has to know what is cut
    whole = host.whole and replace(host.whole, targets=host.whole.rows, place=host.whole.row_place)
    points = replace(host, whole=whole).draw(torch.rand, (len(batch),))
    [there] = sent([points], batch.targets.device)
    origin = None if batch.origin is None else partial(_cut, host, points)
    return replace(_cut(batch, there), origin=origin)


def _cut(batch: SequenceBatch, points: Tensor) -> SequenceBatch:
    """Each sequence cut at a share of its length, (B,)."""
    whole, normalizer = batch.whole, float(max(len(batch), 1))
    if whole is not None:
        whole = replace(whole, targets=whole.rows, place=whole.row_place)
        normalizer = whole.rows / whole.processes
    groups, targets, start = [], [], 0
    for group, point in zip(batch.groups, points.split([len(g.rows) for g in batch.groups]), strict=True):
        count, columns = group.items.shape
        device = group.lengths.device
        lengths = 1 + (point * group.lengths).long().clamp(max=group.lengths - 1)
        first = start + group.lengths.cumsum(0) - group.lengths  # targets lie row by row
        targets.append(batch.targets[first + lengths - 1])
        items = group.items * (torch.arange(columns, device=device) < lengths[:, None])
        flat_index = torch.arange(count, device=device) * columns + lengths - 1
        groups.append(replace(group, items=items, lengths=lengths, flat_index=flat_index))
        start += len(group.flat_index)
    rows = _concat([group.rows for group in groups], batch.targets.device)
    flat_targets = _concat(targets, batch.targets.device)
    parts: Any = {"groups": tuple(groups), "targets": flat_targets, "target_rows": rows}
    return replace(batch, **parts, normalizer=normalizer, whole=whole)


def sliced(lengths: Tensor, rank: int, processes: int) -> Whole:
    """What a process's slice of a training batch, every so many rows, is a slice of.

    Args:
        lengths: Number of targets of each row of the whole batch, (B,).
        rank: Of the process; its slice begins with the row of this number.
        processes: Number of slices.
    """
    groups = _similar_lengths(lengths)
    shares = [
        Share(rows=len(rows), columns=int(lengths[rows].max()), place=(rows % processes == rank).nonzero()[:, 0])
        for rows in groups
    ]
    order = torch.cat(groups)
    row_place = (order % processes == rank).nonzero()[:, 0]
    count = lengths[order]
    first = count.cumsum(0) - count
    _, place = ragged(first[row_place], count[row_place])
    return Whole(
        rows=len(lengths),
        targets=int(count.sum()),
        row_place=row_place,
        place=place,
        processes=processes,
        shares=tuple(share for share in shares if len(share.place)),
    )


def evaluation_batch(
    sequences: Sequences, cases: Cases, index: Tensor, *, max_len: int, mask_seen: bool
) -> SequenceBatch:
    """The last `max_len` items of each history as input, the item after it as the one target of the row."""
    return _batch(
        sequences, cases, index, cases.stop[index], max_len=max_len, with_seen=mask_seen, every_position=False
    )


def _batch(
    sequences: Sequences,
    cases: Cases,
    index: Tensor,
    stop: Tensor,
    *,
    max_len: int,
    with_seen: bool,
    every_position: bool,
) -> SequenceBatch:
    # Cases stay on the host and give every size. The rest happens where the values are, of which none is waited for.
    values, device = sequences.values, sequences.values.device
    start = cases.start[index]
    first = torch.maximum(start, stop - max_len)
    length, seen = stop - first, cases.seen_stop[index] - start
    similar = _similar_lengths(length)
    of_groups = [x for chosen in similar for x in (chosen, length[chosen], first[chosen])]
    moved = sent([index, cases.users[index], stop, start, seen, *of_groups], device)
    groups, targets, target_rows = [], [], []
    for chosen, rows, lengths, begin in zip(similar, moved[5::3], moved[6::3], moved[7::3], strict=True):
        longest, count = int(length[chosen].max()), int(length[chosen].sum())
        column = torch.arange(longest, device=device)
        place = begin[:, None] + column  # (b, l)
        real = column < lengths[:, None]
        items = torch.where(real, values[torch.where(real, place, 0)].long(), 0)
        row, flat_index = ragged(torch.arange(len(rows), device=device) * longest, lengths, count)
        groups.append(Group(items=items, lengths=lengths, rows=rows, flat_index=flat_index))
        if every_position:
            targets.append(values[place.flatten()[flat_index] + 1].long())
            target_rows.append(rows[row])
    there, users, stops, starts, seens = moved[:5]
    if every_position:
        flat_targets, rows_of_targets = _concat(targets, device), _concat(target_rows, device)
    else:
        flat_targets, rows_of_targets = values[stops].long(), torch.arange(len(index), device=device)
    seen_rows = seen_items = torch.empty(0, dtype=torch.long, device=device)
    if with_seen:
        seen_rows, place = ragged(starts, seens, int(seen.sum()))
        seen_items = values[place].long()
    return SequenceBatch(
        groups=tuple(groups),
        targets=flat_targets,
        target_rows=rows_of_targets,
        users=users,
        cases=there,
        seen_rows=seen_rows,
        seen_items=seen_items,
        normalizer=float(max(len(flat_targets), 1)),
    )


def _similar_lengths(lengths: Tensor) -> list[Tensor]:
    """Split rows into groups of similar length: a few small tensors cost less than one that is mostly padding."""
    bucket = torch.bucketize(lengths, torch.tensor(GROUP_BOUNDS))
    order = torch.argsort(bucket, stable=True)
    sizes = torch.bincount(bucket)
    return [rows for rows in order.split(sizes.tolist()) if len(rows)]


def _concat(parts: list[Tensor], device: torch.device) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long, device=device)
