"""Settings that leave nothing or do not fit the log, from Python and on the command line: one sentence by their key."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import command_here
from conftest import QUIET
from logs import COLUMNS, HEAD, ROWS, assert_one_sentence, left, lines_of, packed, refuses, stored, table

from seqgen import config
from seqgen.errors import UserError


def run_on(path: Path, tmp_path: Path, *overrides: str) -> None:
    from seqgen.run import run

    named = [f"data.columns.{role}={column}" for role, column in COLUMNS.items()]
    minima = ["data.min_user_interactions=3", "data.min_item_interactions=1"]
    least = ["model=popularity", "data=custom", f"data.path={path}", f"paths.cache_dir={tmp_path}/cache", *minima]
    run(config.compose([*least, *named, *QUIET, *overrides], output_dir=tmp_path / "run"))


TIMELY = "data.split=global_time"


@pytest.mark.parametrize(
    ("overrides", "expected", "prepared"),
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
def test_settings_of_a_run(overrides: list[str], expected: str, prepared: int, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    with pytest.raises(UserError) as caught:
        run_on(path, tmp_path, *overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    found = left(tmp_path / "cache")
    assert len(found) == prepared
    assert all((tmp_path / "cache" / name / "meta.json").is_file() for name in found)
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "failed"


def test_one_item_only(tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv", rows=[(u, "i", t) for u, _, t in ROWS])
    refuses(path, tmp_path, "log: one item only is left after filtering", "; lower data.min_item_interactions")


def command_cases(tmp_path: Path) -> Iterator[tuple[Path, list[str], str]]:
    lines = lines_of(".csv.gz")
    bad = stored(tmp_path / "bad.csv.gz", [*lines[:130], b"u1,i1,1,9", *lines[130:]], ".csv.gz")
    yield bad, [], f"{bad}, line 131: it has 4 values instead of 3; correct or remove the line."
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(packed(".gz", b"\n".join(lines_of(".jsonl")))[:-30])
    yield cut, [], f"{cut} is damaged or cut off"
    other, good = table(tmp_path / "other.parquet", ("whom", *HEAD[1:])), table(tmp_path / "good.csv")
    yield other, [], f"data.columns.user=who is no column of {other}; did you mean whom."
    minima = "good: no interaction is left after filtering (data.min_user"
    yield good, ["data.min_user_interactions=99"], minima
    items = ["data.time_unit=us", "data.min_item_interactions=99"]
    yield good, items, "data.min_item_interactions=99, 150 before)"


def test_the_command_line(tmp_path: Path) -> None:
    named = [f"data.columns.{role}={column}" for role, column in COLUMNS.items()]
    for number, (path, overrides, expected) in enumerate(command_cases(tmp_path)):
        line = ["model=popularity", "data=custom", f"data.path={path}", *named, *QUIET, *overrides]
        folders = [f"paths.cache_dir={tmp_path}/cache-{number}", f"hydra.run.dir={tmp_path}/run-{number}"]
        shown = command_here("seqgen.run", *line, *folders, cwd=tmp_path)
        assert shown.returncode == 1
        assert shown.stderr.startswith("seqgen: ")
        assert shown.stderr.count("\n") == 1
        assert_one_sentence(shown.stderr.rstrip("\n"), expected)
        assert left(tmp_path / f"cache-{number}") == []
        assert json.loads((tmp_path / f"run-{number}/results.json").read_text())["status"] == "failed"
