from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.alerts.commands import Command, ProcessDue
from service.alerts.commit_queue import OF_A_SUBJECT, CommitQueue
from service.alerts.ingest import accept
from service.alerts.queue_items import PendingAlert, QueueItem
from service.auth.principal import Principal, Scope
from service.errors import Overloaded
from tests.alerts.examples import BILLING, bearer, posted

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, tzinfo=UTC)
MALLORY = bearer("mallory", Scope.ALERTS_WRITE)


def queue(items_max: int = 10_000, bytes_max: int = 1 << 30) -> CommitQueue:
    return CommitQueue(items_max=items_max, bytes_max=bytes_max)


def items(principal: Principal, number: int, **fields: str) -> list[QueueItem]:
    return [accept(posted(title=f"{n}", **fields), principal, NOW) for n in range(number)]


def titles(taken: list[QueueItem], principal: Principal) -> list[str]:
    alerts = [item for item in taken if isinstance(item, PendingAlert)]
    return [item.alert.title for item in alerts if item.source == principal.subject]


def test_an_alert_behind_a_thousand_of_somebody_else_is_in_the_next_transaction() -> None:
    waiting = queue()
    waiting.put(items(MALLORY, 1_000))
    waiting.put(items(BILLING, 2))
    taken = waiting.take(most=500, max_bytes=1 << 20)
    assert titles(taken, BILLING) == ["0", "1"]
    assert len(titles(taken, MALLORY)) == OF_A_SUBJECT


def test_who_waits_alone_fills_a_transaction() -> None:
    waiting = queue()
    waiting.put(items(MALLORY, 1_000))
    assert len(waiting.take(most=500, max_bytes=1 << 20)) == 500
    assert len(waiting) == 500


def test_an_alert_behind_large_ones_of_somebody_else_is_in_the_next_transaction() -> None:
    waiting = queue()
    waiting.put(items(MALLORY, 50, body="b" * 16_000))
    waiting.put(items(BILLING, 1))
    taken = waiting.take(most=500, max_bytes=64_000)
    assert titles(taken, BILLING) == ["0"]
    assert len(titles(taken, MALLORY)) == 4


def test_subjects_fill_a_transaction_together_and_each_of_them_in_order() -> None:
    waiting = queue()
    sources = [bearer(f"source-{number}", Scope.ALERTS_WRITE) for number in range(8)]
    for source in sources:
        waiting.put(items(source, 150))
    taken = [waiting.take(most=500, max_bytes=1 << 30) for _ in range(3)]
    assert [len(some) for some in taken] == [500, 500, 200]
    for source in sources:
        assert [title for some in taken for title in titles(some, source)] == [f"{n}" for n in range(150)]
    assert len(waiting) == 0
    assert waiting.take(most=500, max_bytes=1 << 30) == []


def test_the_node_itself_has_its_turn() -> None:
    waiting = queue()
    due: Command = ProcessDue(BILLING, NOW)
    waiting.put(items(MALLORY, 300))
    waiting.put([due])
    assert due in waiting.take(most=500, max_bytes=1 << 30)


def test_what_does_not_fit_is_refused_whole() -> None:
    waiting = queue(items_max=5)
    waiting.put(items(BILLING, 3))
    with pytest.raises(Overloaded):
        waiting.put(items(MALLORY, 3))
    waiting.put(items(MALLORY, 2))
    assert len(waiting) == 5
    assert len(waiting.take_all()) == 5
    waiting.put(items(BILLING, 5))


def test_bytes_are_counted_until_they_are_taken() -> None:
    waiting = queue(bytes_max=1_000)
    waiting.put(items(BILLING, 1, body="b" * 2_000))
    with pytest.raises(Overloaded):
        waiting.put(items(BILLING, 1))
    waiting.take(most=1, max_bytes=1)
    waiting.put(items(BILLING, 1))
