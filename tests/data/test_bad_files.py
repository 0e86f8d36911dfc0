"""Files that are damaged, empty, of another kind or with other columns: one sentence that names the file."""

import gzip
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from logs import FORMS, HEAD, JSON_LINES, ROWS, SEPARATED, lines_of, refuses, stored, table


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
            # A parquet page need not have a checksum.
            if name.startswith("flipped") and ending == ".parquet":
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


def test_the_first_of_several_bad_lines_is_reported(tmp_path: Path) -> None:
    lines = lines_of(".csv")
    path = stored(tmp_path / "log.csv", [*lines[:9], b"", *lines[9:20], b"u1,i1,1,9", *lines[20:]], ".csv")
    refuses(path, tmp_path, f"{path}, line 10: it is blank; correct or remove the line.")
    # Blank lines at the end of a part are none.
    stored(tmp_path / "log/a.csv", [*lines, b"", b""], ".csv")
    second = stored(tmp_path / "log/b.csv", [*lines[:20], b"u1,i1,1,9", *lines[20:]], ".csv")
    refuses(second.parent, tmp_path, f"{second}, line 21: it has 4 values instead of 3; correct or remove the line.")


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
    refuses(path, tmp_path, f"{path}, line 1: it is not", "JSON")


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


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (("whom", "what", "when"), "data.columns.user=who is no column of {path}; did you mean whom."),
        (("who", "thing", "when"), "data.columns.item=what is no column of {path}; it has who, thing, when."),
        (("who", "what", "WHEN"), "data.columns.timestamp=when is no column of {path}; it has who, what, WHEN."),
        (("who", " what", "when"), "{path} has spaces around its column ' what'; remove them."),
    ],
)
def test_a_missing_column_is_reported_by_its_key(head: Any, expected: str, ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}", head)
    refuses(path, tmp_path, expected.format(path=path))


@pytest.mark.parametrize("ending", SEPARATED)
def test_two_columns_of_one_name(ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}", (*HEAD, "what"), [(*row, 1) for row in ROWS])
    refuses(path, tmp_path, f"{path} has two columns named what; rename one.")


@pytest.mark.parametrize(
    ("ending", "sign", "name", "expected"),
    [(".csv", ";", "semicolon", "commas"), (".csv", "\t", "tab", "commas"), (".tsv", ",", "comma", "tabs")],
)
def test_another_separator(ending: str, sign: str, name: str, expected: str, tmp_path: Path) -> None:
    path = stored(tmp_path / f"log{ending}", [sign.join(map(str, row)).encode() for row in [HEAD, *ROWS]], ending)
    hint = f"set data.separator={name}, or write {expected} between the values."
    refuses(path, tmp_path, f"{path} has one column only, {sign.join(HEAD)!r}; {hint}")


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
    expected = f"{second}: its column when is int32, that of {first} int64; write them alike."
    refuses(first.parent, tmp_path, expected)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.csv", "b.jsonl"], "holds files ending in .csv, .jsonl; give files of one kind of .csv, .tsv"),
        (["a.csv", "b.parquet"], "holds files ending in .csv, .parquet; give files of one kind"),
        (["notes.md"], "names no file; give a file, a pattern, or a folder of .csv, .tsv"),
        ([], "names no file; give a file, a pattern, or a folder"),
    ],
)
def test_a_folder_without_one_kind_of_file(names: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for name in names:
        (tmp_path / "log" / name).write_text("x")
    refuses(tmp_path / "log", tmp_path, f"path={tmp_path}/log {expected}")


@pytest.mark.parametrize("name", ["log.xlsx", "log.csv.zip", "log.csv.bz2", "log.gz", "log"])
def test_an_unknown_ending(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    ending = {"log.gz": "nothing", "log": "nothing"}.get(name, Path(name).suffix)
    refuses(tmp_path / name, tmp_path, f"{name} holds files ending in {ending}; give files of one kind of .csv")


@pytest.mark.parametrize("name", ["log.csv", "none/*.csv", "*.csv"])
def test_a_path_without_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()  # is no file, though the pattern meets it
    refuses(tmp_path / name, tmp_path, f"path={tmp_path / name} names no file; give a file")
