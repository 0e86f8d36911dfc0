"""What a run says while it trains."""

import math
import os
import pty
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from commands import command_here, start
from conftest import QUIET, ROOT, TINY

from seqgen.progress import epoch_line
from seqgen.results import duration

SPEAKING = ("model=sasrec", "trainer.enable_progress_bar=true", "trainer.accelerator=cpu")
LINE = re.compile(r"epoch (\d)/(\d)  loss (\d\.\d+)  val/ndcg@10 (0\.\d{4})  best (0\.\d{4}) \((\d)\)(.*)")


def test_a_log_has_a_line_per_epoch_and_no_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = start(tmp_path, *SPEAKING, "trainer.max_epochs=3")
    out = capsys.readouterr().out
    lines = [match.groups() for match in map(LINE.fullmatch, out.splitlines()) if match]
    values = [entry["val/ndcg@10"] for entry in results["history"]]
    assert [line[:2] for line in lines] == [("0", "2"), ("1", "2"), ("2", "2")]
    assert [line[3] for line in lines] == [f"{value:.4f}" for value in values]
    assert [line[4] for line in lines] == [f"{max(values[: n + 1]):.4f}" for n in range(3)]
    assert int(lines[-1][5]) == results["best_epoch"]
    assert [bool(re.fullmatch(r"  at most \d+s left", line[6])) for line in lines] == [True, True, False]
    assert "━" not in out.partition("epoch 0")[2].partition("epoch 2")[0]


def test_one_switch_silences_lines_and_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path, *SPEAKING, "trainer.max_epochs=1", "trainer.enable_progress_bar=false")
    assert "epoch 0" not in capsys.readouterr().out


def test_the_time_left_is_an_upper_bound_only_where_something_may_stop_earlier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "all", *SPEAKING, "trainer.max_epochs=2", "callbacks=checkpoints")
    assert re.search(r"epoch 0/1 .*\(0\)  \d+s left\n", capsys.readouterr().out)
    patience = ("callbacks.early_stopping.patience=1", "optimizer.lr=1e-12")  # no epoch brings a gain
    results = start(tmp_path / "stopped", *SPEAKING, "trainer.max_epochs=9", *patience)
    assert results["epochs"] == 2
    said = capsys.readouterr().out
    assert re.search(r"epoch 1/8 .*\nstopped early: no gain in val/ndcg@10 in 1 validations\n", said)


def test_run_log_holds_the_lines_and_the_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqgen.model.sasrec import SASRec

    monkeypatch.setattr(SASRec, "on_train_start", lambda _: warnings.warn("look at this", stacklevel=2))
    arguments = [*TINY, *QUIET, *SPEAKING, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}"]
    shown = command_here("seqgen.run", *arguments, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    log = (tmp_path / "run.log").read_text()
    assert re.search(r"\[INFO\] - epoch 0/1 .*\n.*\[INFO\] - epoch 1/1 ", log)
    assert re.search(r"\[WARNING\] - .*look at this\n", log)
    assert shown.stdout.count("epoch 1/1") == 1
    assert shown.stderr.count("look at this") == 1


def entries(*values: float | None) -> list[dict[str, Any]]:
    more = [{} if value is None else {"val/mrr": value} for value in values]
    return [{"epoch": epoch, "train/loss": 1.0} | found for epoch, found in enumerate(more)]


def test_the_line_names_the_first_of_equal_bests_and_skips_what_is_nan() -> None:
    assert epoch_line(entries(0.5, 0.5, 0.25), "val/mrr", 120).endswith("  val/mrr 0.2500  best 0.5000 (0)")
    assert epoch_line(entries(math.nan, 0.5), "val/mrr", 120).endswith("  best 0.5000 (1)")
    assert epoch_line(entries(math.nan), "val/mrr", 120) == "epoch   0/119  loss 1.000  val/mrr nan"
    assert epoch_line(entries(0.5, None), "val/mrr", 120) == "epoch   1/119  loss 1.000  best 0.5000 (0)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m"), (3500, "58m"), (3599, "1h00m"), (7500, "2h05m"), (273600, "3d04h")],
)
def test_durations_read_easily(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.slow
def test_a_terminal_has_the_lines_and_a_bar_with_the_monitored_metric(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = [*TINY, *QUIET, *SPEAKING, "trainer.max_epochs=2", "test=false", f"hydra.run.dir={tmp_path}"]
    run = subprocess.Popen([sys.executable, "-m", "seqgen.run", *arguments], cwd=ROOT, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert run.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"epoch 0/1  loss .*  best 0\.\d{4} \(0\)  at most 0s left", text)
    assert re.search(r"Epoch 1/1 .*loss: \d\.\d+\s+val/ndcg@10: 0\.\d+", text)
