"""Your own interaction log: CSV, TSV, JSON lines or parquet, one file, a pattern or a folder of parts.

    python -m seqgen.run data=custom data.path=log.csv data.columns.user=customer data.columns.item=sku

Ids may be numbers or text. Interactions are ordered by timestamp (numbers of any one unit, dates, or text that reads as
a date), or as they stand in the files where there is none.
"""

import difflib
import glob
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.sources import Source
from seqgen.errors import UserError

COMPRESSED = (".gz", ".zst")
READERS: dict[str, Callable[..., pl.LazyFrame]] = {
    ".csv": partial(pl.scan_csv, separator=","),
    ".tsv": partial(pl.scan_csv, separator="\t"),
    ".jsonl": pl.scan_ndjson,
    ".ndjson": pl.scan_ndjson,
    ".parquet": pl.scan_parquet,
}


class CustomDataModule(SequenceDataModule):
    """Any interaction log.

    Args:
        path: A file, a pattern such as `logs/*.csv.gz`, or a folder of parts, read in the order of their names.
        columns: Names of the columns: `user` and `item`, and where there are some `timestamp`, `rating` and `category`.
        min_rating: Interactions rated lower are dropped; needs `columns.rating`.
        settings: Those of `SequenceDataModule`.
    """

    def __init__(
        self, *, path: str, columns: dict[str, str | None], min_rating: float | None = None, **settings: Any
    ) -> None:
        super().__init__(source=interaction_log(path, columns=columns, min_rating=min_rating), **settings)


def interaction_log(path: str, *, columns: dict[str, str | None], min_rating: float | None = None) -> Source:
    """The log as a `Source`.

    Raises:
        UserError: No file is found, a file has an unknown ending, or a column is missing or empty.
    """
    files = _files(path)
    kept = {name: column for name, column in columns.items() if column is not None}
    unknown = kept.keys() - {"user", "item", "timestamp", "rating", "category"}
    if unknown:
        raise UserError(
            f"data.columns.{min(unknown)} is no column seqgen reads; use user, item, timestamp, rating, category."
        )
    for name in ("user", "item"):
        if name not in kept:
            raise UserError(f"data.columns.{name} is needed: the column of {files[0]} that holds the {name}.")
    if min_rating is not None and "rating" not in kept:
        raise UserError(f"data.min_rating={min_rating} needs data.columns.rating, the column that holds the rating.")
    return Source(
        name=Path(path).name.split(".")[0].strip("*?[]") or "custom",
        files=files,
        interactions=partial(_interactions, files, kept, min_rating),
        items=partial(_items, files, kept) if "category" in kept else None,
        parameters={"columns": kept, "min_rating": min_rating},
    )


def _files(path: str) -> tuple[Path, ...]:
    place = Path(path).expanduser()
    found = [Path(name) for name in sorted(glob.glob(str(place)))] if not place.exists() else [place]
    if place.is_dir():
        found = sorted(file for file in place.iterdir() if _ending(file) in READERS)
    if not found:
        raise UserError(f"data.path={path} names no file; give a file, a pattern, or a folder of {', '.join(READERS)}.")
    endings = {_ending(file) for file in found}
    if len(endings) > 1 or not endings <= READERS.keys():
        raise UserError(
            f"data.path={path} holds files ending in {', '.join(sorted(endings))}; "
            f"give files of one kind of {', '.join(READERS)}, which may be compressed ({', '.join(COMPRESSED)})."
        )
    return tuple(found)


def _ending(file: Path) -> str:
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _scan(files: tuple[Path, ...], columns: dict[str, str]) -> pl.LazyFrame:
    raw = READERS[_ending(files[0])](list(files))
    names = raw.collect_schema().names()
    for name, column in columns.items():
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1)
            hint = f"did you mean {close[0]}" if close else f"it has {', '.join(names[:20])}"
            raise UserError(f"data.columns.{name}={column} is no column of {files[0]}; {hint}.")
    return raw


def _interactions(files: tuple[Path, ...], columns: dict[str, str], min_rating: float | None) -> pl.LazyFrame:
    raw = _scan(files, columns)
    if min_rating is not None:
        raw = raw.filter(pl.col(columns["rating"]) >= min_rating)
    read = ("user", "item", "timestamp")
    frame = raw.select(pl.col(columns[name]).alias(name) for name in read if name in columns)
    nulls = frame.null_count().collect().row(0, named=True)
    for name, count in nulls.items():
        if count:
            raise UserError(
                f"data.columns.{name}={columns[name]} is empty in {count} rows of {files[0]}; fill or drop them."
            )
    if frame.collect_schema().get("timestamp") == pl.String:
        frame = frame.with_columns(pl.col("timestamp").str.to_datetime())
    return frame.rename({"user": "user_id", "item": "item_id"})


def _items(files: tuple[Path, ...], columns: dict[str, str]) -> pl.DataFrame:
    """The categories that an item bears anywhere in the log."""
    pairs = _scan(files, columns).select(
        item_id=columns["item"], categories=pl.col(columns["category"]).cast(pl.String)
    )
    known = pairs.unique().drop_nulls().group_by("item_id").agg(pl.col("categories").sort())
    return known.collect()
