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
        UserError: A timestamp is no date, negative, or lies past the year 2100 in its unit; dates are given a unit.
    """
    if times.dtype == pl.String:
        times = _dates(times, place)
    if times.dtype.is_temporal():
        if unit is not None:
            raise UserError(f"data.time_unit={unit} has no effect on dates, as {place(0)} holds; leave it null.")
        return _moments(times, place), "date"
    if not times.dtype.is_numeric():
        raise UserError(f"{place(0)}: the timestamp is of type {str(times.dtype).lower()}; give numbers or dates.")
    if isinstance(times.dtype, pl.Decimal):
        times = times.cast(pl.Float64 if times.dtype.scale else pl.Int128)
    if times.dtype.is_float():
        times = times.cast(pl.Float64)  # in 32 bits the factor below moves them by minutes
        if not times.is_finite().all():
            raise UserError(f"{place(int((~times.is_finite()).arg_max() or 0))}: the timestamp is no number; mend it.")
    unit = unit or _inferred(times, place)
    if unit == "order":
        fractions = times.dtype.is_float() and not (times == times.round()).all()
        if fractions or not -(2**63) <= times[times.arg_min() or 0] <= times[times.arg_max() or 0] < 2**63:
            times = times.rank("dense")
        return times.cast(pl.Int64), unit
    _check_range(times, PER_SECOND[unit], unit, place)
    if times.dtype.is_float():
        return (times * (10**6 / PER_SECOND[unit])).round().cast(pl.Int64), unit
    times = times.cast(pl.Int64)
    return times * (10**6 // PER_SECOND[unit]) if unit != "ns" else times // 1000, unit


def _dates(times: pl.Series, place: Place) -> pl.Series:
    """Text as dates of the form of the first one."""
    number = times.cast(pl.Float64, strict=False).is_finite().fill_null(False)
    if number.all():
        raise UserError(
            f"{place(0)}: the timestamp {times[0]!r} is a number written as text, there or further down; "
            "write numbers without quotes."
        )
    if number[0]:  # polars reads a column as text for one text among its first rows
        bad = int((~number).arg_max() or 0)
        raise UserError(
            f"{place(bad)}: the timestamp {times[bad][:60]!r} is no number, while {times[0]!r} at {place(0)} is one; "
            "mend it."
        )
    try:
        dates = times.str.to_datetime(strict=False)
    except pl.exceptions.PolarsError:  # not even the first gives a format
        dates = pl.Series([None], dtype=pl.Datetime)
    if dates.null_count():
        bad = int(dates.is_null().arg_max() or 0)
        form = f" of the form of {times[0]!r}; mend it" if bad else "; write it as 2024-01-31 13:45:00, or as a number"
        raise UserError(f"{place(bad)}: the timestamp {times[bad][:60]!r} does not read as a date{form}.")
    return dates


def _moments(dates: pl.Series, place: Place) -> pl.Series:
    """Dates as microseconds since 1970; polars would wrap around, or panic, at those far outside."""
    if not isinstance(dates.dtype, pl.Date | pl.Datetime):
        raise UserError(f"{place(0)}: the timestamp is a {str(dates.dtype).lower()} without a day; give dates.")
    per_second = PER_SECOND[dates.dtype.time_unit] if isinstance(dates.dtype, pl.Datetime) else 1 / 86_400
    counts = dates.to_physical().cast(pl.Int64)
    _check_range(counts, per_second, "date", place)
    return counts * round(10**6 / per_second) if per_second < 10**9 else counts // 1000


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


def _check_range(times: pl.Series, per_second: float, unit: str, place: Place) -> None:
    def shown(value: float) -> str:
        try:
            return day(int(value / per_second * 10**6)) if unit == "date" else str(value)
        except OverflowError:  # a year of five digits
            return str(value)

    low, high = int(times.arg_min() or 0), int(times.arg_max() or 0)
    if times[low] < 0:
        raise UserError(f"{place(low)}: the timestamp {shown(times[low])} is before 1970; mend it.")
    if times[high] >= LATEST * per_second:
        fits = [u for u, p in PER_SECOND.items() if EARLIEST * p <= times[high] < LATEST * p and unit != "date"]
        hint = f"; perhaps they are {NAMES[fits[0]]} (data.time_unit={fits[0]})" if fits else "; mend it"
        read = f" read as {NAMES[unit]}" if unit in NAMES else ""
        raise UserError(f"{place(high)}: the timestamp {shown(times[high])}{read} is past the year 2100{hint}.")


def day(moment: int) -> str:
    """The day of a moment in microseconds since 1970."""
    return (EPOCH + timedelta(microseconds=moment)).date().isoformat()


def moment(microseconds: int) -> str:
    """A moment in microseconds since 1970, as exact as it is: a day where it is midnight."""
    exact = (EPOCH + timedelta(microseconds=microseconds)).replace(tzinfo=None)
    return exact.isoformat().removesuffix("T00:00:00")


def spell(unit: str, moments: np.ndarray) -> str:
    """A unit in words, with the days that the moments span."""
    if unit == "order":
        return "an order without a unit"
    what = "dates" if unit == "date" else NAMES[unit]
    return f"{what}, {day(int(moments.min()))} to {day(int(moments.max()))}"
