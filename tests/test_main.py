"""The command `seqgen`: the same as `python -m seqgen.…`."""

import json
import sys
from pathlib import Path

import pytest
from commands import command
from conftest import QUIET, TINY

from seqgen import __main__ as cli


def test_alone_it_lists_the_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["seqgen"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"seqgen {name}" in shown for name in cli.COMMANDS)


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["seqgen", "train"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("seqgen: there is no command 'train'.\n")
    assert all(f"seqgen {name}" in shown for name in cli.COMMANDS)


def test_ctrl_c_while_a_command_is_imported_leaves_no_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["seqgen", "run"])
    monkeypatch.setattr("runpy.run_module", interrupt)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "seqgen: stopped before it began\n")


@pytest.mark.slow
def test_two_processes_start_from_it_as_from_the_module(tmp_path: Path) -> None:
    how = ["model=sasrec", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
    shown = command("seqgen", "run", *how, *TINY, *QUIET, f"hydra.run.dir={tmp_path}", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert not list(tmp_path.glob("train_ddp*.log"))  # the second process has nothing to say
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["status"], results["config"]["trainer"]["devices"]) == ("finished", 2)
