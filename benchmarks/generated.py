"""A generated log of any size, as parts of parquet in the order of time. It is written piece by piece.

Users draw by a lognormal activity, items by a power law that leaves none of a large catalogue unseen: item k of N is
drawn in proportion to (k + 100) to the power of -0.8. Ids are whole numbers in no order of either.
"""

from pathlib import Path
from typing import Any

ROWS_OF_PART = 5_000_000
COLUMNS = {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}
ACTIVITY, SHIFT, POWER = 1.0, 100, 0.8
BEGIN, SECONDS = 1_400_000_000, 300_000_000


def write_log(spec: dict[str, Any]) -> dict[str, Any]:
    """Write `rows` interactions of `users` with `items` to the new folder `folder`, the same ones each time."""
    import numpy as np
    import polars as pl

    users, items, rows = (spec[name] for name in ("users", "items", "rows"))
    folder = Path(spec["folder"])
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    activity = rng.lognormal(0, ACTIVITY, users).cumsum()
    popularity = ((np.arange(items) + SHIFT) ** -POWER).cumsum()
    user_id, item_id = rng.permutation(users) + 1, rng.permutation(items) + 1
    for number, start in enumerate(range(0, rows, ROWS_OF_PART)):
        count = min(ROWS_OF_PART, rows - start)
        drawn = {"user_id": (user_id, activity), "item_id": (item_id, popularity)}
        columns = {
            name: ids[np.searchsorted(weights, rng.random(count) * weights[-1]).clip(max=len(ids) - 1)]
            for name, (ids, weights) in drawn.items()
        }
        moment = BEGIN + np.sort(rng.integers(start * SECONDS // rows, (start + count) * SECONDS // rows, count))
        pl.DataFrame({**columns, "timestamp": moment}).write_parquet(folder / f"part{number}.parquet")
    return {}
