"""What a sweep shows: the time left in parallel places, a line per job, and the display of a terminal."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seqgen.sweeps.jobs import LOG, Job, Outcome
from seqgen.sweeps.view import SweepView, Tally, time_left

X = "val/x"


@pytest.mark.parametrize(
    ("ended", "running", "waiting", "slots", "seconds"),
    [
        ([], [3.0], 4, 2, None),
        ([10.0], [], 4, 1, 40.0),
        ([10.0], [], 4, 2, 20.0),
        ([10.0], [], 3, 2, 20.0),  # the last one alone
        ([10.0], [4.0], 0, 2, 6.0),
        ([10.0], [4.0, 9.0], 1, 2, 11.0),  # in the place that is free first
        ([10.0], [25.0], 1, 1, 10.0),  # longer than usual: as if about to end
        ([5.0, 15.0], [], 8, 8, 10.0),
        ([10.0], [], 1, 8, 10.0),
    ],
)
def test_the_time_left_counts_the_places(
    ended: list[float], running: list[float], waiting: int, slots: int, seconds: float | None
) -> None:
    assert time_left(ended, running, waiting, slots) == seconds


def job(number: int, folder: Path = Path("x")) -> Job:
    return Job(number, ["model=sasrec", f"seed={number}", "trainer.max_epochs=9"], ["seed"], folder / str(number), {})


def finished(value: float) -> Outcome:
    return Outcome("finished", None, {"history": [{X: value}], "metrics": {}})


def test_a_line_says_how_a_job_ended_and_how_the_sweep_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    tally = Tally(4, X)
    for number in (0, 1):
        tally.begins(job(number))
    now[0] = 60.0
    assert tally.ended(job(0), finished(0.5)) == (
        "[1/4] seed=0: val/x=0.5000 (0 failed, 3 to go, about 1m, best 0.5000: seed=0)"
    )
    failed = Outcome("failed", "seed=x.", None)
    assert (
        tally.ended(job(1), failed)
        == "[2/4] seed=1: failed: seed=x. (1 failed, 2 to go, about 1m, best 0.5000: seed=0)"
    )
    tally.begins(job(2))
    assert tally.ended(job(2), finished(0.25)).endswith("(1 failed, 1 to go, about 30s, best 0.5000: seed=0)")
    assert tally.ended(job(3), Outcome("killed", "gone.", None)).endswith("(2 failed, all done, best 0.5000: seed=0)")


def begun(one: Job, status: str = "running", **more: Any) -> None:
    one.folder.mkdir(parents=True, exist_ok=True)
    with (one.folder / LOG).open("a") as log:
        log.write("$ python\n")
    results = {"status": status, "config": {"trainer": {"max_epochs": 9}}, **more}
    (one.folder / "results.json").write_text(json.dumps(results))


def test_a_terminal_shows_the_whole_sweep_and_a_log_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(number, tmp_path) for number in range(16)]
    begun(jobs[1], status="stopped", history=[{"epoch": 1, X: 0.1}])  # before: it is resumed
    screen, page = (Console(file=io.StringIO(), force_terminal=t, width=80, height=50) for t in (True, False))
    with SweepView(jobs, X, screen) as view:
        begun(jobs[0], history=[{"epoch": 3, X: 0.125}])
        view.look()
        assert view.tally.began.keys() == {0}
        for one in jobs[1:15]:
            begun(one, history=[])
        view.look()
        view.ended(jobs[2], finished(0.5))
        view.ended(jobs[3], Outcome("failed", "seed=x.", None))
        page.print(view.display())
    assert isinstance(screen.file, io.StringIO)
    assert isinstance(page.file, io.StringIO)
    text = page.file.getvalue()
    assert "wait" in screen.file.getvalue()
    assert "2/16" in text
    assert "14 to go, about" in text
    assert "1 finished, 1 failed, 13 running, 1 waiting" in text
    assert "best val/x 0.5000: seed=2" in text
    assert "epoch 3/8" in text
    assert "val/x 0.1250" in text
    assert "and 1 more" in text
    log = SweepView([job(0, tmp_path / "new")], X, Console(file=io.StringIO()))
    with log:
        log.ended(job(0, tmp_path / "new"), finished(0.5))
    assert capsys.readouterr().out == "[1/1] seed=0: val/x=0.5000 (0 failed, all done, best 0.5000: seed=0)\n"
