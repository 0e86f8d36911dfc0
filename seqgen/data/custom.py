"""Your own interaction log: CSV, TSV, JSON lines or parquet, one file, a pattern or a folder of parts.

    python -m seqgen.run data=custom data.path=log.csv data.columns.user=customer data.columns.item=sku

Ids may be numbers or text. Interactions are ordered by timestamp (numbers, dates, or text that reads as a date), or as
they stand in the files where there is none.
"""

import glob
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.sources import Source
from seqgen.data.table import COMPRESSED, ENDINGS, NAMES, SEPARATORS, Table, ending
from seqgen.errors import SettingError

TimeUnit = Literal["s", "ms", "us", "ns", "order"]


class CustomDataModule(SequenceDataModule):
    """Any interaction log.

    Args:
        path: A file, a pattern such as `logs/*.csv.gz`, or a folder of parts, read in the order of their names.
        columns: Names of the columns: `user` and `item`, and where there are some `timestamp`, `rating` and `category`.
        time_unit: Of numeric timestamps, counted from 1970; `order` for numbers that only order. None infers it.
        settings: Those of `SequenceDataModule`.
    """

    def __init__(
        self, *, path: str, columns: dict[str, str | None], time_unit: TimeUnit | None = None, **settings: Any
    ) -> None:
        super().__init__(source=interaction_log(path, columns=columns, time_unit=time_unit), **settings)


def interaction_log(path: str, *, columns: dict[str, str | None], time_unit: TimeUnit | None = None) -> Source:
    """The log as a `Source`.

    Raises:
        SettingError: No file is found, a file has an unknown ending, or a column is missing.
    """
    files = _files(path)
    kept = {name: column for name, column in columns.items() if column is not None}
    unknown = kept.keys() - NAMES.keys()
    if unknown:
        raise SettingError(f"columns.{min(unknown)} is no column seqgen reads; use {', '.join(NAMES)}.")
    for name in ("user", "item"):
        if name not in kept:
            raise SettingError(f"columns.{name} is needed: the column of {files[0]} that holds the {name}.")
    if len(set(kept.values())) < len(kept):
        raise SettingError(f"columns names one column twice ({', '.join(kept.values())}); give each its own.")
    if time_unit is not None and "timestamp" not in kept:
        raise SettingError(f"time_unit={time_unit} has no effect without columns.timestamp; leave it null.")
    form = ending(files[0])
    # The first hundred ratings may all be whole. Ids of a text file are text, so that 7, 007 and A7 stay apart;
    # whole numbers are found again at the end.
    types: Any = {} if form == ".parquet" else {"rating": pl.Float64}
    types |= {"user": pl.String, "item": pl.String} if form in SEPARATORS else {}
    separator = SEPARATORS.get(form, ",")
    log = Table(files=files, columns=kept, types=types, separator=separator, key="data.columns")
    return Source(
        name=Path(path).name.split(".")[0].strip("*?[]") or "custom",
        files=files,
        log=log,
        items=partial(_items, log) if "category" in kept else None,
        time_unit=time_unit,
        parameters={"columns": kept, "time_unit": time_unit},
    )


def _files(path: str) -> tuple[Path, ...]:
    place = Path(path).expanduser()
    found = [place] if place.exists() else [Path(name) for name in sorted(glob.glob(str(place)))]
    if place.is_dir():
        found = sorted(file for file in place.iterdir() if ending(file) in ENDINGS)
    found = [file for file in found if file.is_file()]
    if not found:
        raise SettingError(f"path={path} names no file; give a file, a pattern, or a folder of {', '.join(ENDINGS)}.")
    endings = {ending(file) for file in found}
    if len(endings) > 1 or not endings <= set(ENDINGS):
        raise SettingError(
            f"path={path} holds files ending in {', '.join(sorted(end or 'nothing' for end in endings))}; "
            f"give files of one kind of {', '.join(ENDINGS)}, which may be compressed ({', '.join(COMPRESSED)})."
        )
    return tuple(found)


def _items(log: Table) -> pl.DataFrame:
    """The categories that an item bears anywhere in the log."""
    pairs = log.scan("item", "category").select("item_id", categories=pl.col("category").cast(pl.String))
    known = pairs.unique().drop_nulls().group_by("item_id").agg(pl.col("categories").sort())
    return known.collect(engine="streaming")
