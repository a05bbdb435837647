from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from service.cli.time_options import day, duration, moment, period

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15 m", 900), ("1.5h", 5400), (" 1d ", 86_400), ("2w", 1_209_600), ("0", 0)],
)
def test_a_duration_is_a_number_of_seconds_or_of_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "5x", "-1h", "1h30m", "1,5h", "٣h"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert duration(text) is None


def test_a_moment_without_a_zone_is_utc() -> None:
    assert moment("2026-11-21", "--before") == datetime(2026, 11, 21, tzinfo=UTC)
    assert moment("20261121", "--before") == datetime(2026, 11, 21, tzinfo=UTC)
    assert moment("2026-11-21T11:00:00+02:00", "--before") == datetime(2026, 11, 21, 9, tzinfo=UTC)
    assert moment(None, "--before") is None


@pytest.mark.parametrize(
    "bad", ["yesterday", "24", "5x", "-1h", "99999999999d", "2026-13-01", "0001-01-01T00:00+14:00"]
)
def test_a_time_that_is_none_is_refused(bad: str) -> None:
    for parse in (period, day):
        with pytest.raises(typer.BadParameter, match="must be how long ago, such as 90s, 15m, 24h"):
            parse(bad, None)


def test_a_period_is_a_day_where_nothing_is_said() -> None:
    start, end = day(None, None)
    assert end - start == timedelta(days=1)
    assert datetime.now(UTC) - end < timedelta(minutes=1)
    assert period(None, None) == (None, None)
    start, end = day("7d", "2h")
    assert end - start == timedelta(days=7) - timedelta(hours=2)
