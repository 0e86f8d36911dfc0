"""Generated interactions whose true next-item probabilities are known.

A user's next item is drawn from

    p(next | user, last)  proportional to  transition[last] * a + taste[user] * b + popularity * c

over the items not yet seen (no repeats). `model=oracle` ranks by these probabilities: no model can do better on
average, so they are the yardstick of what is left to learn.
"""

from functools import partial
from typing import Any

import numpy as np
import polars as pl

from seqgen.data.sources import Source
from seqgen.errors import SettingError

LATENT_DIM = 8
SPREAD = 0.1  # of a category's items around its centre
SHARPNESS = 1.0  # how fast liking falls with the squared distance
START = 1_600_000_000  # Unix seconds of the earliest possible first interaction


def synthetic(
    *,
    num_users: int = 2000,
    num_items: int = 500,
    num_categories: int = 20,
    min_length: int = 8,
    max_length: int = 40,
    transition_weight: float = 0.25,
    taste_weight: float = 0.65,
    popularity_weight: float = 0.10,
    seed: int = 7,
) -> Source:
    """A generated set.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        num_categories: Items are spread evenly over so many; tastes are over categories.
        min_length: Shortest history.
        max_length: Longest history.
        transition_weight: Weight a of the transition from the last item.
        taste_weight: Weight b of the user's latent taste.
        popularity_weight: Weight c of popularity.
        seed: Of the generator; independent of the run's seed, so that all runs see the same data.

    Raises:
        SettingError: A number is out of its range.
    """
    parameters = dict(locals()) | {"latent_dim": LATENT_DIM, "spread": SPREAD, "sharpness": SHARPNESS}
    if not 3 <= min_length <= max_length < num_items:
        raise SettingError(
            f"min_length={min_length} and max_length={max_length} must satisfy 3 <= min_length <= "
            f"max_length < num_items={num_items}."
        )
    if not 1 <= num_categories <= num_items:
        raise SettingError(f"num_categories={num_categories} must lie in 1 to num_items={num_items}.")
    for name, value, least in (("num_users", num_users, 1), ("seed", seed, 0)):
        if value < least:
            raise SettingError(f"{name}={value} must be at least {least}.")
    weights = {name: value for name, value in parameters.items() if name.endswith("_weight")}
    if min(weights.values()) < 0 or taste_weight + popularity_weight == 0:
        raise SettingError(
            f"{', '.join(f'{name}={value}' for name, value in weights.items())}: none may be negative, "
            "and the last two not both zero, since they draw a user's first item."
        )
    return Source(
        name="synthetic",
        parameters=parameters,
        interactions=partial(_draw, parameters),
        time_unit="s",
        items=partial(_items, num_items, num_categories),
        truth=partial(_truth, parameters),
    )


def _truth(parameters: dict[str, Any]) -> dict[str, np.ndarray]:
    """`transition (I, I)`, `taste (U, I)` and `popularity (I,)`, each weighted, by original ids."""
    rng = np.random.default_rng(parameters["seed"])
    users, items, categories = parameters["num_users"], parameters["num_items"], parameters["num_categories"]
    popularity = rng.permutation(1.0 / np.arange(1, items + 1) ** 0.8)
    popularity /= popularity.sum()
    # Items lie around the centre of their category in a latent space. A user lies near one item and likes what is
    # close; an item leads to what is close to its own place after a rotation: one category leads to another.
    centres = rng.normal(size=(categories, LATENT_DIM))
    place = centres[np.arange(items) % categories] + SPREAD * rng.normal(size=(items, LATENT_DIM))
    rotation, _ = np.linalg.qr(rng.normal(size=(LATENT_DIM, LATENT_DIM)))
    transition = _nearness(place @ rotation, place)
    taste = _nearness(place[rng.integers(items, size=users)], place)
    return {
        "transition": parameters["transition_weight"] * transition,
        "taste": parameters["taste_weight"] * taste,
        "popularity": parameters["popularity_weight"] * popularity,
    }


def _nearness(of: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Rows that sum to 1 and fall with the squared distance: (n, d), (I, d) -> (n, I)."""
    squared = (of**2).sum(axis=1)[:, None] + (to**2).sum(axis=1) - 2 * of @ to.T  # no (n, I, d) array
    near = np.exp(-SHARPNESS * squared)
    return near / near.sum(axis=1, keepdims=True)


def _draw(parameters: dict[str, Any]) -> pl.LazyFrame:
    truth = _truth(parameters)
    rng = np.random.default_rng([parameters["seed"], 1])
    users, longest = parameters["num_users"], parameters["max_length"]
    lengths = rng.integers(parameters["min_length"], longest + 1, size=users)
    everyone = np.arange(users)
    standing = truth["taste"] + truth["popularity"]
    seen = np.zeros(standing.shape, dtype=bool)
    drawn = np.empty((users, longest), dtype=np.int64)
    for step in range(longest):
        weight = standing + (truth["transition"][drawn[:, step - 1]] if step else 0.0)
        cumulative = np.where(seen, 0.0, weight).cumsum(axis=1)
        point = rng.random(users) * cumulative[:, -1]
        drawn[:, step] = (cumulative <= point[:, None]).sum(axis=1)
        seen[everyone, drawn[:, step]] = True
    gaps = np.int64(1) + np.asarray(rng.exponential(86_400, size=drawn.shape), dtype=np.int64)
    times = START + rng.integers(0, 365 * 86_400, size=(users, 1)) + gaps.cumsum(axis=1)
    real = np.arange(longest) < lengths[:, None]
    user = np.broadcast_to(everyone[:, None], drawn.shape)[real]
    return pl.LazyFrame({"user_id": user, "item_id": drawn[real], "timestamp": times[real]})


def _items(num_items: int, num_categories: int) -> pl.DataFrame:
    names = [f"item {i}" for i in range(num_items)]
    categories = [[f"category {i % num_categories}"] for i in range(num_items)]
    return pl.DataFrame({"item_id": range(num_items), "title": names, "categories": categories})
