"""Ids as numbers from 0, and what only looks like an id: words for a missing value, and signs that nobody sees.

All of it works on the distinct ids, which are few beside the rows.
"""

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
    distinct = ids.unique()
    spelled = distinct if distinct.dtype.is_integer() else distinct.cast(pl.String)
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
    return Ids(_looked_up(ids, distinct.gather(order), code), kept, changed, merged)


def _looked_up(ids: pl.Series, known: pl.Series, code: pl.Series) -> np.ndarray:
    """Code of each row, (n,) int32: that of its id among those `known`.

    Categories, and whole numbers that are no further apart than there are rows, are places in an array. A hash join
    takes five times as long, and ever longer where its table outgrows the processor's caches.
    """
    if known.dtype.is_integer() or isinstance(known.dtype, pl.Categorical | pl.Enum):
        ids, known = ids.to_physical(), known.to_physical()
        low, high = cast(int, known.min() or 0), cast(int, known.max() or 0)
        if high - low <= len(ids) and -(2**63) <= low <= high < 2**63:
            return _from_array(ids, known, code, low, high - low + 1)
    # In one piece: the stream's hundreds make the join five times slower.
    rows, table = pl.DataFrame({"id": ids.rechunk()}), pl.DataFrame({"id": known, "code": code})
    joined = rows.join(table, on="id", how="left", maintain_order="left", nulls_equal=True)
    return joined["code"].cast(pl.Int32).to_numpy(writable=True)


def _from_array(ids: pl.Series, known: pl.Series, code: pl.Series, low: int, null: int) -> np.ndarray:
    def places(numbers: pl.Series) -> np.ndarray:
        return (numbers.cast(pl.Int64) - low).fill_null(null).to_numpy()

    table = np.empty(null + 1, dtype=np.int32)
    table[places(known)] = code.to_numpy()
    codes, start = np.empty(len(ids), dtype=np.int32), 0
    for part in ids.to_frame().iter_slices(AT_ONCE):
        codes[start : start + part.height] = table[places(part.to_series())]
        start += part.height
    return codes


def alike(ids: pl.Series) -> list[str]:
    """Ids that differ from another one in spelling alone: `1` and `1.0`, `A` and `a`, two forms of one character."""
    if ids.dtype != pl.String:
        return []
    ascii_only = (ids.str.len_bytes() == ids.str.len_chars()).all()
    key = ids if ascii_only else ids.str.normalize("NFKC")
    key = key.str.to_lowercase().str.replace(WHOLE_NUMBER, "$1")
    return ids.filter(key.is_duplicated() & ids.is_not_null()).to_list()
