"""Ids as numbers from 0, and what only looks like an id: words for a missing value, and signs that nobody sees.

All of it works on the distinct ids, which are few beside the rows.
"""

from typing import Literal, NamedTuple, TypeVar

import numpy as np
import polars as pl

MissingIds = Literal["refuse", "drop", "keep"]
Text = TypeVar("Text", pl.Series, pl.Expr)

# Compared in lower case, after `cleaned`.
MISSING = ("", "nan", "-nan", "none", "null", "(null)", r"\n", "na", "n/a", "#n/a", "#na", "<na>", "nat", "undefined")
INVISIBLE = "[\x00\u200b\u200c\u200d\u2060\ufeff]"  # NUL, zero-width characters, byte order mark
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
    ids = ids.rechunk()  # the stream's hundreds of pieces make the join below five times slower
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
    table = pl.DataFrame({"id": distinct.gather(order), "code": code})
    joined = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left", nulls_equal=True)
    kept = ordered if first is None else ordered.filter(first)
    merged = len(ordered.drop_nulls()) - len(kept.drop_nulls())
    return Ids(joined["code"].cast(pl.Int32).to_numpy(), kept, changed, merged)


def alike(ids: pl.Series) -> list[str]:
    """Ids that differ from another one in spelling alone: `1` and `1.0`, `A` and `a`, two forms of one character."""
    if ids.dtype != pl.String:
        return []
    ascii_only = (ids.str.len_bytes() == ids.str.len_chars()).all()
    key = ids if ascii_only else ids.str.normalize("NFKC")
    key = key.str.to_lowercase().str.replace(WHOLE_NUMBER, "$1")
    return ids.filter(key.is_duplicated() & ids.is_not_null()).to_list()
