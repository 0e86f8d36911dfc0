"""What real files hold and is no fault is read."""

import gzip
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from logs import (
    COLUMNS,
    FORMS,
    HEAD,
    ROWS,
    SEPARATED,
    START,
    WHOLE_LOG,
    lines_of,
    original,
    packed,
    prepared_of,
    stored,
    table,
)

from seqgen.data.prepare import Filters
from seqgen.errors import UserError

CSV = b"".join(line + b"\n" for line in lines_of(".csv"))
JSONL = b"".join(line + b"\n" for line in lines_of(".jsonl"))
READ_AS_EVER = {
    "as it is": (".csv", CSV),
    "JSON as it is": (".jsonl", JSONL),
    "BOM": (".csv", b"\xef\xbb\xbf" + CSV),
    "CRLF": (".csv", CSV.replace(b"\n", b"\r\n")),
    "JSON with CRLF": (".jsonl", JSONL.replace(b"\n", b"\r\n")),
    "no end of line at the end": (".csv", CSV[:-1]),
    "JSON without end of line at the end": (".jsonl", JSONL[:-1]),
    "blank line at the end": (".csv", CSV + b"\n"),
    "blank lines at the end": (".csv", CSV + b"\n\n\n"),
    "blank lines at the end, CRLF": (".csv", (CSV + b"\n\n").replace(b"\n", b"\r\n")),
    "blank line at the end, gz": (".csv.gz", gzip.compress(CSV + b"\n")),
    "blank line at the end, zst": (".csv.zst", packed(".zst", CSV + b"\n")),
    "blank lines at the end of JSON": (".jsonl", JSONL + b"\n\n"),
    "blank line in JSON": (".jsonl", JSONL.replace(b"\n", b"\n\n", 1)),
    "blank line at the top": (".csv", b"\n" + CSV),
    "all in quotes": (".csv", b"\n".join(b'"' + line.replace(b",", b'","') + b'"' for line in CSV.splitlines())),
    "one of two zipped after the other": (".csv.gz", gzip.compress(CSV[:400]) + gzip.compress(CSV[400:])),
    "named as zipped and is not": (".csv.gz", CSV),
    "JSON named as zipped and is not": (".jsonl.zst", JSONL),
    "zipped and not named so": (".csv", gzip.compress(CSV)),
    "zstd and not named so": (".tsv", packed(".zst", CSV.replace(b",", b"\t"))),
    "more keys in one object": (".jsonl", JSONL.replace(b"}", b', "more": 1}', 1)),
}


@pytest.mark.parametrize("name", READ_AS_EVER)
def test_what_is_no_fault_is_read_as_ever(name: str, tmp_path: Path) -> None:
    ending, data = READ_AS_EVER[name]
    path = tmp_path / f"log{ending}"
    path.write_bytes(data)
    prepared = prepared_of(path, tmp_path)
    assert original(prepared) == WHOLE_LOG
    assert prepared.times is not None
    assert prepared.times[:2].tolist() == [START * 10**6, (START + 7) * 10**6]


@pytest.mark.parametrize("name", ["log[1].csv", "log*.csv", "log?.jsonl", "log[1].parquet", "log (2).csv", "v1.2.tsv"])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    table(tmp_path / "log2.csv", rows=[("other", "thing", START)])
    table(tmp_path / name)
    assert original(prepared_of(tmp_path / name, tmp_path)) == WHOLE_LOG


def test_parts_may_end_in_blank_lines_and_order_their_columns_otherwise(tmp_path: Path) -> None:
    head, *lines = lines_of(".csv")
    stored(tmp_path / "log/a.csv", [head, *lines[:60], b"", b""], ".csv")
    turned = [b",".join(reversed(line.split(b","))) for line in [head, *lines[60:]]]
    stored(tmp_path / "log/b.csv", [*turned, b""], ".csv")
    assert original(prepared_of(tmp_path / "log", tmp_path)) == WHOLE_LOG
    # A row that is wrong is still found where it stands.
    second = stored(tmp_path / "log/b.csv", [*turned[:5], b"-3,i1,u1", *turned[5:], b""], ".csv")
    with pytest.raises(UserError, match=r"b\.csv, line 6: the timestamp is -3"):
        prepared_of(second.parent, tmp_path)


@pytest.mark.parametrize("ending", [*SEPARATED, ".jsonl", ".parquet"])
def test_leading_zeros_and_other_spellings_tell_ids_apart(ending: str, tmp_path: Path) -> None:
    ids = ["7", "007", "7.0", "7 7", "+7", "0x7", "nano", "nullable"]
    path = table(tmp_path / f"log{ending}", rows=[(ids[k % 8], f"i{k % 3}", START + k) for k in range(150)])
    assert prepared_of(path, tmp_path).users["user_id"].to_list() == sorted(ids)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("least", [2**62, 2**63, 2**64, 10**30])
def test_very_large_whole_numbers_are_told_apart(least: int, ending: str, tmp_path: Path) -> None:
    ids = [least + k for k in range(5)]
    path = tmp_path / f"log{ending}"
    rows = [(ids[k % 5], f"i{k % 3}", START + k) for k in range(150)]
    if ending == ".parquet":
        table(path, who=pl.Series([row[0] for row in rows], dtype=pl.Int128))
    else:
        table(path, rows=rows)
    for _ in range(2):  # built, then read from the cache
        assert list(map(int, prepared_of(path, tmp_path).users["user_id"])) == ids


@pytest.mark.parametrize(
    "dtype", [pl.UInt64, pl.UInt8, pl.Int8, pl.Int128, pl.String, pl.Categorical, pl.Enum(["2", "1", "0"])]
)
def test_parquet_ids_of_any_type_that_tells_them_apart(dtype: Any, tmp_path: Path) -> None:
    values = pl.Series([k % 3 for k in range(150)])
    ids = (
        values.cast(dtype) if dtype in (pl.UInt64, pl.UInt8, pl.Int8, pl.Int128) else values.cast(pl.String).cast(dtype)
    )
    prepared = prepared_of(table(tmp_path / "log.parquet", what=ids), tmp_path)
    assert prepared.items["item_id"].to_list() == [0, 1, 2]
    assert (prepared.values[:4] - 1).tolist() == [k % 3 for k in (0, 7, 14, 21)]


MOMENTS = [datetime(2020, 3, 29, tzinfo=UTC) + timedelta(minutes=7 * k) for k in range(150)]  # clocks change that night
ABOUT = pl.Series([START + k for k in range(150)])
GOOD_TIMES: dict[str, tuple[pl.Series, list[int]]] = {
    "aware": (pl.Series(MOMENTS), [round(m.timestamp() * 10**6) for m in MOMENTS]),
    "aware, elsewhere": (
        pl.Series(MOMENTS).dt.convert_time_zone("Europe/Berlin"),
        [round(m.timestamp() * 10**6) for m in MOMENTS],
    ),
    "naive, ms": (
        pl.Series([m.replace(tzinfo=None) for m in MOMENTS], dtype=pl.Datetime("ms")),
        [round(m.timestamp() * 10**6) for m in MOMENTS],
    ),
    "naive, ns": (
        pl.Series([m.replace(tzinfo=None) for m in MOMENTS], dtype=pl.Datetime("ns")),
        [round(m.timestamp() * 10**6) for m in MOMENTS],
    ),
    "text with offsets": (
        pl.Series([m.astimezone().isoformat() for m in MOMENTS]),
        [round(m.timestamp() * 10**6) for m in MOMENTS],
    ),
    "days": (
        pl.Series([date(2020, 1, 1 + k // 5) for k in range(150)]),
        [(18262 + k // 5) * 86_400 * 10**6 for k in range(150)],
    ),
    "decimals": (
        pl.Series([Decimal(START + k) + Decimal("0.5") for k in range(150)], dtype=pl.Decimal(20, 1)),
        [(START + k) * 10**6 + 500_000 for k in range(150)],
    ),
    "whole decimals": (ABOUT.cast(pl.Decimal(20, 0)), [(START + k) * 10**6 for k in range(150)]),
    "128 bits": (ABOUT.cast(pl.Int128), [(START + k) * 10**6 for k in range(150)]),
    "unsigned nanoseconds": ((ABOUT * 10**9).cast(pl.UInt64), [(START + k) * 10**6 for k in range(150)]),
    "fractions": (ABOUT + 0.25, [(START + k) * 10**6 + 250_000 for k in range(150)]),
    "32 bits": (pl.Series([START] * 150, dtype=pl.Float32), [START * 10**6] * 150),
}


@pytest.mark.parametrize("name", GOOD_TIMES)
def test_times_of_any_type(name: str, tmp_path: Path) -> None:
    given, expected = GOOD_TIMES[name]
    prepared = prepared_of(table(tmp_path / "log.parquet", when=given), tmp_path)
    assert original(prepared) == WHOLE_LOG
    assert prepared.times is not None
    assert prepared.times.tolist() == [expected[k] for u in range(7) for k in range(u, 150, 7)]


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([-(k % 50) for k in range(150)]),
        pl.Series([2**64 - 1 - k for k in range(150)], dtype=pl.UInt64),
        pl.Series([-k * 10**30 for k in range(150)], dtype=pl.Int128),
        pl.Series([-k / 1000 for k in range(150)]),
        pl.Series([-k * 1e20 for k in range(150)]),
        pl.Series([Decimal(-k) / 10 for k in range(150)], dtype=pl.Decimal(20, 1)),
    ],
    ids=["negative", "unsigned", "128 bits", "fractions", "huge", "decimals"],
)
def test_numbers_that_only_order(times: pl.Series, tmp_path: Path) -> None:
    prepared = prepared_of(table(tmp_path / "log.parquet", when=times), tmp_path, time_unit="order")
    by_time = sorted(range(150), key=lambda k: times[k])
    assert original(prepared)["u3"] == [f"i{k % 5}" for k in by_time if k % 7 == 3]
    assert prepared.times is not None
    assert all(
        (np.diff(prepared.times[a:b]) >= 0).all() for a, b in zip(prepared.offsets, prepared.offsets[1:], strict=False)
    )


@pytest.mark.parametrize("ending", FORMS)
def test_whole_ratings_may_be_followed_by_halves(ending: str, tmp_path: Path) -> None:
    rows = [(*row, 4 if k < 120 or ending == ".parquet" else 2.5) for k, row in enumerate(ROWS)]
    path = table(tmp_path / f"log{ending}", (*HEAD, "stars"), rows)
    rated = prepared_of(
        path, tmp_path, Filters(min_rating=3, min_user_interactions=1), columns=COLUMNS | {"rating": "stars"}
    )
    assert rated.meta["num_interactions"] == (150 if ending == ".parquet" else 120)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Float32, pl.Float64, pl.Decimal(10, 2)])
@pytest.mark.parametrize("least", [3, 2.5])
def test_ratings_of_any_type(least: float, dtype: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "log.parquet", stars=pl.Series([k % 5 + 1 for k in range(150)]).cast(dtype))
    filters = Filters(min_rating=least, min_user_interactions=1, min_item_interactions=1)
    rated = prepared_of(path, tmp_path, filters, columns=COLUMNS | {"rating": "stars"})
    assert rated.meta["num_interactions"] == 90
