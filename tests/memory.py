"""A source in memory, and a prepared set as a table, for tests of data and of its card."""

from typing import Any

import numpy as np
import polars as pl

from seqgen.data.cache import Prepared
from seqgen.data.sources import Source


def memory_source(rows: list[tuple[Any, ...]], **more: Any) -> Source:
    """A source of rows (user, item) or (user, item, timestamp), in file order."""
    frame = pl.LazyFrame(rows, schema=["user_id", "item_id", "timestamp"][: len(rows[0])], orient="row")
    return Source(**{"name": "memory", "interactions": lambda: frame, **more})


def interactions(prepared: Prepared) -> pl.DataFrame:
    """One row each, in order: `user` and `item`, by number."""
    user = np.repeat(np.arange(len(prepared.users), dtype=np.int32), np.diff(prepared.offsets))
    return pl.DataFrame({"user": user, "item": np.asarray(prepared.values)})
