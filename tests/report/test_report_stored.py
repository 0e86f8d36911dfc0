"""The report over stored runs, beside the runs that they were."""

import json

import polars as pl
import pytest
from run_folders import MODEL_A, MODEL_B, sentence_of, write_run, write_two_runs

from seqgen.report import report
from seqgen.stored import add_runs, storable


def store(target, *folders, name="mine", cases=True, **more):
    """Store some run folders, as experiments/collect.py does."""
    runs, ranks = [], {}
    for folder in folders:
        results = {"overrides": [], "history": [], "run_id": "", "version": {}} | json.loads(
            (folder / "results.json").read_text()
        )
        runs.append(storable(results, name=name) | more)
        if cases:
            ranks[results["run_id"]] = pl.read_parquet(folder / "ranks.parquet")
    add_runs(target, runs, ranks)


@pytest.fixture
def two_runs(tmp_path):
    return write_two_runs(tmp_path)


def test_stored_runs_are_reported_as_the_runs_themselves(two_runs):
    write_run(two_runs / "2", **MODEL_B, seed=2, ranks=[5, 1], timing={"train_epoch_s": []})
    fresh = report([two_runs])
    store(two_runs.parent / "stored", *sorted(two_runs.iterdir()))
    assert report([two_runs.parent / "stored"]).equals(fresh)


def test_a_stored_run_stands_beside_a_new_seed(two_runs, tmp_path_factory):
    stored, notes = tmp_path_factory.mktemp("stored"), []
    store(stored, two_runs / "0", two_runs / "1")
    write_run(two_runs / "new", **MODEL_B, seed=2, ranks=[2, 1], metrics={"test/ndcg@10": 0.3})
    frame = report([stored, two_runs], notes=notes)
    assert frame["seeds"].to_list() == [1, 2]
    assert frame["difference"].null_count() == 1
    assert len(notes) == 2  # each stored run was found twice


def test_stored_runs_without_cases_have_no_difference(two_runs, tmp_path_factory):
    for kept, left_out, said in (
        ((), ("0", "1"), "no Δ on ml1m: the ranks of the test cases of a / softmax / ml1m were not kept"),
        (("0",), ("1",), "no Δ for 1 rows on ml1m: the ranks of their test cases were not kept"),
    ):
        stored, notes = tmp_path_factory.mktemp("stored"), []
        store(stored, *(two_runs / name for name in kept))
        store(stored, *(two_runs / name for name in left_out), cases=False)
        frame = report([stored], notes=notes)
        assert frame["test/ndcg@10"].to_list() == [0.1, 0.1]
        assert frame["difference"].null_count() == 2
        assert notes == [said]


def test_stored_runs_of_one_model_are_told_apart_by_their_names(tmp_path):
    for name in ("wide", "narrow"):
        for seed in (1, 2):
            folder = write_run(tmp_path / f"{name}{seed}", seed=seed, config={"a": name, "b": 1}, ranks=[1])
            store(tmp_path / "stored", folder, name=name)
    frame = report([tmp_path / "stored"])
    assert frame["label"].to_list() == ["sasrec / softmax / ml1m, narrow", "sasrec / softmax / ml1m, wide"]
    assert report([tmp_path / "stored"], baseline="sasrec,wide")["baseline"][0] == "sasrec / softmax / ml1m, wide"


def test_later_spellings_of_a_stored_setting_join_its_seeds(tmp_path):
    old = write_run(tmp_path / "old", config={"model": {"x": 1}}, data={"fingerprint": "f0"}, ranks=[1])
    new = write_run(tmp_path / "new", seed=2, config={"model": {"x": None, "y": False}}, ranks=[1])
    store(tmp_path / "apart", old, new)
    assert report([tmp_path / "apart"])["seeds"].to_list() == [1, 1]
    store(tmp_path / "joined", old, equals={"model.x": None, "model.y": False, "data.fingerprint": "f1"})
    store(tmp_path / "joined", new)
    assert report([tmp_path / "joined"])["seeds"].to_list() == [2]


def test_broken_stored_runs_are_named(two_runs, tmp_path_factory):
    stored = tmp_path_factory.mktemp("stored")
    store(stored, two_runs / "0")
    (stored / "history.parquet").unlink()
    assert f"{stored / 'runs.jsonl'} is broken" in sentence_of(stored)


def test_a_best_row_without_cases_leaves_the_others_unmarked(tmp_path):
    better = write_run(tmp_path / "0", **MODEL_A, metrics={"test/ndcg@10": 0.9})
    others = [write_run(tmp_path / f"{n}", **MODEL_B, seed=n, ranks=[3], metrics={"test/ndcg@10": 0.5}) for n in (1, 2)]
    store(tmp_path / "stored", better, cases=False)
    store(tmp_path / "stored", *others)
    frame = report([tmp_path / "stored"])
    assert frame.select("model", "best", "not_worse").rows() == [("a", True, False), ("b", False, False)]
