"""Sequences of different length in one flat tensor: stored, cut into cases, indexed, and their transitions counted."""

from dataclasses import dataclass

import torch
from torch import Tensor

CASES_AT_ONCE = 100_000


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """All users' items in one flat tensor: user u owns `values[offsets[u]:offsets[u + 1]]`, oldest first.

    Attributes:
        values: Item ids 1..num_items, (num_interactions,), int32.
        offsets: (num_users + 1,), int64.
    """

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """Number of items of each user, (num_users,)."""
        return self.offsets.diff()


@dataclass(frozen=True, kw_only=True)
class Cases:
    """One row each: the history `values[start:stop]` of a user. All are (C,), int64.

    In training the last item of a history is its newest target; in evaluation the target is `values[stop]`.
    `values[start:seen_stop]` is what the user has seen: never a negative, and left out of the ranking.
    """

    users: Tensor
    start: Tensor
    stop: Tensor
    seen_stop: Tensor

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.users)

    def __getitem__(self, rows: Tensor) -> "Cases":
        """Some of the cases, by index or by mask."""
        return Cases(
            users=self.users[rows], start=self.start[rows], stop=self.stop[rows], seen_stop=self.seen_stop[rows]
        )


def ragged(start: Tensor, length: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices of rows of different length in a flat tensor.

    Args:
        start: First index of each row, (B,).
        length: Number of elements of each row, (B,).
        total: Sum of `length`, where it is known: saves waiting for a device.

    Returns:
        For all elements of all rows, one row after another: the row and the index, both (sum of length,).
    """
    row = torch.repeat_interleave(length, output_size=total)
    within = torch.arange(len(row), device=row.device) - (length.cumsum(0) - length)[row]
    return row, start[row] + within


def places(mask: Tensor, count: int) -> Tensor:
    """Where a mask (n,) is true, in order, (count,): as `nonzero`, but with a number that the host knows.

    Args:
        mask: True at `count` places.
        count: Known beforehand, which saves waiting for a device.
    """
    rank = torch.where(mask, mask.cumsum(0) - 1, count)  # all others share one more place, which is left out
    number = torch.arange(len(mask), device=mask.device)
    return torch.empty(count + 1, dtype=torch.long, device=mask.device).scatter_(0, rank, number)[:count]


def most_seen(sequences: Sequences, cases: Cases) -> int:
    """The largest number of different items in `values[start:seen_stop]` of a case."""
    length = cases.seen_stop - cases.start
    most = 0
    for case in length.argsort(descending=True).tolist():
        if length[case] <= most:  # nor can a shorter one hold more
            break
        most = max(most, len(sequences.values[cases.start[case] : cases.seen_stop[case]].unique()))
    return most


def count_transitions(
    sequences: Sequences, *, num_items: int, time_span: int = 1, last: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Count ordered pairs (i, j), j following i at a distance of 1 to `time_span`, over all sequences.

    Args:
        sequences: The training part.
        num_items: Size of the catalogue.
        time_span: Largest distance counted.
        last: Only the last so many items of each sequence count; None for all.

    Returns:
        Distinct pairs sorted by (i, j) and how often each occurs: `head (P,)`, `tail (P,)`, `count (P,)`, int64.
    """
    values, lengths = sequences.values.long(), sequences.lengths
    user = torch.repeat_interleave(lengths)
    if last is not None:
        from_end = sequences.offsets[1:].repeat_interleave(lengths) - torch.arange(len(values))
        values, user = values[from_end <= last], user[from_end <= last]
    keys = []
    for distance in range(1, time_span + 1):
        same_user = user[distance:] == user[:-distance]
        keys.append((values[:-distance] * (num_items + 1) + values[distance:])[same_user])
    pairs, count = torch.cat(keys).unique(return_counts=True)
    return pairs // (num_items + 1), pairs % (num_items + 1), count


def transitions_occur(sequences: Sequences, cases: Cases, head: Tensor, tail: Tensor, *, num_items: int) -> Tensor:
    """Whether some history has `tail` right after `head`, (P,) bool, for pairs (P,).

    In pieces, since all transitions of a log that is mapped may not fit in memory.
    """
    asked, index = (head.long() * (num_items + 1) + tail).unique(return_inverse=True)
    occurs = torch.zeros(len(asked), dtype=torch.bool)
    for rows in torch.arange(len(cases)).split(CASES_AT_ONCE):
        start, stop = cases.start[rows], cases.stop[rows]
        _, place = ragged(start, (stop - start - 1).clamp(min=0))
        pairs = sequences.values[place].long() * (num_items + 1) + sequences.values[place + 1]
        found = torch.searchsorted(asked, pairs).clamp(max=len(asked) - 1)
        occurs[found[asked[found] == pairs]] = True
    return occurs[index]
