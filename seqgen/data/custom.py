"""Your own interaction log: CSV, TSV, JSON lines or parquet, one file, a pattern or a folder of parts.

    python -m seqgen.run data=custom data.path=log.csv data.columns.user=customer data.columns.item=sku

Ids may be numbers or text. Interactions are ordered by timestamp (numbers, dates, or text that reads as a date), or as
they stand in the files where there is none.
"""

import codecs
import glob
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.ids import MissingIds, cleaned
from seqgen.data.sources import Source
from seqgen.data.table import COMPRESSED, ENDINGS, NAMES, SEPARATOR_NAMES, SEPARATORS, Table, ending
from seqgen.errors import SettingError, UserError

TimeUnit = Literal["s", "ms", "us", "ns", "order"]


class CustomDataModule(SequenceDataModule):
    """Any interaction log.

    Args:
        path: A file, a pattern such as `logs/*.csv.gz`, or a folder of parts, read in the order of their names, numbers
            in them by size (part3 before part10).
        columns: Names of the columns: `user` and `item`, and where there are some `timestamp`, `rating` and `category`.
        time_unit: Of numeric timestamps, counted from 1970; `order` for numbers that only order. None infers it.
        date_format: Of timestamps that are dates written as text, or as one number such as 202401311345, in the signs
            of `strftime`. None infers it.
        separator: Between the values of CSV and TSV: comma, tab, semicolon, pipe, space, or the sign itself. None goes
            by the ending.
        encoding: Of text files, such as `latin-1` or `utf-16`; None is UTF-8. Another one is read into memory whole.
        name: Of the set, in results and in the cache; None is the name of the file or folder.
        missing_ids: What becomes of a row whose user or item is empty or a word such as NaN, None or NULL: `refuse` it,
            `drop` it and count it in the table of the preparation, or `keep` the word as an id.
        settings: Those of `SequenceDataModule`.
    """

    def __init__(
        self,
        *,
        path: str,
        columns: dict[str, str | None],
        time_unit: TimeUnit | None = None,
        date_format: str | None = None,
        separator: str | None = None,
        encoding: str | None = None,
        name: str | None = None,
        missing_ids: MissingIds = "refuse",
        **settings: Any,
    ) -> None:
        source = interaction_log(
            path,
            columns=columns,
            time_unit=time_unit,
            date_format=date_format,
            separator=separator,
            encoding=encoding,
            name=name,
            missing_ids=missing_ids,
        )
        super().__init__(source=source, **settings)


def interaction_log(
    path: str,
    *,
    columns: dict[str, str | None],
    time_unit: TimeUnit | None = None,
    date_format: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    name: str | None = None,
    missing_ids: MissingIds = "refuse",
) -> Source:
    """The log as a `Source`; the arguments are those of `CustomDataModule`.

    Raises:
        SettingError: No file is found, a file has an unknown ending, a column is missing, or a setting is out of its
            range or without effect.
    """
    files, notices = _files(path)
    kept = _columns(columns, files[0])
    form = ending(files[0])
    _check_times(kept, time_unit, date_format)
    _check_encoding(files, form, encoding)
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise SettingError(f"name={name!r} must be letters, digits, dots, hyphens and underscores, as of a folder.")
    # The first hundred ratings may all be whole. Ids of a text file are text, so that 7, 007 and A7 stay apart;
    # whole numbers are found again at the end.
    types: Any = {} if form == ".parquet" else {"rating": pl.Float64}
    types |= {"user": pl.String, "item": pl.String} if form in SEPARATORS else {}
    between = _separator(form, separator)
    log = Table(files=files, columns=kept, types=types, separator=between, encoding=encoding, key="data.columns")
    parameters = {"columns": kept, "time_unit": time_unit, "date_format": date_format, "separator": between}
    return Source(
        name=name or Path(path).name.split(".")[0].strip("*?[]") or "custom",
        files=files,
        log=log,
        items=partial(_items, log) if "category" in kept else None,
        time_unit=time_unit,
        date_format=date_format,
        missing_ids=missing_ids,
        parameters=parameters | {"encoding": encoding, "missing_ids": missing_ids},
        notices=notices,
    )


def _columns(columns: dict[str, str | None], file: Path) -> dict[str, str]:
    kept = {name: column for name, column in columns.items() if column is not None}
    unknown = kept.keys() - NAMES.keys()
    if unknown:
        raise SettingError(f"columns.{min(unknown)} is no column seqgen reads; use {', '.join(NAMES)}.")
    for name in ("user", "item"):
        if name not in kept:
            raise SettingError(f"columns.{name} is needed: the column of {file} that holds the {name}.")
    if len(set(kept.values())) < len(kept):
        raise SettingError(f"columns names one column twice ({', '.join(kept.values())}); give each its own.")
    return kept


def _check_times(columns: dict[str, str], time_unit: str | None, date_format: str | None) -> None:
    for key, value in (("time_unit", time_unit), ("date_format", date_format)):
        if value is not None and "timestamp" not in columns:
            raise SettingError(f"{key}={value} has no effect without columns.timestamp; leave it null.")
    if date_format is None:
        return
    if time_unit is not None:
        raise SettingError(f"date_format={date_format} says that timestamps are dates, so leave time_unit null.")
    if "%" not in date_format:
        raise SettingError(f"date_format={date_format} must hold signs such as %Y-%m-%d %H:%M:%S.")
    if "%Z" in date_format:  # polars reads any letters there, and ignores them
        raise SettingError(f"date_format={date_format} reads no zone: write its letters, such as UTC, in place of %Z.")


def _check_encoding(files: tuple[Path, ...], form: str, encoding: str | None) -> None:
    if encoding is None:
        return
    try:
        codecs.lookup(encoding).name.encode("ascii").decode(encoding)  # raises for codecs that are not of text
    except (LookupError, UnicodeError) as error:
        if not encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
            raise SettingError(f"encoding={encoding} is no encoding of text; give one such as latin-1.") from error
    if form == ".parquet":
        raise SettingError("encoding has no effect on parquet files, which are always UTF-8; leave it null.")


def _separator(form: str, separator: str | None) -> str:
    if separator is None:
        return SEPARATORS.get(form, ",")
    if form not in SEPARATORS:
        raise SettingError(f"separator has no effect on {form} files; leave it null.")
    sign = SEPARATOR_NAMES.get(separator, separator)
    if len(sign) != 1 or not sign.isascii() or sign in '"\r\n\0' or sign.isalnum():
        raise SettingError(f"separator={separator!r} must be {', '.join(SEPARATOR_NAMES)}, or one sign.")
    return sign


def _files(path: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files of a log in their order, and what to say of those in the folder that are left out."""
    place, skipped = Path(path).expanduser(), list[str]()
    found = [place] if place.exists() else [Path(name) for name in glob.glob(str(place))]
    if place.is_dir():
        # Spark and Hadoop keep notes in names that begin with an underscore, macOS in those that begin with a dot.
        found = [file for file in place.iterdir() if ending(file) in ENDINGS and file.name[0] not in "._"]
        skipped = sorted({file.name for file in place.iterdir()} - {file.name for file in found})
    found = sorted((file for file in found if file.is_file()), key=_natural)
    if not found:
        raise SettingError(f"path={path} names no file; give a file, a pattern, or a folder of {', '.join(ENDINGS)}.")
    endings = {ending(file) for file in found}
    if len(endings) > 1 or not endings <= set(ENDINGS):
        raise SettingError(
            f"path={path} holds files ending in {', '.join(sorted(end or 'nothing' for end in endings))}; "
            f"give files of one kind of {', '.join(ENDINGS)}, which may be compressed ({', '.join(COMPRESSED)})."
        )
    plain: dict[Path, Path] = {}
    for file in found:
        twin = plain.setdefault(file.with_suffix("") if file.suffix in COMPRESSED else file, file)
        if twin != file:
            raise SettingError(f"path={path} holds {twin.name} and {file.name}, one part twice; remove one of them.")
    shown = ", ".join(skipped[:10]) + (f" and {len(skipped) - 10} more" if len(skipped) > 10 else "")
    return tuple(found), (f"{place}: not read are {shown}.",) if skipped else ()


def _natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts names without their endings, numbers in them by size: part3 before part10."""
    name = str(file).removesuffix("".join(suffix for suffix in file.suffixes if suffix in (*ENDINGS, *COMPRESSED)))
    pieces = re.split(r"(\d+)", name)
    return [(int(piece), "") if i % 2 else (0, piece) for i, piece in enumerate(pieces)], str(file)


def _items(log: Table) -> pl.DataFrame:
    """The categories that an item bears anywhere in the log."""
    raw = log.scan("item", "category")
    if isinstance(raw.collect_schema()["category"], pl.List | pl.Array):
        raw = raw.explode("category")
    if raw.collect_schema()["category"].is_nested():
        raise UserError(f"{log.files[0]} has a category column of nested values; give texts, or lists of texts.")
    pairs = raw.select("item_id", categories=pl.col("category").cast(pl.String))
    if pairs.collect_schema()["item_id"] == pl.String:
        pairs = pairs.with_columns(cleaned(pl.col("item_id")))
    known = pairs.unique().drop_nulls().group_by("item_id").agg(pl.col("categories").sort())
    return known.collect(engine="streaming")
