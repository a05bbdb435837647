from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.database.ids import uuid7
from service.ledger.lost_nodes import NodeLease, NodeWatch

pytestmark = pytest.mark.unit

NODE = uuid7()
AT = datetime(2026, 11, 21, 9, 41, 7, tzinfo=UTC)
LEASE = 10.0


class Observer:
    """A node that observes another one; it has flushed in time since ``punctual_since``."""

    def __init__(self) -> None:
        self._watch = NodeWatch()
        self.now = 1000.0
        self.seen_at = AT
        self.lease = LEASE
        self.punctual_since: float | None = 0.0

    def after(self, seconds: float, *, reading: float = 0) -> bool:
        """Observe after ``seconds``, with a read that takes some time, and say whether the other is lost."""
        self.now += seconds
        until = self.now + reading
        lost = self._watch.observe(
            [NodeLease(NODE, self.seen_at, self.lease)],
            read_from=self.now,
            read_until=until,
            punctual_since=self.punctual_since,
        )
        self.now = until
        return NODE in lost

    def count_until_lost(self, interval: float) -> int:
        return next(number for number in range(1000) if self.after(interval))


def test_a_node_is_lost_when_it_was_silent_for_its_lease() -> None:
    observer = Observer()
    assert [observer.after(2) for _ in range(7)] == [False] * 5 + [True] * 2


def test_a_node_is_judged_by_its_own_lease() -> None:
    observer = Observer()
    observer.lease = 60
    assert observer.count_until_lost(2) == 30


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_node_that_renews_its_lease_is_never_lost_wherever_the_clock_is_set(hours: int) -> None:
    observer = Observer()
    for number in range(50):
        observer.seen_at = AT + timedelta(hours=hours * (number % 2), seconds=number)
        assert not any(observer.after(2) for _ in range(4))


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_silent_node_is_lost_wherever_the_clock_is(hours: int) -> None:
    observer = Observer()
    observer.seen_at = AT + timedelta(hours=hours)
    assert observer.count_until_lost(2) == 5


def test_a_pause_of_the_observer_counts_as_half_a_lease() -> None:
    observer = Observer()
    assert not observer.after(0)
    assert not observer.after(3600)
    assert not observer.after(2)  # the other has time to renew its lease
    assert not observer.after(2)
    assert observer.after(2)


def test_the_time_of_a_slow_read_does_not_count() -> None:
    observer = Observer()
    assert not observer.after(0, reading=9)
    assert [observer.after(1) for _ in range(10)] == [False] * 9 + [True]


def test_an_observer_that_could_not_flush_in_time_starts_over() -> None:
    observer = Observer()
    assert [observer.after(2) for _ in range(5)] == [False] * 5
    observer.punctual_since = None
    assert not observer.after(2)
    observer.punctual_since = observer.now
    assert observer.count_until_lost(2) == 5
