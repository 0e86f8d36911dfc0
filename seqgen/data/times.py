"""Timestamps of any form as whole numbers, and their unit: stated, or inferred from their size."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from seqgen.errors import UserError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EARLIEST, LATEST = 10**8, 4_102_444_800  # seconds: March 1973, the year 2100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Day and month of which nothing says which comes first.
DAY_OR_MONTH = r"^\s*(\d{1,2})[/.-](\d{1,2})[/.-]\d{4}"
# Dates written as one number, by their digits.
WRITTEN = {10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
WHOLE_DAY = 86_400

Place = Callable[[int], str]


class Times(NamedTuple):
    """The timestamps of a log.

    Attributes:
        moments: Microseconds since 1970, or numbers that only order, (n,) int64.
        unit: Of the log: s, ms, us, ns, `date`, or `order` for numbers that only order.
        order: Rows in the order of the log's own, finer timestamps, (n,); None where microseconds hold them all.
        notice: What else there is to know of them.
    """

    moments: np.ndarray
    unit: str
    order: np.ndarray | None = None
    notice: str | None = None


def read_times(times: pl.Series, unit: str | None, date_format: str | None, place: Place) -> Times:
    """Timestamps as microseconds since 1970; numbers that only order stay as they are.

    Args:
        times: Numbers, dates, or text that reads as a date; without nulls.
        unit: Of numbers: s, ms, us, ns, or `order`; None infers it from their size.
        date_format: Of dates written as text, or as one number such as 20240131; None infers it.
        place: File and line of a row, for messages.

    Raises:
        UserError: A timestamp is no date, negative, or lies past the year 2100 in its unit; it may be read in two ways;
            dates are given a unit; numbers are given a format.
    """
    notice = _coarse(times)
    if date_format is not None:
        times = _formatted(times, date_format, place)
    elif times.dtype == pl.String:
        times = _dates(times, place)
    if times.dtype.is_temporal():
        if unit is not None:
            raise UserError(f"data.time_unit={unit} has no effect on dates, as {place(0)} holds; leave it null.")
        return Times(*_moments(times, place))
    if not times.dtype.is_numeric():
        raise UserError(f"{place(0)}: the timestamp is of type {str(times.dtype).lower()}; give numbers or dates.")
    if isinstance(times.dtype, pl.Decimal):
        times = times.cast(pl.Float64 if times.dtype.scale else pl.Int128)
    if times.dtype.is_float():
        times = times.cast(pl.Float64)  # in 32 bits the factor below moves them by minutes
        if not times.is_finite().all():
            bad = int((~times.is_finite()).arg_max() or 0)
            raise UserError(f"{place(bad)}: the timestamp is {times[bad]}; correct it.")
    unit = unit or _inferred(times, place)
    if unit == "order":
        fractions = times.dtype.is_float() and not (times == times.round()).all()
        if fractions or not -(2**63) <= times[times.arg_min() or 0] <= times[times.arg_max() or 0] < 2**63:
            times = times.rank("dense")
        return Times(times.cast(pl.Int64).to_numpy(), unit, None, notice)
    _check_range(times, PER_SECOND[unit], unit, place)
    if times.dtype.is_float():
        moments = (times * (10**6 / PER_SECOND[unit])).round().cast(pl.Int64)
        return Times(moments.to_numpy(), unit, None if (times == times.round()).all() else _order(times), notice)
    times = times.cast(pl.Int64)
    if unit == "ns":
        return Times((times // 1000).to_numpy(), unit, _finer(times))
    return Times((times * (10**6 // PER_SECOND[unit])).to_numpy(), unit)


def _order(times: pl.Series) -> np.ndarray:
    return np.argsort(times.to_numpy(), kind="stable")


def _finer(nanoseconds: pl.Series) -> np.ndarray | None:
    """The order of nanoseconds, where microseconds would tie some."""
    return _order(nanoseconds) if (nanoseconds % 1000 != 0).any() else None


def _coarse(times: pl.Series) -> str | None:
    """What to say of times that went through floats of 32 bits."""
    largest = float(times.to_numpy().max(initial=0)) if times.dtype.is_float() else 0.0
    if not 2**24 <= largest < 2**63:  # below, every whole number is exact
        return None
    # A day is a multiple of 128 seconds, so days of seconds show nothing.
    if times.dtype != pl.Float32 and not ((times.cast(pl.Float32) == times).all() and (times % WHOLE_DAY != 0).any()):
        return None
    step = float(np.spacing(np.float32(largest)))
    return (
        f"the timestamps went through 32-bit floats, which lie {step:g} apart at {largest:.10g}: closer ones became "
        "equal, and keep the order of the file; store them as whole numbers or 64-bit floats"
    )


def _formatted(times: pl.Series, date_format: str, place: Place) -> pl.Series:
    """Text, or whole numbers, as dates of a stated format."""
    if times.dtype.is_temporal() or not (times.dtype == pl.String or times.dtype.is_numeric()):
        kind = str(times.dtype).lower()
        raise UserError(
            f"data.date_format has no effect on timestamps of type {kind}, as {place(0)} holds; leave it null."
        )
    if times.dtype.is_float() and (times == times.round()).all():
        times = times.cast(pl.Int64, strict=False)
    text = times.cast(pl.String)
    try:
        dates = text.str.to_datetime(date_format, strict=False)
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())
        reason = "an hour needs its minutes" if "hour and minute" in reason else reason[:100]
        raise UserError(f"data.date_format={date_format} cannot be used ({reason}); correct it.") from error
    if dates.null_count():
        bad = int(dates.is_null().arg_max() or 0)
        raise UserError(
            f"{place(bad)}: the time {str(text[bad])[:60]!r} is not of data.date_format={date_format}; correct it, "
            "or state the format of the log."
        )
    return dates


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
            f"{place(bad)}: the timestamp {times[bad][:60]!r} is not a number, while {times[0]!r} at {place(0)} is; "
            "correct it."
        )
    _refuse_day_or_month(times, place)
    try:
        dates = times.str.to_datetime(strict=False)
    except pl.exceptions.PolarsError:  # not even the first gives a format
        dates = pl.Series([None], dtype=pl.Datetime)
    if dates.null_count():
        bad = int(dates.is_null().arg_max() or 0)
        form = (
            f" of the form of {times[0]!r}; correct it" if bad else "; write it as 2024-01-31 13:45:00, or as a number"
        )
        form += ", or state data.date_format"
        raise UserError(f"{place(bad)}: the timestamp {times[bad][:60]!r} does not read as a date{form}.")
    return dates


def _refuse_day_or_month(times: pl.Series, place: Place) -> None:
    """Refuse dates such as 01/11/2024 where no number above 12 shows which one is the day."""
    if not times.head(1).str.contains(DAY_OR_MONTH).all():
        return
    first, second = (times.str.extract(DAY_OR_MONTH, group).cast(pl.Int64) for group in (1, 2))
    if (first <= 12).fill_null(False).all() or (second > 12).any():
        sign = times[0].lstrip().lstrip("0123456789")[0]
        clock = ("", " %H:%M", " %H:%M:%S")[min(times[0].count(":"), 2)]
        forms = " or ".join(f"'{form}{clock}'".replace("/", sign) for form in ("%d/%m/%Y", "%m/%d/%Y"))
        raise UserError(
            f"{place(0)}: the timestamp {times[0][:60]!r} may begin with the day or with the month; "
            f"state data.date_format, such as {forms}."
        )


def _moments(dates: pl.Series, place: Place) -> tuple[np.ndarray, str, np.ndarray | None]:
    """Dates as microseconds since 1970; polars would wrap around, or panic, at those far outside."""
    if not isinstance(dates.dtype, pl.Date | pl.Datetime):
        raise UserError(f"{place(0)}: the timestamp is a {str(dates.dtype).lower()} without a day; give dates.")
    per_second = PER_SECOND[dates.dtype.time_unit] if isinstance(dates.dtype, pl.Datetime) else 1 / 86_400
    counts = dates.to_physical().cast(pl.Int64)
    _check_range(counts, per_second, "date", place)
    if per_second < 10**9:
        return (counts * round(10**6 / per_second)).to_numpy(), "date", None
    return (counts // 1000).to_numpy(), "date", _finer(counts)


def _inferred(times: pl.Series, place: Place) -> str:
    low, high = int(times.arg_min() or 0), int(times.arg_max() or 0)
    smallest, largest = times[low], times[high]
    if smallest < 0:
        raise UserError(f"{place(low)}: the timestamp is {smallest}, before 1970; correct it.")
    if largest < EARLIEST:
        return "order"
    _refuse_written(times, largest, place)
    for unit, per_second in PER_SECOND.items():
        if EARLIEST * per_second <= largest < LATEST * per_second:
            if smallest >= EARLIEST * per_second:
                return unit
            raise UserError(
                f"{place(low)}: the timestamp is {smallest}, but {largest} at {place(high)}, so they are not all "
                f"{NAMES[unit]}; correct them, or state data.time_unit."
            )
    raise UserError(
        f"{place(high)}: the timestamp is {largest}, which is a moment between 1973 and 2100 in no unit; correct it, "
        "or set data.time_unit=order where timestamps only order."
    )


def _refuse_written(times: pl.Series, largest: float, place: Place) -> None:
    """Refuse numbers that are dates digit by digit: 202401311345 is a moment of 1976 in milliseconds."""
    digits = len(str(int(times[0])))
    if digits not in WRITTEN or largest >= 10**digits or (times != times.round()).any():
        return
    rest = times.cast(pl.Int64)
    limits = {"month": (1, 12), "day": (1, 31), "hour": (0, 23), "minute": (0, 59), "second": (0, 59)}
    for least, most in reversed(list(limits.values())[: (digits - 4) // 2]):
        part, rest = rest % 100, rest // 100
        if not part.is_between(least, most).all():
            return
    if rest.is_between(1970, 2099).all():
        hint = "give them as dates" if digits == 10 else f"state data.date_format={WRITTEN[digits]}"
        raise UserError(
            f"{place(0)}: the timestamp {int(times[0])} is a date written as one number, as are all; {hint}, "
            "or state data.time_unit."
        )


def _check_range(times: pl.Series, per_second: float, unit: str, place: Place) -> None:
    def shown(value: float) -> str:
        try:
            return day(int(value / per_second * 10**6)) if unit == "date" else str(value)
        except OverflowError:  # a year of five digits
            return str(value)

    low, high = int(times.arg_min() or 0), int(times.arg_max() or 0)
    if times[low] < 0:
        raise UserError(f"{place(low)}: the timestamp {shown(times[low])} is before 1970; correct it.")
    if times[high] >= LATEST * per_second:
        fits = [u for u, p in PER_SECOND.items() if EARLIEST * p <= times[high] < LATEST * p and unit != "date"]
        hint = f"; perhaps they are {NAMES[fits[0]]} (data.time_unit={fits[0]})" if fits else "; correct it"
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
