from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from limits import parse
from limits.strategies import MovingWindowRateLimiter

from service.http import token_buckets
from service.http.token_buckets import TokenBucketStorage, admitting

if TYPE_CHECKING:
    from collections.abc import Callable

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
