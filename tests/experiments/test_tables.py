"""The pages' tables are what the stored runs give; collected runs are stored once."""

import json
from pathlib import Path

import pytest
from conftest import QUIET, ROOT, TINY, script

from seqgen import config
from seqgen.errors import UserError
from seqgen.report import report
from seqgen.results import RunRecord
from seqgen.run import run
from seqgen.stored import read_runs

tables, collect = script("experiments/tables.py"), script("experiments/collect.py")


@pytest.mark.parametrize("page", tables.PAGES)
def test_a_page_is_what_make_tables_writes(page: str) -> None:
    text = (ROOT / page).read_text()
    assert text == tables.filled(text, tables.PAGES[page]), "run `make tables`"


def test_every_page_of_an_experiment_has_its_tables() -> None:
    pages = {str(path.relative_to(ROOT)) for path in ROOT.glob("experiments/*/README.md")}
    assert pages | {"README.md"} == set(tables.PAGES)


def test_a_changed_number_is_written_back_and_a_lost_marker_is_refused() -> None:
    page = "experiments/mqsa_ted/README.md"
    text = (ROOT / page).read_text()
    changed = text.replace(".0728 ± .0011", ".0999 ± .0011")
    assert changed != text
    assert tables.filled(changed, tables.PAGES[page]) == text
    with pytest.raises(ValueError, match="must hold the markers of beauty, first_epochs, ml1m"):
        tables.filled(text.replace("<!-- table: ml1m -->", ""), tables.PAGES[page])


def test_every_reference_names_its_source() -> None:
    for file in ROOT.glob("experiments/*/references.json"):
        assert all(len(row["source"]) > 10 for row in json.loads(file.read_text()).values())


def test_every_stored_run_has_its_configuration(tmp_path: Path) -> None:
    """The run id of each, which the run itself computed, is that of the stored configuration."""
    checked = 0
    for folder in ROOT.glob("experiments/*/results"):
        for stored in read_runs(folder):
            record = RunRecord(tmp_path, config=stored["config"], choices={}, overrides=[], write=False)
            record.identify(stored["data"]["fingerprint"])
            # The four oldest runs computed it in another way.
            checked += record.content["run_id"] == stored["run_id"]
            assert record.content["run_id"] == stored["run_id"] or folder.parent.name == "mqsa_ted"
    assert checked > 80


def test_collected_runs_are_reported_as_the_runs_themselves(tmp_path: Path) -> None:
    folders = []
    for model in ("popularity", "sasrec"):
        for seed in (1, 2):
            folders.append(tmp_path / f"outputs/{model}{seed}")
            overrides = [f"model={model}", f"seed={seed}", "trainer.max_epochs=1", *TINY, *QUIET]
            run(config.compose(overrides, output_dir=folders[-1]))
    stored = tmp_path / "stored"
    assert collect.collect(stored, folders) == (4, 0)
    fresh = report([tmp_path / "outputs"], samples=200)
    assert fresh["difference"].null_count() == 1
    assert report([stored], samples=200).equals(fresh)
    assert collect.collect(stored, folders[:1]) == (0, 1)
    assert report([stored], samples=200).equals(fresh)
    files = b"".join(file.read_bytes() for file in stored.iterdir())
    assert str(tmp_path).encode() not in files


def test_what_cannot_be_collected_is_refused(tmp_path: Path) -> None:
    overrides = ["model=sasrec", "trainer.max_epochs=1", *TINY, *QUIET]
    run(config.compose(overrides, output_dir=tmp_path / "trained"))
    collect.collect(tmp_path / "stored", [tmp_path / "trained"])
    tested = ["train=false", f"ckpt_path={tmp_path}/trained/checkpoints/last.ckpt"]
    run(config.compose([*overrides, *tested], output_dir=tmp_path / "tested"))
    with pytest.raises(UserError, match="tests a checkpoint of a stored run under the same settings: leave it out"):
        collect.collect(tmp_path / "stored", [tmp_path / "tested"])
    with pytest.raises(UserError, match=r"holds no results\.json that can be read"):
        collect.collect(tmp_path / "stored", [tmp_path])
    content = json.loads((tmp_path / "trained/results.json").read_text())
    (tmp_path / "trained/results.json").write_text(json.dumps(content | {"status": "running"}))
    with pytest.raises(UserError, match="holds a run that is running; collect runs that have ended"):
        collect.collect(tmp_path / "stored", [tmp_path / "trained"])
