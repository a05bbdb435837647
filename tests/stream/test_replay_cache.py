from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stream.frames import PreparedEvent
from service.stream.replay_cache import ReplayCache
from tests.stream.fakes import at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.events.position import Position

pytestmark = pytest.mark.unit

BATCHES = st.lists(st.lists(st.integers(1, 60), max_size=6), max_size=20)


def prepared(seq: int, size: int = 10, *, history: int = 0) -> PreparedEvent:
    return PreparedEvent("event", at(seq, history), b"." * size, "default", "info", None)


def extended(start: int, batches: Sequence[Sequence[int]], max_events: int, max_bytes: int) -> ReplayCache:
    recent = ReplayCache(max_events, max_bytes)
    recent.restart(at(start))
    seq = start
    for sizes in batches:
        recent.extend([prepared(seq + number, size) for number, size in enumerate(sizes, start=1)])
        seq += len(sizes)
    return recent


def positions_after(cache: ReplayCache, position: Position) -> list[Position]:
    return [event.position for event in cache.after(position)]


def positions(*seqs: int) -> list[Position]:
    return [at(seq) for seq in seqs]


@given(start=st.integers(0, 1000), batches=BATCHES, max_events=st.integers(1, 10), max_bytes=st.integers(10, 200))
def test_the_longest_end_of_the_log_within_both_bounds_is_kept(
    start: int, batches: list[list[int]], max_events: int, max_bytes: int
) -> None:
    recent = extended(start, batches, max_events, max_bytes)
    sizes = [size for batch in batches for size in batch]
    kept = max(n for n in range(len(sizes) + 1) if n <= max_events and sum(sizes[len(sizes) - n :]) <= max_bytes)
    end = start + len(sizes)
    assert (recent.start, recent.end) == (at(end - kept), at(end))
    assert positions_after(recent, recent.start) == positions(*range(end - kept + 1, end + 1))
    assert recent.positions == positions(*range(end - kept, end + 1))


@given(batches=BATCHES, max_events=st.integers(1, 10))
def test_every_position_that_is_held_is_covered_without_a_hole(batches: list[list[int]], max_events: int) -> None:
    recent = extended(100, batches, max_events, max_bytes=1000)
    start, end = recent.start.seq, recent.end.seq
    for seq in range(95, end + 3):
        is_held = start <= seq <= end
        assert recent.at(seq) == (at(seq) if is_held else None)
        assert recent.covers(at(seq)) == is_held
        assert not recent.covers(at(seq, history=1))
        if is_held:
            assert positions_after(recent, at(seq)) == positions(*range(seq + 1, end + 1))


def test_an_event_over_the_bound_in_bytes_is_not_kept() -> None:
    recent = extended(0, [[10, 10], [500]], max_events=10, max_bytes=100)
    assert (recent.start, recent.end) == (at(3), at(3))
    assert not recent.covers(at(2))
    recent.extend([prepared(4)])
    assert positions_after(recent, at(3)) == positions(4)


@pytest.mark.parametrize("keep", [2, 3, 5, 6])
def test_a_cache_that_was_rewound_goes_on_with_other_events_and_within_its_bounds(keep: int) -> None:
    recent = extended(2, [[30, 30, 30, 30]], max_events=10, max_bytes=120)
    assert recent.rewind(at(keep)) == positions(*range(keep + 1, 7))
    assert (recent.start, recent.end) == (at(2), at(keep))
    others = range(keep + 1, 7)
    recent.extend([prepared(seq, 30, history=1) for seq in others])
    assert recent.start == at(2)  # it counts none of the bytes that it dropped
    assert positions_after(recent, at(keep)) == [at(seq, history=1) for seq in others]


def test_a_cache_that_was_restarted_holds_nothing_but_its_position() -> None:
    recent = extended(2, [[30, 30]], max_events=10, max_bytes=60)
    recent.restart(at(9, history=1))
    assert recent.positions == [at(9, history=1)]
    recent.extend([prepared(10, 60)])
    assert recent.positions == [at(9, history=1), at(10)]
