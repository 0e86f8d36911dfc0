"""The test cases of a data set and the rank of the target in each run: values, sums by user, buckets."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from seqgen import stored
from seqgen.errors import UserError
from seqgen.report.runs import Groups, Run

CONTEXT = ("history_len", "target_count", "transition_seen")
BUCKETS = 5  # of history length, and of the popularity of targets that are not cold, at the most


def gain(compare: str) -> tuple[str, float]:
    """The kind of a compared metric, ``ndcg``, ``hr`` or ``mrr``, and its list length, infinite for the last.

    Raises:
        UserError: It is no mean over cases of a function of the rank.
    """
    match = re.fullmatch(r"(?:test/)?(?:(ndcg|hr)@([1-9]\d*)|mrr)", compare)
    if not match:
        raise UserError(f"cannot compare {compare}: use test/ndcg@K, test/hr@K or test/mrr")
    return match[1] or "mrr", float(match[2] or "inf")


def values_of(rank: np.ndarray, compare: str) -> np.ndarray:
    """The compared metric of each case, from the ranks of the targets; a target that is in no list has rank 2**31 - 1.

    Raises:
        UserError: See `gain`.
    """
    kind, k = gain(compare)
    if kind == "hr":
        return (rank <= k).astype(float)
    value = 1 / np.log2(rank + 1.0) if kind == "ndcg" else 1 / rank
    return np.where(rank <= k, value, 0.0)


@dataclass(frozen=True)
class Cases:
    """The test cases of one data set, sorted by user and target.

    Attributes:
        keys: User and target of each case, as text.
        ranks: Label of a group -> ranks (seeds, cases); groups whose ranks were all kept.
        users: Number of each case's user, (cases,).
        counts: Cases of each user, (users,).
        context: `CONTEXT` of each case, as far as a run has it.
    """

    keys: pl.DataFrame
    ranks: dict[str, np.ndarray]
    context: pl.DataFrame | None = None
    users: np.ndarray = field(init=False)
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        users = self.keys["user"].rle_id().to_numpy()
        object.__setattr__(self, "users", users)
        object.__setattr__(self, "counts", np.bincount(users))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums by user, (runs, users), of values by case, (runs, cases)."""
        if len(self.counts) == len(self.users):
            return values
        starts = np.cumsum(self.counts) - self.counts
        return np.add.reduceat(values, starts, axis=1)


class _Reader:
    """Reads ranks. Runs of one data set mostly hold their cases in the same order, which is then sorted once."""

    def __init__(self) -> None:
        self.raw = pl.DataFrame()
        self.keys = pl.DataFrame()
        self.order = np.empty(0, dtype=np.int64)

    def read(self, run: Run, *, optional: bool) -> tuple[pl.DataFrame, np.ndarray] | None:
        """Keys and ranks, sorted; None where a stored run lacks them, or where they may be missing and are."""
        is_stored = run.file.name == stored.RUNS
        file = run.file.with_name(stored.CASES if is_stored else "ranks.parquet")
        if optional and not file.exists():
            return None
        try:
            columns = list(stored.CASE_COLUMNS)
            read = stored.read_cases(file.parent, run.run_id) if is_stored else pl.read_parquet(file, columns=columns)
            if read is None:
                return None
            raw, rank = read.select("user", "target"), read["rank"].cast(pl.Int64).to_numpy()
            if not self.raw.equals(raw):
                self.sort(raw)
        except (pl.exceptions.PolarsError, OSError) as error:
            state = "broken" if file.exists() else "missing"
            raise UserError(f"{file} is {state}: run again with test=true, or leave {file.parent} out") from error
        if not len(rank) or not (rank >= 1).all():
            raise UserError(f"{file} is broken (no test case, or a rank below 1): run again with test=true")
        return self.keys, rank[self.order].astype(np.int32)

    def sort(self, raw: pl.DataFrame) -> None:
        keys = raw.select(pl.all().cast(pl.String)).with_row_index("row").sort("user", "target")
        self.raw, self.order, self.keys = raw, keys["row"].to_numpy(), keys.drop("row")

    def context(self, run: Run) -> pl.DataFrame | None:
        """`CONTEXT` in the order of the keys, where the run's file has it."""
        file = run.file.with_name("ranks.parquet")
        if run.file.name == stored.RUNS or not set(CONTEXT) <= set(pl.read_parquet_schema(file)):
            return None
        return pl.read_parquet(file, columns=list(CONTEXT))[self.order]


def read_cases(groups: Groups, *, needed: bool = False) -> Cases | None:
    """Read the cases of the groups on one data set.

    Args:
        groups: Label -> runs.
        needed: Whether ranks must be there though there is but one group, which is compared to nothing.

    Returns:
        None where no group has all its ranks.

    Raises:
        UserError: A file is broken or missing, or two runs have different cases or candidates.
    """
    reader, keys, ranks, context = _Reader(), None, {}, None
    for label, group in groups.items():
        found = []
        for run in group:
            read = reader.read(run, optional=len(groups) == 1 and not needed)
            if read is None:
                break
            if keys is None:
                keys, first, reference = read[0], label, run
            _check_same(keys, read[0], f"'{first}' and '{label}' (in {run.place})", reference, run)
            found.append(read[1])
            context = reader.context(run) if context is None else context
        if len(found) == len(group):
            ranks[label] = np.stack(found)
    if keys is None or not ranks:
        return None
    return Cases(keys, ranks, context)


def _check_same(keys: pl.DataFrame, other: pl.DataFrame, where: str, reference: Run, run: Run) -> None:
    if keys is not other and not keys.equals(other):
        raise UserError(f"{where} have different test cases, by split or filter: report them apart")
    for key in ("data.split", "data.mask_seen"):
        pair = (reference.protocol[key], run.protocol[key])
        if None not in pair and pair[0] != pair[1]:
            raise UserError(f"{where} differ in {key} ({pair[0]} and {pair[1]}): report them apart")


def buckets(context: pl.DataFrame) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Groupings of test cases: name, names of the buckets in order, and the bucket of each case, (cases,)."""
    history, count = context["history_len"].to_numpy(), context["target_count"].to_numpy()
    yield "history length", *_quantiles(history)
    cold = count == 0
    names, codes = _quantiles(count[~cold]) if not cold.all() else ([], np.empty(0, dtype=np.int64))
    everyone = np.zeros(len(count), dtype=np.int64)
    everyone[~cold] = codes + 1
    yield "target popularity", ["0 (cold)", *names], everyone
    yield "transition seen", ["not seen", "seen"], context["transition_seen"].to_numpy().astype(np.int64)


def _quantiles(values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Buckets of about equal size, named by the range that each holds; equal values stay together."""
    ends = np.unique(np.quantile(values, np.arange(1, BUCKETS + 1) / BUCKETS, method="inverted_cdf"))
    codes = np.searchsorted(ends, values)
    names = []
    for number in range(len(ends)):
        own = values[codes == number]
        names.append(f"{own.min()}" if own.min() == own.max() else f"{own.min()} to {own.max()}")
    return names, codes


def by_bucket(cases: Cases, values: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    """The mean of a compared metric in each bucket that holds a case, seeds averaged.

    Args:
        cases: With their context.
        values: Label -> value of each case, (cases,).
    """
    rows: list[dict[str, object]] = []
    assert cases.context is not None
    for grouping, names, codes in buckets(cases.context):
        counts = np.bincount(codes, minlength=len(names))
        for label, value in values.items():
            means = np.bincount(codes, value, minlength=len(names)) / np.maximum(counts, 1)
            for name, count, mean in zip(names, counts.tolist(), means.tolist(), strict=True):
                if count:
                    row = {"label": label, "grouping": grouping, "bucket": name, "cases": count, "value": mean}
                    rows.append(row)
    return rows
