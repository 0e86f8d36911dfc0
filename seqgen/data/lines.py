"""The lines of a text file, read by plain Python, and what can be wrong with one of them."""

import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backports import zstd

from seqgen.errors import UserError

KINDS = ("whole numbers", "whole numbers past 64 bits", "numbers", "text")
WHOLE, LARGE, NUMBER, TEXT = range(4)
NOT_TEXT = "it is not UTF-8 text"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
INFLATED = 200  # times its size, to which no log unpacks
DAMAGED = (EOFError, zlib.error, zstd.ZstdError)  # raised by an archive that is not whole
LOOKED_AT = 2**16  # bytes of an archive that show how far it unpacks


class BadLine(Exception):
    """Line number and what is wrong with the line."""


def literal(file: Path) -> str:
    """A path that polars takes for no pattern."""
    return glob.escape(str(file))


def decoded(file: Path, encoding: str) -> str:
    """The whole text of a file, unpacked, in another encoding than UTF-8.

    Raises:
        UserError: It is not of that encoding.
    """
    try:
        with _opened(file) as stream:
            return stream.read().decode(encoding)
    except UnicodeError as error:
        reason = f"byte {error.start}: {error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(f"{file} is not {encoding} text ({reason}); state its own data.encoding.") from error


def lines_of(file: Path, encoding: str | None = None) -> Iterator[str]:
    """The lines of a text file, unpacked, with their ends; bytes that are not UTF-8 as lone surrogates."""
    if encoding is not None:
        yield from io.StringIO(decoded(file, encoding), newline="\n")
        return
    with _opened(file) as stream:
        for line in stream:
            yield line.decode("utf-8", "surrogateescape")


def _opened(file: Path) -> io.BufferedIOBase:
    """The bytes of a file, unpacked, whatever its name says."""
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic == ZSTD:
        return zstd.open(file)
    return gzip.open(file) if magic[:2] == GZIP else file.open("rb")


def refuse_inflated(file: Path) -> None:
    """Refuse an archive whose beginning unpacks to far more than any log, before it fills the memory.

    Raises:
        UserError: It does.
    """
    with file.open("rb") as stream:
        head = stream.read(LOOKED_AT)
    limit = INFLATED * len(head)
    try:
        if head[:2] == GZIP:
            size = len(zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, limit))
        elif head[:4] == ZSTD:
            size = len(zstd.ZstdDecompressor().decompress(head, limit))
        else:
            return
    except (zlib.error, zstd.ZstdError):  # reported with its place once the file is read
        return
    if size >= limit:
        raise UserError(f"{file} unpacks to more than {INFLATED} times its size, as no log does; unpack it, and look.")


def noted(lines: Iterator[str], record: list[str]) -> Iterator[str]:
    """The same lines, each added to `record` as it is read."""
    for line in lines:
        record.append(line)
        yield line


def fault_of(values: list[str], text: str, count: int) -> str | None:
    """What is wrong with a row of a separated file."""
    if undecoded(text):
        return NOT_TEXT
    if any('"' in value and value.replace('"', '""') not in text for value in values):
        return "its quotes are not closed or misplaced (one stands inside a value that is not quoted)"
    if len(values) != count:
        return f"it has {len(values)} values instead of {count}"
    return None


def undecoded(text: str) -> bool:
    """Whether bytes of a text were not UTF-8."""
    return any("\udc80" <= sign <= "\udcff" for sign in text)


def json_row(number: int, line: str, *, strict: bool) -> dict[str, Any]:
    """The object that a line holds; without `strict`, nothing where it holds none.

    Raises:
        BadLine: It holds none.
    """
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        if not strict:
            return {}
        why = f"{error.msg}, character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadLine(number, f"it is not JSON of one line ({why})") from error
    if strict and undecoded(line):
        raise BadLine(number, NOT_TEXT)
    if strict and not isinstance(row, dict):
        raise BadLine(number, "it is not a JSON object with a value for each column")
    return row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def kind_of(value: Any, *, quoted: bool) -> int:
    """Index into KINDS; a text counts as the number it spells only where the form does not quote texts."""
    if isinstance(value, str):
        if quoted or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
            return TEXT
        if not re.fullmatch(r"[+-]?\d+", value):
            return NUMBER
    elif isinstance(value, float):
        return NUMBER
    return WHOLE if -(2**63) <= float(str(value)) < 2**63 else LARGE
