from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.events.position import Position
from service.stream.frames import PreparedEvent
from service.stream.replay_cache import ReplayCache

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.unit

BATCHES = st.lists(st.lists(st.integers(1, 60), max_size=6), max_size=20)


def prepared(seq: int, size: int = 10) -> PreparedEvent:
    return PreparedEvent("event", seq, b"." * size, "default", "info", None, Position(seq, seq))


def extended(position: int, batches: Sequence[Sequence[int]], max_events: int, max_bytes: int) -> ReplayCache:
    recent = ReplayCache(position, max_events, max_bytes)
    seq = position
    for sizes in batches:
        recent.extend([prepared(seq + number, size) for number, size in enumerate(sizes, start=1)])
        seq += len(sizes)
    return recent


@given(position=st.integers(0, 1000), batches=BATCHES, max_events=st.integers(1, 10), max_bytes=st.integers(10, 200))
def test_the_longest_end_of_the_log_within_both_bounds_is_kept(
    position: int, batches: list[list[int]], max_events: int, max_bytes: int
) -> None:
    recent = extended(position, batches, max_events, max_bytes)
    sizes = [size for batch in batches for size in batch]
    kept = max(n for n in range(len(sizes) + 1) if n <= max_events and sum(sizes[len(sizes) - n :]) <= max_bytes)
    assert recent.end == position + len(sizes)
    assert recent.start == recent.end - kept
    assert [event.seq for event in recent.after(recent.start)] == list(range(recent.start + 1, recent.end + 1))


@given(batches=BATCHES, max_events=st.integers(1, 10))
def test_every_cursor_that_is_reached_is_answered_without_a_hole(batches: list[list[int]], max_events: int) -> None:
    recent = extended(100, batches, max_events, max_bytes=1000)
    for cursor in range(95, recent.end + 1):
        assert recent.covers(cursor) == (cursor >= recent.start)
        if recent.covers(cursor):
            assert [event.seq for event in recent.after(cursor)] == list(range(cursor + 1, recent.end + 1))


def test_an_event_over_the_bound_in_bytes_is_not_kept() -> None:
    recent = extended(0, [[10, 10], [500]], max_events=10, max_bytes=100)
    assert (recent.start, recent.end) == (3, 3)
    assert not recent.covers(2)
    recent.extend([prepared(4)])
    assert [event.seq for event in recent.after(3)] == [4]


@pytest.mark.parametrize("cursor", [7, 8])
def test_a_cursor_at_or_beyond_the_end_is_reached_and_has_nothing_after_it(cursor: int) -> None:
    recent = ReplayCache(7, max_events=10, max_bytes=1000)
    assert recent.covers(cursor)
    assert list(recent.after(cursor)) == []
