from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import parse
from limits.strategies import MovingWindowRateLimiter

from service.http import token_buckets
from service.http.token_buckets import TokenBucketStorage, admitting

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.http.token_buckets import Taken

pytestmark = pytest.mark.unit


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def test_a_bucket_refuses_what_it_has_not_and_fills_up_evenly(pass_time: Callable[[float], None]) -> None:
    strategy, limit = MovingWindowRateLimiter(TokenBucketStorage()), parse("3/minute")
    assert [strategy.hit(limit, "alice") for _ in range(5)] == [True, True, True, False, False]
    assert strategy.hit(limit, "bob")
    assert strategy.get_window_stats(limit, "alice") == (1060.0, 0)
    pass_time(19.9)
    assert not strategy.test(limit, "alice")
    pass_time(0.1)
    assert strategy.test(limit, "alice")
    assert [strategy.hit(limit, "alice") for _ in range(2)] == [True, False]
    pass_time(40)
    assert strategy.get_window_stats(limit, "alice").remaining == 2
    assert [strategy.hit(limit, "alice", cost=2) for _ in range(2)] == [True, False]
    pass_time(3600)
    assert [strategy.hit(limit, "alice") for _ in range(4)] == [True, True, True, False]


def test_no_window_has_twice_the_limit_around_its_end(pass_time: Callable[[float], None]) -> None:
    strategy, limit = MovingWindowRateLimiter(TokenBucketStorage()), parse("60/minute")
    assert strategy.hit(limit, "alice")
    pass_time(59)
    assert sum(strategy.hit(limit, "alice") for _ in range(100)) == 60
    pass_time(1)
    assert sum(strategy.hit(limit, "alice") for _ in range(100)) == 1


@pytest.mark.parametrize(
    ("limit", "cost", "tokens"),
    [(1, 1, 1), (1, 9, 1), (3, 3, 2), (10, 8, 8), (10, 10, 9), (1000, 900, 900), (100, 1000, 90)],
)
def test_nine_tenths_of_a_bucket_admit_any_cost(
    pass_time: Callable[[float], None], limit: int, cost: int, tokens: int
) -> None:
    assert admitting(limit, cost) == tokens
    storage = TokenBucketStorage()
    assert storage.acquire_entry("key", limit, 60, limit)
    pass_time(60 * tokens / limit - 0.01)
    assert not storage.acquire_entry("key", limit, 60, cost)
    assert storage.seconds_until("key", limit, 60, cost) == pytest.approx(0.01)
    pass_time(0.01)
    assert storage.seconds_until("key", limit, 60, cost) == pytest.approx(0, abs=1e-9)
    assert storage.acquire_entry("key", limit, 60, cost)


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_step_of_the_wall_clock_changes_no_bucket(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    strategy, limit = MovingWindowRateLimiter(TokenBucketStorage()), parse("3/hour")
    assert [strategy.hit(limit, "alice") for _ in range(4)] == [True, True, True, False]
    before = strategy.get_window_stats(limit, "alice")
    wall = time.time()
    monkeypatch.setattr("time.time", lambda: wall + step)
    assert not strategy.hit(limit, "alice")
    assert not strategy.test(limit, "alice")
    assert strategy.get_window_stats(limit, "alice") == pytest.approx(before)
    assert strategy.hit(limit, "bob")


def test_full_buckets_are_dropped(pass_time: Callable[[float], None]) -> None:
    storage = TokenBucketStorage()
    for number in range(1000):
        storage.acquire_entry(f"short {number}", 1, 1)
    storage.acquire_entry("long", 1, 1000)
    pass_time(token_buckets.CLEANUP_SECONDS)
    storage.acquire_entry("another", 1, 1)
    assert storage.reset() == 2


def test_no_more_than_so_many_keys_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_buckets, "KEYS_MAX", 3)
    storage = TokenBucketStorage()
    for number in range(5):
        storage.acquire_entry(str(number), 1, 60)
    assert [storage.get_moving_window(str(number), 1, 60)[1] for number in range(5)] == [0, 0, 1, 1, 1]


def test_a_cleared_bucket_is_full() -> None:
    storage = TokenBucketStorage()
    storage.acquire_entry("key", 5, 60, 5)
    storage.clear("key")
    storage.clear("key")
    assert storage.acquire_entry("key", 5, 60, 5)


def test_counting_starts_no_thread() -> None:
    before = threading.active_count()
    storage = TokenBucketStorage()
    for _ in range(100):
        storage.acquire_entry("key", 1, 1)
    assert threading.active_count() == before


# What is given back.

LIMIT, SECONDS = 4, 4
"""A token a second: with few numbers, few steps meet in every way."""

waits = st.integers(0, 3)
costs = st.integers(1, LIMIT * 9 // 10)
charges = st.tuples(waits, costs)
refunds = st.tuples(waits, st.none(), st.integers(0, 3), costs)


@settings(max_examples=500)
@given(st.lists(charges | refunds, max_size=12))
def test_no_window_admits_more_than_the_limit_whatever_is_given_back_and_when(steps: list[tuple[Any, ...]]) -> None:
    storage, now = TokenBucketStorage(), 1000
    kept: list[tuple[int, int]] = []
    """Of each charge the time, and what was not given back."""
    pending: list[tuple[int, Taken]] = []
    with mock.patch("time.monotonic", side_effect=lambda: now):
        for wait, cost, *refund in steps:
            now += wait
            if cost is not None:
                if (taken := storage.take("key", LIMIT, SECONDS, cost)) is not None:
                    pending.append((len(kept), taken))
                    kept.append((now, cost))
            elif pending:
                number, taken = pending.pop(refund[0] % len(pending))
                at, stored = kept[number]
                storage.give_back(taken, LIMIT, SECONDS, refused := min(refund[1], stored))
                kept[number] = at, stored - refused
    for first, (began, _) in enumerate(kept):
        total = 0
        for ended, stored in kept[first:]:
            total += stored
            assert total <= LIMIT + (ended - began) * LIMIT / SECONDS


@given(st.lists(charges, max_size=12), charges, waits)
def test_what_is_given_back_leaves_a_bucket_as_if_nothing_had_been_taken(
    before: list[tuple[int, int]], refused: tuple[int, int], later: int
) -> None:
    storage, twin, now = TokenBucketStorage(), TokenBucketStorage(), 1000
    with mock.patch("time.monotonic", side_effect=lambda: now):
        for wait, cost in before:
            now += wait
            assert storage.acquire_entry("key", LIMIT, SECONDS, cost) is twin.acquire_entry("key", LIMIT, SECONDS, cost)
        now += refused[0]
        if (taken := storage.take("key", LIMIT, SECONDS, refused[1])) is not None:
            now += later
            storage.give_back(taken, LIMIT, SECONDS, refused[1])
        assert storage.get_moving_window("key", LIMIT, SECONDS) == twin.get_moving_window("key", LIMIT, SECONDS)


def test_what_is_given_back_to_a_bucket_that_was_dropped_is_put_into_no_other(
    pass_time: Callable[[float], None],
) -> None:
    storage = TokenBucketStorage()
    taken = storage.take("key", 10, 10, 5)
    assert taken is not None
    storage.clear("key")
    assert storage.acquire_entry("key", 10, 10, 10)
    pass_time(1)
    storage.give_back(taken, 10, 10, 5)
    assert storage.get_moving_window("key", 10, 10)[1] == 9
