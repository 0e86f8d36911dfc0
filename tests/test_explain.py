"""`--help`: each key with what it means."""

import re
from pathlib import Path

import pytest
from commands import command_here
from conftest import ROOT

from seqgen.explain import print_help


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    print_help("config", arguments)
    return capsys.readouterr().out


def explained(text: str) -> dict[str, str]:
    """Explanation of each key of a help text, dotted."""
    found, parents = {}, list[tuple[int, str]]()
    for line in text.partition("== Keys")[2].splitlines():
        if match := re.fullmatch(r"( *)(\w+):.*?(?: # (.*))?", line):
            parents = [*(parent for parent in parents if parent[0] < len(match[1])), (len(match[1]), match[2])]
            found[".".join(name for _, name in parents)] = match[3] or ""
    return found


def test_a_key_has_the_comment_of_the_file_that_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    keys = explained(shown(capsys, "--help", "model=cddrec", "attention=vae", "experiment=cddrec_office_authors"))
    assert keys["attention.latent_dim"] == "size of z"
    assert keys["attention.rank"] == "of the position logits, for long sequences; null is full"  # an included file
    assert keys["model.contrast.temperature"] == "tau"
    assert keys["model"].startswith("CDDRec (Wang et al., PAKDD 2024): ")
    assert keys["seed"].startswith("of weights")


def test_a_key_without_a_comment_has_what_the_docstring_says(capsys: pytest.CaptureFixture[str]) -> None:
    keys = explained(shown(capsys, "model=sasrec"))
    assert keys["model.num_layers"] == "blocks per branch"  # of the base class
    assert keys["data.source.num_users"] == "number of users"  # of a function


def test_nearly_all_that_can_be_set_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    keys = explained(shown(capsys))
    own = {key for key in keys if key.startswith(("data.", "attention.", "model.", "optimizer.", "trainer."))}
    assert {key for key in own if not keys[key] and not key.endswith("_target_")} == {"trainer.default_root_dir"}


def test_explanations_stand_below_one_another_and_wrap_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\nmetrics:\n  k: [1, 5, 10, 20]                         # list lengths" in shown(capsys)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys).partition("== Keys")[2].splitlines()
    commented = [line for line in lines if " # " in line]
    assert max(map(len, commented)) <= 80
    assert sum(line.startswith(f"{'':44}# ") for line in commented) > 5


def test_what_the_command_line_changes_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "-h", "-m", "model.hidden_dim=7", "data=custom")
    assert re.search(r"^  hidden_dim: 7 +# ", text, flags=re.MULTILINE)
    assert re.search(r"^  path: \?\?\? +# a file, a pattern such as 'logs/\*\.csv\.gz', or", text, flags=re.MULTILINE)


def test_models_of_others_are_listed_and_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("# Mine.\n_target_: theirs.Mine\nbonus: 1.0 # for luck\n")
    text = shown(capsys, "model=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert "mine, mqsa_ted, " in text
    assert explained(text)["model.bonus"] == "for luck"


@pytest.mark.parametrize("module", ["seqgen.run", "seqgen.data", "seqgen.diagnose"])
def test_every_command_on_a_configuration_has_it(module: str) -> None:
    out = command_here(module, "--help", cwd=ROOT).stdout
    assert f"python -m {module} " in out
    assert "  data_dir: " in out
    assert " # raw data sets\n" in out


def test_a_wrong_key_beside_help_is_one_sentence(tmp_path: Path) -> None:
    done = command_here("seqgen.run", "--help", "modle=sasrec", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "seqgen: modle is not a key of this configuration; did you mean model.\n"
