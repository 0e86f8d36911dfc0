"""An interaction log as one array of whole numbers a column: counted, ordered, rid of rare users and items.

A log may fill most of the memory, so one column is replaced after the other, and nothing is made wider than it is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

AT_ONCE = 2**18  # rows, which lie in the processor's caches together


@dataclass
class Log:
    """Codes of users and items from 0, (n,) int32, and times, (n,) int64 or None."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None

    def take(self, rows: np.ndarray) -> None:
        """Keep some rows, by index or by mask."""
        if rows.dtype == bool and rows.all():
            return
        self.user = self.user[rows]
        self.item = self.item[rows]
        self.time = None if self.time is None else self.time[rows]

    def order(self) -> None:
        """Put users in ascending order, each user's rows by time; rows of equal time keep their order."""
        if (self.user[1:] < self.user[:-1]).any():
            rows, counts = order(self.user), counted(self.user)
            self.user = np.repeat(np.arange(len(counts), dtype=self.user.dtype), counts)
            self.item = self.item[rows]
            self.time = None if self.time is None else self.time[rows]
        if self.time is not None:
            self._order_times()

    def _order_times(self) -> None:
        """Sort each user's rows by time, so many users at once as lie in the processor's caches."""
        assert self.time is not None
        late = np.flatnonzero((self.time[1:] < self.time[:-1]) & (self.user[1:] == self.user[:-1]))
        if not len(late):
            return
        if not self.time.flags.writeable:
            self.time = self.time.copy()
        ends = counted(self.user).cumsum()
        cuts = ends[np.searchsorted(ends, np.arange(AT_ONCE, len(self.user), AT_ONCE))]
        bounds = [0, *np.unique(cuts).tolist(), len(self.user)]
        for part in map(slice, bounds, bounds[1:]):
            if np.searchsorted(late, part.start) == np.searchsorted(late, part.stop):
                continue
            time = self.time[part]
            seconds = time // 10**6
            rows = order(self.user[part], seconds if (seconds * 10**6 == time).all() else time)
            self.item[part] = self.item[part][rows]
            self.time[part] = time[rows]

    def sizes(self, step: str) -> dict[str, Any]:
        """What a step has left."""
        users, items = (int(np.count_nonzero(counted(codes))) for codes in (self.user, self.item))
        return {"step": step, "users": users, "items": items, "interactions": len(self.user)}


def counted(codes: np.ndarray, size: int = 0) -> np.ndarray:
    """How often each code from 0 occurs, (at least `size`,) int64."""
    counts: np.ndarray = torch.from_numpy(codes).bincount(minlength=size).numpy()  # numpy's makes a 64-bit copy first
    return counts


def order(*keys: np.ndarray) -> np.ndarray:
    """Rows in the order of columns of whole numbers, the first column deciding first; equal rows keep theirs.

    A radix sort of wide digits: a digit and the place of its row share a number, so that a plain sort of numbers, for
    which there are vector instructions, is a stable one. Mostly there is one digit.

    Args:
        keys: At least one, each (n,) of integers of up to 64 bits.

    Returns:
        (n,) int64.
    """
    count = len(keys[0])
    columns: list[tuple[np.ndarray, int]] = []
    for key in keys if count else ():
        low, high = int(key.min()), int(key.max())
        wide = key.astype(np.int64)
        wide -= np.int64(low)  # wraps around to the right number
        distance = wide.view(np.uint64)
        bits = (high - low).bit_length()
        if columns and columns[-1][1] + bits <= 64:  # two columns as one number
            before, width = columns.pop()
            distance, bits = distance | before << np.uint64(bits), width + bits
        columns.append((distance, bits))
    place_bits = max(count - 1, 1).bit_length()
    digit_bits = 64 - place_bits
    rows = None
    for key, bits in reversed(columns):
        for shift in range(0, max(bits, 1), digit_bits):
            last = shift + digit_bits >= bits
            digit = key if last else key.copy()
            digit >>= np.uint64(shift)
            digit = digit if rows is None else digit[rows]
            digit <<= np.uint64(place_bits)  # what leaves at the top belongs to the next digit
            for start in range(0, count, AT_ONCE):
                part = digit[start : start + AT_ONCE]
                part |= np.arange(start, start + len(part), dtype=np.uint64)
            digit.sort()
            digit &= np.uint64(2**place_bits - 1)
            rows = digit.view(np.int64) if rows is None else rows[digit.view(np.int64)]
    return np.arange(count) if rows is None else rows


def first_of_repeats(user: np.ndarray, item: np.ndarray, *, everywhere: bool) -> np.ndarray:
    """Which rows of an ordered log are no repeats: of any earlier item of the user, or of the one just before; (n,)."""
    if everywhere:
        pairs = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
        return pl.Series(pairs).is_first_distinct().to_numpy()
    first = np.ones(len(user), dtype=bool)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return first


def k_core(user: np.ndarray, item: np.ndarray, *, min_user: int, min_item: int) -> np.ndarray:
    """Which rows are left, (n,) bool, when rare users and items are dropped until every one left has its minimum.

    Args:
        user: Codes from 0, (n,).
        item: Codes from 0, (n,).
        min_user: Least number of rows of a user.
        min_item: Least number of rows of an item.
    """
    kept = np.ones(len(user), dtype=bool)
    columns = [(item, counted(item), min_item), (user, counted(user), min_user)]
    dropped = True
    while dropped:
        dropped = False
        for codes, left, minimum in columns:
            rare = (left > 0) & (left < minimum)
            if not rare.any():
                continue
            dropped = True
            gone = np.flatnonzero(rare[codes] & kept)
            kept[gone] = False
            for others, remaining, _ in columns:
                remaining -= counted(others[gone], len(remaining))
    return kept
