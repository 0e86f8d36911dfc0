"""What may be compared, and what candidates are called."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from seqgen.compare.candidates import Candidate, names, place, refuse_other_data, refuse_unequal
from seqgen.errors import UserError

CONFIG: dict[str, Any] = {
    "data": {
        "split": "leave_one_out",
        "mask_seen": True,
        "max_len": 50,
        "batch_size": 128,
        "source": {"_target_": "x"},
    },
    "metrics": {"k": [5, 10]},
    "monitor": "val/ndcg@10",
    "trainer": {"max_epochs": 20, "default_root_dir": "/a"},
    "callbacks": {"best": {"dirpath": "/a"}, "early_stopping": {"patience": 5}},
}


def candidate(name: str, data: str = "ml100k", **changed: Any) -> Candidate:
    config = deepcopy(CONFIG)
    for key, value in changed.items():
        node = config
        *path, last = key.split("__")
        for part in path:
            node = node[part]
        node[last] = value
    return Candidate(name, data, [], None, config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data__split", "global_time"),
        ("data__mask_seen", False),
        ("metrics__k", [10]),
        ("monitor", "val/mrr"),
        ("trainer__max_epochs", 40),
        ("callbacks__early_stopping__patience", 9),
        ("callbacks__early_stopping", None),
    ],
)
def test_other_cases_metrics_or_budgets_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match="a comparison needs the same cases, metrics and budget; set") as caught:
        refuse_unequal([candidate("sasrec"), candidate("cddrec", **{key: value})])
    assert str(caught.value).startswith(key.replace("__", "."))
    assert "for sasrec" in str(caught.value)
    assert "for cddrec on ml100k" in str(caught.value)
    refuse_unequal([candidate("sasrec"), candidate("sasrec", "beauty", **{key: value})])  # never compared


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data__max_len", 200),
        ("data__batch_size", 32),
        ("trainer__default_root_dir", "/b"),
        ("callbacks__best__dirpath", "/b"),
    ],
)
def test_what_changes_the_training_or_a_place_may_differ(key: str, value: Any) -> None:
    refuse_unequal([candidate("sasrec"), candidate("cddrec", **{key: value})])


def test_data_that_turns_out_to_differ_is_refused() -> None:
    both = [candidate("sasrec"), candidate("cddrec")]
    records = [{"data": {"fingerprint": "a"}}, {"data": {"fingerprint": "b"}}]
    refuse_other_data(both, records[:1] * 2)
    with pytest.raises(UserError, match="sasrec and cddrec were given different data or test cases on ml100k"):
        refuse_other_data(both, records)
    refuse_other_data([both[0], candidate("cddrec", "beauty")], records)


def test_names_say_what_differs() -> None:
    jobs = [
        ["model=sasrec", "data=ml100k", "data.max_len=20", "seed=1"],
        ["model=genatt", "data=ml100k", "data.max_len=50", "seed=1"],
    ]
    assert names(jobs, ["model", "data.max_len"], [("sasrec", "ml100k"), ("genatt", "ml100k")]) == [
        ("sasrec-data.max_len=20", "ml100k"),
        ("genatt-data.max_len=50", "ml100k"),
    ]
    by_data = [["model=sasrec", "data=ml1m", "data.split=global_time"], ["model=sasrec", "data=ml1m"]]
    chosen = [("sasrec", "ml1m")] * 2
    assert names(by_data, ["data.split"], chosen) == [("sasrec", "ml1m data.split=global_time"), ("sasrec", "ml1m")]
    with pytest.raises(UserError, match="sasrec on ml1m is listed twice"):
        names([["model=sasrec", "data=ml1m"]] * 2, ["model"], chosen)


def test_a_place_is_a_path() -> None:
    assert Path(place("a=1/../b", "x y")).parts == ("x_y", "a=1_.._b")
