"""The commands of the README and the Makefile are commands: each composes and passes the checks."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from seqgen import config
from seqgen.check import check

README = (ROOT / "README.md").read_text()
MAKEFILE = re.sub(r"\$\((RUN|SWEEP)\)", "out", (ROOT / "Makefile").read_text())
RUNS = sorted(set(re.findall(r"python -m seqgen\.run ([^`\n]*)", README + MAKEFILE)))


def test_there_are_commands() -> None:
    assert len(RUNS) > 10


# `model=mine` stands for a package of the reader's own, which tests/test_command_line.py builds.
@pytest.mark.parametrize("line", [line for line in RUNS if "model=mine" not in line])
def test_a_command_of_the_readme_composes(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in shlex.split(line) if word != "--help"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.touch()
    flags = {"-m", "--multirun", "--cfg", "job", "--resolve"}
    overrides = [w for w in words if w not in flags and not w.startswith("ckpt_path=")]
    if len(words) != len([w for w in words if not w.startswith("ckpt_path=")]):
        overrides.append(f"ckpt_path={checkpoint}")
    single = [re.sub(r"^([\w.]+=[^,\['\"]+),.*", r"\1", override) for override in overrides]
    if "-m" in words or "--multirun" in words:
        monkeypatch.setattr("seqgen.check.is_job", lambda: True)
    check(config.compose(single, output_dir=tmp_path))


def test_every_option_of_the_tables_exists_and_none_is_left_out() -> None:
    for group in ("model", "attention", "diffusion", "loss", "data"):
        named = set()
        for row in re.findall(rf"(?s)\| `{group}=` \|.*?\n\n", README):
            rows = [line.split("|")[1] for line in row.splitlines()[1:] if line]
            named |= set(re.findall(r"`(\w+)`", "\n".join(rows)))
        options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - {"none"}
        assert named == options


def test_the_makefile_has_the_two_commands_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:.*## ", makefile, flags=re.MULTILINE)


def test_the_figures_of_reliability_are_the_stored_ones() -> None:
    found = json.loads((ROOT / "benchmarks/results/reliability.json").read_text())
    survived = sum(row["equal"] for row in found["kills"])
    broken, logs, settings = found["broken"], found["malformed_logs"], found["bad_settings"]
    assert set(logs) <= {"refused", "line"}
    assert set(settings) == {"refused"}
    assert set(found["forged"].values()) == {"blocked"}
    page = (ROOT / "README.md").read_text()
    for line in (
        f"| {len(found['kills'])} | {survived} went on, and ended",
        f"| {len(broken)} | {sum(row['recognised'] and row['equal'] for row in broken)} recognised, and went on",
        f"| {len(found['forged'])} | {len(found['forged'])} blocked |",
        f"| {sum(logs.values())} | {logs['refused']} refused in words, {logs['line']} read with a line",
        f"| {settings['refused']} | {settings['refused']} refused in words |",
    ):
        assert line in page, line


def test_the_figures_of_sweeps_are_the_stored_ones() -> None:
    found = json.loads((ROOT / "benchmarks/results/sweep.json").read_text())
    crash, node, overhead = found["crash"], found["node"], found["overhead"]
    assert crash["equal"]
    assert node["equal"]
    assert crash["listed_as_killed"] == len(crash["killed"])
    assert crash["exit_codes"] == node["exit_codes"] == [1, 0]
    page = " ".join((ROOT / "README.md").read_text().split())
    for words in (
        f"{len(crash['killed'])} of {crash['jobs']} jobs killed at random moments, or one of two nodes",
        f"a job costs {overhead['overhead_per_job_of_four_s']:.1f} s above the same run alone",
        f"the start of Ray makes it {overhead['overhead_of_one_s']:.0f} s in a sweep of one",
        f"16 jobs on 2 slots take {found['packing']['times_the_ideal']:.2f} times the ideal",
    ):
        assert words in page, words


def test_the_figures_of_a_large_catalogue_are_the_stored_ones() -> None:
    found = json.loads((ROOT / "benchmarks/results/large_catalogue.json").read_text())
    cost = {name: f"{row['loss_s'] + row['optimiser_s']:.1f}" for name, row in found["steps"].items()}
    ranked, step = found["evaluations"]["in blocks"], found["steps"]["ce"]
    page = " ".join(README.split())
    for words in (
        f"{found['items']:,} items of {found['width']} numbers a training step of {step['targets']:,} targets",
        f"takes {cost['ce']} CPU-seconds with `loss=ce`, {cost['sampled_softmax']} with `sampled_softmax`",
        f"{cost['in_batch']} with `in_batch`, {cost['gbce']} with `gbce`",
        f"at the same peak of {step['peak_gb']:.1f} GB",
        f"moments are {4 * found['table_gb']:.1f} of it, a second gradient {found['table_gb']:.1f}",
        f"takes {ranked['cpu_s']:.0f} CPU-seconds, and {ranked['over_gb']:.1f} GB beside the table",
    ):
        assert words in page, words


@pytest.mark.parametrize("line", sorted(set(re.findall(r"python -m seqgen\.compare ([^`\n]*)", README))))
def test_a_comparison_of_the_readme_composes(line: str) -> None:
    single = [re.sub(r"^([\w.]+=[^,\['\"]+),.*", r"\1", word) for word in shlex.split(line)]
    assert config.composed(single, config_name="compare").hydra.sweeper._target_.endswith("CompareSweeper")


def test_every_module_has_its_place_in_the_layout() -> None:
    layout = README.split("## Layout")[1].split("## Cite")[0]
    modules = {path.name for path in (ROOT / "seqgen").glob("*.py")} - {"__init__.py"}
    rooms = {f"{path.parent.name}/" for path in (ROOT / "seqgen").glob("*/__init__.py")}
    plugins = {path.parent.name for path in (ROOT / "hydra_plugins").glob("*/__init__.py")}
    missing = {name for name in modules | rooms | plugins if name not in layout}
    assert not missing
    assert {name for name in re.findall(r"\b(\w+\.py)\b", layout) if not name.startswith("x.")} - modules == {
        "tables.py",
    }
