"""Hierarchical bootstrap over seeds and users, p-values from it, Holm's correction, and what is not dominated.

Free of runs and files: everything here is about arrays.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Numbers of one chunk of resampled counts (samples x users), so that memory does not grow with either: 32 MB.
CHUNK = 4_000_000
# Equal values added in another order differ in the last bits, which must not pass for a difference.
DIGITS = 12
LEVEL = 0.05


@dataclass(frozen=True)
class Group:
    """Runs of one setting.

    Attributes:
        rows: Where its runs stand among all, (seeds,).
        seeds: What pairs runs of two groups, in the order of ``rows``: groups of the same seeds are resampled as one.
    """

    rows: Sequence[int]
    seeds: tuple[object, ...]


def user_counts(users: int, samples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each user is drawn in each sample, in chunks (samples of the chunk, users) of float64."""
    size = max(1, CHUNK // users)
    for start in range(0, samples, size):
        counts = np.empty((min(size, samples - start), users))
        for row in counts:
            row[:] = np.bincount(generator.integers(users, size=users), minlength=users)
        yield counts


def seed_weights(seeds: int, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Weights (samples, seeds) of the seeds in each sample's mean: as many as there are, drawn with replacement.

    Deviations from equal weights are multiplied by sqrt(n / (n - 1)), since the plain bootstrap of n seeds finds
    (n - 1) / n of the variance of their mean: a third too little of three (Rao and Wu 1988, the rescaled bootstrap).
    """
    if seeds == 1:
        return np.ones((samples, 1))
    drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples) / seeds
    return 1 / seeds + math.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)


def bootstrap(sums: np.ndarray, counts: np.ndarray, groups: Sequence[Group], *, samples: int, seed: int) -> np.ndarray:
    """Means of groups under resampled seeds and users.

    Each sample draws users with replacement, the same for all groups, and the seeds of each group; groups of the same
    seeds draw the same, others independently.

    Args:
        sums: Of each run the sum over each user's cases, (runs, users).
        counts: Cases of each user, (users,).
        groups: Which runs belong together.
        samples: Number of samples.
        seed: Of the draws. Those of the users do not depend on the groups.

    Returns:
        (samples, groups).
    """
    means = np.empty((samples, len(sums)))
    start = 0
    for drawn in user_counts(len(counts), samples, np.random.default_rng(seed)):
        stop = start + len(drawn)
        means[start:stop] = (drawn @ sums.T) / (drawn @ counts)[:, None]
        start = stop
    designs = list(dict.fromkeys(group.seeds for group in groups))
    weights = {
        seeds: seed_weights(len(seeds), samples, np.random.default_rng([seed, number]))
        for number, seeds in enumerate(designs, start=1)
    }
    return np.column_stack([(means[:, list(group.rows)] * weights[group.seeds]).sum(axis=1) for group in groups])


def intervals(differences: np.ndarray) -> np.ndarray:
    """95 % percentile intervals (2, groups) of resampled differences (samples, groups)."""
    ends: np.ndarray = np.percentile(differences, [50 * LEVEL, 100 - 50 * LEVEL], axis=0)
    return ends


def p_values(differences: np.ndarray) -> np.ndarray:
    """Two-sided p-values (groups,) of resampled differences (samples, groups): the percentile interval inverted.

    Twice the smaller share of samples on one side of 0, that is the level at which the interval just excludes it; the
    observed sample counts as one more, so that no p-value is 0 (Davison and Hinkley 1997, section 4.2).
    """
    below, above = (differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0)
    found: np.ndarray = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (len(differences) + 1))
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p-values that may all be held against one level, in the order given."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected.tolist()


def not_dominated(values: np.ndarray) -> np.ndarray:
    """Which points (n, axes) no other one beats: at least as large in all axes and larger in one."""
    at_least = (values[:, None, :] >= values[None, :, :]).all(axis=2)
    larger = (values[:, None, :] > values[None, :, :]).any(axis=2)
    beaten: np.ndarray = np.any(at_least & larger, axis=0)
    return ~beaten
