"""A bad line is reported by file and line, in one sentence, and nothing is left half written."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from logs import EARLY, HEAD, JSON_LINES, LATE, ROWS, SEPARATED, START, lines_of, refuses, stored

# Of a line `{s}` stands between the values; the same words are asked for wherever the line stands.
BAD_LINES = {
    "too few values": ("u1{s}i1", "the timestamp is empty"),
    "too many values": ("u1{s}i1{s}1{s}9", "it has 4 values instead of 3; correct or remove the line"),
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
    "list": ("[1, 2, 3]", "it is not a JSON object"),
    "number": ("5", "it is not a JSON object"),
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
    "NaN": (TIMED.format("NaN"), "it is not JSON of one line (NaN is not a number of JSON)"),
    "past 64 bits": (TIMED.format("9" * 25), "the timestamp is"),
    "milliseconds among seconds": (TIMED.format("1600000000000"), "1600000000000 at"),
}


def bad_lines() -> Iterator[Any]:
    """Pairwise: each fault in each form of file; over its forms a fault stands early and late, alone and in the second
    of two files, and so does a form over its faults, in all four combinations.
    """
    for endings, faults in ((SEPARATED, BAD_LINES), (JSON_LINES, BAD_OBJECTS)):
        for (e, ending), (f, (fault, (line, expected))) in product(enumerate(endings), enumerate(faults.items())):
            at, second = (EARLY, LATE)[(e + f) % 2], (e // 2 + f // 2) % 2 == 1
            line = line.replace("{s}", "\t" if ending == ".tsv" else ",")
            name = f"{fault}, line {at}{', second file' * second}, {ending}"
            yield pytest.param(ending, line, expected, at, second, id=name)


@pytest.mark.parametrize(("ending", "line", "expected", "at", "second"), list(bad_lines()))
def test_a_bad_line_is_reported_with_its_number(
    ending: str, line: str, expected: str, at: int, second: bool, tmp_path: Path
) -> None:
    lines = lines_of(ending)
    lines.insert(at - 1, line.encode("utf-8", "surrogateescape"))
    bad = stored(tmp_path / f"log/b{ending}", lines, ending)
    if second:
        stored(tmp_path / f"log/a{ending}", lines_of(ending), ending)
    refuses(bad.parent if second else bad, tmp_path, f"{bad}, line {at}", expected)


QUOTED = [(u, f'{i}, "x"\nnext' if k % 3 else i, t) for k, (u, i, t) in enumerate(ROWS)]


@pytest.mark.parametrize("head", [b"", b"\n", b"\n\n", b"\xef\xbb\xbf"], ids=["", "blank", "two blank", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("rows", [5, 130])
@pytest.mark.parametrize(
    ("line", "expected"), [("u1,i1,5,6", "4 values"), ("u1,i1,-5", "-5"), ("u1,,5", "item"), ("u1,i1,soon", "soon")]
)
def test_lines_are_counted_through_quoted_ones(
    line: str, expected: str, rows: int, end: bytes, head: bytes, tmp_path: Path
) -> None:
    def spelled(part: Any) -> bytes:
        return pl.DataFrame(part, schema=HEAD, orient="row").write_csv(include_header=False).encode()

    before = head + b"who,what,when\n" + spelled(QUOTED[:rows])
    path = tmp_path / "log.csv"
    path.write_bytes((before + line.encode() + b"\n" + spelled(QUOTED[rows:])).replace(b"\n", end))
    number = before.count(b"\n") + 1
    refuses(path, tmp_path, f"{path}, line {number}: ", expected)
