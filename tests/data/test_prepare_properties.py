"""Tables of any kind against a plain version of the preparation; one table in any form gives one prepared set."""

import re
import tempfile
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from memory import interactions
from polars.testing.parametric import column, dataframes

from seqgen.data.cache import Prepared
from seqgen.data.custom import interaction_log
from seqgen.data.prepare import Filters, Repeats, prepare
from seqgen.data.sources import Source
from seqgen.errors import UserError

# Not shrunk: a table shrinks for minutes, and a small one is found soon enough.
FEW = settings(derandomize=True, deadline=None, max_examples=300, database=None, phases=[Phase.generate])


def plain(rows: list[dict[str, Any]], filters: Filters) -> list[tuple[Any, Any, Any]]:
    """What is left, users in the order of their ids: (user, item, time)."""
    rows = [row for row in rows if filters.min_rating is None or row["rating"] >= filters.min_rating]
    rows = sorted(rows, key=lambda row: (row["user_id"], row.get("timestamp", 0)))
    kept: list[tuple[Any, Any, Any]] = []
    before: dict[Any, list[Any]] = {}
    for user, item, moment in ((row["user_id"], row["item_id"], row.get("timestamp")) for row in rows):
        had = before.setdefault(user, [])
        repeated = {"keep": False, "drop_consecutive": had[-1:] == [item], "drop_repeats": item in had}
        had.append(item)
        if not repeated[filters.repeats]:
            kept.append((user, item, moment))
    while True:
        users, items = Counter(row[0] for row in kept), Counter(row[1] for row in kept)
        enough = [
            row
            for row in kept
            if users[row[0]] >= filters.min_user_interactions and items[row[1]] >= filters.min_item_interactions
        ]
        if len(enough) == len(kept):
            return kept
        kept = enough


NUMBERS = st.integers(-2, 9)  # few, so that users, items and times meet again and again
# Spellings that would meet, or change places, if one were read as a number; an empty id is refused.
TEXTS = st.sampled_from(["7", "07", "007", "10", "9", "a", "A", "ä", "-1", "7.0", " ", "null"])
IDS = st.sampled_from(
    [(pl.Int64, NUMBERS), (pl.Int16, NUMBERS), (pl.String, TEXTS), (pl.String, st.sampled_from(["10", "9", "0", "-2"]))]
)


@st.composite
def tables(draw: Any) -> pl.DataFrame:
    (user, users), (item, items) = draw(IDS), draw(IDS)
    columns = [
        column("user_id", dtype=user, strategy=users, allow_null=False),
        column("item_id", dtype=item, strategy=items, allow_null=False),
        column("timestamp", dtype=pl.Int32, strategy=st.integers(0, 3), allow_null=False),
        column("rating", dtype=pl.Float32, strategy=st.sampled_from([1.0, 2.5, 3.0, 5.0]), allow_null=False),
    ]
    return draw(dataframes(columns[: draw(st.integers(2, 4))], min_size=1, max_size=80))


@st.composite
def cases(draw: Any) -> tuple[pl.DataFrame, Filters]:
    table = draw(tables())
    filters = Filters(
        min_rating=draw(st.sampled_from([None, 2.5, 2.6, 5.0])) if "rating" in table.columns else None,
        repeats=draw(st.sampled_from(get_args(Repeats))),
        min_user_interactions=draw(st.integers(1, 4)),
        min_item_interactions=draw(st.integers(1, 4)),
    )
    return table, filters


def prepared_of(source: Source, **settings: Any) -> Prepared:
    with tempfile.TemporaryDirectory() as folder:
        return prepare(source, cache_dir=folder, **settings)


def as_kept(ids: pl.Series) -> list[Any]:
    """Texts that all spell whole numbers, as these are written, are numbers in a prepared set."""
    numbers = ids.dtype == pl.String and all(re.fullmatch(r"0|-?[1-9]\d*", text) for text in ids)
    return list(map(int, ids)) if numbers else ids.to_list()


@pytest.mark.slow
@FEW
@given(case=cases())
def test_any_table_is_prepared_as_the_plain_version_does(case: tuple[pl.DataFrame, Filters]) -> None:
    table, filters = case
    ids = zip(*(as_kept(table[name]) for name in ("user_id", "item_id")), strict=True)
    rows = [row | {"user_id": user, "item_id": item} for row, (user, item) in zip(table.to_dicts(), ids, strict=True)]
    left = plain(rows, filters)
    source = Source(name="any", interactions=table.lazy, time_unit="order")
    users, items = sorted({row[0] for row in left}), sorted({row[1] for row in left})
    if len(items) < 2:
        event("nothing left")
        with pytest.raises(UserError, match="one item only is left" if items else "no interaction is left"):
            prepared_of(source, filters=filters)
        return
    event("something left")
    prepared = prepared_of(source, filters=filters)
    assert prepared.users["user_id"].to_list() == users
    assert prepared.items["item_id"].to_list() == items
    assert prepared.users["user"].to_list() == list(range(len(users)))
    assert prepared.items["item"].to_list() == list(range(1, len(items) + 1))
    found = [(users[user], items[item - 1]) for user, item in interactions(prepared).iter_rows()]
    assert found == [row[:2] for row in left]
    times = None if "timestamp" not in table.columns else [row[2] for row in left]
    assert (None if prepared.times is None else prepared.times.tolist()) == times

    steps = prepared.meta["steps"]
    assert len(steps) == 2 + (filters.min_rating is not None) + (filters.repeats != "keep")
    counted = [tuple(step[name] for name in ("users", "items", "interactions")) for step in (steps[0], steps[-1])]
    raw = (len({row["user_id"] for row in rows}), len({row["item_id"] for row in rows}), len(rows))
    assert counted == [raw, (len(users), len(items), len(left))]
    assert [step["interactions"] for step in steps] == sorted((s["interactions"] for s in steps), reverse=True)


COLUMNS = dict(zip(("user", "item", "timestamp", "rating"), ("who", "what", "when", "stars"), strict=True))
FORMS = (".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".csv.zst", ".tsv.zst", ".jsonl.zst")
AWKWARD = TEXTS.filter(str.strip) | st.sampled_from(
    ["a,b", 'say "so"', "two\nlines", "tab\tbed", "#1", "'", "\\N", "NaN", "日本"]
)


def write(frame: pl.DataFrame, path: Path) -> None:
    how: Any = {".gz": {"compression": "gzip"}, ".zst": {"compression": "zstd"}}.get(path.suffix, {})
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif ".jsonl" in path.suffixes:
        frame.write_ndjson(path, **how)
    else:
        frame.write_csv(path, separator="\t" if ".tsv" in path.suffixes else ",", **how)


@settings(FEW, max_examples=12)
@given(
    frame=dataframes(
        [
            column("who", dtype=pl.String, strategy=AWKWARD, allow_null=False),
            column("what", dtype=pl.String, strategy=AWKWARD, allow_null=False),
            column("when", dtype=pl.Int64, strategy=st.integers(1_500_000_000, 1_500_000_004), allow_null=False),
            column("stars", dtype=pl.Float64, strategy=st.sampled_from([1.0, 2.5, 4.0]), allow_null=False),
        ],
        min_size=3,
        max_size=250,  # past the rows that types are inferred from
    ),
    data=st.data(),
)
@pytest.mark.slow
def test_one_table_in_any_form_and_in_parts_is_one_prepared_set(frame: pl.DataFrame, data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, len(frame) - 1), max_size=3)))
    two = pl.DataFrame({"who": ["x", "x"], "what": ["y", "z"], "when": [1_500_000_000] * 2, "stars": [5.0, 4.5]})
    frame = pl.concat([frame, two])  # always something to choose from
    filters = Filters(
        min_rating=data.draw(st.sampled_from([None, 2.5])), min_user_interactions=1, min_item_interactions=1
    )
    expected = None
    with tempfile.TemporaryDirectory() as name:
        for form in FORMS:
            whole, parts = Path(name, f"log{form}"), Path(name, form[1:])
            parts.mkdir()
            write(frame, whole)
            for part, (start, end) in enumerate(zip([0, *ends], [*ends, len(frame)], strict=True)):
                write(frame[start:end], parts / f"part-{part}{form}")
            for path in (whole, parts):
                source = interaction_log(str(path), columns=dict(COLUMNS), missing_ids="keep")
                prepared = prepare(source, cache_dir=f"{name}/cache", filters=filters)
                told = {key: prepared.meta[key] for key in ("steps", "time_unit")}
                found = (*map(np.ndarray.tolist, (prepared.values, prepared.offsets, prepared.times)), told)
                found = (*found, prepared.users.to_dict(as_series=False), prepared.items.to_dict(as_series=False))
                expected = expected or found
                assert found == expected, path
    rows = frame.rename({"who": "user_id", "what": "item_id", "when": "timestamp", "stars": "rating"}).to_dicts()
    assert expected is not None
    assert expected[3]["steps"][-1]["interactions"] == len(plain(rows, filters))
    assert list(map(itemgetter(2), plain(rows, filters))) == [moment // 10**6 for moment in expected[2]]
