"""Lists of other frameworks, scored beside our runs: a parquet of user, item and rank, one list a user.

The test cases come from the ranks of a run on the same data; a list's row is compared with ours like any other.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from seqgen.errors import UserError, nearest
from seqgen.report.cases import Cases, gain, values_of
from seqgen.report.runs import Data, Groups, Run, of_data

COLUMNS = ("user", "item", "rank")
MISSED = 2**31 - 1  # rank of a target that is in no list: beyond every list length


@dataclass(frozen=True)
class Lists:
    """Lists of one framework.

    Attributes:
        label: What its row is called.
        file: Where they were read.
        data: The data set that they are scored on.
        frame: user and item as text, rank.
        length: The largest rank, up to which metrics are known.
    """

    label: str
    file: Path
    data: Data
    frame: pl.DataFrame
    length: int


def read_lists(lists: Mapping[str, str | Path], groups: Groups, notes: list[str]) -> list[Lists]:
    """Read and check lists.

    Args:
        lists: Name, or ``name@data``, -> file.
        groups: The rows that they stand beside.
        notes: Receives a line about columns that are not read.

    Raises:
        UserError: A file cannot be read, is malformed, or its data set is not clear.
    """
    names = dict.fromkeys(group[0].data for group in groups.values())
    found = []
    for key, place in lists.items():
        name, _, wanted = key.partition("@")
        fits = [data for data in names if wanted in ("", data[0])]
        if not name or not fits:
            known = ", ".join(dict.fromkeys(data[0] for data in names))
            raise UserError(f"the lists {key} name no data set of the table; it has {known}")
        if len(fits) > 1:
            sets = ", ".join(f"{name}@{data[0]}" for data in fits)
            raise UserError(f"the table has several data sets: write one of {sets}, or report one data set")
        label = key if len([other for other in lists if other.partition("@")[0] == name]) > 1 else name
        if label in groups:
            raise UserError(f"the lists {key} have the name of a row of the table; choose another")
        frame = _checked(Path(place), notes)
        found.append(Lists(label, Path(place), fits[0], frame, int(frame["rank"].max())))  # type: ignore[arg-type]
    return found


def _checked(file: Path, notes: list[str]) -> pl.DataFrame:
    """Read a parquet of lists as user and item (text) and rank."""
    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"the lists {file} cannot be read as parquet ({error})".splitlines()[0]) from error
    others = [name for name in frame.columns if name not in COLUMNS]
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        close = nearest(missing[0], others).replace("; did you mean", ": rename")
        raise UserError(f"the lists {file} lack the column {missing[0]}{close}; they have {', '.join(frame.columns)}")
    if not len(frame):
        raise UserError(f"the lists {file} are empty")
    for name in ("user", "item"):
        if not (frame[name].dtype.is_integer() or frame[name].dtype in (pl.String, pl.Categorical, pl.Enum)):
            raise UserError(f"the {name}s of {file} are {frame[name].dtype}: write the data's ids, integers or text")
    if not frame["rank"].dtype.is_integer():
        raise UserError(f"the ranks of {file} are {frame['rank'].dtype}: write integers from 1")
    for name in COLUMNS:
        if count := frame[name].null_count():
            raise UserError(f"{count} rows of the lists {file} have no {name}")
    if (low := frame["rank"] < 1).any():
        raise UserError(f"the lists {file} have the rank {frame['rank'].filter(low)[0]}: ranks begin with 1")
    for name in ("rank", "item"):
        if len(again := frame.filter(frame.select("user", name).is_duplicated())):
            row = again.row(0, named=True)
            raise UserError(f"the list of user {row['user']} in {file} has the {name} {row[name]} more than once")
    if others:
        notes.append(f"{file}: the columns {', '.join(others)} are not read")
    return frame.select(pl.col("user", "item").cast(pl.String), pl.col("rank").cast(pl.Int64))


def add_lists(
    given: Sequence[Lists],
    groups: Groups,
    cases: Cases | None,
    metrics: Iterable[str],
    compare: str,
    notes: list[str],
) -> None:
    """Add a row for each of some lists on one data set.

    Args:
        given: The lists.
        groups: Receives a group of one run for each.
        cases: Test cases of the data set; receives the rank of the target in each list that is long enough.
        metrics: Names of the metrics to compute, where the lists are long enough: hr@K, ndcg@K and coverage@K.
        compare: The compared metric.
        notes: Receives a line about users without a list, and the like.

    Raises:
        UserError: No run on the data has ranks, or no test user has a list.
    """
    for lists in given:
        if cases is None:
            raise UserError(f"no run on {lists.data[0]} has kept its ranks, so that {lists.file} cannot be scored")
        ours = next(iter(of_data(groups, lists.data).values()))[0]
        frame = _of_test_users(lists, cases, notes)
        key = {"left_on": ["user", "target"], "right_on": ["user", "item"]}
        joined = cases.keys.join(frame, how="left", maintain_order="left", **key)  # type: ignore[arg-type]
        rank = joined["rank"].fill_null(MISSED).to_numpy().astype(np.int32)
        if gain(compare)[1] <= lists.length:
            cases.ranks[lists.label] = rank[None, :]
        else:
            name = compare.removeprefix("test/")
            notes.append(f"{lists.label}: no {name}, since its lists hold {lists.length} items")
        numbers: dict[str, float] = {}
        for name in dict.fromkeys([*metrics, compare]):
            match = re.fullmatch(r"test/(hr|ndcg|coverage)@(\d+)", name)
            if not match or int(match[2]) > lists.length:
                continue
            if match[1] != "coverage":
                numbers[name] = float(values_of(rank, name).mean())
            elif ours.num_items is not None:
                numbers[name] = _coverage(lists, frame, int(match[2]), ours.num_items)
        groups[lists.label] = [_as_run(lists, ours, numbers)]


def _as_run(lists: Lists, ours: Run, numbers: dict[str, float]) -> Run:
    return Run(
        file=lists.file,
        place=str(lists.file),
        name=None,
        run_id=str(lists.file),
        seed=(0,),
        names=[lists.label, "-", lists.data[0]],
        data=lists.data,
        settings={},
        choices={},
        overrides=[],
        numbers=numbers,
        protocol=dict.fromkeys(ours.protocol),
        monitor=None,
        history=[],
        device=None,
        num_items=ours.num_items,
        is_list=True,
    )


def _of_test_users(lists: Lists, cases: Cases, notes: list[str]) -> pl.DataFrame:
    """The lists of users with a test case."""
    own, test = lists.frame["user"].unique(), cases.keys["user"].unique()
    with_list = test.is_in(own.implode()).sum()
    if not with_list:
        pair = f"'{own[0]}' beside '{test[0]}'"
        raise UserError(f"no test user of {lists.data[0]} has a list in {lists.file} (ids such as {pair})")
    if missing := len(test) - with_list:
        notes.append(f"{lists.label}: {missing} of {len(test)} test users have no list, which counts as a miss")
    if more := len(own) - with_list:
        notes.append(f"{lists.label}: {more} lists are of users without a test case, and are left out")
    frame = lists.frame.filter(pl.col("user").is_in(test.implode()))
    if short := frame.group_by("user").len().filter(pl.col("len") < lists.length).height:
        notes.append(f"{lists.label}: {short} lists are shorter than {lists.length} items")
    if len(cases.keys) > len(test):
        notes.append(f"{lists.label}: users with several test cases have one list, in which each target is sought")
    return frame


def _coverage(lists: Lists, frame: pl.DataFrame, k: int, num_items: int) -> float:
    """Share of the catalogue in the first K of the lists."""
    count = frame.filter(pl.col("rank") <= k)["item"].n_unique()
    if count > num_items:
        raise UserError(f"{lists.file} holds {count} items, more than the {num_items} of {lists.data[0]}")
    return count / num_items
