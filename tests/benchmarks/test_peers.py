"""The comparison with the peers: lists scored by the plain formula, whole epochs and ratios, their words."""

import math
from typing import Any

import numpy as np
import pytest
from conftest import script

quality, summary = script("benchmarks/peers/quality.py"), script("benchmarks/peers/summary.py")


def test_lists_are_scored_as_a_plain_loop_does() -> None:
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(30)[:10] + 1 for _ in range(50)])
    targets = rng.integers(1, 31, 60)  # ten users have no list
    users = rng.permutation(60)[:50]
    hits = gains = 0.0
    for user, items in zip(users, lists, strict=True):
        for place, item in enumerate(items, start=1):
            if item == targets[user]:
                hits += 1
                gains += 1 / math.log2(place + 1)
    assert hits > 5
    expected = {"hr@10": hits / 60, "ndcg@10": pytest.approx(gains / 60)}
    assert quality.list_quality(users, lists, targets) == expected


def test_repeated_users_and_items_are_refused() -> None:
    with pytest.raises(ValueError, match="a user has several lists"):
        quality.list_quality(np.array([1, 1]), np.array([[1, 2], [3, 4]]), np.array([1, 2]))
    with pytest.raises(ValueError, match="an item twice"):
        quality.list_quality(np.array([0]), np.array([[2, 2]]), np.array([2]))


def cell(*epochs: tuple[float, int], steps: int, factor: float = 1.0, **more: Any) -> dict[str, Any]:
    """A measured round whose epochs are CPU-seconds and steps of 100 targets each."""
    measured = [{"cpu_s": cpu_s, "steps": count, "targets": 100 * count} for cpu_s, count in epochs]
    costs = dict.fromkeys(("peak_mb", "evaluate_cpu_s", "start_cpu_s", "start_s"), 10.0 * factor)
    rest = {"steps_of_epoch": steps, "targets_of_epoch": 100 * steps, "load_average": 1.0, "quality": {}}
    return {"epochs": measured, **costs, **rest, "versions": {"torch": "2"}, "parameters": 3, "cpu": "Some CPU", **more}


def cells() -> dict[str, Any]:
    scored = [{"all_items": {"ndcg@10": value, "hr@10": 2 * value}} for value in (0.1, 0.3, 0.9)]
    ours = [cell((9, 8), (4, 8), (6, 8), steps=8, quality=one) for one in scored]
    peer = [*[cell((7, 2), (5, 2), steps=8, factor=2)] * 2, {"error": "out of memory"}]
    other = [cell((9, 8), (5, 8), steps=8, quality=one) for one in scored[:2]]
    return {"work": {"seqgen": ours, "replay": peer, "rectools": other, "recbole": [{"error": "no wheel"}]}}


def test_cut_epochs_are_reckoned_by_steps_and_the_first_is_not_counted() -> None:
    rows = summary.summary(cells())["work"]
    assert rows["seqgen"]["epoch_cpu_s"] == rows["seqgen"]["measured_cpu_s"] == 5
    assert rows["seqgen"]["quality"] == {"all_items": {"ndcg@10": pytest.approx(0.2), "hr@10": pytest.approx(0.4)}}
    peer = rows["replay"]
    assert (peer["rounds"], peer["measured_steps"], peer["measured_cpu_s"], peer["epoch_cpu_s"]) == (2, 2, 5, 20)
    assert peer["targets_per_cpu_s"] == 40
    assert peer["ratios"]["epoch_cpu_s"] == 4
    assert peer["ratios"]["peak_mb"] == 2
    assert rows["recbole"] == {"error": "no wheel"}


def test_only_rounds_that_all_finished_count() -> None:
    kept = summary.shared_rounds(cells()["work"])
    assert [len(rounds) for rounds in kept.values()] == [2, 2, 2, 1]
    assert kept["seqgen"] == cells()["work"]["seqgen"][:2]
    alone = {"seqgen": cells()["work"]["seqgen"][:1], "replay": [{"error": "a"}, cell((1, 1), steps=1)]}
    assert summary.shared_rounds(alone) == alone  # none in common


def test_the_tables_say_what_was_cut_and_what_failed() -> None:
    content = {"summary": summary.summary(cells()), "works": {"work": {"title": "Small", "epochs": 3}}}
    (table,) = summary.tables(content)
    assert table["title"] == "Small, scores after 3 epochs"
    ours, peer, _, failed = table["rows"]
    assert {len(row) for row in table["rows"]} == {len(summary.COLUMNS)}
    assert ours == ["seqgen", "5.0", "167", "10", "10.0", "10.0", "10.0", "8 of 8", "", ".2000 / .4000"]
    assert peer[:4] == ["RePlay", "20.0 (4.0x)", "40 (.24x)", "20 (2.0x)"]
    assert peer[-3:] == ["2 of 8", "", ""]
    content["summary"]["work"].pop("rectools")
    assert summary.tables(content)[0]["title"] == "Small"  # scores of seqgen alone compare nothing
    assert failed[:2] == ["RecBole", "no wheel"]
    assert summary.circumstances(cells()) == (
        "seqgen 2, RePlay 2, RecTools 2; torch 2; Some CPU, load average 1.0 to 1.0; rounds: 1 to 2."
    )
