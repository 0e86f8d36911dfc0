"""Bad input: one clear sentence that names the file and the line, or the key, and nothing half written.

Each fault is crossed with every form of file that it can stand in. What real files hold and is no fault comes last.
"""

import gzip
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import QUIET, ROOT
from memory import interactions

from seqgen import config
from seqgen.data import cache
from seqgen.data.cache import Prepared
from seqgen.data.custom import interaction_log
from seqgen.data.prepare import Filters, prepare
from seqgen.errors import UserError

COLUMNS: dict[str, str | None] = {"user": "who", "item": "what", "timestamp": "when"}
HEAD = ("who", "what", "when")
START = 1_600_000_000
# More than the hundred rows that polars infers types from.
ROWS = [(f"u{k % 7}", f"i{k % 5}", START + k) for k in range(150)]
EVERYTHING = Filters(min_user_interactions=1, min_item_interactions=1)
SEPARATED = (".csv", ".tsv", ".csv.gz", ".csv.zst")
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
FORMS = (*SEPARATED, *JSON_LINES, ".parquet")
EARLY, LATE = 4, 121  # lines: among the rows that types are inferred from, and beyond


def lines_of(ending: str, rows: Any = ROWS, head: tuple[str, ...] = HEAD) -> list[bytes]:
    """The lines of a text file, a header among them where the form has one."""
    if ending in JSON_LINES:
        return [json.dumps(dict(zip(head, row, strict=False))).encode() for row in rows]
    between = "\t" if ".tsv" in ending else ","
    return [between.join(map(str, row)).encode() for row in [head, *rows]]


def packed(ending: str, data: bytes) -> bytes:
    if ending.endswith(".gz"):
        return gzip.compress(data)
    if ending.endswith(".zst"):  # one stored block: Python 3.11 has no zstd
        return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + struct.pack("<I", len(data) << 3 | 1)[:3] + data
    return data


def stored(path: Path, lines: list[bytes], ending: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(ending, b"".join(line + b"\n" for line in lines)))
    return path


def table(path: Path, head: tuple[str, ...] = HEAD, rows: Any = ROWS, **columns: Any) -> Path:
    """A whole log in the form of its ending, some columns given anew."""
    ending = "".join(path.suffixes)
    if ending != ".parquet":
        return stored(path, lines_of(ending, rows, head), ending)
    frame = pl.DataFrame(rows, schema=list(head), orient="row").with_columns(**columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return path


def left(folder: Path) -> list[str]:
    """What lies in a cache beside its locks."""
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock")


def prepared_of(path: Path, tmp_path: Path, filters: Filters = EVERYTHING, **settings: Any) -> Prepared:
    source = interaction_log(str(path), **{"columns": COLUMNS, **settings})
    return prepare(source, cache_dir=tmp_path / "cache", filters=filters)


def assert_one_sentence(message: str, *told: str) -> None:
    for words in told:
        assert words in message
    assert "\n" not in message
    assert "; " in message  # what is wrong; what to do
    assert len(message) < 600
    for word in ("polars", "schema", "hint:", "Error(", "line 1 column"):  # a library's own words
        assert word not in message.replace(str(ROOT), "")


def refuses(path: Path, tmp_path: Path, *told: str, filters: Filters = EVERYTHING, **settings: Any) -> None:
    with pytest.raises(UserError) as caught:
        prepared_of(path, tmp_path, filters, **settings)
    assert_one_sentence(str(caught.value), *told)
    assert left(tmp_path / "cache") == []


def original(prepared: Prepared) -> dict[Any, list[Any]]:
    users, items = prepared.users["user_id"].to_list(), prepared.items["item_id"].to_list()
    found: dict[Any, list[Any]] = {user: [] for user in users}
    for user, item in interactions(prepared).iter_rows():
        found[users[user]].append(items[item - 1])
    return found


WHOLE_LOG = {f"u{u}": [f"i{k % 5}" for k in range(u, 150, 7)] for u in range(7)}


# --- A bad line, early and late, alone and in the second of two files

# Of a line `{s}` stands between the values; the same words are asked for wherever the line stands.
BAD_LINES = {
    "too few values": ("u1{s}i1", "the timestamp is empty"),
    "too many values": ("u1{s}i1{s}1{s}9", "it has 4 values instead of 3; mend or remove the line"),
    "unclosed quote": ('u1{s}"i1{s}1600000000', "its quotes are not closed or misplaced"),
    "text after a quote": ('u1{s}"i1"x{s}1600000000', "its quotes are not closed or misplaced"),
    "quote within a value": ('u1{s}5" pipe{s}1600000000', "its quotes are not closed or misplaced"),
    "not UTF-8": ("u1{s}caf\udce9{s}1600000000", "it is not UTF-8 text"),
    "blank line": ("", "the user is empty"),
    "no user": ("{s}i1{s}1600000000", "the user is empty; fill or drop such rows"),
    "no item": ("u1{s}{s}1600000000", "the item is empty; fill or drop such rows"),
    "no timestamp": ("u1{s}i1{s}", "the timestamp is empty; fill or drop such rows"),
    "quoted nothing as user": ('""{s}i1{s}1600000000', "the user is empty; fill it"),
    "quoted nothing as item": ('u1{s}""{s}1600000000', "the item is empty; fill it"),
    "negative": ("u1{s}i1{s}-5", "the timestamp is -5, before 1970"),
    "no number": ("u1{s}i1{s}yesterday", "'yesterday'"),
    "date among numbers": ("u1{s}i1{s}2024-01-01", "'2024-01-01'"),
    "nan": ("u1{s}i1{s}nan", "'nan'"),
    "infinite": ("u1{s}i1{s}-inf", "the timestamp is"),
    "past 64 bits": ("u1{s}i1{s}99999999999999999999999", "the timestamp is"),
    "milliseconds among seconds": ("u1{s}i1{s}1600000000000", "1600000000000 at"),
}
TIMED = '{{"who": "u1", "what": "i1", "when": {}}}'
BAD_OBJECTS = {
    "not JSON": ("{bad", "it is not JSON of one line"),
    "cut off": ('{"who": "u1", "what": "i', "it is not JSON of one line"),
    "comma between lines": (TIMED.format(START) + ",", "it is not JSON of one line"),
    "list": ("[1, 2, 3]", "it is no JSON object"),
    "number": ("5", "it is no JSON object"),
    "not UTF-8": ('{"who": "u\udce9", "what": "i1", "when": 1600000000}', "it is not UTF-8 text"),
    "no user": ('{"what": "i1", "when": 1600000000}', "the user is empty; fill or drop such rows"),
    "null item": ('{"who": "u1", "what": null, "when": 1600000000}', "the item is empty; fill or drop such rows"),
    "null timestamp": (TIMED.format("null"), "the timestamp is empty; fill or drop such rows"),
    "empty user": ('{"who": "", "what": "i1", "when": 1600000000}', "the user is empty; fill it"),
    "list as item": ('{"who": "u1", "what": ["i1"], "when": 1600000000}', 'the item is ["i1"], which is neither'),
    "object as item": ('{"who": "u1", "what": {"a": 1}, "when": 1600000000}', 'the item is {"a": 1}, which is neither'),
    "truth as user": ('{"who": true, "what": "i1", "when": 1600000000}', "the user is true, which is neither"),
    "negative": (TIMED.format("-5"), "the timestamp is -5, before 1970"),
    "no number": (TIMED.format('"yesterday"'), "'yesterday'"),
    "NaN": (TIMED.format("NaN"), "it is not JSON of one line (NaN is no number of JSON)"),
    "past 64 bits": (TIMED.format("9" * 25), "the timestamp is"),
    "milliseconds among seconds": (TIMED.format("1600000000000"), "1600000000000 at"),
}


def bad_lines() -> Iterator[Any]:
    for endings, faults in ((SEPARATED, BAD_LINES), (JSON_LINES, BAD_OBJECTS)):
        for ending, (fault, (line, told)), at in product(endings, faults.items(), (EARLY, LATE)):
            for second in (False, True) if ending in (".csv", ".csv.gz", ".jsonl") else (False,):
                name = f"{fault}, line {at}{', second file' * second}, {ending}"
                yield pytest.param(
                    ending, line.replace("{s}", "\t" if ending == ".tsv" else ","), told, at, second, id=name
                )


@pytest.mark.parametrize(("ending", "line", "told", "at", "second"), list(bad_lines()))
def test_a_bad_line_is_told_with_its_number(
    ending: str, line: str, told: str, at: int, second: bool, tmp_path: Path
) -> None:
    lines = lines_of(ending)
    lines.insert(at - 1, line.encode("utf-8", "surrogateescape"))
    bad = stored(tmp_path / f"log/b{ending}", lines, ending)
    if second:
        stored(tmp_path / f"log/a{ending}", lines_of(ending), ending)
    refuses(bad.parent if second else bad, tmp_path, f"{bad}, line {at}", told)


QUOTED = [(u, f'{i}, "x"\nnext' if k % 3 else i, t) for k, (u, i, t) in enumerate(ROWS)]


@pytest.mark.parametrize("head", [b"", b"\n", b"\n\n", b"\xef\xbb\xbf"], ids=["", "blank", "two blank", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("rows", [5, 130])
@pytest.mark.parametrize(
    ("line", "told"), [("u1,i1,5,6", "4 values"), ("u1,i1,-5", "-5"), ("u1,,5", "item"), ("u1,i1,soon", "soon")]
)
def test_lines_are_counted_through_quoted_ones(
    line: str, told: str, rows: int, end: bytes, head: bytes, tmp_path: Path
) -> None:
    def spelled(part: Any) -> bytes:
        return pl.DataFrame(part, schema=HEAD, orient="row").write_csv(include_header=False).encode()

    before = head + b"who,what,when\n" + spelled(QUOTED[:rows])
    path = tmp_path / "log.csv"
    path.write_bytes((before + line.encode() + b"\n" + spelled(QUOTED[rows:])).replace(b"\n", end))
    number = before.count(b"\n") + 1
    refuses(path, tmp_path, f"{path}, line {number}: ", told)


# --- Damaged files


def damaged() -> Iterator[Any]:
    for ending in (".csv.gz", ".tsv.gz", ".jsonl.gz", ".csv.zst", ".jsonl.zst", ".parquet"):
        for name, harm in {
            "half": lambda data: data[: len(data) // 2],
            "without its end": lambda data: data[:-10],
            "flipped bit": lambda data: (
                data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
            ),
            "flipped checksum": lambda data: data[:-7] + bytes([data[-7] ^ 1]) + data[-6:],
        }.items():
            # A stored zstd block has no checksum, a parquet page need not have one.
            if name.startswith("flipped") and not ending.endswith(".gz"):
                continue
            for second in (False, True):
                yield pytest.param(ending, harm, second, id=f"{name}{', second file' * second}, {ending}")


@pytest.mark.parametrize(("ending", "harm", "second"), list(damaged()))
def test_a_damaged_file_is_named(ending: str, harm: Any, second: bool, tmp_path: Path) -> None:
    whole, bad = table(tmp_path / f"log/a{ending}"), tmp_path / f"log/b{ending}"
    bad.write_bytes(harm(whole.read_bytes()))
    refuses(bad.parent if second else bad, tmp_path, f"{bad} is damaged", "cut off", "; get it again.")


def test_bad_lines_of_a_damaged_archive_are_not_blamed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    whole = gzip.compress(b"".join(line + b"\n" for line in lines_of(".csv", ROWS * 20)), compresslevel=0)
    path.write_bytes(whole.replace(b"u2,i2", b"u2mi2", 1))  # one bit; the checksum stands at the end
    refuses(path, tmp_path, f"{path} is damaged or cut off", "; get it again.")


def test_the_first_of_several_bad_lines_is_told(tmp_path: Path) -> None:
    lines = lines_of(".csv")
    path = stored(tmp_path / "log.csv", [*lines[:9], b"", *lines[9:20], b"u1,i1,1,9", *lines[20:]], ".csv")
    refuses(path, tmp_path, f"{path}, line 10: it is blank; mend or remove the line.")
    # Blank lines at the end of a part are none.
    stored(tmp_path / "log/a.csv", [*lines, b"", b""], ".csv")
    second = stored(tmp_path / "log/b.csv", [*lines[:20], b"u1,i1,1,9", *lines[20:]], ".csv")
    refuses(second.parent, tmp_path, f"{second}, line 21: it has 4 values instead of 3; mend or remove the line.")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "data", [b"PK\x03\x04" + bytes(range(256)), b"\x00" * 99, b"PAR1\n\xff" * 9, b"\xff\xfew\x00h\x00"]
)
def test_a_file_of_another_kind_is_named(data: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"log{ending}"
    path.write_bytes(data)
    refuses(path, tmp_path, str(path))


@pytest.mark.parametrize("content", ["[{}, {}]", "[\n{},\n{}\n]", "{\n}", "\ufeff{}\n{}"])
def test_json_that_is_not_one_object_a_line(content: str, tmp_path: Path) -> None:
    one = '{"who": "u1", "what": "i1", "when": 1600000000}'
    path = tmp_path / "log.json"
    path.write_text(content.replace("{}", one))
    refuses(path, tmp_path, f"{path}, line 1: it is no", "JSON")


# --- Files that hold nothing


@pytest.mark.parametrize("order", ["alone", "first", "second"])
@pytest.mark.parametrize(
    ("ending", "content"),
    [*product(SEPARATED, ["no bytes", "blank lines", "header"]), *product(JSON_LINES, ["no bytes", "blank lines"])],
)
def test_a_file_without_interactions_is_named(content: str, ending: str, order: str, tmp_path: Path) -> None:
    name = {"alone": "b", "first": "a", "second": "c"}[order]
    lines = {"no bytes": [], "blank lines": [b"", b""], "header": lines_of(ending, [])}[content]
    empty = stored(tmp_path / f"log/{name}{ending}", lines, ending)
    if order != "alone":
        table(tmp_path / f"log/b{ending}")
    what = "holds a header only" if content == "header" else "is empty"
    refuses(empty.parent, tmp_path, f"{empty} {what}; leave it out, or give a file that holds interactions.")


@pytest.mark.parametrize("rows", [[], None], ids=["no rows", "no bytes"])
def test_an_empty_parquet_file_is_named(rows: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(b"")
    if rows is not None:
        pl.DataFrame(rows, schema={"who": pl.String, "what": pl.String, "when": pl.Int64}).write_parquet(path)
    refuses(path, tmp_path, f"{path} {'is damaged' if rows is None else 'holds no interaction; give a file that does'}")


# --- Columns


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize(
    ("head", "told"),
    [
        (("whom", "what", "when"), "data.columns.user=who is no column of {path}; did you mean whom."),
        (("who", "thing", "when"), "data.columns.item=what is no column of {path}; it has who, thing, when."),
        (("who", "what", "WHEN"), "data.columns.timestamp=when is no column of {path}; it has who, what, WHEN."),
        (("who", " what", "when"), "{path} has spaces around its column ' what'; remove them."),
    ],
)
def test_a_missing_column_is_told_by_its_key(head: Any, told: str, ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}", head)
    refuses(path, tmp_path, told.format(path=path))


@pytest.mark.parametrize("ending", SEPARATED)
def test_two_columns_of_one_name(ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}", (*HEAD, "what"), [(*row, 1) for row in ROWS])
    refuses(path, tmp_path, f"{path} has two columns named what; rename one.")


@pytest.mark.parametrize(
    ("ending", "sign", "told"), [(".csv", ";", "commas"), (".csv", "\t", "commas"), (".tsv", ",", "tabs")]
)
def test_another_separator(ending: str, sign: str, told: str, tmp_path: Path) -> None:
    path = stored(tmp_path / f"log{ending}", [sign.join(map(str, row)).encode() for row in [HEAD, *ROWS]], ending)
    refuses(path, tmp_path, f"{path} has one column only, {sign.join(HEAD)!r}; write {told} between the values.")


def test_lines_that_end_as_on_an_old_mac(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"\r".join(lines_of(".csv")))
    refuses(path, tmp_path, f"{path} does not begin with a line of column names in UTF-8; give it as plain text lines.")


@pytest.mark.parametrize("ending", [*SEPARATED, ".parquet"])
@pytest.mark.parametrize("head", [("who", "what", "at"), ("who", "what"), (*HEAD, "more")])
def test_parts_with_other_columns(head: Any, ending: str, tmp_path: Path) -> None:
    first = table(tmp_path / f"log/a{ending}")
    second = table(tmp_path / f"log/b{ending}", head, [(*row, 1)[: len(head)] for row in ROWS])
    refuses(
        first.parent, tmp_path, str(second), str(first), "at" if "at" in head else "more" if "more" in head else "when"
    )


def test_json_parts_with_other_columns(tmp_path: Path) -> None:
    table(tmp_path / "log/a.jsonl")
    second = table(tmp_path / "log/b.jsonl", ("who", "what", "at"))
    refuses(second.parent, tmp_path, f"{second}, line 1: the timestamp is empty (and in 149 more rows); fill")


def test_parquet_parts_with_other_types(tmp_path: Path) -> None:
    first = table(tmp_path / "log/a.parquet")
    second = table(tmp_path / "log/b.parquet", when=pl.col("when").cast(pl.Int32))
    told = f"{second}: its column when is int32, that of {first} int64; write them alike."
    refuses(first.parent, tmp_path, told)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.csv", "b.jsonl"], "holds files ending in .csv, .jsonl; give files of one kind of .csv, .tsv"),
        (["a.csv", "b.parquet"], "holds files ending in .csv, .parquet; give files of one kind"),
        (["notes.md"], "names no file; give a file, a pattern, or a folder of .csv, .tsv"),
        ([], "names no file; give a file, a pattern, or a folder"),
    ],
)
def test_a_folder_without_one_kind_of_file(names: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for name in names:
        (tmp_path / "log" / name).write_text("x")
    refuses(tmp_path / "log", tmp_path, f"path={tmp_path}/log {told}")


@pytest.mark.parametrize("name", ["log.xlsx", "log.csv.zip", "log.csv.bz2", "log.gz", "log"])
def test_an_unknown_ending(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    ending = {"log.gz": "nothing", "log": "nothing"}.get(name, Path(name).suffix)
    refuses(tmp_path / name, tmp_path, f"{name} holds files ending in {ending}; give files of one kind of .csv")


@pytest.mark.parametrize("name", ["log.csv", "none/*.csv", "*.csv"])
def test_a_path_without_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()  # is no file, though the pattern meets it
    refuses(tmp_path / name, tmp_path, f"path={tmp_path / name} names no file; give a file")


# --- Ids, ratings and times of a type that will not do


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
    refuses(path, tmp_path, f"{path}, line 121: the user is 'a', while the lines before hold whole numbers; mend")


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
    "1969": (pl.Series([DAY] * 80 + [datetime(1969, 7, 1)] * 70), 81, "1969-07-01 is before 1970; mend it"),
    "2200": (pl.Series([DAY] * 80 + [datetime(2200, 7, 1)] * 70), 81, "2200-07-01 is past the year 2100; mend it"),
    "date 2200": (pl.Series([DAY.date()] * 80 + [date(2200, 7, 1)] * 70), 81, "2200-07-01 is past the year 2100"),
    "the last day there is": (
        pl.Series([0] * 80 + [2**31 - 1] * 70, dtype=pl.Int32).cast(pl.Date),
        81,
        "is past the year 2100; mend it",
    ),
    "the last moment there is": (
        pl.Series([0] * 80 + [2**62] * 70).cast(pl.Datetime("ms")),
        81,
        "is past the year 2100; mend it",
    ),
    "NaN": (pl.Series([float(START)] * 80 + [float("nan")] * 70), 81, "the timestamp is no number; mend it"),
    "infinite": (pl.Series([float(START)] * 80 + [float("inf")] * 70), 81, "the timestamp is no number; mend it"),
    "past 2100 in any unit": (
        pl.Series([START] * 80 + [2**63 - 1] * 70),
        81,
        "between 1973 and 2100 in no unit; mend it, or set",
    ),
    "past 128 bits of sense": (
        pl.Series([START] * 80 + [10**30] * 70, dtype=pl.Int128),
        81,
        "a moment between 1973 and 2100 in no unit",
    ),
    "another form of date": (
        pl.Series(["2020-01-01 00:00:00"] * 80 + ["01.02.2020"] * 70),
        81,
        "the timestamp '01.02.2020' does not read as a date of the form of '2020-01-01 00:00:00'; mend it",
    ),
    "no date": (pl.Series(["soon"] * 150), 1, "the timestamp 'soon' does not read as a date; write it as 2024-01-31"),
    "time in text": (pl.Series(["13:45:00"] * 150), 1, "'13:45:00' does not read as a date; write it as 2024-01-31"),
    "a zone in letters": (pl.Series(["2020-01-01 00:00:00 UTC"] * 150), 1, "does not read as a date; write it as"),
    "numbers as text": (pl.Series([str(START)] * 150), 1, "is a number written as text"),
    "a page of text": (pl.Series(["word " * 500] * 150), 1, "does not read as a date; write it as"),
    "a text among numbers": (
        pl.Series([str(START)] * 80 + ["soon"] * 70),
        81,
        f"'soon' is no number, while '{START}' at",
    ),
}


@pytest.mark.parametrize("name", BAD_TIMES)
def test_times_that_are_none(name: str, tmp_path: Path) -> None:
    times, row, told = BAD_TIMES[name]
    path = table(tmp_path / "log.parquet", when=times)
    refuses(path, tmp_path, f"{path}, row {row}: the timestamp", told)


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize(
    ("given", "meant", "factor", "kind"),
    [("s", "ms", 1000, "milliseconds"), ("s", "us", 10**6, "microseconds"), ("ms", "ns", 10**9, "nanoseconds")],
)
def test_a_unit_that_is_too_coarse(given: Any, meant: str, factor: int, kind: str, ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}", rows=[(u, i, t * factor) for u, i, t in ROWS])
    told = f"past the year 2100; perhaps they are {kind} (data.time_unit={meant})."
    refuses(path, tmp_path, f"{path}, ", f"the timestamp {(START + 149) * factor} read as", told, time_unit=given)


@pytest.mark.parametrize("unit", ["s", "order"])
def test_a_unit_of_dates(unit: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv", rows=[(u, i, "2020-01-01") for u, i, _ in ROWS])
    refuses(path, tmp_path, f"data.time_unit={unit} has no effect on dates, as {path}, line 2 holds", time_unit=unit)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"time_unit": "s", "columns": COLUMNS | {"timestamp": None}}, "time_unit=s has no effect without"),
        ({"columns": COLUMNS | {"user": None}}, "columns.user is needed: the column of"),
        ({"columns": COLUMNS | {"price": "what"}}, "columns.price is no column seqgen reads; use user, item"),
        ({"columns": COLUMNS | {"category": "kind"}}, "data.columns.category=kind is no column of"),
    ],
)
def test_settings_of_a_log(settings: Any, told: str, tmp_path: Path) -> None:
    if "is needed" in told:
        told = f"columns.user is needed: the column of {tmp_path / 'log.csv'} that holds the user."
        with pytest.raises(UserError) as caught:
            prepared_of(table(tmp_path / "log.csv"), tmp_path, **settings)
        assert str(caught.value) == told
        return
    refuses(table(tmp_path / "log.csv"), tmp_path, told, **settings)


@pytest.mark.parametrize("ending", FORMS)
def test_a_lowest_rating_without_ratings(ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}")
    told = "data.min_rating has no effect on log, which has no ratings; leave it null, or name the column in"
    refuses(path, tmp_path, told, filters=Filters(min_rating=3))


@pytest.mark.parametrize("at", [5, 140])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("good", "the rating is 'good', which should be numbers"),
        ("NaN", "the rating is no number"),
        ("", "the rating is empty"),
    ],
)
@pytest.mark.parametrize("ending", SEPARATED)
def test_ratings_that_are_none(ending: str, value: str, told: str, at: int, tmp_path: Path) -> None:
    rows = [(*row, value if k == at else 4) for k, row in enumerate(ROWS)]
    path = table(tmp_path / f"log{ending}", (*HEAD, "stars"), rows)
    rated = {"columns": COLUMNS | {"rating": "stars"}, "filters": Filters(min_rating=3)}
    refuses(path, tmp_path, f"{path}, line {at + 2}: {told}; ", **rated)
    # Ratings that no setting asks for are nobody's business.
    assert original(prepared_of(path, tmp_path, columns=rated["columns"])) == WHOLE_LOG


@pytest.mark.parametrize("values", [["good"] * 150, [True] * 150], ids=["text", "truth"])
def test_parquet_ratings_that_are_none(values: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "log.parquet", stars=pl.Series(values))
    told = f"{path}: the ratings are no numbers, so leave data.min_rating null, or mend them."
    with pytest.raises(UserError) as caught:
        prepared_of(path, tmp_path, Filters(min_rating=3), columns=COLUMNS | {"rating": "stars"})
    assert str(caught.value) == told


# --- Settings that leave nothing, or do not fit


def run_on(path: Path, tmp_path: Path, *overrides: str) -> None:
    from seqgen.run import run

    named = [f"data.columns.{role}={column}" for role, column in COLUMNS.items()]
    minima = ["data.min_user_interactions=3", "data.min_item_interactions=1"]
    least = ["model=popularity", "data=custom", f"data.path={path}", f"paths.cache_dir={tmp_path}/cache", *minima]
    run(config.compose([*least, *named, *QUIET, *overrides], output_dir=tmp_path / "run"))


TIMELY = "data.split=global_time"


@pytest.mark.parametrize(
    ("overrides", "told", "prepared"),
    [
        (
            ["data.min_user_interactions=50"],
            "log: no interaction is left after filtering (data.min_user_interactions=50",
            0,
        ),
        (["data.min_item_interactions=31"], "data.min_item_interactions=31, 150 before); lower these minima.", 0),
        (["data.min_user_interactions=2"], "data.min_user_interactions=2 must be at least 3 (a training item, a", 0),
        (["data.min_user_interactions=0", TIMELY], "data.min_user_interactions=0 must be at least 1", 0),
        (["data.columns.timestamp=null", TIMELY], "data.split=global_time needs timestamps, which log has not", 1),
        ([TIMELY, "data.val_from=0.9", "data.test_from=0.8"], "data.val_from=0.9 (2020-09-13", 1),
        ([TIMELY, "data.val_from=0.5", "data.test_from=0.5"], "must come before data.test_from=0.5", 1),
        ([TIMELY, "data.val_from=2031-01-01", "data.test_from=2030-01-01"], "data.val_from=2031-01-01", 1),
        (
            [TIMELY, "data.val_from=2030-01-01", "data.test_from=2031-01-01"],
            "leaves no validation case with T1=2030",
            1,
        ),
        ([TIMELY, "data.val_from=0.5", "data.test_from=2031-01-01"], "leaves no test case with", 1),
        ([TIMELY, "data.val_from=2001-01-01", "data.test_from=2002-01-01"], "leaves no validation case", 1),
        ([TIMELY, "data.val_from=2020-01-01", "data.time_unit=order"], "data.val_from=2020-01-01 is a date, but", 1),
        ([TIMELY, "data.val_from=1.5"], "data.val_from=1.5 must be a share between 0 and 1, or a date such as", 1),
        ([TIMELY, "data.val_from=0"], "data.val_from=0 must be a share between 0 and 1, or a date such as", 1),
        ([TIMELY, "data.test_from=-0.1"], "data.test_from=-0.1 must be a share between 0 and 1, or a date such as", 1),
        ([TIMELY, "data.test_from=soon"], "data.test_from=soon must be a date such as 2018-03-01, or a share", 1),
        (["data.min_rating=3"], "data.min_rating has no effect on log, which has no ratings; leave it null", 0),
        (["data.min_rating=good"], "data.min_rating=good must be a number", 0),
        (["data.repeats=foo"], "data.repeats=foo must be keep or drop_consecutive or drop_repeats", 0),
        (["data.stride=3"], "data.stride has no effect with windows=last; leave it null, or", 0),
        (["data.stride=99", "data.windows=all"], "data.stride=99 must lie in 1 to max_len=50", 0),
        (["data.stride=0", "data.windows=all"], "data.stride=0 must lie in 1 to max_len=50", 0),
        (["data.target=first"], "data.target has no effect with split=leave_one_out; leave it null", 0),
        (["data.val_from=0.5"], "data.val_from has no effect with split=leave_one_out; leave it null", 0),
        (["data.target=best", TIMELY], "data.target=best must be last or first or successive", 0),
        (["data.split=random"], "data.split=random must be leave_one_out or global_time", 0),
        (["data.time_unit=min"], "data.time_unit=min must be s or ms or us or ns or order", 0),
        (["data.storage=disk"], "data.storage=disk must be memory or device or mmap", 0),
        (["data.columns.item=which"], "data.columns.item=which is no column of", 0),
        (["data.path=none.csv"], "data.path=none.csv names no file; give a file", 0),
        (["data.max_len=0"], "data.max_len=0 must be at least 1", 0),
    ],
)
def test_settings_of_a_run(overrides: list[str], told: str, prepared: int, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    with pytest.raises(UserError) as caught:
        run_on(path, tmp_path, *overrides)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    found = left(tmp_path / "cache")
    assert len(found) == prepared
    assert all((tmp_path / "cache" / name / "meta.json").is_file() for name in found)
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "failed"


def test_one_item_only(tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv", rows=[(u, "i", t) for u, _, t in ROWS])
    refuses(path, tmp_path, "log: one item only is left after filtering", "; lower data.min_item_interactions")


# --- The cache


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", ["values.npy", "offsets.npy", "times.npy", "users.parquet", "items.parquet"])
@pytest.mark.parametrize(
    "harm",
    [Path.unlink, truncate, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"\xff" * 300)],
    ids=["gone", "cut", "empty", "garbage"],
)
def test_a_broken_cache_is_told(harm: Any, name: str, mapped: bool, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    prepared_of(path, tmp_path)
    (found,) = left(tmp_path / "cache")
    harm(tmp_path / "cache" / found / name)
    source = interaction_log(str(path), columns=COLUMNS)
    with pytest.raises(UserError) as caught:
        prepare(source, cache_dir=tmp_path / "cache", filters=EVERYTHING, mapped=mapped)
    told = f"The prepared set in {tmp_path / 'cache' / found} is broken; delete that folder, and it is made again."
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        (
            lambda meta: json.dumps(meta | {"version": cache.VERSION + 1}),
            "was made by another version of seqgen; delete",
        ),
        (
            lambda meta: json.dumps(meta | {"num_interactions": 3}),
            "is broken; delete that folder, and it is made again.",
        ),
        (lambda meta: json.dumps({"version": cache.VERSION}), "is broken; delete that folder"),
        (lambda meta: json.dumps(meta)[:40], "is broken; delete that folder"),
        (lambda meta: "[1, 2]", "is broken; delete that folder"),
        (lambda meta: "", "is broken; delete that folder"),
    ],
    ids=["version", "sizes", "keys", "cut", "list", "empty"],
)
def test_a_cache_of_another_version_or_without_sense(meta: Any, told: str, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    prepared_of(path, tmp_path)
    (found,) = left(tmp_path / "cache")
    file = tmp_path / "cache" / found / "meta.json"
    file.write_text(meta(json.loads(file.read_text())))
    with pytest.raises(UserError) as caught:
        prepared_of(path, tmp_path)
    assert_one_sentence(str(caught.value), str(file.parent), told)
    assert file.is_file()  # mended by the user, not behind their back


def test_a_cache_below_a_file(tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    with pytest.raises(UserError) as caught:
        prepare(interaction_log(str(path), columns=COLUMNS), cache_dir=path / "cache", filters=EVERYTHING)
    assert_one_sentence(str(caught.value), f"The cache folder {path / 'cache'} cannot be written", "SEQGEN_CACHE")
    assert [file.name for file in tmp_path.rglob("*")] == ["log.csv"]


@pytest.mark.parametrize("bytes_left", [100, 300, 1000])
def test_a_full_disk(bytes_left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What is printed must not go to a file, as it does without capsys.
    source = interaction_log(str(table(tmp_path / "log.csv")), columns=COLUMNS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limits[1]))
    try:
        with pytest.raises(UserError) as caught:
            prepare(source, cache_dir=tmp_path / "cache", filters=EVERYTHING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_sentence(str(caught.value), f"The cache folder {tmp_path / 'cache'} cannot be written", "SEQGEN_CACHE")
    assert left(tmp_path / "cache") == []


PREPARING = """
import sys, time
from pathlib import Path
import polars as pl
from seqgen.data.prepare import Filters, prepare
from seqgen.data.sources import Source
folder = Path(sys.argv[1])
def read():
    (folder / f"read-{sys.argv[2]}").touch()
    time.sleep(0.5)
    return pl.LazyFrame({"user_id": [1, 1, 2, 2], "item_id": [1, 2, 1, 2]})
(folder / f"ready-{sys.argv[2]}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
source = Source(name="log", interactions=read)
minima = Filters(min_user_interactions=1, min_item_interactions=1)
prepared = prepare(source, cache_dir=folder / "cache", filters=minima)
print("fingerprint", prepared.meta["fingerprint"], prepared.values.tolist())
"""


def test_two_processes_at_once_prepare_once(tmp_path: Path) -> None:
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARING, str(tmp_path), name], cwd=ROOT, stdout=-1, stderr=-1, text=True
        )
        for name in ("a", "b")
    ]
    shown = [process.communicate(timeout=60) for process in starts]
    assert [process.returncode for process in starts] == [0, 0], shown
    told = {line for out, _ in shown for line in out.splitlines() if line.startswith("fingerprint")}
    (found,) = left(tmp_path / "cache")
    assert told == {f"fingerprint {found.removeprefix('log-')} [1, 2, 1, 2]"}
    assert len(list(tmp_path.glob("read-*"))) == 1


# --- The command line


def command_cases(tmp_path: Path) -> dict[str, tuple[Path, list[str], str]]:
    lines = lines_of(".csv.gz")
    bad = stored(tmp_path / "bad.csv.gz", [*lines[:130], b"u1,i1,1,9", *lines[130:]], ".csv.gz")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(packed(".gz", b"\n".join(lines_of(".jsonl")))[:-30])
    other, good = table(tmp_path / "other.parquet", ("whom", *HEAD[1:])), table(tmp_path / "good.csv")
    return {
        "line": (bad, [], f"{bad}, line 131: it has 4 values instead of 3; mend or remove the line."),
        "cut": (cut, [], f"{cut} is damaged or cut off"),
        "column": (other, [], f"data.columns.user=who is no column of {other}; did you mean whom."),
        "left": (
            good,
            ["data.min_user_interactions=99"],
            "good: no interaction is left after filtering (data.min_user",
        ),
        "unit": (
            good,
            ["data.time_unit=us", "data.min_item_interactions=99"],
            "data.min_item_interactions=99, 150 before)",
        ),
    }


def test_the_command_line(tmp_path: Path) -> None:
    cases, running = command_cases(tmp_path), {}
    named = [f"data.columns.{role}={column}" for role, column in COLUMNS.items()]
    for name, (path, overrides, _) in cases.items():  # all at once: most of the time is the import of torch
        line = ["model=popularity", "data=custom", f"data.path={path}", *named, *QUIET, *overrides]
        folders = [f"paths.cache_dir={tmp_path}/cache-{name}", f"hydra.run.dir={tmp_path}/run-{name}"]
        arguments = [sys.executable, "-m", "seqgen.run", *line, *folders]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running[name] = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)
    shown = {name: process.communicate(timeout=120) for name, process in running.items()}
    for name, (_, _, told) in cases.items():
        _, error = shown[name]
        assert running[name].returncode == 1, error
        assert error.startswith("seqgen: ")
        assert error.count("\n") == 1
        assert_one_sentence(error.rstrip("\n"), told)
        assert left(tmp_path / f"cache-{name}") == []
        assert json.loads((tmp_path / f"run-{name}/results.json").read_text())["status"] == "failed"


# --- What real files hold and is no fault

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
    ids = ["7", "007", "7.0", " 7", "+7", "0x7", "nan", "null"]
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
