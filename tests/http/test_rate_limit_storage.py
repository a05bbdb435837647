from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from limits import parse
from limits.strategies import FixedWindowRateLimiter

from service.http import rate_limit_storage
from service.http.rate_limit_storage import FixedWindowStorage

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


def test_a_window_refuses_what_is_over_the_limit_until_it_ends(pass_time: Callable[[float], None]) -> None:
    strategy, limit = FixedWindowRateLimiter(FixedWindowStorage()), parse("3/minute")
    assert [strategy.hit(limit, "alice") for _ in range(4)] == [True, True, True, False]
    assert strategy.hit(limit, "bob")
    assert strategy.get_window_stats(limit, "alice") == (1060.0, 0)
    pass_time(59.9)
    assert not strategy.test(limit, "alice")
    pass_time(0.1)
    assert strategy.test(limit, "alice")
    assert [strategy.hit(limit, "alice", cost=2) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_step_of_the_wall_clock_changes_no_window(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    strategy, limit = FixedWindowRateLimiter(FixedWindowStorage()), parse("3/minute")
    assert [strategy.hit(limit, "alice") for _ in range(4)] == [True, True, True, False]
    before = strategy.get_window_stats(limit, "alice")
    wall = time.time()
    monkeypatch.setattr("time.time", lambda: wall + step)
    assert not strategy.hit(limit, "alice")
    assert not strategy.test(limit, "alice")
    assert strategy.get_window_stats(limit, "alice") == before
    assert strategy.hit(limit, "bob")


def test_what_has_expired_is_dropped(pass_time: Callable[[float], None]) -> None:
    storage = FixedWindowStorage()
    for number in range(1000):
        storage.incr(f"short {number}", 1)
    storage.incr("long", 1000)
    pass_time(rate_limit_storage.CLEANUP_SECONDS)
    storage.incr("another", 1)
    assert [storage.get(key) for key in ("long", "another", "short 1")] == [1, 1, 0]
    assert storage.reset() == 2


def test_no_more_than_so_many_keys_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit_storage, "KEYS_MAX", 3)
    storage = FixedWindowStorage()
    for number in range(5):
        storage.incr(str(number), 60)
    assert [storage.get(str(number)) for number in range(5)] == [0, 0, 1, 1, 1]


def test_a_cleared_key_begins_anew() -> None:
    storage = FixedWindowStorage()
    storage.incr("key", 60, amount=5)
    storage.clear("key")
    storage.clear("key")
    assert storage.incr("key", 60) == 1


def test_counting_starts_no_thread() -> None:
    before = threading.active_count()
    storage = FixedWindowStorage()
    for _ in range(100):
        storage.incr("key", 1)
    assert threading.active_count() == before
