"""Batches of sequences by index arithmetic over flat values and offsets.

    B rows of a batch, b rows of a group, l columns of a group, N targets of a batch

Rows start at column 0, oldest first, with padding (0) on the right. A batch is a random set of users; each group of it
holds rows of similar length, cut to their own longest, so that little padding is ever computed. Grouping changes the
cost, never the result.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from seqgen.data.catalog import Sequences, ragged

GROUP_BOUNDS = (4, 8, 16, 32, 64, 128, 256, 512)


class _Movable:
    """A dataclass of tensors that moves as one; Lightning and the data loader call these two methods."""

    def to(self, *args: Any, **kwargs: Any) -> "_Movable":
        return self._map(lambda x: x.to(*args, **kwargs))

    def pin_memory(self) -> "_Movable":
        return self._map(lambda x: x.pin_memory())

    def _map(self, move: Any) -> Any:
        moved: dict[str, Any] = {}
        for part in fields(self):  # type: ignore[arg-type]
            value = getattr(self, part.name)
            if isinstance(value, tuple):
                moved[part.name] = tuple(move(v) for v in value)
            elif isinstance(value, Tensor):
                moved[part.name] = move(value)
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(kw_only=True)  # not frozen: Lightning sets the fields when a precision plugin converts a batch
class Group(_Movable):
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
class SequenceBatch(_Movable):
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
    """

    groups: tuple[Group, ...]
    targets: Tensor
    target_rows: Tensor
    users: Tensor
    cases: Tensor
    seen_rows: Tensor
    seen_items: Tensor
    normalizer: float

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.users)

    def inputs(self) -> Tensor:
        """Real input items in the order of the groups; in training `targets` follow them one by one, (N,)."""
        return _concat([group.items.flatten()[group.flat_index] for group in self.groups])

    def newest(self) -> Tensor:
        """The newest input item of each row, (B,)."""
        newest = torch.empty_like(self.users)
        for group in self.groups:
            newest[group.rows] = group.items.gather(1, group.lengths[:, None] - 1)[:, 0]
        return newest


@dataclass(frozen=True, kw_only=True)
class Cases:
    """One row each: the history `values[start:stop]` of a user. All three are (C,), int64.

    In training the last item of a history is its newest target; in evaluation the target is `values[stop]`.
    """

    users: Tensor
    start: Tensor
    stop: Tensor

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.users)


def leave_one_out(sequences: Sequences, held_out: int) -> Cases:
    """Cases of the leave-one-out split that keep the last `held_out` items of each user out of the history.

    2 is the training part, 1 validation (the target is the second last item) and so on down: validation is
    `held_out=2` read with its target, test is `held_out=1`.
    """
    users = torch.arange(len(sequences.lengths))
    return Cases(users=users, start=sequences.offsets[:-1], stop=sequences.offsets[1:] - held_out)


def training_batch(sequences: Sequences, cases: Cases, index: Tensor, *, max_len: int) -> SequenceBatch:
    """The last `max_len + 1` items of each history: up to `max_len` inputs, each with the next item as its target."""
    stop = cases.stop[index] - 1
    return _batch(sequences, cases, index, stop, max_len=max_len, seen=True, every_position=True)


def evaluation_batch(
    sequences: Sequences, cases: Cases, index: Tensor, *, max_len: int, mask_seen: bool
) -> SequenceBatch:
    """The last `max_len` items of each history as input, the item after it as the one target of the row."""
    return _batch(sequences, cases, index, cases.stop[index], max_len=max_len, seen=mask_seen, every_position=False)


def _batch(
    sequences: Sequences,
    cases: Cases,
    index: Tensor,
    stop: Tensor,
    *,
    max_len: int,
    seen: bool,
    every_position: bool,
) -> SequenceBatch:
    values = sequences.values
    first = torch.maximum(cases.start[index], stop - max_len)
    groups, targets, target_rows = [], [], []
    for rows in _similar_lengths(stop - first):
        lengths = (stop - first)[rows]
        column = torch.arange(int(lengths.max()))
        real = column < lengths[:, None]  # (b, l)
        place = torch.where(real, first[rows, None] + column, 0)
        items = torch.where(real, values[place].long(), 0)
        flat_index = real.flatten().nonzero().squeeze(1)
        groups.append(Group(items=items, lengths=lengths, rows=rows, flat_index=flat_index))
        if every_position:
            targets.append(values[place.flatten()[flat_index] + 1].long())
            target_rows.append(rows.repeat_interleave(lengths))
    if every_position:
        flat_targets, rows_of_targets = _concat(targets), _concat(target_rows)
    else:
        flat_targets, rows_of_targets = values[stop].long(), torch.arange(len(index))
    seen_rows, seen_items = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    if seen:
        start = cases.start[index]
        seen_rows, place = ragged(start, cases.stop[index] - start)
        seen_items = values[place].long()
    return SequenceBatch(
        groups=tuple(groups),
        targets=flat_targets,
        target_rows=rows_of_targets,
        users=cases.users[index],
        cases=index,
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


def _concat(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)
