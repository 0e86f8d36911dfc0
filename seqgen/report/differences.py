"""Differences of the rows of one data set: to its baseline, and to its best row."""

from dataclasses import dataclass, field

import numpy as np

from seqgen.report.cases import Cases, values_of
from seqgen.report.runs import Groups
from seqgen.report.statistics import DIGITS, LEVEL, Group, bootstrap, holm, intervals, p_values

FEW_SEEDS = 5  # with fewer, the bootstrap over seeds is too narrow; see tests/report/test_statistics.py


@dataclass
class Compared:
    """What became of the rows of one data set; what is not known of a label is absent.

    Attributes:
        values: Value of each case, seeds averaged, (cases,).
        differences: To the baseline: difference, low, high.
        p: Of these, uncorrected.
        best: The label with the largest mean.
        not_worse: Labels that are not significantly worse than the best, which is among them.
        designs: How each difference was resampled: users, paired or independent.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    differences: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    p: dict[str, float] = field(default_factory=dict)
    best: str | None = None
    not_worse: set[str] = field(default_factory=set)
    designs: dict[str, str] = field(default_factory=dict)


def compared(
    groups: Groups,
    cases: Cases | None,
    baseline: str | None,
    compare: str,
    *,
    samples: int,
    seed: int,
    notes: list[str],
) -> Compared:
    """Compare the groups on one data set.

    Args:
        groups: Label -> runs.
        cases: Their test cases; None where no ranks were kept.
        baseline: Label of the baseline; None where the data set has none.
        compare: The compared metric, `test/ndcg@K` and the like.
        samples: Number of bootstrap samples.
        seed: Of the bootstrap.
        notes: Receives a line where something cannot be compared.
    """
    found = Compared()
    if cases is not None:
        found.values = {label: values_of(ranks, compare).mean(axis=0) for label, ranks in cases.ranks.items()}
    means = {label: float(value.mean()) for label, value in found.values.items()}
    if len(groups) == 1:
        return found
    for label in groups.keys() - means.keys():
        recorded = [run.numbers[compare] for run in groups[label] if compare in run.numbers]
        means |= {label: float(np.mean(recorded))} if len(recorded) == len(groups[label]) else {}
    found.best = max((label for label in groups if label in means), key=means.__getitem__, default=None)
    data = next(iter(groups.values()))[0].data[0]
    lost = [label for label in groups if label not in found.values and not groups[label][0].is_list]
    if baseline in lost:
        notes.append(f"no Δ on {data}: the ranks of the test cases of {baseline} were not kept")
    elif lost:
        count = len(lost)
        notes.append(f"no Δ for {count} rows on {data}: the ranks of their test cases were not kept")
    if cases is not None and len(found.values) > 1:
        _resample(found, groups, cases, baseline, compare, samples, seed)
    return found


def _resample(
    found: Compared, groups: Groups, cases: Cases, baseline: str | None, compare: str, samples: int, seed: int
) -> None:
    labels = list(found.values)
    designs: list[Group] = []
    sums: list[np.ndarray] = []
    for label in labels:
        # By seed, so that the runs of two groups of the same seeds stand in the same order.
        numbers = [run.seed[0] for run in groups[label]]
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        start = sum(map(len, sums))
        designs.append(Group(range(start, start + len(order)), tuple(numbers[place] for place in order)))
        sums.append(cases.sums(values_of(cases.ranks[label][order], compare)))
    drawn = bootstrap(np.concatenate(sums), cases.counts, designs, samples=samples, seed=seed)
    means = [float(found.values[label].mean()) for label in labels]

    def against(label: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The other labels, their differences to one, and those resampled."""
        place = labels.index(label)
        others = [number for number in range(len(labels)) if number != place]
        point = np.round([means[number] - means[place] for number in others], DIGITS)
        return [labels[n] for n in others], point, np.round(drawn[:, others] - drawn[:, [place]], DIGITS)

    if baseline in found.values:
        others, point, resampled = against(baseline)
        low, high = intervals(resampled)
        ends = zip(point.tolist(), low.tolist(), high.tolist(), strict=True)
        found.differences = dict(zip(others, ends, strict=True))
        found.p = dict(zip(others, p_values(resampled).tolist(), strict=True))
        base = designs[labels.index(baseline)].seeds
        for label in others:
            own = designs[labels.index(label)].seeds
            found.designs[label] = "users" if len(own) == len(base) == 1 else "paired" if own == base else "independent"
    if found.best in found.values:
        others, _, resampled = against(found.best)
        corrected = holm(p_values(resampled).tolist())
        found.not_worse = {found.best} | {n for n, p in zip(others, corrected, strict=True) if p >= LEVEL}


def sentence(designs: list[str], seeds: list[int]) -> str:
    """How the intervals of a table were made.

    Args:
        designs: Of each difference, as in `Compared`.
        seeds: Number of seeds of each row that was compared.
    """
    if not designs:
        return ""
    if set(designs) == {"users"}:
        return "One seed a row: only users are resampled, so the intervals know nothing of the spread over seeds."
    apart = len([design for design in designs if design == "independent"])
    text = "Seeds and users are resampled"
    if apart < len(designs):
        text += ", the same seeds for a row and its baseline" if "paired" in designs else ""
    if apart:
        text += f"; independently in {apart} of {len(designs)} differences, whose rows do not have the baseline's seeds"
    if min(seeds) == 1:
        text += "; of a row with one seed only users"
    if max(seeds) > 1 and min(count for count in seeds if count > 1) < FEW_SEEDS:
        text += f". Intervals over fewer than {FEW_SEEDS} seeds are too narrow where seeds differ more than users do"
    return f"{text}."
