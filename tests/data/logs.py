"""Interaction logs as files of every form, and what is asked of the refusal of a bad one."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from backports import zstd
from conftest import ROOT
from memory import interactions

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
    if ending.endswith(".zst"):
        return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})
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


def assert_one_sentence(message: str, *expected: str) -> None:
    for words in expected:
        assert words in message
    assert "\n" not in message
    assert "; " in message  # what is wrong; what to do
    assert len(message) < 600
    for word in ("polars", "schema", "hint:", "Error(", "line 1 column"):  # a library's own words
        assert word not in message.replace(str(ROOT), "")


def refuses(path: Path, tmp_path: Path, *expected: str, filters: Filters = EVERYTHING, **settings: Any) -> None:
    with pytest.raises(UserError) as caught:
        prepared_of(path, tmp_path, filters, **settings)
    assert_one_sentence(str(caught.value), *expected)
    assert left(tmp_path / "cache") == []


def original(prepared: Prepared) -> dict[Any, list[Any]]:
    users, items = prepared.users["user_id"].to_list(), prepared.items["item_id"].to_list()
    found: dict[Any, list[Any]] = {user: [] for user in users}
    for user, item in interactions(prepared).iter_rows():
        found[users[user]].append(items[item - 1])
    return found


WHOLE_LOG = {f"u{u}": [f"i{k % 5}" for k in range(u, 150, 7)] for u in range(7)}
