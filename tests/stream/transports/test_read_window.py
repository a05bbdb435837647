from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.stream.transports.read_window import (
    FIRST_PING_BYTES,
    GROWTH,
    LEAST_AHEAD_SECONDS,
    MOST_AHEAD_SECONDS,
    PINGS_SHARE,
    SMALLEST_BYTES,
    START_BYTES,
    STEADY_SHARE,
    ReadWindow,
)

pytestmark = pytest.mark.unit

BEFORE_PING = START_BYTES - START_BYTES // 4
TICK = 0.02
"""Seconds between two looks of the simulated server and client."""


def answered(read: int = 0, after: float = 0.0) -> ReadWindow:
    """Return a window whose first ping, behind ``read`` bytes, was sent at 0 and answered ``after`` seconds."""
    window = ReadWindow(0)
    window.room -= read
    window.ping_sent(0)
    window.ping_answered(after)
    return window


def exchange(window: ReadWindow, size: int, sent_at: float, took: float) -> None:
    """Write ``size`` bytes and a ping, which is answered."""
    window.room -= size
    window.ping_sent(sent_at)
    window.ping_answered(sent_at + took)


def test_little_is_written_before_the_first_ping_and_a_window_before_its_answer() -> None:
    window = ReadWindow(0)
    assert window.room == FIRST_PING_BYTES
    window.room -= 700
    window.ping_sent(0)
    assert window.room == START_BYTES - 700
    assert not window.has_answered
    window.room -= 1_000
    window.ping_answered(0.1)
    assert (window.has_answered, window.read, window.unread) == (True, 700, 0)
    assert window.room == BEFORE_PING - 1_000


def test_a_quarter_of_a_window_is_for_after_a_ping() -> None:
    window = answered()
    assert window.room == BEFORE_PING
    window.room -= BEFORE_PING
    window.ping_sent(1)
    assert (window.unread, window.room, window.quarter) == (BEFORE_PING, START_BYTES // 4, START_BYTES // 4)


def test_a_frame_larger_than_the_room_leaves_less_than_nothing_until_it_is_read() -> None:
    window = answered()
    window.room -= START_BYTES * 3
    window.ping_sent(1)
    assert window.room < 0
    window.ping_answered(1.5)
    assert window.room > 0


def test_a_window_grows_while_it_is_filled_and_answered_at_once() -> None:
    window = answered()
    for number in range(1, 8):
        exchange(window, window.room, number / 100, 0.001)
        assert window.size == START_BYTES * GROWTH**number


def test_a_window_grows_to_what_is_read_in_half_the_time_ahead_beside_the_round_trip() -> None:
    window = answered(after=0.6)
    exchange(window, 48_000, 1, 0.6 + MOST_AHEAD_SECONDS / 8)
    assert window.size == pytest.approx(48_000 * 4, abs=2)
    exchange(window, 48_000, 1.1, 0.6 + MOST_AHEAD_SECONDS / 2)
    assert window.size == pytest.approx(48_000 * 4, abs=2)


def test_a_window_is_never_more_than_what_is_read_in_a_while_at_the_pace_at_which_the_client_is_written_to() -> None:
    window = answered()
    at = 0.0
    for _ in range(20):
        at += window.room / 10_000
        exchange(window, window.room, at, 0.01)
    assert START_BYTES < window.size <= 10_000 * MOST_AHEAD_SECONDS * STEADY_SHARE * 1.01


def test_a_window_starts_again_after_a_lull() -> None:
    window = answered()
    for number in range(5):
        exchange(window, window.room, 1 + number / 10, 0.01)
    assert window.size > 4 * START_BYTES
    exchange(window, 100, 60, 0.01)
    assert (window.size, window.room) == (START_BYTES, BEFORE_PING)


def test_a_late_answer_leaves_what_the_client_reads_in_half_the_time_ahead() -> None:
    window = answered()
    exchange(window, 16_000, 1, MOST_AHEAD_SECONDS * 2)
    assert window.size == SMALLEST_BYTES
    window = answered()
    exchange(window, 32_000, 1, MOST_AHEAD_SECONDS * 2)
    assert window.size == 8_000


@pytest.mark.parametrize(("seconds", "ahead"), [(20, MOST_AHEAD_SECONDS), (8, 1), (0.1, LEAST_AHEAD_SECONDS)])
def test_a_client_that_pings_often_has_less_before_its_answers(seconds: float, ahead: float) -> None:
    window = answered()
    window.client_pinged(seconds)
    assert window.ahead == ahead
    window.client_pinged(2 * seconds)
    exchange(window, 32_000, 1_000, 2 * MOST_AHEAD_SECONDS)
    assert window.size == max(SMALLEST_BYTES, 32_000 / (2 * MOST_AHEAD_SECONDS) * ahead / 2)


def test_the_window_of_a_client_that_never_answers_is_without_end_until_it_does() -> None:
    window = ReadWindow(0)
    window.unbound()
    window.room -= 1 << 30
    window.ping_sent(1)
    assert window.room > 1 << 60
    window.ping_answered(2)
    assert window.room == BEFORE_PING
    assert window.read == 1 << 30


class Simulation:
    """A server with everything to send, and a client that reads so many bytes a second, a round trip away.

    ``on_the_way`` holds (when it arrives, bytes) and pings (when, None); pongs take the other half of the round trip.
    """

    def __init__(self, round_trip: float) -> None:
        self.window = ReadWindow(0)
        self.now = 0.0
        self.half = round_trip / 2
        self.on_the_way: deque[tuple[float, int | None]] = deque()
        self.pongs: deque[float] = deque()
        self.pings = 0
        self.written = self.read = 0
        self.credit = 0.0
        self.largest = START_BYTES

    @property
    def unread(self) -> int:
        return self.written - self.read

    def run(self, seconds: float, rate: float, frame: int) -> None:
        """Write frames as far as there is room, while the client reads at ``rate``."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            self._write(frame)
            self._read(rate)
            while self.pongs and self.pongs[0] <= self.now:
                self.pongs.popleft()
                self.pings -= 1
                self.window.ping_answered(self.now)
                assert self.window.room <= self.window.size - self.window.quarter
            self.largest = max(self.largest, self.window.size)
            assert self.window.size >= SMALLEST_BYTES

    def _write(self, frame: int) -> None:
        for _ in range(2):
            while self.window.room > 0:
                self.window.room -= frame
                self.written += frame
                self.on_the_way.append((self.now + self.half, frame))
            if not self.pings:
                self.pings += 1
                self.window.ping_sent(self.now)
                self.on_the_way.append((self.now + self.half, None))
        assert self.unread < self.largest + frame

    def _read(self, rate: float) -> None:
        self.credit += rate * TICK
        while self.on_the_way and self.on_the_way[0][0] <= self.now:
            size = self.on_the_way[0][1]
            if size is None:
                self.pongs.append(self.now + self.half)
            elif size > self.credit:
                return
            else:
                self.read += size
                self.credit -= size
            self.on_the_way.popleft()
        self.credit = 0.0


@settings(max_examples=30)
@given(rate=st.floats(4_000, 400_000), frame=st.integers(300, 4_000), round_trip=st.floats(0, 0.3))
def test_whoever_reads_steadily_finds_every_ping_soon_and_never_runs_dry(
    rate: float, frame: int, round_trip: float
) -> None:
    simulation = Simulation(round_trip)
    simulation.run(12, rate, frame)
    before = simulation.read
    simulation.run(5, rate, frame)
    assert simulation.unread / rate <= 2 * MOST_AHEAD_SECONDS
    possible = min(rate, START_BYTES / 2 / (round_trip + 2 * TICK))
    assert simulation.read - before >= possible * 5 * 0.5


@settings(max_examples=20)
@given(seconds=st.floats(1, 20), rate=st.floats(20_000, 200_000), frame=st.integers(300, 2_000))
def test_a_client_finds_the_answers_to_its_pings_in_a_part_of_the_time_between_them(
    seconds: float, rate: float, frame: int
) -> None:
    simulation = Simulation(0.01)
    for _ in range(5):
        simulation.run(seconds, rate, frame)
        simulation.window.client_pinged(simulation.now)
    waits = max(seconds / PINGS_SHARE, LEAST_AHEAD_SECONDS)
    assert simulation.unread / rate <= 2 * waits + (SMALLEST_BYTES + frame) / rate


@settings(max_examples=20)
@given(fast=st.floats(20_000, 100_000), slower=st.floats(2, 5), frame=st.integers(300, 4_000))
def test_whoever_becomes_slower_finds_a_ping_in_time_and_then_soon(fast: float, slower: float, frame: int) -> None:
    simulation = Simulation(0.02)
    simulation.run(10, fast, frame)
    steady = MOST_AHEAD_SECONDS * STEADY_SHARE
    assert simulation.unread / (fast / slower) <= steady * slower
    simulation.run(steady * slower * 2, fast / slower, frame)
    assert simulation.unread / (fast / slower) <= 2 * MOST_AHEAD_SECONDS
