"""Timestamps of any form as whole numbers, and their unit: stated, or inferred from their size."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from seqgen.errors import UserError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EARLIEST, LATEST = 10**8, 4_102_444_800  # seconds: March 1973, the year 2100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Place = Callable[[int], str]


def microseconds(times: pl.Series, unit: str | None, place: Place) -> tuple[pl.Series, str]:
    """Timestamps as microseconds since 1970 (Int64), and their unit; numbers that only order stay as they are.

    Args:
        times: Numbers, dates, or text that reads as a date; without nulls.
        unit: Of numbers: s, ms, us, ns, or `order`; None infers it from their size.
        place: File and line of a row, for messages.

    Raises:
        UserError: A timestamp is no date, negative, or lies past the year 2100 in its unit.
    """
    if times.dtype == pl.String:
        times = _dates(times, place)
    if times.dtype.is_temporal():
        if times.dtype == pl.Time or times.dtype == pl.Duration:
            raise UserError(f"{place(0)}: the timestamp is a {str(times.dtype).lower()} without a day; give dates.")
        moments = times.cast(pl.Datetime("us")).cast(pl.Int64)
        _check_range(moments, 10**6, "date", place)
        return moments, "date"
    if not times.dtype.is_numeric():
        raise UserError(f"{place(0)}: the timestamp is of type {str(times.dtype).lower()}; give numbers or dates.")
    if times.dtype.is_float() and not times.is_finite().all():
        raise UserError(f"{place(int((~times.is_finite()).arg_max() or 0))}: the timestamp is no number; mend it.")
    unit = unit or _inferred(times, place)
    if unit == "order":
        if times.dtype.is_float() and not (times == times.round()).all():
            times = times.rank("dense")
        return times.cast(pl.Int64), unit
    _check_range(times, PER_SECOND[unit], unit, place)
    if times.dtype.is_float():
        return (times * (10**6 / PER_SECOND[unit])).round().cast(pl.Int64), unit
    times = times.cast(pl.Int64)
    return times * (10**6 // PER_SECOND[unit]) if unit != "ns" else times // 1000, unit


def _dates(times: pl.Series, place: Place) -> pl.Series:
    try:
        dates = times.str.to_datetime(strict=False)
    except pl.exceptions.PolarsError as error:  # not even the first gives a format
        raise UserError(
            f"{place(0)}: the timestamp {times[0]!r} does not read as a date; write it as 2024-01-31 13:45:00, "
            "or as a number."
        ) from error
    if dates.null_count():
        bad = int(dates.is_null().arg_max() or 0)
        raise UserError(
            f"{place(bad)}: the timestamp {times[bad]!r} does not read as a date of the form of {times[0]!r}; mend it."
        )
    return dates


def _inferred(times: pl.Series, place: Place) -> str:
    low, high = int(times.arg_min() or 0), int(times.arg_max() or 0)
    smallest, largest = times[low], times[high]
    if smallest < 0:
        raise UserError(f"{place(low)}: the timestamp is {smallest}, before 1970; mend it.")
    if largest < EARLIEST:
        return "order"
    for unit, per_second in PER_SECOND.items():
        if EARLIEST * per_second <= largest < LATEST * per_second:
            if smallest >= EARLIEST * per_second:
                return unit
            raise UserError(
                f"{place(low)}: the timestamp is {smallest}, but {largest} at {place(high)}, so they are not all "
                f"{NAMES[unit]}; mend them, or state data.time_unit."
            )
    raise UserError(
        f"{place(high)}: the timestamp is {largest}, which is a moment between 1973 and 2100 in no unit; mend it, "
        "or set data.time_unit=order where timestamps only order."
    )


def _check_range(times: pl.Series, per_second: int, unit: str, place: Place) -> None:
    low, high = int(times.arg_min() or 0), int(times.arg_max() or 0)
    if times[low] < 0:
        raise UserError(f"{place(low)}: the timestamp {_shown(times[low], unit)} is before 1970; mend it.")
    if times[high] >= LATEST * per_second:
        fits = [u for u, p in PER_SECOND.items() if EARLIEST * p <= times[high] < LATEST * p and unit != "date"]
        hint = f"; perhaps they are {NAMES[fits[0]]} (data.time_unit={fits[0]})" if fits else "; mend it"
        read = f" read as {NAMES[unit]}" if unit in NAMES else ""
        raise UserError(f"{place(high)}: the timestamp {_shown(times[high], unit)}{read} is past the year 2100{hint}.")


def _shown(value: float, unit: str) -> str:
    if unit != "date":
        return str(value)
    try:
        return str(day(int(value)))
    except OverflowError:
        return str(value)


def day(moment: int) -> str:
    """The day of a moment in microseconds since 1970."""
    return (EPOCH + timedelta(microseconds=moment)).date().isoformat()


def spell(unit: str, moments: np.ndarray) -> str:
    """A unit in words, with the days that the moments span."""
    if unit == "order":
        return "an order without a unit"
    what = "dates" if unit == "date" else NAMES[unit]
    return f"{what}, {day(int(moments.min()))} to {day(int(moments.max()))}"
