"""From a raw interaction log to what training reads: checked, filtered, ordered, numbered, and kept in the cache.

    read -> check -> minimum rating -> order -> repeats -> k-core -> numbers

polars reads the log, lazily and in streams; from there on a user, an item and a time are one integer each.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table as Grid

from seqgen.data import cache
from seqgen.data.cache import VERSION, Prepared
from seqgen.data.ids import Ids, alike, cleaned, coded
from seqgen.data.log import Log, counted, first_of_repeats, k_core
from seqgen.data.sources import Source
from seqgen.data.table import UNREADABLE
from seqgen.data.times import Place, Times, read_times, spell
from seqgen.errors import UserError

Repeats = Literal["keep", "drop_consecutive", "drop_repeats"]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What is left out of a raw log.

    Attributes:
        min_rating: Interactions rated lower are dropped; None keeps all.
        repeats: `drop_consecutive` drops an interaction with the item that the user had just before, `drop_repeats` one
            with any item that the user had before; `keep` drops none.
        min_user_interactions: Users with fewer are dropped; this and the next until nothing changes.
        min_item_interactions: Items with fewer are dropped.
    """

    min_rating: float | None = None
    repeats: Repeats = "keep"
    min_user_interactions: int = 5
    min_item_interactions: int = 5


def prepare(source: Source, *, cache_dir: str | Path, filters: Filters | None = None, mapped: bool = False) -> Prepared:
    """Return the prepared set, from the cache where it is there.

    Users are numbered from 0 and items from 1 in the order of their original ids. A user's interactions are ordered by
    timestamp; the file's order decides between equal ones.

    Args:
        source: What is read.
        cache_dir: Where prepared sets are kept.
        filters: What is left out.
        mapped: Map the arrays into memory instead of reading them.

    Raises:
        UserError: The log holds a row that is no interaction, nothing is left after filtering, or the cache cannot be
            written. A prepared set that is broken is prepared anew, with a line.
    """
    filters = filters or Filters()
    for notice in source.notices:
        print(f"Notice: {notice}")
    raw = cache.digests(source)
    for digest in dict.fromkeys(raw):
        if len(same := [file.name for file, of in zip(source.files, raw, strict=True) if of == digest]) > 1:
            _note(source, f"{' and '.join(same)} hold the same, and all are read")
    fingerprint = cache.fingerprint(source, raw, vars(filters))
    folder = Path(cache_dir).expanduser() / f"{source.name}-{fingerprint}"
    with contextlib.suppress(cache.BrokenError):
        if cache.exists(folder):
            return cache.read(folder, mapped=mapped)
    with cache.locked(folder):  # another process may be at the same set: then it is there once the lock is free
        try:
            if cache.exists(folder):
                return cache.read(folder, mapped=mapped)
        except cache.BrokenError as error:
            print(f"Notice: {error}: it is prepared anew.")
        prepared = _build(source, filters, fingerprint)
        print_steps(prepared.meta)
        cache.write(prepared, folder)
        return cache.read(folder, mapped=True) if mapped else prepared


def _build(source: Source, filters: Filters, fingerprint: str) -> Prepared:
    log, user_ids, item_ids, unit, steps = _read(source, filters.min_rating)
    log.order()
    if filters.repeats != "keep":
        log.take(first_of_repeats(log.user, log.item, everywhere=filters.repeats == "drop_repeats"))
        steps.append(log.sizes(f"repeats: {filters.repeats}"))
    minima = {"min_user": filters.min_user_interactions, "min_item": filters.min_item_interactions}
    log.take(k_core(log.user, log.item, **minima))
    steps.append(log.sizes(f"k-core: {minima['min_user']} per user, {minima['min_item']} per item"))
    if not len(log.user):
        raise UserError(_nothing_left(source, filters, steps))
    users, _ = _renumbered(log.user, user_ids, "user", first=0)
    items, number = _renumbered(log.item, item_ids, "item", first=1)
    if len(items) == 1:
        raise UserError(
            f"{source.name}: one item only is left after filtering, so there is nothing to choose from; "
            "lower data.min_item_interactions, or check which column holds the items."
        )
    if source.items is not None:
        items = _described(items, source.items())
    counts = counted(log.user)
    offsets = np.concatenate([[0], counts[counts > 0].cumsum()])
    meta = {"name": source.name, "version": VERSION, "fingerprint": fingerprint, "settings": vars(filters)}
    meta |= {"time_unit": unit, "steps": steps, "files": [file.name for file in source.files]}
    meta |= {f"num_{name}": steps[-1][name] for name in ("users", "items", "interactions")}
    return Prepared(values=number[log.item], offsets=offsets, times=log.time, users=users, items=items, meta=meta)


def _read(source: Source, min_rating: float | None) -> tuple[Log, pl.Series, pl.Series, str | None, list[Any]]:
    """The log with users and items as codes into their sorted ids, the unit of its times, and the first steps."""
    frame, place = _without_blank_ends(_collected(source, rated=min_rating is not None), source)
    _check_complete(frame, source, place)
    masks = (
        {} if min_rating is None else {f"rating at least {min_rating:g}": (frame["rating"] >= min_rating).to_numpy()}
    )
    columns = []
    for name in ("user_id", "item_id"):
        columns.append(_numbered(frame[name], source, place))
        frame = frame.drop(name)  # one column after the other: the raw one and its codes are together in memory once
    users, items = columns
    _refuse_repeated_header(users, items, source, place)
    times = None
    if "timestamp" in frame.columns:
        frame = frame.select("timestamp").rechunk()  # numpy would copy its pieces once more
        times = read_times(frame["timestamp"], source.time_unit, source.date_format, place)
        _print_times(times, source)
    del frame
    if source.missing_ids == "drop":  # null has code 0
        known = (users.codes >= users.ids.null_count()) & (items.codes >= items.ids.null_count())
        masks = {"missing ids: dropped": known, **masks}
    log = Log(users.codes, items.codes, None if times is None else times.moments)
    steps = [log.sizes("raw")]
    if times is not None and times.order is not None:
        log.take(times.order)
        masks = {step: kept[times.order] for step, kept in masks.items()}
    left = None
    for step, kept in masks.items():
        log.take(kept if left is None else kept[left])
        left = kept if left is None else kept & left
        steps.append(log.sizes(step))
    return log, users.ids, items.ids, None if times is None else times.unit, steps


def _numbered(column: pl.Series, source: Source, place: Place) -> Ids:
    what = column.name.removesuffix("_id")
    ids = coded(column, source.missing_ids)
    missing = ids.ids.null_count()
    if missing and source.missing_ids == "refuse":
        rows = ids.codes == 0
        first, more = int(rows.argmax()), int(rows.sum()) - 1
        if word := cleaned(column.gather([first]).cast(pl.String))[0]:
            raise UserError(
                f"{place(first)}: the {what} is {word!r}, which stands for a missing value"
                + (f" (and in {more:,} more rows such a word does)" if more else "")
                + "; correct or remove such rows, or set data.missing_ids to drop or keep."
            )
        raise UserError(f"{place(first)}: the {what} is empty; fill it.")
    if ids.ids.dtype == pl.String and len(ids.ids) > missing and ids.ids[missing] == "":
        raise UserError(f"{place(int((ids.codes == missing).argmax()))}: the {what} is empty; fill it.")
    if source.log is not None and (found := source.log.odd(ids.ids)):
        raise UserError(found)
    if ids.changed:
        _note(
            source,
            f"{ids.changed:,} {what} ids were written with white space around them, NUL or zero-width characters, "
            f"which were removed; {ids.merged:,} of them are the same as another {what} then",
        )
    if source.missing_ids is not None and (twins := alike(ids.ids)):
        shown = ", ".join(map(repr, sorted(twins, key=str.casefold)[:4]))
        _note(source, f"{len(twins):,} {what} ids differ from another one in spelling only ({shown}); they stay apart")
    return ids


def _note(source: Source, text: str) -> None:
    print(f"Notice: {source.name}: {text}.")


def _refuse_repeated_header(users: Ids, items: Ids, source: Source, place: Place) -> None:
    """Refuse a row that holds the names of the columns, as files with headers give that were simply joined."""
    if source.log is None or source.log.key is None:
        return
    rows: Any = True
    for ids, role in ((users, "user"), (items, "item")):
        named = (ids.ids == source.log.columns[role].strip()).fill_null(False) if ids.ids.dtype == pl.String else None
        if named is None or not named.any():
            return
        rows = rows & (ids.codes == int(named.arg_max() or 0))
    if rows.any():
        more = int(rows.sum()) - 1
        raise UserError(
            f"{place(int(rows.argmax()))}: it repeats the line of column names"
            + (f" (and so do {more:,} more lines)" if more else "")
            + "; remove it, or give data.path the parts themselves, as a folder or a pattern."
        )


def _print_times(times: Times, source: Source) -> None:
    if source.time_unit is None:
        how = "data.date_format" if source.date_format else "inferred; data.time_unit states it"
        print(f"{source.name}: timestamps are read as {spell(times.unit, times.moments)} ({how}).")
    if times.notice:
        _note(source, times.notice)


def _collected(source: Source, *, rated: bool) -> pl.DataFrame:
    try:
        raw = source.read()
        schema = raw.collect_schema()
        if rated and "rating" not in schema:
            raise UserError(
                f"data.min_rating has no effect on {source.name}, which has no ratings; leave it null"
                + (", or name the column in data.columns.rating." if source.log and source.log.key else ".")
            )
        names = ["user_id", "item_id", *(["timestamp"] if "timestamp" in schema else []), *(["rating"] * rated)]
        # Text ids are kept once each: a million users' names would fill the memory otherwise.
        text = [name for name in names[:2] if schema[name] == pl.String]
        small = [pl.col(name).cast(pl.Categorical(pl.Categories.random())) for name in text]
        # polars has decimals neither compared with every number nor asked whether they are one.
        floats = [pl.col("rating").cast(pl.Float64)] if rated and schema["rating"].is_decimal() else []
        return raw.select(names).with_columns(*small, *floats).collect(engine="streaming")
    except UNREADABLE as error:
        if source.log is not None:
            raise source.log.refused(error) from error
        raise


def _without_blank_ends(frame: pl.DataFrame, source: Source) -> tuple[pl.DataFrame, Place]:
    """The log without the blank lines at the end of its files, and where a row of it stands."""
    if source.log is None:
        return frame, lambda index: f"{source.name}, row {index + 1}"
    place = source.log.place
    if not frame.select(pl.all_horizontal(pl.all().is_null()).any()).item():
        return frame, place
    blank = source.log.blank_ends()
    frame = frame.with_row_index("row").filter(~pl.col("row").is_in(blank))
    rows = frame["row"]
    return frame.drop("row"), lambda index: place(rows[index])


def _check_complete(frame: pl.DataFrame, source: Source, place: Place) -> None:
    where = source.files[0] if source.files else source.name
    if frame.is_empty():
        raise UserError(f"{where} holds no interaction; give a file that does.")
    for name, dtype in frame.schema.items():
        what = name.removesuffix("_id")
        if frame[name].null_count() and not (name.endswith("_id") and source.missing_ids == "drop"):
            count, first = frame[name].null_count(), int(frame[name].is_null().arg_max() or 0)
            more = f" (and in {count - 1:,} more rows)" if count > 1 else ""
            raise UserError(f"{place(first)}: the {what} is empty{more}; fill or drop such rows.")
        if name.endswith("_id") and not (dtype.is_integer() or isinstance(dtype, pl.String | pl.Categorical | pl.Enum)):
            raise UserError(
                f"{where}: the {what} ids are {str(dtype).lower()}, which does not tell them apart for sure; "
                "give whole numbers or text."
            )
        if name == "rating" and not dtype.is_numeric():
            raise UserError(f"{where}: the ratings are not numbers, so leave data.min_rating null, or correct them.")
        if name == "rating" and frame[name].is_nan().any():  # larger than any number, says polars
            raise UserError(f"{place(int(frame[name].is_nan().arg_max() or 0))}: the rating is NaN; correct it.")


def _renumbered(codes: np.ndarray, ids: pl.Series, name: str, *, first: int) -> tuple[pl.DataFrame, np.ndarray]:
    """Contiguous numbers from `first` for the codes that are left: with their original ids, and by code (int32)."""
    left = counted(codes, len(ids)) > 0
    number = (left.cumsum() - 1 + first).astype(np.int32)
    kept = ids.filter(pl.Series(left)).alias(f"{name}_id")
    return pl.DataFrame([kept, pl.Series(name, number[left])]), number


def _described(items: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    known = known.with_columns(pl.col("item_id").cast(items["item_id"].dtype, strict=False))
    items = items.join(known, on="item_id", how="left", maintain_order="left")
    if "categories" in items.columns:  # an item that the table lacks has none
        items = items.with_columns(pl.col("categories").fill_null([]))
    return items


def _nothing_left(source: Source, filters: Filters, steps: list[dict[str, Any]]) -> str:
    settings = f"data.min_user_interactions={filters.min_user_interactions}"
    settings += f", data.min_item_interactions={filters.min_item_interactions}"
    if filters.min_rating is not None:
        settings += f", data.min_rating={filters.min_rating:g}"
    return (
        f"{source.name}: no interaction is left after filtering ({settings}, {steps[0]['interactions']:,} before); "
        "lower these minima."
    )


def print_steps(meta: dict[str, Any]) -> None:
    """Print what each step of the preparation was given and what it left."""
    grid = Grid("step", title=f"Preparation of {meta['name']}", title_justify="left")
    for name in ("users", "items", "interactions in", "interactions out"):
        grid.add_column(name, justify="right")
    before = meta["steps"][0]["interactions"]
    for step in meta["steps"]:
        after = step["interactions"]
        grid.add_row(step["step"], f"{step['users']:,}", f"{step['items']:,}", f"{before:,}", f"{after:,}")
        before = after
    Console(markup=False, emoji=False).print(grid)
