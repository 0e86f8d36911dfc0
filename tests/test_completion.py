"""Tab completion in bash, asked as bash asks."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import ROOT

from seqgen import __main__ as cli
from seqgen.completion import BASH


def words(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    for name in ("HYDRA_FULL_ERROR", "SEQGEN_SENTENCES"):  # which a command line sets for the processes it starts
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "argv", ["seqgen", "-sc", "query=bash"])
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # the module is there already
        cli.main()
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seqgen ", ["run", "report", "data", "diagnose"]),
        ("seqgen run model=sas", ["model=sasrec"]),
        ("seqgen run -m attention=vae attention.lat", ["attention.latent_dim="]),
        ("seqgen data dat", ["data=", "data."]),
        ("seqgen diagnose cas", ["cases="]),
        ("seqgen report outputs --m", ["--metrics"]),
        ("seqgen report out", []),  # a folder, which the shell completes
        ("seqgen trian model=", []),
    ],
)
def test_a_line_goes_on_with(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = words(line, monkeypatch, capsys)
    assert set(expected) <= set(found)
    assert bool(found) == bool(expected)


@pytest.mark.parametrize("arguments", [["-sc", "install=bash"], ["run", "-sc", "install=bash"]])
def test_any_command_prints_what_the_shell_evaluates(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["seqgen", *arguments])
    cli.main()
    assert capsys.readouterr().out == f"{BASH}\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "seqgen"
    script.write_text(f"#!{sys.executable}\nfrom seqgen.__main__ import main\nmain()\n")
    script.chmod(0o755)
    lines = ['eval "$(seqgen run -sc install=bash)"', "complete -p seqgen"]
    lines += ["compopt() { :; }"]  # bash allows it only while it completes
    for line in ("seqgen ru", "seqgen run model=sas"):
        lines.append(f'COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _seqgen; echo "${{COMPREPLY[*]}}"')
    # With `=` among the word breaks, as usual, only what stands behind it is replaced.
    lines.append('COMP_WORDBREAKS=${COMP_WORDBREAKS//=}; _seqgen; echo "${COMPREPLY[*]}"')
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-3:] == ["run", "sasrec", "model=sasrec"], done.stderr
    assert "-F _seqgen seqgen" in done.stdout
