"""Lists of other frameworks beside our runs: hand-worked metrics, and malformed files in words."""

import math

import polars as pl
import pytest
from conftest import QUIET, TINY
from run_folders import MODEL_A, MODEL_B, sentence_of, write_run

from seqgen import config
from seqgen.report import compute, report
from seqgen.report.__main__ import main
from seqgen.run import run

# Items of users 0 to 3; the target of each is item 7.
LISTS = {0: [7, 1, 2], 1: [3, 7, 4], 2: [5, 6, 1], 3: [1, 2]}


def write_lists(file, lists=LISTS, **columns):
    rows = [(user, item, rank) for user, items in lists.items() for rank, item in enumerate(items, start=1)]
    pl.DataFrame(rows, schema=["user", "item", "rank"], orient="row").with_columns(**columns).write_parquet(file)
    return file


@pytest.fixture
def runs(tmp_path):
    ids = {"data": {"fingerprint": "f1", "num_items": 20}}
    metrics = {f"test/{name}@{k}": 0.0 for name in ("hr", "ndcg", "coverage") for k in (2, 3, 5, 8)}
    write_run(tmp_path / "runs/a1", **MODEL_A, seed=1, ranks=[2, 2, 2, 2], metrics=metrics, **ids)
    write_run(tmp_path / "runs/a2", **MODEL_A, seed=2, ranks=[1, 2, 2, 9], metrics=metrics, **ids)
    return tmp_path / "runs"


def test_lists_are_a_row_with_metrics_and_a_paired_interval(runs, tmp_path):
    file = write_lists(tmp_path / "lists.parquet", LISTS | {9: [8]})
    names = ["hr@2", "hr@3", "ndcg@3", "coverage@2", "coverage@3", "ndcg@5"]
    found = compute([runs], metrics=names, compare="ndcg@3", lists={"rectools": file}, samples=500)
    ours, theirs = found.summary.iter_rows(named=True)
    assert (theirs["label"], theirs["model"], theirs["data"], theirs["seeds"]) == ("rectools", "rectools", "ml1m", 1)
    assert [theirs[f"test/{name}"] for name in names[:3]] == [0.5, 0.5, (1 + 1 / math.log2(3)) / 4]
    # Users 0 to 3 have the items 7, 1, 3, 5, 6, 2 in their first two; 9 has no test case.
    assert [theirs[f"test/{name}"] for name in names[3:]] == [6 / 20, 7 / 20, None]
    second = 1 / math.log2(3)
    assert theirs["difference"] == pytest.approx((1 + second) / 4 - (4 * second + 1 + 2 * second) / 8)
    assert theirs["low"] < theirs["difference"] < theirs["high"]
    assert theirs["baseline"] == ours["label"]
    assert found.notes == [
        "rectools: 1 lists are of users without a test case, and are left out",
        "rectools: 1 lists are shorter than 3 items",
    ]


def test_lists_that_hold_what_a_run_recommended_are_no_difference(runs, tmp_path):
    lists = {user: [*range(100, 99 + rank), 7] for user, rank in enumerate((2, 1, 4, 3))}
    write_run(runs / "b", **MODEL_B, ranks=[2, 1, 4, 3], data={"fingerprint": "f1", "num_items": 20})
    file = write_lists(tmp_path / "lists.parquet", lists)
    frame = report([runs], baseline="b", compare="hr@4", lists={"same": file}, samples=50)
    assert frame.filter(pl.col("label") == "same").select("difference", "low", "high", "p").row(0) == (0, 0, 0, 1)
    assert report([runs], baseline="same", compare="hr@4", lists={"same": file})["baseline"].unique().to_list() == [
        "same"
    ]


def test_missing_users_count_as_misses_and_are_told(runs, tmp_path):
    file = write_lists(tmp_path / "lists.parquet", {0: [7, 1], 1: [1, 7]}, score=pl.lit(0.5))
    notes = []
    frame = report([runs], metrics=["hr@2"], compare="hr@2", lists={"x": file}, samples=50, notes=notes)
    assert frame["test/hr@2"][1] == 0.5
    assert notes == [
        f"{file}: the columns score are not read",
        "x: 2 of 4 test users have no list, which counts as a miss",
    ]


def test_metrics_beyond_the_lists_are_not_made_up(runs, tmp_path):
    file = write_lists(tmp_path / "lists.parquet")
    for compare in ("ndcg@10", "mrr"):
        notes = []
        row = report([runs], compare=compare, lists={"x": file}, samples=50, notes=notes).row(1, named=True)
        assert (row["difference"], row.get("test/mrr")) == (None, None)
        assert f"x: no {compare}, since its lists hold 3 items" in notes


def test_ids_as_text_match_numbers(runs, tmp_path):
    file = write_lists(
        tmp_path / "lists.parquet", user=pl.col("user").cast(pl.String), item=pl.col("item").cast(pl.String)
    )
    assert report([runs], metrics=["hr@3"], compare="hr@3", lists={"x": file}, samples=9)["test/hr@3"][1] == 0.5


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            {"user": pl.col("user").cast(pl.Float64)},
            "the users of {} are Float64: write the data's ids, integers or text",
        ),
        ({"item": pl.lit([1])}, "the items of {} are List(Int64): write the data's ids, integers or text"),
        ({"rank": pl.col("rank") * 1.0}, "the ranks of {} are Float64: write integers from 1"),
        ({"rank": pl.col("rank") - 1}, "the lists {} have the rank 0: ranks begin with 1"),
        ({"rank": pl.lit(1)}, "the list of user 0 in {} has the rank 1 more than once"),
        ({"item": pl.lit(4)}, "the list of user 0 in {} has the item 4 more than once"),
        ({"item": pl.lit(None, dtype=pl.Int64)}, "11 rows of the lists {} have no item"),
        ({"user": pl.col("user") + 50}, "no test user of ml1m has a list in {} (ids such as '5"),
    ],
)
def test_malformed_lists_are_refused(runs, tmp_path, columns, told):
    file = write_lists(tmp_path / "lists.parquet", **columns)
    assert sentence_of(runs, lists={"x": file}).startswith(told.format(file))


def test_other_files_and_columns_are_refused(runs, tmp_path):
    file = tmp_path / "lists.parquet"
    write_lists(file)
    pl.read_parquet(file).rename({"user": "user_id", "item": "item_id"}).write_parquet(file)
    assert sentence_of(runs, lists={"x": file}) == (
        f"the lists {file} lack the column user: rename user_id; they have user_id, item_id, rank"
    )
    file.write_bytes(b"user,item,rank\n")
    assert sentence_of(runs, lists={"x": file}).startswith(f"the lists {file} cannot be read as parquet")
    assert sentence_of(runs, lists={"x": tmp_path / "no"}).startswith(f"the lists {tmp_path / 'no'} cannot be read")
    write_lists(file, {0: []})
    assert "are empty" in sentence_of(runs, lists={"x": file})
    many = {user: [*range(10 * user, 10 * user + 8), 7 if user else 99] for user in range(4)}
    write_lists(file, many)
    assert sentence_of(runs, compare="hr@5", lists={"x": file}) == f"{file} holds 32 items, more than the 20 of ml1m"


def test_lists_need_a_data_set_of_the_table_and_ranks(runs, tmp_path):
    file = write_lists(tmp_path / "lists.parquet")
    assert sentence_of(runs, lists={"x@yelp": file}) == "the lists x@yelp name no data set of the table; it has ml1m"
    assert "have the name of a row" in sentence_of(runs, lists={"a / softmax / ml1m": file})
    write_run(runs / "yelp", choices={"data": "yelp"}, data={"fingerprint": "f2"})
    assert sentence_of(runs, lists={"x": file}) == (
        "the table has several data sets: write one of x@ml1m, x@yelp, or report one data set"
    )
    assert "ranks.parquet is missing" in sentence_of(runs, lists={"x@yelp": file})
    both = report([runs], compare="hr@3", lists={"x@ml1m": file}, samples=9)
    assert both.filter(pl.col("label") == "x")["data"].to_list() == ["ml1m"]


def test_the_command_takes_lists(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    file = write_lists(tmp_path / "lists.parquet")
    main(
        [str(runs), "--compare", "hr@3", "--lists", f"rectools={file}", "--lists", f"replay={file}", "--samples", "99"]
    )
    rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows == ["a / softmax / ml1m", "rectools", "replay"]
    for given, told in (([str(file)], "has no name"), ([f"x={file}"] * 2, "names x twice")):
        with pytest.raises(SystemExit):
            main([str(runs), *(word for text in given for word in ("--lists", text))])
        assert told in capsys.readouterr().err


def test_the_lists_of_a_run_are_scored_as_the_run_itself(tmp_path):
    run(config.compose(["model=transition", *TINY, *QUIET], output_dir=tmp_path / "run"))
    ranks = pl.read_parquet(tmp_path / "run/ranks.parquet").select("user", item="top")
    counted = ranks.with_columns(rank=pl.int_ranges(1, pl.col("item").list.len() + 1)).explode("item", "rank")
    counted.write_parquet(tmp_path / "lists.parquet")
    names = [f"{name}@{k}" for name in ("hr", "ndcg", "coverage") for k in (1, 5, 10)]
    frame = report([tmp_path / "run"], metrics=names, samples=50, lists={"exported": tmp_path / "lists.parquet"})
    ours, theirs = frame.select(f"test/{name}" for name in names).rows()
    assert theirs == pytest.approx(ours, rel=1e-12)
    assert frame.select("difference", "low", "high").row(1) == (0, 0, 0)
