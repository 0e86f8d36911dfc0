"""Tables of a comparison in Markdown and LaTeX, and what the signs mean."""

import json
import shutil
import subprocess

import pytest
from run_folders import write_run

from seqgen.report import compute
from seqgen.report.__main__ import main
from seqgen.report.tables import caption, details, latex, markdown


@pytest.fixture
def comparison(tmp_path):
    for name, rank, value in (("a_b", 5, 0.1), ("best", 1, 1.0), ("near", 1, 0.9)):
        ranks = [rank] * 30 if name != "near" else [2] + [1] * 29
        config = {"model": {"name": name}}
        write_run(tmp_path / name, choices={"model": name}, config=config, ranks=ranks, metrics={"test/ndcg@10": value})
    write_run(tmp_path / "failed", status="failed", error="no | data")
    return compute([tmp_path], samples=500)


def test_markdown_marks_the_best_and_what_is_not_worse(comparison):
    lines = markdown(comparison).splitlines()
    header, rule, *rows = lines[:5]
    assert header.startswith("| model / attention / data | seeds | ndcg@10 | Δ ndcg@10 | p (Holm) |")
    assert {line.count(" | ") for line in (header, rule, *rows)} == {header.count(" | ")}
    assert [row.split(" | ")[2] for row in rows] == ["0.1000", "**1.0000**", "_0.9000_"]
    assert "- not in the table: " in "\n".join(lines)
    assert "**Cost, mean over seeds (train_epoch: median epoch)**" in lines


def test_latex_is_a_tabular_that_compiles_where_there_is_a_compiler(comparison, tmp_path):
    text = latex(comparison)
    assert r"a\_b / softmax / ml1m & 1 & 0.1000 & baseline" in text
    assert r"\textbf{1.0000}" in text
    assert r"\underline{0.9000}" in text
    assert text.count(r"\\") == 4
    assert all(line.startswith("%") for line in text.split(r"\end{tabular}")[1].splitlines() if line)
    if shutil.which("pdflatex"):
        page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "page.tex").write_text(page)
        subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_the_caption_says_what_is_there_and_nothing_else(comparison, tmp_path):
    assert "Best: of its data set" in caption(comparison)
    assert "One seed a row" in caption(comparison)
    write_run(tmp_path / "alone/0", metrics={"test/mrr": 0.5})
    alone = caption(compute([tmp_path / "alone"]))
    assert not any(word in alone for word in ("Best", "seed a row", "Pareto", "Published"))


def test_details_hold_every_row(comparison):
    (title, header, rows), *_ = details(comparison)
    assert title.startswith("Cost")
    assert header == ["model / attention / data", "parameters", "train_s"]
    assert [row[1:] for row in rows] == [["100", "0.0"]] * 3


def test_the_command_writes_files_and_prints_details(comparison, tmp_path, capsys):
    files = {name: tmp_path / f"table.{name}" for name in ("csv", "markdown", "latex")}
    options = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    main([str(tmp_path), "--samples", "500", "--details", *options])
    assert files["markdown"].read_text() == markdown(comparison)
    assert files["latex"].read_text() == latex(comparison)
    assert files["csv"].read_text().count("\n") == 4
    assert "Cost, mean over seeds" in capsys.readouterr().out


def test_published_numbers_stand_in_a_block_with_their_protocol(tmp_path, capsys):
    data = {"split": "leave_one_out", "mask_seen": True, "min_user_interactions": 5, "min_item_interactions": 5}
    choices = {"model": "sasrec", "attention": "softmax", "loss": "ce", "data": "beauty"}
    folder = write_run(tmp_path / "0", choices=choices, config={"data": data}, metrics={"test/ndcg@10": 0.05})
    assert json.loads((folder / "results.json").read_text())["choices"]["data"] == "beauty"
    main([str(tmp_path), "--details"])
    out = capsys.readouterr().out
    assert "published" in out
    assert "test/ndcg@10 as others report it under the same protocol" in out
    line = next(line for line in out.splitlines() if "SASRec+" in line and "ndcg" in line)
    assert "monkey0head/time-to-split" in line
    assert "sasrec / softmax / beauty" in line
