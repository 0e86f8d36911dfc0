"""The split by time and the training windows against lists per user; marker items that training must never see."""

import random
from itertools import chain

import numpy as np
import pytest
import torch
from memory import memory_source

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.ragged import Cases, count_transitions
from seqgen.data.split import training_windows
from seqgen.errors import UserError

DAY = 86_400
START = 1_500_000_000 // DAY * DAY  # 2017-07-14
RNG = random.Random(11)
T1, T2 = START + 60 * DAY, START + 80 * DAY
# Of users 0 to 29 the last ones begin late: after T1, some after T2. Markers stand only where their part of time is.
ROWS = []
for _user in range(30):
    for _ in range(RNG.randint(3, 14)):
        _time = START + RNG.randint(0 if _user < 20 else 55 if _user < 25 else 75, 99) * DAY + RNG.randint(0, 3) * 7200
        _part = 0 if _time < T1 else 1 if _time < T2 else 2
        ROWS.append((_user, RNG.randint(1, 12) + 1000 * _part * RNG.randint(0, 1), _time))


@pytest.fixture
def make(tmp_path):
    def data(rows=ROWS, **more):
        settings = {"min_user_interactions": 1, "min_item_interactions": 1, "max_len": 6, "batch_size": 8}
        settings |= {"split": "global_time", "val_from": "2017-09-12", "test_from": "2017-10-02"}
        source = memory_source(rows, time_unit="s")
        return SequenceDataModule(**{"source": source, "cache_dir": str(tmp_path), **settings, **more})

    return data


def plain(rows, low, high, target):
    """Cases (user, history, target) of the period from `low` to before `high`, user by user."""
    cases = []
    for user in sorted({row[0] for row in rows}):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])
        events = [k for k, row in enumerate(own) if low <= row[2] < high]
        if not events or events[0] == 0:
            continue
        chosen = {"first": events[:1], "last": events[-1:], "successive": events}[target]
        cases += [(user, [row[1] for row in own[:k]], own[k][1]) for k in chosen]
    return cases


def found(data, cases):
    ids, values = [None, *data.catalog.item_ids], data.sequences.values.tolist()
    rows = zip(cases.users.tolist(), cases.start.tolist(), cases.stop.tolist(), strict=True)
    return [(user, [ids[i] for i in values[start:stop]], ids[values[stop]]) for user, start, stop in rows]


@pytest.mark.parametrize("target", ["last", "first", "successive"])
def test_cases_of_a_split_by_time(make, target):
    data = make(target=target)
    for cases, low, high in ((data.split.val, T1, T2), (data.split.test, T2, float("inf"))):
        expected = plain(ROWS, low, high, target)
        assert len(expected) > 10
        assert found(data, cases) == expected
    late = {user for user, _, time in ROWS} - {user for user, _, time in ROWS if time < T2}
    assert late
    without = sum(row[0] in late for row in ROWS)
    assert data.split.facts["test_events_without_history"] == without


def test_training_never_sees_what_happens_after_t1(make):
    data = make(target="successive", windows="all", stride=2)
    ids = torch.tensor([0, *data.catalog.item_ids])

    def clean(items):
        return bool((ids[items.long()] < 1000).all())

    before = [row for row in ROWS if row[2] < T1]
    assert (ids >= 1000).sum() > 10
    assert clean(data.train_sequences().values)
    assert len(data.train_sequences().values) == len(before)
    assert clean(data.catalog.item_counts.nonzero())
    assert data.catalog.item_counts.sum() == len(before)
    for of in count_transitions(data.catalog.train(), num_items=data.catalog.num_items, time_span=9)[:2]:
        assert clean(of)
    for batch in data.train_dataloader():
        assert clean(batch.inputs())
        assert clean(batch.targets)
        assert clean(batch.seen_items)
    # The markers are there to be found: validation and test are full of them.
    assert any((ids[batch.targets] >= 1000).any() for batch in data.val_dataloader())
    assert any((ids[batch.targets] >= 2000).any() for batch in data.test_dataloader())


def test_shares_are_of_all_interactions(make):
    data = make(val_from=0.5, test_from=0.75)
    times = sorted(time for _, _, time in ROWS)
    first, second = times[len(times) // 2], times[3 * len(times) // 4]
    assert found(data, data.split.val) == plain(ROWS, first, second, "last")
    assert found(data, data.split.test) == plain(ROWS, second, float("inf"), "last")


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
def test_cold_targets_are_counted_and_left_out_where_asked(make, split):
    common = {"split": split} | ({"val_from": None, "test_from": None} if split == "leave_one_out" else {})
    common |= {"min_user_interactions": 3}
    kept, excluded = make(**common), make(cold_targets="exclude", **common)
    counts = kept.catalog.item_counts
    for name in ("val", "test"):
        cases = getattr(kept.split, name)
        cold = [counts[item] == 0 for item in kept.sequences.values[cases.stop].tolist()]
        assert 0 < sum(cold) < len(cold)
        assert kept.split.facts[f"{name}_cold_targets"] == excluded.split.facts[f"{name}_cold_targets"] == sum(cold)
        assert kept.split.facts[f"{name}_cases"] == len(cold)
        assert excluded.split.facts[f"{name}_cases"] == len(cold) - sum(cold)
        warm = [case for case, is_cold in zip(found(kept, cases), cold, strict=True) if not is_cold]
        assert found(excluded, getattr(excluded.split, name)) == warm
    assert kept.facts()["fingerprint"] != excluded.facts()["fingerprint"]


def test_another_moment_makes_another_catalogue(make):
    """Else a checkpoint could be tested on what it was trained on."""
    marks = {make(val_from=value).catalog.fingerprint for value in ("2017-09-01", "2017-09-12", "2017-09-12T05:00")}
    marks.add(make(split="leave_one_out", val_from=None, test_from=None, min_user_interactions=3).catalog.fingerprint)
    assert len(marks) == 4
    assert make(target="first").catalog.fingerprint in marks  # the same training


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"val_from": 0.9, "test_from": 0.5}, "must come before data.test_from=0.5"),
        ({"val_from": "2030-01-01", "test_from": "2031-01-01"}, "leaves no validation case with T1=2030-01-01"),
        ({"test_from": "2030-01-01"}, "leaves no test case with T1=2017-09-12 and T2=2030-01-01; move data.val_from"),
        ({"val_from": "spring"}, "data.val_from=spring must be a date such as 2018-03-01, or a share"),
        ({"val_from": 1.5}, "data.val_from=1.5 must be a share between 0 and 1"),
        ({"split": "leave_one_out"}, "min_user_interactions=1 must be at least 3"),
        ({"split": "leave_one_out", "min_user_interactions": 3}, "val_from has no effect with split=leave"),
        ({"stride": 3}, "stride has no effect with windows=last"),
        ({"stride": 7, "windows": "all"}, "stride=7 must lie in 1 to max_len=6"),
        ({"storage": "device", "num_workers": 1}, "storage=device needs num_workers=0"),
    ],
)
def test_refused(make, settings, told):
    with pytest.raises(UserError) as error:
        make(**settings).split  # noqa: B018
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_split_by_time_needs_times(make):
    with pytest.raises(UserError, match=r"data\.split=global_time needs timestamps, which memory has not"):
        make([row[:2] for row in ROWS]).split  # noqa: B018
    days = memory_source([(user, item, (time - START) // DAY) for user, item, time in ROWS], name="days")
    with pytest.raises(UserError, match="is a date, but these timestamps only order; give a share"):
        make(source=days).split  # noqa: B018
    assert len(make(source=days, val_from=0.5, test_from=0.8).split.test) > 5


@pytest.mark.parametrize(("max_len", "stride"), [(4, 4), (4, 1), (5, 3), (1, 1), (50, 50)])
def test_windows_against_lists(max_len, stride):
    lengths = [0, 1, 2, 3, 5, 6, 9, 10, 11, 30]
    stop = torch.tensor(lengths).cumsum(0)
    train = Cases(users=torch.arange(10), start=stop - torch.tensor(lengths), stop=stop, seen_stop=stop)
    windows = training_windows(train, max_len=max_len, stride=stride)
    expected = []
    for user, length in enumerate(lengths):
        ends = [] if length < 2 else [length]
        while ends and ends[-1] - 1 > max_len:
            ends.append(ends[-1] - stride)
        expected += [(user, end) for end in ends]
    assert list(zip(windows.users.tolist(), (windows.stop - windows.start).tolist(), strict=True)) == expected
    assert windows.seen_stop.equal(train.stop[windows.users])
    covered = [set() for _ in lengths]
    for user, end in expected:
        covered[user] |= set(range(max(1, end - max_len), end))  # the targets of the window
    assert covered == [set(range(1, length)) for length in lengths]


def test_all_windows_make_every_interaction_a_target_once(make):
    rows = [(user, 100 * user + step, START + step) for user in range(5) for step in range(20 + user)]
    data = make(rows, split="leave_one_out", val_from=None, test_from=None, min_user_interactions=3, windows="all")
    ids = [None, *data.catalog.item_ids]
    targets = sorted(ids[item] for batch in data.train_dataloader() for item in batch.targets.tolist())
    assert targets == sorted(chain.from_iterable([100 * u + s for s in range(1, 18 + u)] for u in range(5)))
    for batch in data.train_dataloader():  # whatever the window: no training item of the user is ever a negative
        for row, user in enumerate(batch.users.tolist()):
            assert (batch.seen_rows == row).sum() == 18 + user


@pytest.mark.parametrize("storage", ["mmap", "device"])
def test_storage_changes_nothing(make, storage):
    def all_of(data):
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        return [
            (batch.users, batch.targets, batch.inputs(), batch.seen_rows, batch.seen_items, batch.newest())
            for loader in loaders
            for batch in loader
        ]

    for plain, stored in zip(all_of(make()), all_of(make(storage=storage)), strict=True):
        assert all(a.equal(b) for a, b in zip(plain, stored, strict=True))


def test_mapped_values_are_not_read_into_memory(make):
    prepared = make(storage="mmap").prepared
    assert isinstance(prepared.values, np.memmap)
    assert isinstance(prepared.times, np.memmap)
