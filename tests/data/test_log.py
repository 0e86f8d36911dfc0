"""Order and k-core of a log held as arrays, against numpy's lexsort and plain Python."""

from collections import Counter

import numpy as np
import pytest

from seqgen.data import log as module
from seqgen.data.log import Log, k_core, order


def plain_k_core(rows, user_minimum, item_minimum):
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        bad_users = {u for u, n in users.items() if n < user_minimum}
        bad_items = {i for i, n in items.items() if n < item_minimum}
        if not bad_users and not bad_items:
            return rows
        if bad_users:  # one at a time, users first: the k-core does not depend on the order
            gone = min(bad_users)
            rows = [row for row in rows if row[0] != gone]
        else:
            gone = min(bad_items)
            rows = [row for row in rows if row[1] != gone]


@pytest.mark.parametrize("spans", [(2,), (2**63 - 1,), (2**33, 2**33, 3), (5, 2**40), (2**62, 2**62), (1, 1)])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000])
def test_order_is_stable_lexsort(spans, count):
    rng = np.random.default_rng(count)
    keys = [rng.integers(-span, span, count) for span in spans]
    keys = [key[rng.integers(0, -(-count // 3), count)] if count else key for key in keys]  # many are equal
    assert np.array_equal(order(*keys), np.lexsort(keys[::-1]))


def test_order_of_all_64_bits():
    low, high = -(2**63), 2**63 - 1
    assert order(np.array([high, low, 0, low])).tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("at_once", [1, 50, 10_000])
@pytest.mark.parametrize("presorted", ["nothing", "users", "times"])
@pytest.mark.parametrize("step", [7, 10**6])  # stamps of microseconds, of whole seconds
def test_log_is_ordered_by_user_then_time(monkeypatch, at_once, presorted, step):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    rng = np.random.default_rng(at_once)
    user, item = rng.integers(0, 20, 400, dtype=np.int32), np.arange(400, dtype=np.int32)
    time = rng.integers(0, 30, 400) * step
    if presorted != "nothing":
        (user if presorted == "users" else time).sort()
    time.flags.writeable = False  # as polars hands it out
    log = Log(user.copy(), item.copy(), time)
    log.order()
    rows = np.lexsort([time, user])
    for column, expected in ((log.user, user), (log.item, item), (log.time, time)):
        assert np.array_equal(column, expected[rows])


@pytest.mark.parametrize(("users", "items"), [(5, 5), (3, 6), (7, 1), (1, 7), (6, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_k_core(users, items, seed):
    rng = np.random.default_rng(seed)
    skewed = rng.random((300, 2)) ** 2 * (60, 50)  # a few busy users and items, many rare ones
    rows = [(int(u), int(i)) for u, i in skewed]
    expected = plain_k_core(rows, users, items)
    assert 0 < len(expected) < 300  # else the case shows nothing
    user, item = np.array(rows).T
    left = k_core(user, item, min_user=users, min_item=items)
    assert [row for row, kept in zip(rows, left, strict=True) if kept] == expected


def test_k_core_takes_several_rounds():
    # Each row that goes makes the next user or item too rare: all goes, one by one.
    chain = [(u, i) for u in range(20) for i in (u, u + 1)]
    user, item = np.array(chain).T
    assert k_core(user, item, min_user=2, min_item=2).sum() == 0
    assert k_core(user, item % 20, min_user=2, min_item=2).sum() == 40  # closed to a ring
