"""Numbers of others: the file is whole, and stands only beside rows of its choices and protocol."""

import polars as pl
import pytest
from conftest import ROOT
from run_folders import write_run

from seqgen.report import compute
from seqgen.report.published import read_published

PROTOCOL = {"split": "leave_one_out", "mask_seen": True, "min_user_interactions": 5, "min_item_interactions": 5}
CHOICES = {"model": "sasrec", "attention": "softmax", "loss": "ce", "data": "beauty"}


def test_every_number_names_its_source_protocol_and_known_choices():
    published = read_published()
    assert (
        published.select("paper", "table", "name", "data", "metric", "value", "comparable", "protocol")
        .null_count()
        .sum_horizontal()
        .item()
        == 0
    )
    assert published["value"].is_between(0.01, 0.5).all()
    assert published["metric"].str.contains(r"^test/(hr|ndcg)@(5|10|20)$").all()
    assert published.select("name", "data", "metric", "paper").is_duplicated().sum() == 0
    for group in ("model", "attention", "loss", "data"):
        options = {path.stem for path in ROOT.glob(f"conf/{group}/*.yaml")}
        assert set(published[group].drop_nulls()) <= options
    # A number of the same protocol is not told apart from ours by its words.
    assert published.filter("comparable")["protocol"].str.starts_with("leave-one-out, 5-core, all items ranked").all()


@pytest.mark.parametrize(
    ("data", "choices", "beside"),
    [
        ({}, {}, 0.0588),
        ({}, {"loss": "bce"}, None),
        ({}, {"model": "genatt"}, None),
        ({"mask_seen": False}, {}, None),
        ({"split": "global_time"}, {}, None),
        ({"min_user_interactions": 10}, {}, None),
        ({"min_rating": 4}, {}, None),
    ],
)
def test_a_number_stands_beside_the_row_of_its_choices_and_protocol(tmp_path, data, choices, beside):
    write_run(tmp_path / "0", config={"data": PROTOCOL | data}, choices=CHOICES | choices)
    found = compute([tmp_path])
    assert found.summary["published"].to_list() == [beside]
    shown = found.published.filter(pl.col("metric") == "test/ndcg@10")
    assert set(shown["name"]) >= {"SASRec+", "eSASRec", "TIGER"}
    labels = found.summary["label"].to_list() if beside else []
    assert shown["label"].drop_nulls().to_list() == labels


def test_data_without_published_numbers_have_none(tmp_path):
    write_run(tmp_path / "0", choices=CHOICES | {"data": "synthetic"}, config={"data": PROTOCOL})
    assert compute([tmp_path]).published.height == 0
