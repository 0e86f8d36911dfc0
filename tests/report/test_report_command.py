"""The command: tables on a terminal and in files, and refusals in one sentence."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from run_folders import MODEL_A, MODEL_B, write_run, write_two_runs

from seqgen.errors import UserError
from seqgen.report import report
from seqgen.report.__main__ import main


@pytest.fixture
def two_runs(tmp_path):
    return write_two_runs(tmp_path)


def test_the_table_fits_a_terminal_of_80_columns(two_runs, capsys, monkeypatch):
    file = two_runs / "0" / "results.json"
    names = [f"test/{name}@10" for name in ("hr", "ndcg", "coverage", "novelty", "popularity", "category_coverage")]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"metrics": dict.fromkeys(names, 0.123456)}))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    main([str(two_runs), "--metrics", ",".join(names), "--samples", "9"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for name in [name.removeprefix("test/") for name in names]:
        assert out.count(f"┃ {name} ") == 1  # whole, once
    assert out.count("a / softmax / ml1m ") == out.count("b / softmax / ml1m ") == out.count("┏━") >= 2


def test_table_and_csv(tmp_path, capsys):
    third = 1 / 3
    for seed, hit in ((1, third), (2, 0.5)):
        metrics = {"test/hr@10": hit, "test/hr@1": 0.9}
        write_run(tmp_path / f"a{seed}", **MODEL_A, seed=seed, ranks=[2, 2, 9], metrics=metrics)
    write_run(
        tmp_path / "b",
        **MODEL_B,
        ranks=[1, 1, 1],
        metrics={"test/hr@10": 0.25},
        timing={"train_epoch_s": [1.5]},
    )
    write_run(tmp_path / "c", choices={"model": "[c]"}, ranks=[2, 2, 1], config={"m": "c"})
    file = tmp_path / "table.csv"
    main([str(tmp_path), "--csv", str(file), "--compare", "test/hr@1", "--samples", "77", "--seed", "4"])
    out = capsys.readouterr().out
    rows = {
        cells[0]: cells for cells in ([c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines()) if cells
    }
    assert rows["a / softmax / ml1m"][:5] == ["a / softmax / ml1m", "2", "0.4167 ± 0.1179", "-", "baseline"]
    # 2 / 78 is below 0.05, twice that is not: one star.
    told = ["b / softmax / ml1m", "1", "0.2500", "1.50", "+1.0000 [+1.0000, +1.0000] *", "0.0513", "best"]
    assert rows["b / softmax / ml1m"][:7] == told
    assert rows["[c] / softmax / ml1m"][4] == "+0.3333 [+0.0000, +1.0000]"
    caption = " ".join(out.split())
    for part in (
        "±: sample standard deviation",
        "* excludes 0",
        "test/hr@1 to the baseline",
        "77 samples",
        "Baseline: a / softmax / ml1m.",
    ):
        assert part in caption
    header = "data,model,attention,label,seeds,test/hr@10,test/hr@10 std,train_epoch_s,train_epoch_s std,"
    assert file.read_text().splitlines()[0].startswith(header + "difference,low,high,baseline,p,p_holm,best,")
    expected = report([tmp_path], compare="test/hr@1", samples=77, seed=4)
    frame = pl.read_csv(file, schema=expected.schema)
    assert frame["test/hr@10"].to_list() == [(third + 0.5) / 2, 0.25, None]
    assert frame["test/hr@10 std"][0] == np.std([third, 0.5], ddof=1)
    assert frame.equals(expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--metrics", "test/ndgc@10"], "unknown metric test/ndgc@10; did you mean test/ndcg@10"),
        (["--metrics", "ndgc@10"], "unknown metric ndgc@10; did you mean test/ndcg@10"),
        (
            ["--compare", "test/coverage@10"],
            "cannot compare test/coverage@10: use test/ndcg@K, test/hr@K or test/mrr",
        ),
        (["--compare", "val/ndcg@10"], "cannot compare val/ndcg@10: use test/ndcg@K, test/hr@K or test/mrr"),
        (["--compare", "test/hr@0"], "cannot compare test/hr@0: use test/ndcg@K, test/hr@K or test/mrr"),
        (["--baseline", "b/sofmax"], "unknown baseline b/sofmax; did you mean b/softmax"),
        (["--samples", "0"], "samples=0 must be at least 1 and seed=0 at least 0"),
        (["--seed", "-1"], "samples=10000 must be at least 1 and seed=-1 at least 0"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(two_runs, capsys, monkeypatch, options, sentence):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stop:
        main([str(two_runs), *options])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"seqgen.report: {sentence}\n")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError):
        main([str(two_runs), *options])


def test_an_unwritable_csv_is_refused(two_runs, capsys):
    with pytest.raises(SystemExit):
        main([str(two_runs), "--csv", str(two_runs / "no" / "table.csv")])
    assert "table.csv" in capsys.readouterr().err


def test_the_command_imports_no_torch_and_cuts_no_column(two_runs):
    code = "import sys, seqgen.report.__main__ as r; r.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    names = [f"test/a_metric_with_a_long_name@{k}" for k in range(9)]
    file = two_runs / "0" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"metrics": dict.fromkeys(names, 0.123456)}))
    command = [sys.executable, "-c", code, str(two_runs), "--metrics", ",".join(names), "--samples", "9"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=True)
    header = next(line for line in done.stdout.splitlines() if "seeds" in line)
    assert [name for name in names if f" {name.removeprefix('test/')} " not in header] == []
    assert done.stdout.count("0.1235") == 9
