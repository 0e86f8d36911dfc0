"""A source in memory, for the tests of this folder."""

from typing import Any

import polars as pl

from seqgen.data.sources import Source


def memory_source(rows: list[tuple[Any, ...]], **more: Any) -> Source:
    """A source of rows (user, item) or (user, item, timestamp), in file order."""
    frame = pl.LazyFrame(rows, schema=["user_id", "item_id", "timestamp"][: len(rows[0])], orient="row")
    return Source(**{"name": "memory", "interactions": lambda: frame, **more})
