"""Timestamps that can be read in two ways, that are coarse or too fine, and dates of a stated format."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from logs import ROWS, START, WHOLE_LOG, original, prepared_of, refuses, table

from seqgen.data.prepare import Filters
from seqgen.errors import UserError

DAYS = [(1 + k % 12, 1 + k // 13) for k in range(150)]  # no number above 12


def log(tmp_path: Path, times: Any, ending: str = ".csv") -> Path:
    return table(tmp_path / f"log{ending}", rows=[(u, i, t) for (u, i, _), t in zip(ROWS, times, strict=True)])


@pytest.mark.parametrize(
    "form", ["{:02d}/{:02d}/2024", "{:02d}.{:02d}.2024", "{}-{}-2024 10:00", "{}/{}/2024 10:00:00"]
)
def test_the_day_or_the_month(form: str, tmp_path: Path) -> None:
    path = log(tmp_path, [form.format(a, b) for a, b in DAYS])
    sign = next(sign for sign in form if sign in "/.-")
    clock = ("", " %H:%M", " %H:%M:%S")[form.count(":") - form.count("{:")]
    hint = f"data.date_format, such as '%d{sign}%m{sign}%Y{clock}' or '%m{sign}%d{sign}%Y{clock}'."
    refuses(path, tmp_path, f"{path}, line 2: the timestamp", "may begin with the day or with the month; ", hint)
    for format, day_first in ((f"%d{sign}%m{sign}%Y{clock}", True), (f"%m{sign}%d{sign}%Y{clock}", False)):
        prepared = prepared_of(path, tmp_path, date_format=format)
        month, day = reversed(DAYS[0]) if day_first else DAYS[0]
        first = datetime(2024, month, day, 10 if clock else 0, tzinfo=UTC)
        assert prepared.times is not None
        expected = [datetime(2024, *((b, a) if day_first else (a, b)), first.hour, tzinfo=UTC) for a, b in DAYS[::7]]
        assert prepared.times[: len(expected)].tolist() == sorted(round(m.timestamp() * 10**6) for m in expected)


def test_a_day_above_12_shows_which_is_which(tmp_path: Path) -> None:
    prepared = prepared_of(log(tmp_path, [f"{1 + k % 28:02d}/01/2024" for k in range(150)]), tmp_path)
    assert prepared.times is not None
    assert (np.diff(np.unique(prepared.times)) == 86_400 * 10**6).all()
    path = log(tmp_path, [f"01/{1 + k % 28:02d}/2024" for k in range(150)])
    refuses(path, tmp_path / "other", "may begin with the day")


WRITTEN = {
    "%Y%m%d%H%M": [f"2024{1 + k // 30:02d}{1 + k % 28:02d}{k % 24:02d}{k % 60:02d}" for k in range(150)],
    "%Y%m%d%H%M%S": [f"2024{1 + k // 30:02d}{1 + k % 28:02d}{k % 24:02d}{k % 60:02d}59" for k in range(150)],
}


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("format", WRITTEN)
def test_dates_written_as_one_number(format: str, ending: str, tmp_path: Path) -> None:
    path = log(tmp_path, list(map(int, WRITTEN[format])), ending)
    hint = f"is a date written as one number, as are all; state data.date_format={format}, or state data.time_unit."
    refuses(path, tmp_path, f"{path}, {'row 1' if ending == '.parquet' else 'line 2'}", WRITTEN[format][0], hint)
    prepared = prepared_of(path, tmp_path, date_format=format)
    moments = [datetime.strptime(text, format).replace(tzinfo=UTC) for text in WRITTEN[format][::7]]
    assert prepared.times is not None
    assert prepared.times[: len(moments)].tolist() == sorted(round(m.timestamp() * 10**6) for m in moments)


def test_hours_written_as_one_number_are_no_seconds(tmp_path: Path) -> None:
    path = log(tmp_path, [int(text[:10]) for text in WRITTEN["%Y%m%d%H%M"]])
    refuses(
        path, tmp_path, f"the timestamp {2024010100} is a date written as one number, as are all; give them as dates"
    )
    assert prepared_of(path, tmp_path, time_unit="s").meta["time_unit"] == "s"


def test_one_that_is_no_date_shows_that_they_are_numbers(tmp_path: Path) -> None:
    times = [202001010000 + k for k in range(149)] + [202099990000]
    assert prepared_of(log(tmp_path, times), tmp_path).meta["time_unit"] == "ms"


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("%Y-%m-%d %H:%M:%S UTC", "2023-11-14 22:13:20 UTC", 1_700_000_000),
        ("%Y-%m-%dT%H:%M:%S%z", "2023-11-15T00:13:20+0200", 1_700_000_000),
        ("%d.%m.%Y", "14.11.2023", 1_699_920_000),
        ("%b %d %Y %I:%M %p", "Nov 14 2023 10:13 PM", 1_699_999_980),
    ],
)
def test_a_stated_format(
    form: str, text: str, expected: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepared_of(log(tmp_path, [text] * 150), tmp_path, date_format=form)
    assert original(prepared) == WHOLE_LOG
    assert prepared.times is not None
    assert set(prepared.times.tolist()) == {expected * 10**6}
    assert "log: timestamps are read as dates, 2023-11-14 to 2023-11-14 (data.date_format)." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"date_format": "%d.%m.%Y"},
            "line 2: the time '1600000000' is not of data.date_format=%d.%m.%Y; correct it",
        ),
        ({"date_format": "%Y %H"}, "data.date_format=%Y %H cannot be used (an hour needs its minutes); correct it."),
        ({"date_format": "dd.mm"}, "date_format=dd.mm must hold signs such as %Y-%m-%d"),
        ({"date_format": "%Y %Z"}, "date_format=%Y %Z reads no zone: write its letters"),
        ({"date_format": "%Y", "time_unit": "s"}, "date_format=%Y says that timestamps are dates, so leave time_unit"),
        ({"date_format": "%Y", "columns": {"user": "who", "item": "what"}}, "date_format=%Y has no effect without"),
    ],
)
def test_a_format_that_cannot_be(settings: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepared_of(log(tmp_path, [t for *_, t in ROWS]), tmp_path, **settings)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_format_of_dates_has_no_effect(tmp_path: Path) -> None:
    path = table(tmp_path / "log.parquet", when=pl.Series([datetime(2020, 1, 1)] * 150))
    refuses(path, tmp_path, "data.date_format has no effect on timestamps of type datetime", date_format="%Y")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_floats_of_32_bits_are_said(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = pl.Series([START + 60 * k for k in range(150)]).cast(pl.Float32)
    path = table(tmp_path / "log.parquet", when=times) if ending == ".parquet" else log(tmp_path, times.to_list())
    prepared_of(path, tmp_path)
    shown = capsys.readouterr().out
    assert "Notice: log: the timestamps went through 32-bit floats, which lie 128 apart at 16000" in shown


@pytest.mark.parametrize(
    "times",
    [
        [START + k + 0.5 for k in range(150)],
        [float(START // 86_400 + k) * 86_400 for k in range(150)],
        [k / 2 for k in range(150)],
    ],
    ids=["halves", "days", "small"],
)
def test_other_floats_are_not(times: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared_of(log(tmp_path, times), tmp_path)
    assert "Notice" not in capsys.readouterr().out


RATED = Filters(min_rating=1, min_user_interactions=1, min_item_interactions=1)
# Newest first, all within one microsecond; and a rating, which must stay beside its interaction.
NEAR = pl.Series([START * 10**9 + 149 - k for k in range(150)])


@pytest.mark.parametrize(
    "times",
    [NEAR, NEAR.cast(pl.Datetime("ns")), pl.Series([1000 * START + (149 - k) * 2.0**-11 for k in range(150)])],
    ids=["numbers", "dates", "fractions"],
)
def test_moments_closer_than_a_microsecond_keep_their_order(times: pl.Series, tmp_path: Path) -> None:
    path = table(tmp_path / "log.parquet", when=times, stars=pl.Series([k % 2 for k in range(150)]))
    assert original(prepared_of(path, tmp_path)) == {user: items[::-1] for user, items in WHOLE_LOG.items()}
    columns = {"user": "who", "item": "what", "timestamp": "when", "rating": "stars"}
    rated = prepared_of(path, tmp_path, RATED, columns=columns)
    expected = {user: [f"i{k % 5}" for k in range(149, -1, -1) if k % 2 and f"u{k % 7}" == user] for user in WHOLE_LOG}
    assert original(rated) == expected
