"""The bootstrap, p-values and Holm's correction against slow plain forms, and the coverage of the intervals."""

import math

import numpy as np
import pytest

from seqgen.report import statistics
from seqgen.report.statistics import Group, bootstrap, holm, intervals, not_dominated, p_values, seed_weights

ONE = [Group([0], (1,))]


def slow_bootstrap(values, groups, samples, rng):
    """Means (samples, groups) of values[run][user], a list of cases each; groups of one tuple of seeds share draws."""
    found = []
    for _ in range(samples):
        users = rng.integers(len(values[0]), size=len(values[0]))
        drawn_seeds = {group.seeds: rng.integers(len(group.seeds), size=len(group.seeds)) for group in groups}
        row = []
        for group in groups:
            of_run = [np.mean([case for user in users for case in values[run][user]]) for run in group.rows]
            plain = np.mean(of_run)
            count = len(group.rows)
            stretch = math.sqrt(count / (count - 1)) if count > 1 else 1.0
            row.append(plain + stretch * (np.mean([of_run[seed] for seed in drawn_seeds[group.seeds]]) - plain))
        found.append(row)
    return np.array(found)


def test_the_bootstrap_agrees_with_a_slow_plain_loop():
    rng = np.random.default_rng(0)
    counts = np.array([1, 3, 2, 1, 5, 2, 1, 1, 4, 2, 3, 1])
    groups = [Group([0, 1, 2], (1, 2, 3)), Group([3, 4, 5], (1, 2, 3)), Group([6, 7], (8, 9)), Group([8], (1,))]
    values = [[rng.normal(0.3 * run, 1.0, size=count) for count in counts] for run in range(9)]
    sums = np.array([[cases.sum() for cases in run] for run in values])
    fast = bootstrap(sums, counts, groups, samples=20_000, seed=1)
    slow = slow_bootstrap(values, groups, 4_000, np.random.default_rng(2))
    assert fast.mean(axis=0) == pytest.approx(slow.mean(axis=0), abs=0.02)
    # Spread of each and of every difference: shared draws of seeds make that of the first two smaller.
    for pair in ((0, 1), (0, 2), (0, 3), (2, 3)):
        spread = [np.std(drawn[:, pair[0]] - drawn[:, pair[1]]) for drawn in (fast, slow)]
        assert spread[0] == pytest.approx(spread[1], rel=0.06)
    assert fast.std(axis=0) == pytest.approx(slow.std(axis=0), rel=0.06)


def test_chunks_and_other_groups_change_nothing_and_the_seed_everything(monkeypatch):
    rng = np.random.default_rng(0)
    sums, counts = rng.normal(size=(3, 50)), np.ones(50)
    whole = bootstrap(sums, counts, ONE, samples=30, seed=5)
    more = bootstrap(sums, counts, [*ONE, Group([1, 2], (1, 2))], samples=30, seed=5)
    monkeypatch.setattr(statistics, "CHUNK", 350)  # 7 samples at a time
    assert bootstrap(sums, counts, ONE, samples=30, seed=5) == pytest.approx(whole, rel=1e-12)
    assert more[:, 0] == pytest.approx(whole[:, 0], rel=1e-12)
    assert (bootstrap(sums, counts, ONE, samples=30, seed=6) != whole).all()


def test_an_interval_over_users_covers_the_normal_range():
    gains = np.random.default_rng(0).normal(size=(1, 2000))
    low, high = intervals(bootstrap(gains, np.ones(2000), ONE, samples=3000, seed=5))[:, 0]
    half = 1.96 * gains.std() / math.sqrt(2000)
    assert [low, high] == pytest.approx([gains.mean() - half, gains.mean() + half], abs=0.08 * half)


def test_the_weights_of_seeds_have_the_unbiased_variance_of_a_mean():
    values = np.array([0.3, 1.0, 2.9])
    drawn = seed_weights(3, 100_000, np.random.default_rng(0)) @ values
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.02)
    assert (seed_weights(1, 4, np.random.default_rng(0)) == 1).all()


@pytest.mark.parametrize(("seeds", "least", "most"), [(1, 0.0, 0.8), (3, 0.88, 0.97), (8, 0.92, 0.98)])
def test_intervals_cover_a_true_difference_that_seeds_blur(seeds, least, most):
    """Seeds differ by twice the standard error over users: one covers far too little, eight as they should."""
    rng, trials, users = np.random.default_rng(seeds), 300, 200
    covered = 0
    groups = [Group(range(seeds), tuple(range(seeds))), Group(range(seeds, 2 * seeds), ("other", *range(1, seeds)))]
    for trial in range(trials):
        of_user = rng.normal(size=users)  # hard and easy users are so for both
        of_seed = rng.normal(0, 2 / math.sqrt(users), size=(2 * seeds, 1))
        values = of_user + of_seed + rng.normal(size=(2 * seeds, users))
        drawn = bootstrap(values, np.ones(users), groups, samples=400, seed=trial)
        low, high = intervals(drawn[:, [1]] - drawn[:, [0]])[:, 0]
        covered += low <= 0 <= high
    assert least <= covered / trials <= most


def test_p_values_are_the_inverted_interval_and_never_0():
    differences = np.column_stack([np.arange(1.0, 100), np.arange(-3.0, 96), np.zeros(99), -np.arange(1.0, 100)])
    # Of 99 samples none, 4 and all do not exceed 0; the observed one counts as one more.
    assert p_values(differences).tolist() == pytest.approx([2 / 100, 2 * 5 / 100, 1.0, 2 / 100])
    drawn = np.random.default_rng(0).normal(np.linspace(-4, 4, 41), 1.0, size=(4000, 41))
    low, high = intervals(drawn)
    clear = abs(p_values(drawn) - 0.05) > 0.005
    assert clear.sum() > 35
    assert ((p_values(drawn) < 0.05) == ((low > 0) | (high < 0)))[clear].all()


def test_p_values_of_no_difference_are_uniform():
    rng, found = np.random.default_rng(4), []
    for trial in range(400):
        gains = rng.normal(size=(1, 60))
        found.append(p_values(bootstrap(gains, np.ones(60), ONE, samples=300, seed=trial))[0])
    assert np.quantile(found, [0.05, 0.25, 0.5, 0.75]) == pytest.approx([0.05, 0.25, 0.5, 0.75], abs=0.07)


def test_holm_is_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_points_that_no_other_beats():
    points = np.array([[3, 1], [1, 3], [2, 2], [1, 1], [2, 1], [2, 2]])
    assert not_dominated(points).tolist() == [True, True, True, False, False, True]
