"""A raw interaction log on disk: read lazily by polars, searched by plain Python for what is wrong in it.

polars reads fast but cannot always say where a file is bad. `first_bad` and `place` walk the same rows line by line;
they are slow, and are called only once something is known to be wrong.
"""

import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from seqgen.errors import UserError, nearest

COMPRESSED = (".gz", ".zst")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
ENDINGS = (*SEPARATORS, *JSON_LINES, ".parquet")
NAMES = {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "rating": "rating", "category": "category"}
INFERRED_FROM = 100  # rows that polars infers a column's type from
KINDS = ("whole numbers", "numbers", "text")


class _BadLine(Exception):
    """Line number and what is wrong with the line."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Files of one form, and which of their columns is what.

    Attributes:
        files: Of one ending, read one after another.
        columns: Column of each role among user, item, timestamp, rating, category.
        types: Type to read a role's column with; polars infers the others.
        separator: Between values, of one byte.
        names: All column names, where the files have no header.
        key: Configuration key that names the columns, for messages; None where the form is fixed.
    """

    files: tuple[Path, ...]
    columns: Mapping[str, str]
    types: Mapping[str, pl.DataType | type[pl.DataType]] = field(default_factory=dict)
    separator: str = ","
    names: tuple[str, ...] | None = None
    key: str | None = None

    def scan(self, *roles: str) -> pl.LazyFrame:
        """Lazy columns `user_id`, `item_id`, `timestamp`, `rating`, `category` of these roles, in the files' order.

        Raises:
            UserError: A file is empty, or has no such column.
        """
        raw = self._raw(roles)
        try:
            names = raw.collect_schema().names()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self.refused(error) from error
        for role in roles:
            column = self.columns[role]
            if column not in names or f"{column}_duplicated_0" in names:
                raise UserError(self._no_column(role, names))
        return raw.select(pl.col(self.columns[role]).alias(NAMES[role]) for role in roles)

    def _raw(self, roles: tuple[str, ...]) -> pl.LazyFrame:
        types: Any = {self.columns[role]: dtype for role, dtype in self.types.items() if role in roles}
        files: Any = list(self.files)
        if self._form == ".parquet":
            return pl.scan_parquet(files)
        if self._form in JSON_LINES:
            if len(types) == len(roles):  # nothing else is parsed: reviews are long
                return pl.scan_ndjson(files, schema=types)
            return pl.scan_ndjson(files, schema_overrides=types, infer_schema_length=INFERRED_FROM)
        header = self.names is None
        how: Any = {} if header else {"new_columns": self.names}
        return pl.scan_csv(files, separator=self.separator, has_header=header, schema_overrides=types, **how)

    @property
    def _form(self) -> str:
        return ending(self.files[0])

    def _no_column(self, role: str, names: list[str]) -> str:
        column = self.columns[role]
        if column in names:
            return f"{self.files[0]} has two columns named {column}; rename one."
        if self.key is None:
            return f"{self.files[0]} has no column {column}, so it is not the published file; it has {_list(names)}."
        hint = nearest(column, names) or f"; it has {_list(names)}"
        return f"{self.key}.{role}={column} is no column of {self.files[0]}{hint}."

    def refused(self, error: Exception) -> UserError:
        """What to tell of files that polars cannot read: the first bad line, or polars' own reason."""
        if isinstance(error, pl.exceptions.NoDataError):
            empty = next((file for file in self.files if not file.stat().st_size), self.files[0])
            return UserError(f"{empty} is empty; give a file that holds interactions.")
        if found := self.first_bad():
            return UserError(found)
        reason = " ".join(str(error).split())[:200]
        return UserError(f"{_list(list(map(str, self.files[:3])))} cannot be read: {reason}.")

    def first_bad(self) -> str | None:
        """The file, line and fault of the first line that is not of the form, or None where none is found."""
        if self._form == ".parquet":
            return None
        kinds: dict[str, int] = {}
        count = 0
        header: list[str] | None = None
        for file in self.files:
            try:
                for number, row in self._rows(file, strict=True):
                    if number == 0:
                        header = header or list(row)
                        if list(row) != header:
                            raise _BadLine(1, f"its columns are not those of {self.files[0]}")
                        continue
                    count += 1
                    for role, column in self.columns.items():
                        self._check(role, number, row.get(column), kinds, count)
            except _BadLine as bad:
                line, fault = bad.args
                return f"{file}, line {line}: {fault}; mend or remove the line."
            except (OSError, EOFError, pl.exceptions.PolarsError) as error:
                return f"{file} is damaged or cut off ({' '.join(str(error).split())}); get it again."
        return None

    def _check(self, role: str, number: int, value: Any, kinds: dict[str, int], count: int) -> None:
        if value is None or role == "category":
            return
        if value == "":
            raise _BadLine(number, f"the {role} is empty")
        kind = _kind(value, quoted=self._form in JSON_LINES)
        dtype = self.types.get(role)
        if dtype is not None:
            allowed = 0 if dtype.is_integer() else 1 if dtype.is_float() else 2
            if kind > allowed:
                raise _BadLine(number, f"the {role} is {value!r}, which should be {KINDS[allowed]}")
        elif count <= INFERRED_FROM:
            kinds[role] = max(kinds.get(role, 0), kind)
        elif kind > kinds.get(role, 2):
            raise _BadLine(number, f"the {role} is {value!r}, while the lines before hold {KINDS[kinds[role]]}")

    def place(self, index: int) -> str:
        """Where a row of `scan` stands: `FILE, line N` (a row of a parquet file counts from 1)."""
        for file in self.files:
            if self._form == ".parquet":
                height = pl.scan_parquet(file).select(pl.len()).collect().item()
                if index < height:
                    return f"{file}, row {index + 1}"
                index -= height
                continue
            for number, _ in self._rows(file, strict=False):
                if number and index == 0:
                    return f"{file}, line {number}"
                index -= bool(number)
        return str(self.files[-1])

    def _rows(self, file: Path, *, strict: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line number and values of each row; a header comes first, as line 0."""
        lines = _lines(file)
        if self._form in JSON_LINES:
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    yield number, _json_row(number, text, strict=strict)
            return
        reader = csv.reader(lines, delimiter=self.separator, strict=strict)
        names = list(self.names) if self.names else None
        started = 0
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _BadLine(started + 1, f"its quotes are not closed or misplaced ({error})") from error
            line, started = started + 1, reader.line_num
            if names is None:
                names = values
                yield 0, dict.fromkeys(values)
                continue
            if strict and len(values) != len(names):
                raise _BadLine(line, f"it has {len(values)} values instead of {len(names)}")
            if strict and any("\udc80" <= sign <= "\udcff" for value in values for sign in value):
                raise _BadLine(line, "it is not UTF-8 text")
            yield line, dict(zip(names, values, strict=False))


def ending(file: Path) -> str:
    """The ending that tells the form, `.gz` and `.zst` aside."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _lines(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic == b"\x28\xb5\x2f\xfd":  # Python 3.11 has no zstd of its own
        yield from (line + "\n" for line in pl.read_lines(file).to_series())
        return
    with (gzip.open if magic[:2] == b"\x1f\x8b" else open)(file, "rb") as stream:
        for number, line in enumerate(stream):
            yield line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")


def _json_row(number: int, line: str, *, strict: bool) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        if not strict:
            return {}
        raise _BadLine(number, f"it is not JSON ({error})") from error
    if strict and not isinstance(row, dict):
        raise _BadLine(number, "it is no JSON object with a value for each column")
    return row


def _kind(value: Any, *, quoted: bool) -> int:
    """Index into KINDS; a text counts as the number it spells only where the form does not quote texts."""
    if isinstance(value, str):
        if quoted or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
            return 2
        return 0 if re.fullmatch(r"[+-]?\d+", value) else 1
    return 2 if isinstance(value, bool | list | dict) else 1 if isinstance(value, float) else 0


def _list(names: list[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
