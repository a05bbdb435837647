"""What clients that resume acknowledge, in a storm: without a network and a database, which would hide the order."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from service.errors import DatabaseUnavailable, Overloaded
from service.settings import StreamSettings
from service.stream.transports import http_endpoint
from service.stream.transports.http_endpoint import HttpEndpoint
from tests.harness import eventually

if TYPE_CHECKING:
    from uuid import UUID

    from service.ledger.recorder import LedgerRecorder

pytestmark = pytest.mark.unit

CLIENTS = 250


class Ledger:
    """Records nothing before ``is_up``, and counts how many ask at a time."""

    def __init__(self) -> None:
        self.is_up = asyncio.Event()
        self.is_available = True
        self.received: set[UUID] = set()
        self.asking = self.most = self.refused = 0

    async def record_late_receipt(self, connection: UUID, _principal: object, seq: int) -> int:
        if not self.is_available:
            self.refused += 1
            raise DatabaseUnavailable("away")
        self.asking += 1
        self.most = max(self.most, self.asking)
        await self.is_up.wait()
        self.asking -= 1
        self.received.add(connection)
        return seq


def resume(endpoint: HttpEndpoint, connections: list[UUID]) -> None:
    principal: Any = object()
    start: Any = SimpleNamespace(received=7)
    for connection in connections:
        endpoint._resume(principal, connection, start)


def endpoint_of(ledger: Ledger, **settings: Any) -> HttpEndpoint:
    hub: Any = SimpleNamespace(find=lambda *_: None)
    unused: Any = object()
    return HttpEndpoint(unused, hub, cast("LedgerRecorder", ledger), unused, StreamSettings(**settings))


async def test_all_receipts_of_clients_that_resume_at_once_are_kept() -> None:
    ledger, connections = Ledger(), [uuid.uuid4() for _ in range(CLIENTS)]
    resume(endpoint_of(ledger), connections)
    await asyncio.sleep(0)
    ledger.is_up.set()
    await eventually(lambda: ledger.received == set(connections))
    assert ledger.most <= http_endpoint.RESUMED_AT_ONCE


async def test_receipts_wait_for_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "RESUME_RETRY_SECONDS", 0.01)
    ledger, connection = Ledger(), uuid.uuid4()
    ledger.is_up.set()
    ledger.is_available = False
    resume(endpoint_of(ledger), [connection])
    await eventually(lambda: ledger.refused)
    ledger.is_available = True
    await eventually(lambda: ledger.received == {connection})


async def test_a_client_whose_receipt_has_no_place_is_asked_to_come_back_with_it() -> None:
    ledger = Ledger()
    endpoint = endpoint_of(ledger, connections_max=2)
    resume(endpoint, [uuid.uuid4(), uuid.uuid4()])
    with pytest.raises(Overloaded) as raised:
        resume(endpoint, [uuid.uuid4()])
    assert raised.value.retry_after == 1
    ledger.is_up.set()
    await eventually(lambda: len(ledger.received) == 2)
    resume(endpoint, [uuid.uuid4()])
    await eventually(lambda: len(ledger.received) == 3)


async def test_a_node_that_stops_records_the_receipts_first_and_gives_up_those_that_take_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger, connection = Ledger(), uuid.uuid4()
    endpoint = endpoint_of(ledger)
    await endpoint.close()
    resume(endpoint, [connection])
    closing = asyncio.create_task(endpoint.close())
    await eventually(lambda: ledger.asking)
    assert not closing.done()
    ledger.is_up.set()
    await closing
    assert ledger.received == {connection}

    monkeypatch.setattr(http_endpoint, "SHUTDOWN_SECONDS", 0.01)
    ledger.is_up.clear()
    resume(endpoint, [uuid.uuid4()])
    await endpoint.close()
    await eventually(lambda: not endpoint._resumed)
    assert ledger.received == {connection}
