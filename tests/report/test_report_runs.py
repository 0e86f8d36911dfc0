"""Which runs are found, and what is said of those that stand in no row."""

import json

import pytest
from run_folders import sentence_of, write_run, write_two_runs

from seqgen.report import report
from seqgen.report.__main__ import main


@pytest.fixture
def two_runs(tmp_path):
    return write_two_runs(tmp_path)


def test_a_run_found_twice_counts_once(tmp_path, capsys):
    write_run(tmp_path / "0", run_id="r", metrics={"test/mrr": 0.7}, mtime=2000)
    write_run(tmp_path / "1", run_id="r", metrics={"test/mrr": 0.1}, mtime=1000)
    write_run(tmp_path / "2", run_id="r", seed=2, metrics={"test/mrr": 0.5})
    write_run(tmp_path / "3", run_id="s", seed=2, config={"tags": ["x"]}, metrics={"test/mrr": 0.3}, mtime=500)
    notes = []
    row = report([tmp_path], notes=notes).row(0, named=True)
    assert (row["seeds"], row["test/mrr"]) == (2, pytest.approx(0.6))
    assert notes == [
        f"not in the table: {tmp_path / '1'} is the same run as {tmp_path / '0'}, which is newer",
        f"not in the table: {tmp_path / '3'} is the same run as {tmp_path / '2'}, which is newer",
    ]
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-2:] == notes


def test_unfinished_runs_are_listed_below_the_table(tmp_path, capsys):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", status="running", metrics={"test/mrr": 1})
    write_run(tmp_path / "2", status="failed", error="optimizer.lr=0 is not positive")
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "results.json").write_text('{"status": "stopped"}')
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines == [
        f"not in the table: {tmp_path / '1'}, running on None, or dead",
        f"not in the table: {tmp_path / '2'}, failed (optimizer.lr=0 is not positive)",
        f"not in the table: {tmp_path / '3'}, stopped (no error)",
    ]


def test_folders_without_a_finished_run_are_refused(tmp_path):
    assert sentence_of(tmp_path / "no") == f"there is no folder {tmp_path / 'no'}"
    assert sentence_of(tmp_path) == f"no finished run under {tmp_path}"
    write_run(tmp_path / "0", status="failed", error="no data")
    assert sentence_of(tmp_path).endswith(f"; not in the table: {tmp_path / '0'}, failed (no data)")


@pytest.mark.parametrize("text", ['{"status": "fini', "[]", '{"status": "finished"}', "", '"text"'])
def test_a_broken_results_file_is_named_and_left_out(two_runs, text):
    (two_runs / "1" / "results.json").write_text(text)
    notes = []
    assert report([two_runs], notes=notes).height == 1
    assert [note.partition(" (")[0] for note in notes] == [
        f"not in the table: {two_runs / '1' / 'results.json'} is broken"
    ]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"test": False}, "not tested"),
        ({"trainer": {"fast_dev_run": True}}, "not tested"),
        ({"trainer": {"limit_test_batches": 2}}, "tested on a part of the users"),
    ],
)
def test_runs_without_a_whole_test_are_left_out(two_runs, config, told):
    file = two_runs / "1" / "results.json"
    results = json.loads(file.read_text())
    file.write_text(json.dumps(results | {"config": results["config"] | config}))
    notes = []
    assert report([two_runs], notes=notes).height == 1
    assert notes == [f"not in the table: {two_runs / '1'}, {told}"]
