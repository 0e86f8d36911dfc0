"""Malformed logs, and how seqgen answers each: `refused` in one sentence, or read with a `line` that says so.

`MALFORMED` holds triples (name, write, answer). `write(folder)` writes a log below a folder, which is empty, and gives
the overrides of a run on it: `data=custom`, `data.path`, the columns and what else the case sets. A line begins with
`Notice: `. `benchmarks/reliability.py` counts the answers.
"""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import polars as pl
from backports import zstd
from logs import COLUMNS, ROWS, START, lines_of, packed, stored, table

Write = Callable[[Path], list[str]]
Answer = Literal["refused", "line"]
MALFORMED: list[tuple[str, Write, Answer]] = []
TEXT = b"\n".join(lines_of(".csv")) + b"\n"


def overrides(path: Path, **settings: Any) -> list[str]:
    """Those of a run on a log; `timestamp=null` leaves its times out."""
    columns = {f"data.columns.{role}": column for role, column in COLUMNS.items()}
    columns |= {f"data.columns.{role}": settings.pop(role) for role in ("timestamp", "rating") if role in settings}
    given = [f"{key}={value}" for key, value in columns.items()]
    minima = ["data.min_user_interactions=3", "data.min_item_interactions=1"]
    return ["data=custom", f"data.path='{path}'", *given, *minima, *(f"data.{key}={v}" for key, v in settings.items())]


def add(name: str, answer: Answer, write: Write) -> None:
    MALFORMED.append((name, write, answer))


def changed(name: str, answer: Answer, change: Callable[[int, tuple[str, str, Any]], Any], **settings: Any) -> None:
    """A case whose rows are changed one by one, by their number."""
    ending = settings.pop("ending", ".csv")

    def write(folder: Path) -> list[str]:
        rows = [change(k, row) for k, row in enumerate(ROWS)]
        return overrides(table(folder / f"log{ending}", rows=rows), **settings)

    add(name, answer, write)


def with_line(name: str, line: str, *, at: int = 120, ending: str = ".csv", **settings: Any) -> None:
    """A case with one bad line more, which is refused."""

    def write(folder: Path) -> list[str]:
        lines = lines_of(ending)
        lines.insert(at, line.encode("utf-8", "surrogateescape"))
        return overrides(stored(folder / f"log{ending}", lines, ending), **settings)

    add(name, "refused", write)


def content(name: str, data: bytes, answer: Answer = "refused", *, file: str = "log.csv", **settings: Any) -> None:
    """A case of one file with this content."""

    def write(folder: Path) -> list[str]:
        (folder / file).write_bytes(data)
        return overrides(folder / file, **settings)

    add(name, answer, write)


def parts(name: str, answer: Answer, files: dict[str, bytes], **settings: Any) -> None:
    """A case of a folder of files."""

    def write(folder: Path) -> list[str]:
        for file, data in files.items():
            (folder / "log" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "log" / file).write_bytes(data)
        return overrides(folder / "log", **settings)

    add(name, answer, write)


def times(name: str, answer: Answer, of: Callable[[int], Any], *, ending: str = ".csv", **settings: Any) -> None:
    """A case of other timestamps, by the number of the row."""
    changed(name, answer, lambda k, row: (row[0], row[1], of(k)), ending=ending, **settings)


def some(place: int, word: str) -> Callable[[int, tuple[str, str, Any]], Any]:
    """Some rows with a word in one place."""
    return lambda k, row: (*row[:place], word, *row[place + 1 :]) if k % 9 == 4 else row


for word in ("NaN", "None", "null", r"\N", "NA", "<NA>", "N/A", "   "):
    changed(f"{word!r} as user", "refused", some(0, word))
    changed(f"{word!r} as item", "refused", some(1, word))
changed("None as user in JSON", "refused", some(0, "None"), ending=".jsonl")
changed("nan as item in parquet", "refused", some(1, "nan"), ending=".parquet")
changed("a space after some users", "line", some(0, "u1 "))
changed("NUL in some users", "line", some(0, "u\x001"))
changed("a zero-width space in some users", "line", some(0, "u\u200b1"))
changed("a byte order mark in some items", "line", some(1, "\ufeffi1"))
changed("1 and 1.0 as users", "line", lambda k, row: (f"{k % 7}{'.0' * (k % 2)}", *row[1:]))
changed("A and a as users", "line", lambda k, row: (row[0].upper() if k % 2 else row[0], *row[1:]))

with_line("header in the middle", "who,what,when")
with_line("header among the first lines", "who,what,when", at=9)
with_line("header in the middle, without times", "who,what,when", timestamp="null")
with_line("too few values", "u1")
with_line("too many values", "u1,i1,1,9")
with_line("unclosed quote", 'u1,"i1,1600000000')
with_line("text after a quote", 'u1,"i1"x,1600000000')
with_line("not UTF-8", "u1,caf\udce9,1600000000")
with_line("blank line", "")
with_line("no user", ",i1,1600000000")
with_line("no item", "u1,,1600000000")
with_line("no timestamp", "u1,i1,")
with_line("quoted nothing as user", '"",i1,1600000000')
with_line("negative time", "u1,i1,-5")
with_line("word as time", "u1,i1,yesterday")
with_line("date among numbers", "u1,i1,2024-01-01")
with_line("nan as time", "u1,i1,nan")
with_line("infinite time", "u1,i1,-inf")
with_line("time past 64 bits", "u1,i1,99999999999999999999999")
with_line("milliseconds among seconds", "u1,i1,1600000000000")
with_line("JSON cut off", '{"who": "u1", "what": "i', ending=".jsonl")
with_line("JSON list", "[1, 2, 3]", ending=".jsonl")
with_line("JSON list as item", '{"who": "u1", "what": ["i1"], "when": 1600000000}', ending=".jsonl")
with_line("JSON null as user", '{"who": null, "what": "i1", "when": 1600000000}', ending=".jsonl")
with_line("JSON NaN", '{"who": "u1", "what": "i1", "when": NaN}', ending=".jsonl")

times("day or month", "refused", lambda k: f"{1 + k % 12:02d}/{1 + k // 13:02d}/2024")
times("month before day", "refused", lambda k: f"{1 + k % 12:02d}/{1 + k % 28:02d}/2024")
times("YYYYMMDDHH", "refused", lambda k: f"202401{1 + k % 28:02d}{k % 24:02d}")
times("YYYYMMDDHHMM", "refused", lambda k: f"202401{1 + k % 28:02d}{k % 24:02d}{k % 60:02d}")
times("YYYYMMDDHHMMSS", "refused", lambda k: f"202401{1 + k % 28:02d}{k % 24:02d}{k % 60:02d}00")
times("a zone in letters", "refused", lambda k: f"2023-11-14 22:{k % 60:02d}:20 UTC")
times("a zone in a format", "refused", lambda k: f"2023-11-14 {k % 24:02d}:00 CET", date_format="'%Y-%m-%d %H:%M %Z'")
times("not of the format", "refused", lambda k: f"2023-11-{1 + k % 30}", date_format="'%d.%m.%Y'")
times("time without a day", "refused", lambda k: f"13:45:{k % 60:02d}")
times("past the year 2100", "refused", lambda k: START * 10**10 + k)
times("too coarse a unit", "refused", lambda k: START * 1000 + k, time_unit="s")
times("a unit of dates", "refused", lambda k: "2020-01-01", time_unit="s")
times("32-bit floats as text", "line", lambda k: float((START // 128 + 3 * k) * 128))


def float32(folder: Path) -> list[str]:
    return overrides(table(folder / "log.parquet", when=pl.col("when").cast(pl.Float32)))


add("32-bit floats in parquet", "line", float32)

content("empty", b"")
content("header only", b"who,what,when\n")
content("another kind of file", b"PK\x03\x04" + bytes(range(256)))
content("parquet by name only", TEXT, file="log.parquet")
content("cut-off gz", gzip.compress(TEXT)[:-30], file="log.csv.gz")
content("damaged gz", gzip.compress(TEXT)[:-7] + b"\x00" + gzip.compress(TEXT)[-6:], file="log.csv.gz")
content("cut-off zst", packed(".zst", TEXT)[:-30], file="log.csv.zst")
content("gz that unpacks to a thousand times its size", zlib.compress(bytes(10**7), wbits=31), file="log.csv.gz")
content("zst that unpacks to a thousand times its size", zstd.compress(bytes(10**7)), file="log.csv.zst")
content("semicolons", TEXT.replace(b",", b";"))
content("Latin-1", TEXT.replace(b"i1", b"caf\xe9"))
content("not of its encoding", TEXT.replace(b"i1", b"caf\xe9"), encoding="ascii")
content("UTF-16", TEXT.decode().encode("utf-16"))
content("lines of an old Mac", TEXT.replace(b"\n", b"\r"))
content("a column twice", TEXT.replace(b"who,what,when", b"who,what,what"))
content("another column", TEXT.replace(b"who", b"whom"))
content("spaces in the header", TEXT.replace(b"who,what", b"who, what"))
content("an unknown ending", TEXT, file="log.xlsx")

HALVES = {f"part{n}.csv": b"\n".join(lines_of(".csv", ROWS[a:b])) for n, a, b in ((3, 0, 75), (10, 75, 150))}
parts("a hidden file", "line", {**HALVES, ".part3.csv": TEXT})
parts("notes of Spark", "line", {**HALVES, "_SUCCESS": b"", "_part.csv": TEXT})
parts("a folder of macOS", "line", {**HALVES, "__MACOSX/._part3.csv": b"\x00\x05"})
parts("the same part twice", "line", {**HALVES, "part3 (1).csv": HALVES["part3.csv"]})
parts("a part and its gz", "refused", {**HALVES, "part3.csv.gz": gzip.compress(HALVES["part3.csv"])})
NUMBERED = TEXT.replace(b"u", b"")
parts("1 and 1.0 between parts", "line", {"a.csv": NUMBERED, "b.csv": NUMBERED.replace(b"\n1,", b"\n1.0,")})
parts("parts of two kinds", "refused", {**HALVES, "part11.jsonl": b"{}"})
parts("a part with other columns", "refused", {**HALVES, "part11.csv": TEXT.replace(b"when", b"at")})
parts("a part without rows", "refused", {**HALVES, "part11.csv": b"who,what,when\n"})
parts("hidden files only", "refused", {".part3.csv": TEXT})
