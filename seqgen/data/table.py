"""A raw interaction log on disk: read lazily by polars, searched by plain Python for what is wrong in it.

polars reads fast but cannot always say where a file is bad. `first_bad` and `place` walk the same rows line by line;
they are slow, and are called only once something is known to be wrong.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from seqgen.data.lines import (
    DAMAGED,
    KINDS,
    LARGE,
    NOT_TEXT,
    NUMBER,
    TEXT,
    WHOLE,
    BadLine,
    decoded,
    fault_of,
    json_row,
    kind_of,
    lines_of,
    literal,
    noted,
    refuse_inflated,
)
from seqgen.errors import UserError, nearest

COMPRESSED = (".gz", ".zst")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
SEPARATOR_NAMES = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "space": " "}
JSON_LINES = (".jsonl", ".ndjson", ".json")
ENDINGS = (*SEPARATORS, *JSON_LINES, ".parquet")
NAMES = {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "rating": "rating", "category": "category"}
HEAD = 20  # lines that show whether a file holds any row
INFERRED_FROM = 100  # rows that polars infers a column's type from
# polars panics at some damage.
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Files of one form, and which of their columns is what.

    Attributes:
        files: Of one ending, read one after another.
        columns: Column of each role among user, item, timestamp, rating, category.
        types: Type to read a role's column with; polars infers the others.
        separator: Between values, of one byte.
        encoding: Of text files; None is UTF-8.
        names: All column names, where the files have no header.
        key: Configuration key that names the columns, for messages; None where the form is fixed.
    """

    files: tuple[Path, ...]
    columns: Mapping[str, str]
    types: Mapping[str, pl.DataType | type[pl.DataType]] = field(default_factory=dict)
    separator: str = ","
    encoding: str | None = None
    names: tuple[str, ...] | None = None
    key: str | None = None

    def scan(self, *roles: str) -> pl.LazyFrame:
        """Lazy columns `user_id`, `item_id`, `timestamp`, `rating`, `category` of these roles, in the files' order.

        Raises:
            UserError: A file is empty, or has no such column.
        """
        self._refuse_empty()
        try:
            raw = self._raw(roles)
            names = raw.collect_schema().names()
        except (*UNREADABLE, *DAMAGED) as error:
            raise self.refused(error) from error
        for role in roles:
            column = self.columns[role]
            if column not in names or f"{column}_duplicated_0" in names:
                raise UserError(self._no_column(role, names))
        return raw.select(pl.col(self.columns[role]).alias(NAMES[role]) for role in roles)

    def _raw(self, roles: tuple[str, ...]) -> pl.LazyFrame:
        types: Any = {self.columns[role]: dtype for role, dtype in self.types.items() if role in roles}
        files: Any = [literal(file) for file in self.files]
        if self.encoding is not None:  # polars knows no other: turned into UTF-8 in memory
            files = [decoded(file, self.encoding).encode() for file in self.files]
        if self._form == ".parquet":
            return pl.scan_parquet(files)
        if self._form in JSON_LINES:
            if len(types) == len(roles):  # nothing else is parsed: reviews are long
                return pl.scan_ndjson(files, schema=types)
            return pl.scan_ndjson(files, schema_overrides=types, infer_schema_length=INFERRED_FROM)
        header = self.names is None
        how: Any = {} if header else {"new_columns": self.names}
        how |= {"separator": self.separator, "has_header": header, "infer_schema_files": 1}
        return pl.scan_csv(files, schema_overrides=types, **how)

    def _refuse_empty(self) -> None:
        # polars reads the columns of a part without rows as text, and so those of all parts.
        for file in self.files if self._form != ".parquet" else ():
            refuse_inflated(file)
            try:
                lines = pl.read_lines(literal(file), n_rows=HEAD).to_series()
            except UNREADABLE:  # reported with its place once the file is read
                continue
            filled = HEAD if len(lines) == HEAD else sum(map(bool, "\r".join(lines).split("\r")))
            header = self._form in SEPARATORS and self.names is None
            if filled <= header:
                what = "holds a header only" if filled else "is empty"
                raise UserError(f"{file} {what}; leave it out, or give a file that holds interactions.")

    @property
    def _form(self) -> str:
        return ending(self.files[0])

    def _no_column(self, role: str, names: list[str]) -> str:
        column = self.columns[role]
        if column in names:
            return f"{self.files[0]} has two columns named {column}; rename one."
        if self.key is None:
            return f"{self.files[0]} has no column {column}, so it is not the published file; it has {_list(names)}."
        if not "".join(names).replace("\t", "").isprintable():
            return f"{self.files[0]} does not begin with a line of column names in UTF-8; give it as plain text lines."
        if len(names) == 1 and self._form in SEPARATORS:
            between = {",": "commas", "\t": "tabs"}.get(self.separator, repr(self.separator))
            found = next((name for name, sign in SEPARATOR_NAMES.items() if sign in names[0]), None)
            hint = f"set data.separator={found}, or " if found else ""
            return f"{self.files[0]} has one column only, {names[0]!r}; {hint}write {between} between the values."
        if spaced := next((name for name in names if name.strip() == column), None):
            return f"{self.files[0]} has spaces around its column {spaced!r}; remove them."
        hint = nearest(column, names) or f"; it has {_list(names)}"
        return f"{self.key}.{role}={column} is no column of {self.files[0]}{hint}."

    def refused(self, error: BaseException) -> UserError:
        """What to report of files that polars cannot read: the first bad line, or polars' own reason."""
        if found := self.first_bad():
            return UserError(found)
        reason = " ".join(str(error).split())[:200]
        return UserError(f"{_list(list(map(str, self.files[:3])))} cannot be read: {reason}.")

    def first_bad(self) -> str | None:
        """The file, line and fault of the first line that is not of the form, or None where none is found."""
        if self._form == ".parquet":
            return self._bad_parquet()
        kinds: dict[str, int] = {}
        header: set[str] | None = None
        for file in self.files:
            to_infer = INFERRED_FROM if file == self.files[0] else 0
            try:
                for _ in lines_of(file) if file.suffix in COMPRESSED else ():
                    pass  # a damaged archive gives bad lines before its checksum is read
                for number, row in self._rows(file, strict=True):
                    if number == 0:
                        header = header or set(row)
                        if odd := _list(sorted(header ^ set(row))):
                            raise BadLine(1, f"its columns are not those of {self.files[0]} ({odd} in one only)")
                        continue
                    for role, column in self.columns.items():
                        self._check(role, number, row.get(column), kinds, inferring=to_infer > 0)
                    to_infer -= 1
            except BadLine as bad:
                line, fault = bad.args
                hint = "state data.encoding, such as latin-1, or " if fault == NOT_TEXT and self.key else ""
                return f"{file}, line {line}: {fault}; {hint}correct or remove the line."
            except (*UNREADABLE, *DAMAGED) as error:
                return f"{file} is damaged or cut off ({' '.join(str(error).split())}); get it again."
        return None

    def _bad_parquet(self) -> str | None:
        expected: pl.Schema | None = None
        for file in self.files:
            try:
                schema = pl.scan_parquet(literal(file)).collect_schema()
                # Counts read every value, and keep none.
                pl.scan_parquet(literal(file)).select(pl.all().null_count()).collect(engine="streaming")
            except UNREADABLE as error:
                return f"{file} is damaged, cut off, or no parquet file ({' '.join(str(error).split())}); get it again."
            expected = expected or schema
            for name in [*expected, *schema]:
                ours, theirs = (str(s[name]).lower() if name in s else "absent" for s in (schema, expected))
                if ours != theirs:
                    return f"{file}: its column {name} is {ours}, that of {self.files[0]} {theirs}; write them alike."
        return None

    def _check(self, role: str, number: int, value: Any, kinds: dict[str, int], *, inferring: bool) -> None:
        if value is None or role == "category" or (role == "rating" and value == ""):  # not every run reads ratings
            return
        if value == "":
            raise BadLine(number, f"the {role} is empty")
        if isinstance(value, list | dict | bool):
            raise BadLine(number, f"the {role} is {json.dumps(value)[:60]}, which is neither a number nor text")
        kind = kind_of(value, quoted=self._form in JSON_LINES)
        dtype = self.types.get(role)
        shown = repr(value)[:60]
        if dtype is not None:
            allowed = WHOLE if dtype.is_integer() else NUMBER if dtype.is_float() else TEXT
            if kind > allowed:
                raise BadLine(number, f"the {role} is {shown}, which should be {KINDS[allowed]}")
        elif inferring:
            kinds[role] = max(kinds.get(role, WHOLE), kind)
        elif kind > kinds.get(role, TEXT):
            large = "too large, " if kind == LARGE else ""
            raise BadLine(number, f"the {role} is {shown}, {large}while the lines before hold {KINDS[kinds[role]]}")

    def odd(self, ids: pl.Series) -> str | None:
        """The file, line and fault of an id that is no text; polars spells lists and truths among texts as JSON."""
        spelled = r'^(\[(["\d\[{-].*)?\]|\{(".*)?\}|true|false)$'
        if self._form in JSON_LINES and ids.dtype == pl.String and ids.str.contains(spelled).any():
            return self.first_bad()
        return None

    def blank_ends(self) -> list[int]:
        """Which rows of `scan` are blank lines at the end of a file."""
        blank: list[int] = []
        index = 0
        for file in self.files if self._form in SEPARATORS else ():
            before = len(blank)
            for number, row in self._rows(file, strict=False):
                if not number:
                    continue
                if row:
                    del blank[before:]
                else:
                    blank.append(index)
                index += 1
        return blank

    def place(self, index: int) -> str:
        """Where a row of `scan` stands: `FILE, line N` (a row of a parquet file counts from 1)."""
        for file in self.files:
            if self._form == ".parquet":
                height = pl.scan_parquet(literal(file)).select(pl.len()).collect().item()
                if index < height:
                    return f"{file}, row {index + 1}"
                index -= height
                continue
            try:
                for number, _ in self._rows(file, strict=False):
                    if number and index == 0:
                        return f"{file}, line {number}"
                    index -= bool(number)
            except BadLine:  # polars takes more than Python's reader, such as a carriage return inside a value
                return str(file)
        return str(self.files[-1])

    def _rows(self, file: Path, *, strict: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line number and values of each row; a header comes first, as line 0."""
        lines = lines_of(file, self.encoding)
        if self._form in SEPARATORS:  # JSON allows no byte order mark
            lines = (line if number else line.removeprefix("\ufeff") for number, line in enumerate(lines))
        if self._form in JSON_LINES:
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    yield number, json_row(number, text, strict=strict)
            return
        record: list[str] = []  # the lines of the row, whose quotes the reader does not hand on
        reader = csv.reader(noted(lines, record), delimiter=self.separator, strict=strict)
        names = list(self.names) if self.names else None
        started = blank = 0
        while True:
            record.clear()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise BadLine(started + 1, f"its quotes are not closed or misplaced ({error})") from error
            line, started = started + 1, reader.line_num
            if not values and (strict or names is None):  # polars, too, looks for the header below blank lines
                blank = blank or line
                continue
            if names is None:
                names, blank = values, 0
                yield 0, dict.fromkeys(values)
                continue
            if strict and [value.lstrip("\ufeff") for value in values] == names:
                raise BadLine(line, "it repeats the line of column names")
            if strict:
                fault = fault_of(values, "".join(record), len(names))
                if blank or fault:
                    raise BadLine(blank or line, "it is blank" if blank else fault)
            yield line, dict(zip(names, values, strict=False))


def ending(file: Path) -> str:
    """The ending that shows the form, `.gz` and `.zst` aside."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _list(names: list[str]) -> str:
    shown = [name if name.isprintable() else repr(name) for name in names[:20]]
    return ", ".join(shown) + (", ..." if len(names) > 20 else "")
