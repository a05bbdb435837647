from __future__ import annotations

import pytest

from service.stream.minute_counters import MINUTES, MinuteCounters

pytestmark = pytest.mark.unit


def test_a_minute_has_its_deliveries_and_its_most_connections() -> None:
    minutes = MinuteCounters()
    minutes.record(60, 5, 1)
    minutes.record(90, 7, 3)
    minutes.record(119.9, 7, 2)
    minutes.record(120, 8, 1)
    assert minutes.last_hour() == [(1, 7, 3), (2, 1, 1)]


def test_a_minute_in_which_nothing_was_recorded_is_left_out() -> None:
    minutes = MinuteCounters()
    minutes.record(60, 7, 1)
    minutes.record(240, 8, 0)
    assert minutes.last_hour() == [(1, 7, 1), (4, 1, 0)]


def test_the_oldest_minutes_are_dropped() -> None:
    minutes = MinuteCounters()
    for minute in range(100):
        minutes.record(minute * 60, minute, 0)
    assert [minute for minute, _, _ in minutes.last_hour()] == list(range(100 - MINUTES, 100))
