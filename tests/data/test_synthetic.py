"""Generated interactions: what is promised of them, and that they follow the stated probabilities."""

from itertools import pairwise

import numpy as np
import pytest

from seqgen.data.synthetic import synthetic
from seqgen.errors import SettingError

SMALL = {"num_users": 200, "num_items": 40, "num_categories": 5, "min_length": 4, "max_length": 15}


def histories_of(source):
    """Items and times of each user, in file order."""
    items, times = {}, {}
    for user, item, time in source.interactions().select("user_id", "item_id", "timestamp").collect().rows():
        items.setdefault(user, []).append(item)
        times.setdefault(user, []).append(time)
    return items, times


def test_histories():
    items, times = histories_of(synthetic(**SMALL))
    assert list(items) == list(range(200))
    assert {len(history) for history in items.values()} == set(range(4, 16))
    for user, history in items.items():
        assert len(set(history)) == len(history)
        assert all(0 <= item < 40 for item in history)
        assert all(earlier < later for earlier, later in pairwise(times[user]))


def test_items():
    source = synthetic(**SMALL)
    known = source.items()
    assert known["item_id"].to_list() == list(range(40))
    of_category = known["categories"].list.first().value_counts()["count"].to_list()
    assert of_category == [8] * 5  # spread evenly


def test_a_history_may_take_all_items_but_one():
    items, _ = histories_of(synthetic(num_users=20, num_items=12, num_categories=2, min_length=11, max_length=11))
    assert all(len(set(history)) == 11 for history in items.values())


def test_seeded():
    draw = [synthetic(**SMALL, seed=seed).interactions().collect() for seed in (1, 1, 2)]
    assert draw[0].equals(draw[1])
    assert not draw[0].equals(draw[2])


def test_truth_is_weighted():
    truth = synthetic(**SMALL, transition_weight=0.5, taste_weight=0.3, popularity_weight=0.2).truth()
    assert truth["transition"].shape == (40, 40)
    assert truth["taste"].shape == (200, 40)
    assert truth["transition"].sum(axis=1) == pytest.approx(0.5)
    assert truth["taste"].sum(axis=1) == pytest.approx(0.3)
    assert truth["popularity"].sum() == pytest.approx(0.2)


def chi_square(drawn, probabilities):
    """Pearson's statistic, in standard deviations above its mean."""
    expected = len(drawn) * probabilities
    common = expected > 5
    observed = np.bincount(drawn, minlength=len(probabilities))
    statistic = ((observed - expected)[common] ** 2 / expected[common]).sum()
    return (statistic - common.sum()) / np.sqrt(2 * common.sum())


def test_first_and_second_items_follow_the_stated_probabilities():
    # Without tastes all users draw alike, so one table of frequencies serves for all.
    source = synthetic(
        **SMALL | {"num_users": 20_000, "min_length": 3, "max_length": 3},
        transition_weight=0.7,
        taste_weight=0.0,
        popularity_weight=0.3,
    )
    truth, drawn = source.truth(), source.interactions().collect()["item_id"].to_numpy().reshape(-1, 3)
    popularity = truth["popularity"] / truth["popularity"].sum()
    assert chi_square(drawn[:, 0], popularity) < 5
    assert chi_square(drawn[:, 0], popularity[::-1]) > 50  # the statistic can tell
    first = popularity.argmax()
    second = truth["transition"][first] + truth["popularity"]
    second[first] = 0.0
    second /= second.sum()
    assert chi_square(drawn[drawn[:, 0] == first, 1], second) < 5
    assert chi_square(drawn[drawn[:, 0] == first, 1], popularity) > 50


def log_likelihood(items, truth, *, lag=1):
    """Sum of log p of all draws, and by how many standard deviations it misses what p itself expects."""
    total = expected = variance = 0.0
    for user, history in items.items():
        for step, item in enumerate(history):
            p = truth["taste"][user] + truth["popularity"]
            if step >= lag:
                p = p + truth["transition"][history[step - lag]]
            p[history[:step]] = 0.0
            p = p / p.sum()
            log_p = np.log(np.where(p > 0, p, 1.0))
            total += log_p[item]
            mean = (p * log_p).sum()
            expected += mean
            variance += (p * log_p**2).sum() - mean**2
    return total, (total - expected) / np.sqrt(variance)


def test_draws_follow_the_truth_better_than_anything_near_it():
    source = synthetic(**SMALL | {"num_users": 800}, transition_weight=0.4, taste_weight=0.4, popularity_weight=0.2)
    items, _ = histories_of(source)
    truth = source.truth()
    best, deviation = log_likelihood(items, truth)
    assert abs(deviation) < 4
    perturbed = [truth | {name: factor * truth[name]} for name in truth for factor in (0.7, 1.4)]
    perturbed.append(truth | {"transition": truth["transition"].T})
    perturbed.append(truth | {"taste": np.roll(truth["taste"], 1, axis=0)})
    for other in perturbed:
        assert log_likelihood(items, other)[0] < best
    assert log_likelihood(items, truth, lag=2)[0] < best


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_length": 2}, "min_length=2"),
        ({"min_length": 16}, "max_length=15"),
        ({"max_length": 40}, "max_length=40"),
        ({"num_categories": 0}, "num_categories=0"),
        ({"num_categories": 41}, "num_categories=41"),
        ({"taste_weight": -0.1}, "weight"),
        ({"transition_weight": 0.0, "taste_weight": 0.0, "popularity_weight": 0.0}, "weight"),
        # The first item of a user has no transition to follow.
        ({"transition_weight": 1.0, "taste_weight": 0.0, "popularity_weight": 0.0}, "weight"),
        ({"num_users": 0}, "num_users=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_refused_settings(settings, named):
    with pytest.raises(SettingError) as error:
        synthetic(**SMALL | settings)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
