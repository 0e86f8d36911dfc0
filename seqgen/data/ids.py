"""Ids as numbers from 0, and what only looks like an id: words for a missing value, and signs that nobody sees.

All of it works on the distinct ids, which are few beside the rows.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeVar, cast

import numpy as np
import polars as pl

MissingIds = Literal["refuse", "drop", "keep"]
Text = TypeVar("Text", pl.Series, pl.Expr)

# Compared in lower case, after `cleaned`.
MISSING = ("", "nan", "-nan", "none", "null", "(null)", r"\n", "na", "n/a", "#n/a", "#na", "<na>", "nat", "undefined")
INVISIBLE = "[\x00\u200b\u200c\u200d\u2060\ufeff]"  # NUL, zero-width characters, byte order mark
AT_ONCE = 2**20  # rows that are looked up together
WHOLE_NUMBER = r"^\+?0*(\d+)(?:\.0*)?$"


class Ids(NamedTuple):
    """The ids of one column.

    Attributes:
        codes: Code of each row, (n,) int32.
        ids: The distinct ids in the order of their codes; null, where rows have none, is the first.
        changed: Distinct ids that were written with signs that nobody sees.
        merged: Those among them that are the same id as another one then.
    """

    codes: np.ndarray
    ids: pl.Series
    changed: int
    merged: int


def cleaned(text: Text) -> Text:
    """Text without white space around it, and without NUL and zero-width characters anywhere."""
    return text.str.replace_all(INVISIBLE, "").str.strip_chars()


def coded(ids: pl.Series, missing: MissingIds | None) -> Ids:
    """Number the ids of a column.

    Args:
        ids: Whole numbers, text, or categories of text.
        missing: None takes ids as they are; otherwise they are cleaned, and words for a missing value are null, unless
            it is `keep`.
    """
    numbers = ids.to_physical() if isinstance(ids.dtype, pl.Categorical | pl.Enum) else ids
    span = _span(numbers)
    distinct = numbers.unique() if span is None else _distinct(numbers, *span)
    spelled = distinct if numbers is ids else distinct.cat.to(ids.dtype).cast(pl.String)
    changed = 0
    if spelled.dtype == pl.String:
        if missing is not None:
            written, spelled = spelled, cleaned(spelled)
            changed = int((spelled != written).sum())
        if missing in ("refuse", "drop"):
            word = spelled.str.to_lowercase().is_in(MISSING).fill_null(True)
            spelled = pl.select(pl.when(~word).then(spelled)).to_series()
        number = spelled.cast(pl.Int64, strict=False)
        if (number.cast(pl.String) == spelled).fill_null(spelled.is_null()).all():  # 007 is not 7
            spelled = number
    order = spelled.arg_sort()
    ordered, first = spelled.gather(order), None
    if changed or ordered.null_count() > 1:  # several spellings are one id
        first = ordered.is_first_distinct()
    code = pl.int_range(len(order), dtype=pl.UInt32, eager=True) if first is None else first.cum_sum() - 1
    kept = ordered if first is None else ordered.filter(first)
    merged = len(ordered.drop_nulls()) - len(kept.drop_nulls())
    known = distinct.gather(order)
    codes = _joined(numbers, known, code) if span is None else _looked_up(numbers, known, code, *span)
    return Ids(codes, kept, changed, merged)


def _span(numbers: pl.Series) -> tuple[int, int] | None:
    """The smallest of whole numbers and the distance to the largest, where they may be places in an array.

    That takes a fifth of the time of hashing them, and less where the hash table would outgrow the processor's caches.
    """
    if not numbers.dtype.is_integer() or numbers.null_count() == len(numbers):
        return None
    low, high = int(cast(int, numbers.min())), int(cast(int, numbers.max()))
    return (low, high - low) if high - low <= len(numbers) and -(2**63) <= low <= high < 2**63 else None


def _places(numbers: pl.Series, low: int, distance: int) -> Iterator[np.ndarray]:
    """Distance of each number to `low`, in pieces; that of null lies one beyond the largest."""
    for part in numbers.to_frame().iter_slices(AT_ONCE):
        yield (part.to_series().cast(pl.Int64) - low).fill_null(distance + 1).to_numpy()


def _distinct(numbers: pl.Series, low: int, distance: int) -> pl.Series:
    seen = np.zeros(distance + 2, dtype=bool)
    for places in _places(numbers, low, distance):
        seen[places] = True
    found = pl.Series(np.flatnonzero(seen[:-1]) + low, dtype=numbers.dtype)
    return pl.concat([found, pl.Series([None], dtype=found.dtype)]) if seen[-1] else found


def _looked_up(numbers: pl.Series, known: pl.Series, code: pl.Series, low: int, distance: int) -> np.ndarray:
    table = np.empty(distance + 2, dtype=np.int32)
    table[np.concatenate(list(_places(known, low, distance)))] = code.to_numpy()
    codes, start = np.empty(len(numbers), dtype=np.int32), 0
    for places in _places(numbers, low, distance):
        codes[start : start + len(places)] = table[places]
        start += len(places)
    return codes


def _joined(ids: pl.Series, known: pl.Series, code: pl.Series) -> np.ndarray:
    # In one piece: the stream's hundreds make the join five times slower.
    rows, table = pl.DataFrame({"id": ids.rechunk()}), pl.DataFrame({"id": known, "code": code})
    joined = rows.join(table, on="id", how="left", maintain_order="left", nulls_equal=True)
    return joined["code"].cast(pl.Int32).to_numpy(writable=True)


def alike(ids: pl.Series) -> list[str]:
    """Ids that differ from another one in spelling alone: `1` and `1.0`, `A` and `a`, two forms of one character."""
    if ids.dtype != pl.String:
        return []
    ascii_only = (ids.str.len_bytes() == ids.str.len_chars()).all()
    key = ids if ascii_only else ids.str.normalize("NFKC")
    key = key.str.to_lowercase().str.replace(WHOLE_NUMBER, "$1")
    return ids.filter(key.is_duplicated() & ids.is_not_null()).to_list()
