"""Every malformed log is refused in one sentence, or read with a line that says what was wrong."""

from pathlib import Path

import pytest
from logs import left
from malformed import MALFORMED, Answer, Write

from seqgen import config
from seqgen.errors import UserError


def test_the_list_is_long_and_names_each_case_once() -> None:
    names = [name for name, _, _ in MALFORMED]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize(("write", "answer"), [pytest.param(*case[1:], id=case[0]) for case in MALFORMED])
def test_a_malformed_log(write: Write, answer: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    overrides = [*write(tmp_path / "raw"), f"paths.cache_dir={tmp_path}/cache"]
    cfg = config.compose(overrides, output_dir=tmp_path)
    if answer == "line":
        assert config.build(cfg, "data").catalog.num_users > 1
        assert any(line.startswith("Notice: ") for line in capsys.readouterr().out.splitlines())
        return
    with pytest.raises(UserError) as caught:
        _ = config.build(cfg, "data").catalog
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    assert str(tmp_path / "raw") in sentence or "data.date_format" in sentence  # what is wrong, by file or by key
    assert left(tmp_path / "cache") == []
