"""Which interactions train, which are held out: leave-one-out, or one moment in time for all users.

    x training   v validation target   t test target   . left out

    leave_one_out           global_time   T1      T2
    user A  x x x x x v t   user A  x x x | x v   | x t
    user B      x x v t     user B      x |   v   |
                            user C        |   .   | . t

With `global_time` nothing after T1 trains, for any user. A case's history is all that its user did before the target; a
user with no history before a period has no case in it. Here `target=last`; `first` takes the first event of a user in
the period, `successive` all of them.
"""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from seqgen.data.cache import Prepared
from seqgen.data.ragged import Cases, Sequences, ragged
from seqgen.data.times import moment
from seqgen.errors import UserError

Target = Literal["last", "first", "successive"]
AT_ONCE, USERS_AT_ONCE = 2**20, 100_000  # interactions, users counted together
TIME_SHARES = (0.8, 0.9)  # of the interactions lie before the validation, before the test period


@dataclass(frozen=True, kw_only=True)
class Split:
    """The parts of a data set.

    Attributes:
        train: Training part of every user, (U,) cases, some of them perhaps empty.
        val: Validation cases.
        test: Test cases.
        item_counts: Interactions of each item in the training part, (num_items + 1,).
        facts: For `results.json`: the name of the split, its moments, its numbers of cases.
    """

    train: Cases
    val: Cases
    test: Cases
    item_counts: Tensor
    facts: dict[str, Any]


def leave_one_out(sequences: Sequences, held_out: int) -> Cases:
    """Cases of the leave-one-out split that keep the last `held_out` items of each user out of the history.

    2 is the training part, 1 validation (the target is the second last item) and so on down: validation is
    `held_out=2` read with its target, test is `held_out=1`.
    """
    users = torch.arange(len(sequences.lengths))
    stop = sequences.offsets[1:] - held_out
    return Cases(users=users, start=sequences.offsets[:-1], stop=stop, seen_stop=stop)


def count_items(sequences: Sequences, train: Cases, num_items: int) -> Tensor:
    """Interactions of each item in the training part, (num_items + 1,): all of them less what is held out.

    In pieces, so that a mapped file is never in memory as a whole.
    """
    counts = torch.zeros(num_items + 1, dtype=torch.long)
    for values in sequences.values.split(max(AT_ONCE, num_items)):  # the work is that of the longer one
        counts += torch.bincount(values, minlength=len(counts))
    held_out = sequences.offsets[1:] - train.stop
    for users in torch.arange(len(held_out)).split(USERS_AT_ONCE):
        _, place = ragged(train.stop[users], held_out[users])
        counts -= torch.bincount(sequences.values[place], minlength=len(counts))
    return counts


def leave_one_out_split(sequences: Sequences, num_items: int) -> Split:
    """The last item of each user is the test target, the one before it the validation target, the rest is training."""
    history, test = leave_one_out(sequences, held_out=2), leave_one_out(sequences, held_out=1)
    counts = count_items(sequences, history, num_items)
    return Split(train=history, val=history, test=test, item_counts=counts, facts={"split": "leave_one_out"})


def global_time_split(
    sequences: Sequences, prepared: Prepared, *, val_from: float | str, test_from: float | str, target: Target
) -> Split:
    """Training before T1, validation from T1 to T2, test from T2 on, for all users alike.

    An evaluated user has at least one interaction before the period; the history of a case is all that the user did
    before the target. (Splits by time and the choice of targets: Gusak et al., "Time to Split", RecSys 2025.)

    Args:
        sequences: All interactions.
        prepared: Their times.
        val_from: T1: a date, or the share of all interactions that lie before it.
        test_from: T2, likewise.
        target: Which of a user's events in a period are targets: the `last`, the `first`, or all (`successive`).

    Raises:
        UserError: There are no times, T1 and T2 are in no order, or a part is empty.
    """
    if prepared.times is None:
        raise UserError(f"data.split=global_time needs timestamps, which {prepared.meta['name']} has not.")
    unit = prepared.meta["time_unit"]
    bounds = [
        _moment(name, value, prepared.times, unit) for name, value in (("val_from", val_from), ("test_from", test_from))
    ]
    shown = [str(bound) if unit == "order" else moment(bound) for bound in bounds]
    if bounds[0] >= bounds[1]:
        raise UserError(
            f"data.val_from={val_from} ({shown[0]}) must come before data.test_from={test_from} ({shown[1]})."
        )
    # Users' interactions are in order of time, so each period of a user is one piece: [stops[k - 1], stops[k]).
    start, end = sequences.offsets[:-1], sequences.offsets[1:]
    before = [np.add.reduceat(prepared.times < bound, start.numpy(), dtype=np.int64) for bound in bounds]
    stops = torch.stack([*(start + torch.from_numpy(count) for count in before), end], dim=1)  # (U, 3)
    users = torch.arange(len(start))
    train = Cases(users=users, start=start, stop=stops[:, 0], seen_stop=stops[:, 0])
    parts = {name: _period_cases(start, stops[:, k - 1], stops[:, k], target) for k, name in ((1, "val"), (2, "test"))}
    for name, (cases, _) in parts.items():
        if not len(cases):
            raise UserError(
                f"data.split=global_time leaves no {'validation' if name == 'val' else 'test'} case with T1={shown[0]} "
                f"and T2={shown[1]}; move data.val_from or data.test_from."
            )
    facts: dict[str, Any] = {"split": "global_time", "target": target, "val_from": shown[0], "test_from": shown[1]}
    facts |= {f"{name}_events_without_history": without for name, (_, without) in parts.items()}
    counts = count_items(sequences, train, prepared.items.height)
    return Split(train=train, val=parts["val"][0], test=parts["test"][0], item_counts=counts, facts=facts)


def _moment(name: str, value: float | str, times: np.ndarray, unit: str) -> int:
    """A bound in the unit of `times`; what happens at it is already after it."""
    if isinstance(value, str):
        if unit == "order":
            raise UserError(
                f"data.{name}={value} is a date, but these timestamps only order; give a share such as 0.8."
            )
        try:
            date = datetime.fromisoformat(value)
        except ValueError as error:
            raise UserError(
                f"data.{name}={value} must be a date such as 2018-03-01, or a share such as 0.8."
            ) from error
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 10**6)
    if not 0 < value < 1:
        raise UserError(f"data.{name}={value} must be a share between 0 and 1, or a date such as 2018-03-01.")
    rank = math.floor(value * len(times))
    return int(np.partition(times, rank)[rank])


def _period_cases(start: Tensor, begin: Tensor, end: Tensor, target: Target) -> tuple[Cases, int]:
    """Cases whose targets lie in a period, and the number of events in it of users without a history before it."""
    known = (begin > start) & (end > begin)
    without = int((end - begin)[begin == start].sum())
    users, start, begin, end = known.nonzero().squeeze(1), start[known], begin[known], end[known]
    if target == "successive":
        rows, stop = ragged(begin, end - begin)
        users, start = users[rows], start[rows]
    else:
        stop = begin if target == "first" else end - 1
    return Cases(users=users, start=start, stop=stop, seen_stop=stop), without


def without_cold_targets(split: Split, values: Tensor, *, exclude: bool) -> Split:
    """Count, and leave out where asked, the cases whose target never occurs in training."""
    facts, parts = {**split.facts, "cold_targets": "exclude" if exclude else "keep"}, {}
    for name in ("val", "test"):
        cases: Cases = getattr(split, name)
        cold = split.item_counts[values[cases.stop].long()] == 0
        facts |= {f"{name}_cases": len(cases), f"{name}_cold_targets": int(cold.sum())}
        parts[name] = cases
        if exclude:
            parts[name] = cases[~cold]
            facts[f"{name}_cases"] = len(parts[name])
            if not len(parts[name]):
                raise UserError(f"data.cold_targets=exclude leaves no {name} case: no target occurs in training.")
    return replace(split, val=parts["val"], test=parts["test"], facts=facts)


def training_windows(train: Cases, *, max_len: int, stride: int | None) -> Cases:
    """Windows of up to `max_len + 1` items over each training part, newest first; parts without a target give none.

    Args:
        train: Training part of each user.
        max_len: Inputs of a window.
        stride: Between the ends of two windows; None takes the newest window only. With `max_len` every interaction
            but a user's first is a target once, with less several times.
    """
    targets = train.stop - train.start - 1
    train, targets = train[targets > 0], targets[targets > 0]
    if stride is None:
        return train
    more = torch.clamp(targets - max_len, min=0)
    count = 1 + (more + stride - 1) // stride
    rows, back = ragged(torch.zeros_like(count), count)
    windows = train[rows]
    return replace(windows, stop=windows.stop - back * stride)
