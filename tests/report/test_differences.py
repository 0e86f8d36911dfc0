"""Differences, intervals and p-values against hand-worked values and a slow plain bootstrap."""

import math

import numpy as np
import pytest
from run_folders import MODEL_A, MODEL_B, sentence_of, write_ranks, write_run, write_two_runs

from seqgen.report import report


@pytest.fixture
def two_runs(tmp_path):
    return write_two_runs(tmp_path)


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        # Per user: a has ranks (1, 3) and (9, 9) over its two seeds, b has (2, 1).
        ("test/hr@2", ((1 - 1 / 2) + (1 - 0)) / 2),
        ("test/ndcg@3", ((1 / math.log2(3) - (1 + 1 / 2) / 2) + (1 - 0)) / 2),
        ("test/mrr", ((1 / 2 - (1 + 1 / 3) / 2) + (1 - 1 / 9)) / 2),
    ],
)
def test_difference_is_worked_by_hand(tmp_path, compare, expected):
    write_run(tmp_path / "0", **MODEL_A, seed=1, ranks=[1, 9])
    write_run(tmp_path / "1", **MODEL_A, seed=2, ranks=[3, 9])
    # Cases are matched by key, not by place.
    write_run(tmp_path / "2", **MODEL_B, ranks=[(1, 7, 1), (0, 7, 2)])
    base, row = report([tmp_path], compare=compare, samples=200).iter_rows(named=True)
    assert row["difference"] == pytest.approx(expected)
    assert row["low"] < row["difference"] < row["high"]
    assert (row["baseline"], base["baseline"], base["difference"]) == (base["label"], base["label"], None)


def test_equal_differences_leave_an_interval_of_no_width(tmp_path):
    write_run(tmp_path / "0", **MODEL_A, ranks=[2] * 30)
    write_run(tmp_path / "1", **MODEL_B, ranks=[1] * 30)
    row = report([tmp_path], samples=100).row(1, named=True)
    assert [row["difference"], row["low"], row["high"]] == pytest.approx([1 - 1 / math.log2(3)] * 3)


def test_seeds_in_another_order_are_no_difference(tmp_path):
    for model, order in ((MODEL_A, (0, 1, 2)), (MODEL_B, (2, 0, 1))):
        for seed in order:
            ranks = [(1, 2, 7)[seed]] * 5
            write_run(tmp_path / model["choices"]["model"] / f"{order.index(seed)}", **model, seed=seed, ranks=ranks)
    row = report([tmp_path], samples=50).row(1, named=True)
    assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


def slow_interval(differences, rng, samples):
    """Resample whole users, given the list of differences of each."""
    means = []
    for _ in range(samples):
        cases = [case for user in rng.integers(len(differences), size=len(differences)) for case in differences[user]]
        means.append(sum(cases) / len(cases))
    return np.percentile(means, [2.5, 97.5])


def test_interval_agrees_with_a_slow_plain_bootstrap(tmp_path):
    rng = np.random.default_rng(3)
    # Users own one to six cases whose ranks are alike: an interval over cases would be much too narrow.
    owners = [(user, target) for user in range(60) for target in range(rng.integers(1, 7))]
    base = {user: int(rng.integers(1, 15)) for user in range(60)}
    other = {user: int(rng.integers(1, 8)) for user in range(60)}
    write_run(tmp_path / "0", **MODEL_A, ranks=[(user, target, base[user]) for user, target in owners])
    write_run(tmp_path / "1", **MODEL_B, ranks=[(user, target, other[user]) for user, target in owners])
    row = report([tmp_path], compare="test/mrr", samples=4000).row(1, named=True)
    gains = [1 / other[user] - 1 / base[user] for user, _ in owners]
    assert row["difference"] == pytest.approx(np.mean(gains))
    other_draws = report([tmp_path], compare="test/mrr", samples=4000, seed=1).row(1, named=True)
    assert row["low"] != other_draws["low"]
    by_user = [[gain for gain, (owner, _) in zip(gains, owners, strict=True) if owner == user] for user in range(60)]
    slow = slow_interval(by_user, np.random.default_rng(11), 4000)
    width = slow[1] - slow[0]
    assert [row["low"], row["high"]] == pytest.approx(slow, abs=0.06 * width)
    by_case = slow_interval([[gain] for gain in gains], np.random.default_rng(12), 2000)
    assert by_case[1] - by_case[0] < 0.75 * width


def test_missing_and_broken_ranks_are_named(two_runs):
    file = two_runs / "1" / "ranks.parquet"
    file.write_bytes(b"PAR1 nonsense")
    assert sentence_of(two_runs) == f"{file} is broken: run again with test=true, or leave {file.parent} out"
    file.unlink()
    assert sentence_of(two_runs) == f"{file} is missing: run again with test=true, or leave {file.parent} out"
    for ranks in ([(0, 7, 1), (1, 7, 0)], [(0, 7, 1), (1, 7, None)]):
        write_ranks(file.parent, ranks)
        assert sentence_of(two_runs).startswith(f"{file} is broken (no test case, or a rank below 1)")


def test_runs_that_are_not_compared_need_no_ranks(tmp_path):
    write_run(tmp_path / "0", metrics={"test/mrr": 0.5})
    write_run(tmp_path / "1", choices={"data": "yelp"}, data={"fingerprint": "f2"})
    assert report([tmp_path])["test/mrr"].to_list() == [0.5, None]
    assert sentence_of(tmp_path, compare="gini").startswith("cannot compare gini")


@pytest.mark.parametrize(
    "ranks", [[1], [1, 2, 3], [(0, 7, 1), (2, 7, 1)], [(0, 7, 1), (1, 8, 1)], [("a", 7, 1), ("b", 7, 1)]]
)
def test_groups_with_other_test_cases_are_refused(two_runs, ranks):
    (two_runs / "1" / "ranks.parquet").unlink()
    cases = ranks if isinstance(ranks[0], tuple) else [(user, 7, rank) for user, rank in enumerate(ranks)]
    write_ranks(two_runs / "1", cases)
    sentence = sentence_of(two_runs)
    assert "'a / softmax / ml1m' and 'b / softmax / ml1m'" in sentence
    assert "different test cases" in sentence
