"""Logs of several files: their order, what is left out of a folder, and parts that are there twice."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from logs import COLUMNS, ROWS, WHOLE_LOG, lines_of, original, packed, prepared_of, refuses, stored, table

from seqgen.errors import SettingError

UNTIMED: dict[str, Any] = {"columns": COLUMNS | {"timestamp": None}}


def in_parts(folder: Path, names: list[str], ending: str = ".csv") -> Path:
    """The log in equal parts, in the order of the names."""
    size = -(-len(ROWS) // len(names))
    for number, name in enumerate(names):
        table(folder / f"{name}{ending}", rows=ROWS[number * size : (number + 1) * size])
    return folder


@pytest.mark.parametrize("pattern", ["", "*.csv"])
@pytest.mark.parametrize(
    "names",
    [
        ["part3", "part10", "part21"],
        ["2024-9-1", "2024-9-30", "2024-10-2"],
        ["1", "2", "10", "11", "100"],
        ["a", "a1", "b"],
        ["part-00000-x", "part-00001-a", "part-00010-b"],
    ],
)
def test_numbers_in_names_order_parts_by_size(names: list[str], pattern: str, tmp_path: Path) -> None:
    folder = in_parts(tmp_path / "log", names)
    assert original(prepared_of(folder / pattern, tmp_path, name="log", **UNTIMED)) == WHOLE_LOG


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = in_parts(tmp_path / "log", ["a", "b"])
    for name in (".x.csv", "_part.csv", "_SUCCESS", "notes.md"):
        (folder / name).write_text("who,what,when\nother,thing,1600000000\n")
    (folder / "__MACOSX").mkdir()
    assert original(prepared_of(folder, tmp_path)) == WHOLE_LOG
    expected = f"Notice: {folder}: not read are .x.csv, _SUCCESS, __MACOSX, _part.csv, notes.md."
    assert expected in capsys.readouterr().out
    assert original(prepared_of(folder / "[ab].csv", tmp_path, name="log")) == WHOLE_LOG
    assert "not read" not in capsys.readouterr().out


def test_a_hidden_file_is_read_where_it_is_named(tmp_path: Path) -> None:
    assert original(prepared_of(table(tmp_path / ".x.csv"), tmp_path, name="hidden")) == WHOLE_LOG


def test_the_same_part_twice_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = in_parts(tmp_path / "log", ["a", "b"])
    (folder / "a (1).csv").write_bytes((folder / "a.csv").read_bytes())
    for _ in range(2):  # prepared, and from the cache
        assert prepared_of(folder, tmp_path).meta["num_interactions"] == 225
        assert "Notice: log: a.csv and a (1).csv hold the same, and all are read." in capsys.readouterr().out


def test_a_part_and_its_archive_are_one_part_twice(tmp_path: Path) -> None:
    folder = in_parts(tmp_path / "log", ["a", "b"])
    (folder / "b.csv.gz").write_bytes(gzip.compress((folder / "b.csv").read_bytes()))
    refuses(folder, tmp_path, f"path={folder} holds b.csv and b.csv.gz, one part twice; remove one of them.")


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_an_archive_that_unpacks_to_a_thousand_times_its_size(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"log.csv{ending}"
    path.write_bytes(packed(ending, b"who,what,when\n" + b"u,i,1\n" * 10**6))
    refuses(path, tmp_path, f"{path} unpacks to more than 200 times its size, as no log does; unpack it, and look.")


@pytest.mark.parametrize(
    ("name", "sign"), [("semicolon", ";"), ("pipe", "|"), ("space", " "), (":", ":"), ("tab", "\t")]
)
def test_a_separator(name: str, sign: str, tmp_path: Path) -> None:
    path = stored(tmp_path / "log.csv", [line.replace(b",", sign.encode()) for line in lines_of(".csv")], ".csv")
    assert original(prepared_of(path, tmp_path, separator=name)) == WHOLE_LOG
    lines = lines_of(".csv")
    lines.insert(120, b"u1,i1,1,9")
    path = stored(tmp_path / "bad.csv", [line.replace(b",", sign.encode()) for line in lines], ".csv")
    refuses(path, tmp_path / "bad", f"{path}, line 121: it has 4 values instead of 3", separator=name)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".csv.zst", ".jsonl"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig"])
def test_an_encoding(encoding: str, ending: str, tmp_path: Path) -> None:
    name = "caf\\u00e9" if ending == ".jsonl" else "café"
    whole = b"".join(line + b"\n" for line in lines_of(ending)).decode().replace("u1", name)
    data = whole.encode(encoding)
    path = tmp_path / f"log{ending}"
    path.write_bytes(packed(ending, data))
    expected = {user.replace("u1", "café"): items for user, items in WHOLE_LOG.items()}
    assert original(prepared_of(path, tmp_path, encoding=encoding)) == expected
    path.write_bytes((whole + whole.splitlines()[1].replace("16", "-16") + "\n").encode(encoding))
    refuses(path, tmp_path / "bad", f"{path}, line ", "the timestamp is -16", encoding=encoding)


def test_another_encoding_than_the_stated_one(tmp_path: Path) -> None:
    path = stored(tmp_path / "log.csv", [line.replace(b"u1", b"caf\xe9") for line in lines_of(".csv")], ".csv")
    hint = "it is not UTF-8 text; state data.encoding, such as latin-1, or correct or remove the line."
    refuses(path, tmp_path, f"{path}, line 3: {hint}")
    refuses(path, tmp_path, f"{path} is not ascii text (byte ", "; state its own data.encoding.", encoding="ascii")


def test_a_name(tmp_path: Path) -> None:
    prepared = prepared_of(table(tmp_path / "log.csv"), tmp_path, name="shop-2024")
    assert prepared.meta["name"] == "shop-2024"
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "cache").glob("[!.]*")] == ["shop-2024"]


@pytest.mark.parametrize(
    ("ending", "settings", "expected"),
    [
        (".csv", {"separator": "ab"}, "separator='ab' must be comma, tab, semicolon, pipe, space, or one sign."),
        (".csv", {"separator": '"'}, "must be comma, tab"),
        (".csv", {"separator": "é"}, "must be comma, tab"),
        (".jsonl", {"separator": ";"}, "separator has no effect on .jsonl files; leave it null."),
        (".parquet", {"separator": ";"}, "separator has no effect on .parquet files; leave it null."),
        (".parquet", {"encoding": "latin-1"}, "encoding has no effect on parquet files"),
        (".csv", {"encoding": "latin-99"}, "encoding=latin-99 is no encoding of text; give one such as latin-1."),
        (".csv", {"encoding": "base64"}, "encoding=base64 is no encoding of text; give one such as latin-1."),
        (".csv", {"name": "a/b"}, "name='a/b' must be letters, digits, dots, hyphens and underscores"),
        (".csv", {"name": ".."}, "name='..' must be letters"),
        (".csv", {"name": ""}, "name='' must be letters"),
    ],
)
def test_a_key_that_cannot_be(ending: str, settings: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        prepared_of(table(tmp_path / f"log{ending}"), tmp_path, **settings)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(next(iter(settings)))
