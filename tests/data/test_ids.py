"""Ids: words for a missing value, signs that nobody sees, and what stays apart."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from logs import ROWS, WHOLE_LOG, original, prepared_of, refuses, stored, table

from seqgen.data.ids import MISSING, alike, coded

FORMS = (".csv", ".jsonl", ".parquet")


def with_word(word: str, place: int) -> list[Any]:
    """The log with a word in the place of an id in the rows 61 and 71, counted from 1."""
    return [(*row[:place], word, *row[place + 1 :]) if k in (60, 70) else row for k, row in enumerate(ROWS)]


WITHOUT = {
    user: [f"i{k % 5}" for k in range(150) if k not in (60, 70) and f"u{k % 7}" == user] for user in sorted(WHOLE_LOG)
}


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize(("place", "role"), [(0, "user"), (1, "item")])
@pytest.mark.parametrize("word", ["NaN", "None", "NULL", r"\N", "NA", " <NA> "])
def test_a_word_for_a_missing_id(
    word: str, place: int, role: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / f"log{ending}", rows=with_word(word, place))
    line = "row 61" if ending == ".parquet" else "line 62" if ending == ".csv" else "line 61"
    expected = f"{path}, {line}: the {role} is {word.strip()!r}, which stands for a missing value"
    refuses(path, tmp_path, expected, "(and in 1 more rows such a word does)", "data.missing_ids to drop or keep.")
    dropped = prepared_of(path, tmp_path, missing_ids="drop")
    assert original(dropped) == WITHOUT
    steps = {step["step"]: step["interactions"] for step in dropped.meta["steps"]}
    assert (steps["raw"], steps["missing ids: dropped"]) == (150, 148)
    assert "missing ids: dropped" in capsys.readouterr().out
    kept = original(prepared_of(path, tmp_path, missing_ids="keep"))
    names = set(kept) if role == "user" else {item for items in kept.values() for item in items}
    assert word.strip() in names


@pytest.mark.parametrize("word", ["", "  ", None])
@pytest.mark.parametrize("ending", FORMS)
def test_an_empty_id_can_be_dropped_but_not_kept(word: Any, ending: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"log{ending}", rows=[(u, "" if i is None else i, t) for u, i, t in with_word(word, 1)])
    for missing in ("refuse", "keep"):
        refuses(path, tmp_path, f"{path}, ", "the item is empty", missing_ids=missing)
    assert original(prepared_of(path, tmp_path, missing_ids="drop")) == WITHOUT


def test_holes_among_whole_numbers_can_be_dropped(tmp_path: Path) -> None:
    holes = pl.Series([None if k in (60, 70) else k % 7 for k in range(150)])
    prepared = prepared_of(table(tmp_path / "log.parquet", who=holes), tmp_path, missing_ids="drop")
    assert original(prepared) == {int(user[1:]): items for user, items in WITHOUT.items()}


def test_numbers_beside_dropped_words_are_numbers() -> None:
    ids = coded(pl.Series(["7", "NaN", "12", "null", "7"]), "drop")
    assert ids.ids.to_list() == [None, 7, 12]
    assert ids.codes.tolist() == [1, 0, 2, 0, 1]
    assert coded(pl.Series(["7", "NaN"]), None).ids.to_list() == ["7", "NaN"]  # a published set is taken as it is


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Int64, pl.Categorical])
@pytest.mark.parametrize("far", [False, True])
def test_codes_are_those_of_the_sorted_ids(monkeypatch: pytest.MonkeyPatch, dtype: Any, far: bool) -> None:
    monkeypatch.setattr("seqgen.data.ids.AT_ONCE", 3)
    low, high = (-128, 127) if dtype == pl.Int8 else (0, 2**64 - 1) if dtype == pl.UInt64 else (-(2**63), 2**63 - 1)
    first = [low, low + 2] if dtype != pl.Categorical else ["b", "a"]
    last = ([high] if far else [low + 1]) if dtype != pl.Categorical else ["c"]
    pieces = [pl.Series([*first, None, *first * 3], dtype=dtype), pl.Series([*last, None], dtype=dtype)]
    ids = coded(pl.concat(pieces, rechunk=False), None)
    assert ids.ids.to_list() == sorted([None, *first, *last], key=lambda x: (x is not None, x or 0))
    values = [*first, None, *first * 3, *last, None]
    assert [ids.ids[code] for code in ids.codes.tolist()] == values


@pytest.mark.parametrize("sign", [" ", "\u00a0", "\t", "\x00", "\u200b", "\u200d", "\u2060", "\ufeff"])
def test_signs_that_nobody_sees_do_not_make_another_user(
    sign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "log.csv", rows=[(u + sign * (k % 2), sign + i, t) for k, (u, i, t) in enumerate(ROWS)])
    assert original(prepared_of(path, tmp_path)) == WHOLE_LOG
    shown = capsys.readouterr().out
    assert "Notice: log: 7 user ids were written with white space around them, NUL" in shown
    assert "7 of them are the same as another user then." in shown
    assert "Notice: log: 5 item ids were written with" in shown
    assert "0 of them are the same as another item then." in shown


def test_categories_are_found_by_the_cleaned_id(tmp_path: Path) -> None:
    rows = [(u, i + " " * (k % 2), t, "kind") for k, (u, i, t) in enumerate(ROWS)]
    columns = {"user": "who", "item": "what", "timestamp": "when", "category": "kind"}
    path = table(tmp_path / "log.csv", ("who", "what", "when", "kind"), rows)
    assert prepared_of(path, tmp_path, columns=columns).items["categories"].to_list() == [["kind"]] * 5


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "1.0", "2"], ["1", "1.0"]),
        (["7", "007", "+7", "8.0", "0x7"], ["7", "007", "+7"]),
        (["Anna", "anna", "Annas"], ["Anna", "anna"]),
        (["caf\u00e9", "cafe\u0301", "cafe"], ["caf\u00e9", "cafe\u0301"]),
        (["1.5", "1.50", "15"], []),
        (["a", "b", None], []),
    ],
)
def test_spellings_of_one_id_are_found(ids: list[Any], expected: list[str]) -> None:
    assert alike(pl.Series(ids, dtype=pl.String)) == expected


def test_spellings_of_one_id_stay_apart_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "log.csv", rows=[(("1", "1.0", "2")[k % 3], i, t) for k, (_, i, t) in enumerate(ROWS)])
    assert sorted(original(prepared_of(path, tmp_path))) == ["1", "1.0", "2"]
    expected = "Notice: log: 2 user ids differ from another one in spelling only ('1', '1.0'); they stay apart."
    assert expected in capsys.readouterr().out
    assert tuple(word.lower() for word in MISSING) == MISSING


@pytest.mark.parametrize("timestamp", [None, "when"])
@pytest.mark.parametrize("at", [9, 120])
def test_a_repeated_header(at: int, timestamp: str | None, tmp_path: Path) -> None:
    lines = [f"{u},{i},{t}".encode() for u, i, t in ROWS]
    head = b"who,what,when"
    path = stored(
        tmp_path / "log.csv", [head, *lines[: at - 2], head, *lines[at - 2 :], b"\xef\xbb\xbf" + head], ".csv"
    )
    columns = {"user": "who", "item": "what", "timestamp": timestamp}
    refuses(path, tmp_path, f"{path}, line {at}: it repeats the line of column names", columns=columns)


def test_a_user_of_the_name_of_a_column_is_no_header(tmp_path: Path) -> None:
    rows = [("who" if u == "u1" else u, i, t) for u, i, t in ROWS]
    assert "who" in original(prepared_of(table(tmp_path / "log.csv", rows=rows), tmp_path))


def test_a_log_without_fault_has_no_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert original(prepared_of(table(tmp_path / "log.csv"), tmp_path)) == WHOLE_LOG
    assert "Notice" not in capsys.readouterr().out
