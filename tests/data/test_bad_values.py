"""Ids, ratings and times of a type that will not do: one sentence that names the file and the row."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from logs import COLUMNS, FORMS, HEAD, ROWS, SEPARATED, START, WHOLE_LOG, original, prepared_of, refuses, table

from seqgen.data.prepare import Filters
from seqgen.errors import UserError


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
@pytest.mark.parametrize("name", ["who", "what"])
@pytest.mark.parametrize(
    "values", [[1.5, 2.0, 3.0], [True, False, True], [[1], [2], [3]]], ids=["float", "truth", "list"]
)
def test_ids_that_are_neither_numbers_nor_text(values: Any, name: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"log{ending}"
    frame = pl.DataFrame(ROWS, schema=HEAD, orient="row").with_columns(pl.Series(name, values * 50))
    frame.write_parquet(path) if ending == ".parquet" else frame.write_ndjson(path)
    role = {"who": "user", "what": "item"}[name]
    refuses(path, tmp_path, f"{path}: the {role} ids are ", "give whole numbers or text.")


@pytest.mark.parametrize(
    "values", [[b"a", b"b", b"c"], [Decimal(1), Decimal(2), Decimal(3)], [date(2020, 1, d) for d in (1, 2, 3)]]
)
def test_parquet_ids_that_are_neither_numbers_nor_text(values: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "log.parquet", who=pl.Series(values * 50))
    refuses(path, tmp_path, f"{path}: the user ids are ", "give whole numbers or text.")


@pytest.mark.parametrize("name", HEAD)
@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Int64])
def test_holes_of_a_parquet_file(name: str, dtype: Any, tmp_path: Path) -> None:
    values = pl.Series([None if k in (60, 70) else k % 9 + START for k in range(150)])
    holes = values if dtype == pl.Int64 else values.cast(pl.String).cast(dtype)
    path = table(tmp_path / "log.parquet", **{name: holes})
    role = {column: role for role, column in COLUMNS.items()}[name]
    refuses(path, tmp_path, f"{path}, row 61: the {role} is empty (and in 1 more rows); fill or drop such rows.")


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
def test_an_empty_text_of_a_parquet_file(dtype: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "log.parquet", what=pl.Series(["" if k == 60 else "a" for k in range(150)], dtype=dtype))
    refuses(path, tmp_path, f"{path}, row 61: the item is empty; fill it.")


def test_numbers_then_text_as_json_ids(tmp_path: Path) -> None:
    path = table(tmp_path / "log.jsonl", rows=[(k % 7 if k < 120 else "a", i, t) for k, (_, i, t) in enumerate(ROWS)])
    refuses(path, tmp_path, f"{path}, line 121: the user is 'a', while the lines before hold whole numbers; correct")


def test_a_json_id_past_64_bits_after_smaller_ones(tmp_path: Path) -> None:
    path = table(
        tmp_path / "log.jsonl", rows=[(k % 7 if k < 120 else 10**30, i, t) for k, (_, i, t) in enumerate(ROWS)]
    )
    refuses(path, tmp_path, f"{path}, line 121: the user is 1{'0' * 30}, too large")


DAY = datetime(2020, 1, 1)
BAD_TIMES: dict[str, tuple[pl.Series, int, str]] = {  # values, row, words
    "time": (pl.Series([time(1)] * 150), 1, "the timestamp is a time without a day; give dates"),
    "duration": (pl.Series([timedelta(1)] * 150), 1, "without a day; give dates"),
    "truth": (pl.Series([True] * 150), 1, "the timestamp is of type boolean; give numbers or dates"),
    "list": (pl.Series([[1]] * 150), 1, "give numbers or dates"),
    "1969": (pl.Series([DAY] * 80 + [datetime(1969, 7, 1)] * 70), 81, "1969-07-01 is before 1970; correct it"),
    "2200": (pl.Series([DAY] * 80 + [datetime(2200, 7, 1)] * 70), 81, "2200-07-01 is past the year 2100; correct it"),
    "date 2200": (pl.Series([DAY.date()] * 80 + [date(2200, 7, 1)] * 70), 81, "2200-07-01 is past the year 2100"),
    "the last day there is": (
        pl.Series([0] * 80 + [2**31 - 1] * 70, dtype=pl.Int32).cast(pl.Date),
        81,
        "is past the year 2100; correct it",
    ),
    "the last moment there is": (
        pl.Series([0] * 80 + [2**62] * 70).cast(pl.Datetime("ms")),
        81,
        "is past the year 2100; correct it",
    ),
    "NaN": (pl.Series([float(START)] * 80 + [float("nan")] * 70), 81, "the timestamp is nan; correct it"),
    "infinite": (pl.Series([float(START)] * 80 + [float("inf")] * 70), 81, "the timestamp is inf; correct it"),
    "past 2100 in any unit": (
        pl.Series([START] * 80 + [2**63 - 1] * 70),
        81,
        "between 1973 and 2100 in no unit; correct it, or set",
    ),
    "past 128 bits of sense": (
        pl.Series([START] * 80 + [10**30] * 70, dtype=pl.Int128),
        81,
        "a moment between 1973 and 2100 in no unit",
    ),
    "another form of date": (
        pl.Series(["2020-01-01 00:00:00"] * 80 + ["01.02.2020"] * 70),
        81,
        "the timestamp '01.02.2020' does not read as a date of the form of '2020-01-01 00:00:00'; correct it",
    ),
    "no date": (pl.Series(["soon"] * 150), 1, "the timestamp 'soon' does not read as a date; write it as 2024-01-31"),
    "time in text": (pl.Series(["13:45:00"] * 150), 1, "'13:45:00' does not read as a date; write it as 2024-01-31"),
    "a zone in letters": (pl.Series(["2020-01-01 00:00:00 UTC"] * 150), 1, "does not read as a date; write it as"),
    "numbers as text": (pl.Series([str(START)] * 150), 1, "is a number written as text"),
    "a page of text": (pl.Series(["word " * 500] * 150), 1, "does not read as a date; write it as"),
    "a text among numbers": (
        pl.Series([str(START)] * 80 + ["soon"] * 70),
        81,
        f"'soon' is not a number, while '{START}' at",
    ),
}


@pytest.mark.parametrize("name", BAD_TIMES)
def test_times_that_are_none(name: str, tmp_path: Path) -> None:
    times, row, expected = BAD_TIMES[name]
    path = table(tmp_path / "log.parquet", when=times)
    refuses(path, tmp_path, f"{path}, row {row}: the timestamp", expected)


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize(
    ("given", "meant", "factor", "kind"),
    [("s", "ms", 1000, "milliseconds"), ("s", "us", 10**6, "microseconds"), ("ms", "ns", 10**9, "nanoseconds")],
)
def test_a_unit_that_is_too_coarse(given: Any, meant: str, factor: int, kind: str, ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}", rows=[(u, i, t * factor) for u, i, t in ROWS])
    expected = f"past the year 2100; perhaps they are {kind} (data.time_unit={meant})."
    refuses(path, tmp_path, f"{path}, ", f"the timestamp {(START + 149) * factor} read as", expected, time_unit=given)


@pytest.mark.parametrize("unit", ["s", "order"])
def test_a_unit_of_dates(unit: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv", rows=[(u, i, "2020-01-01") for u, i, _ in ROWS])
    refuses(path, tmp_path, f"data.time_unit={unit} has no effect on dates, as {path}, line 2 holds", time_unit=unit)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"time_unit": "s", "columns": COLUMNS | {"timestamp": None}}, "time_unit=s has no effect without"),
        ({"columns": COLUMNS | {"price": "what"}}, "columns.price is no column seqgen reads; use user, item"),
        ({"columns": COLUMNS | {"category": "kind"}}, "data.columns.category=kind is no column of"),
    ],
)
def test_settings_of_a_log(settings: Any, expected: str, tmp_path: Path) -> None:
    refuses(table(tmp_path / "log.csv"), tmp_path, expected, **settings)


def test_the_column_of_users_is_needed(tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    with pytest.raises(UserError) as caught:
        prepared_of(path, tmp_path, columns=COLUMNS | {"user": None})
    assert str(caught.value) == f"columns.user is needed: the column of {path} that holds the user."


@pytest.mark.parametrize("ending", FORMS)
def test_a_lowest_rating_without_ratings(ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}")
    expected = "data.min_rating has no effect on log, which has no ratings; leave it null, or name the column in"
    refuses(path, tmp_path, expected, filters=Filters(min_rating=3))


@pytest.mark.parametrize("at", [5, 140])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("good", "the rating is 'good', which should be numbers"),
        ("NaN", "the rating is NaN"),
        ("", "the rating is empty"),
    ],
)
@pytest.mark.parametrize("ending", SEPARATED)
def test_ratings_that_are_none(ending: str, value: str, expected: str, at: int, tmp_path: Path) -> None:
    rows = [(*row, value if k == at else 4) for k, row in enumerate(ROWS)]
    path = table(tmp_path / f"log{ending}", (*HEAD, "stars"), rows)
    rated = {"columns": COLUMNS | {"rating": "stars"}, "filters": Filters(min_rating=3)}
    refuses(path, tmp_path, f"{path}, line {at + 2}: {expected}; ", **rated)
    # Ratings that no setting asks for are nobody's business.
    assert original(prepared_of(path, tmp_path, columns=rated["columns"])) == WHOLE_LOG


@pytest.mark.parametrize("values", [["good"] * 150, [True] * 150], ids=["text", "truth"])
def test_parquet_ratings_that_are_none(values: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "log.parquet", stars=pl.Series(values))
    expected = f"{path}: the ratings are not numbers, so leave data.min_rating null, or correct them."
    with pytest.raises(UserError) as caught:
        prepared_of(path, tmp_path, Filters(min_rating=3), columns=COLUMNS | {"rating": "stars"})
    assert str(caught.value) == expected
