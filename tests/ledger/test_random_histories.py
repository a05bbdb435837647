"""Whatever nodes do to the ledger, and in whatever order: its chain verifies, and retention finds every row."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from service.database.engine import Database, parse_url
from service.database.locks import AdvisoryLock
from service.errors import DatabaseUnavailable
from service.events.filter import EventFilter
from service.ledger.flusher import LeaseLost, LedgerFlusher
from service.ledger.recorder import LedgerRecorder
from service.ledger.records import ConnectionEntry
from service.retention.purge_log import PurgeLog
from service.retention.row_purge import delete_ledger
from service.settings import LedgerSettings, StorageSettings
from tests.fixtures.audit_verify import assert_untampered

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES = 3
NAMES = ("alice", "bob", 'Ümläut "x" \\')
LAST_LINK = "(SELECT max(ledger_link_id) FROM ledger_chain)"
NOT_PURGED = f"""
SELECT 'closing', ledger_link_id FROM connections WHERE ledger_link_id IS DISTINCT FROM {LAST_LINK}
UNION ALL SELECT 'dispatch', ledger_link_id FROM dispatches WHERE ledger_link_id <> {LAST_LINK}
UNION ALL SELECT 'receipt', ledger_link_id FROM receipts WHERE ledger_link_id <> {LAST_LINK}
"""


class SimulatedNode:
    """A node that serves nobody: the test says what happens on its streams."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.start()

    def start(self) -> None:
        """Start as a process does: with nothing in memory."""
        self.ledger = LedgerRecorder(self._database, LedgerSettings(ack_coalesce_seconds=0))
        self.flusher = LedgerFlusher(self._database, self.ledger, LedgerSettings())
        self.open: list[ConnectionEntry] = []

    def one(self, number: int) -> ConnectionEntry | None:
        return self.open[number % len(self.open)] if self.open else None

    def open_one(self, name: str, after: int, *, keeps_up: bool) -> ConnectionEntry:
        entry = ConnectionEntry(
            node_id=self.ledger.node_id,
            recipient=name,
            transport="websocket",
            filter=EventFilter(),
            token_topics=("*",),
            remote_addr=None,
            user_agent=None,
            jti=None,
            token_expires_at=datetime.now(UTC) + timedelta(hours=1),
            after_seq=min(after, self.ledger.sent_seq),
            sent_seq=None if keeps_up else min(after, self.ledger.sent_seq),
        )
        self.ledger.record_opening(entry)
        self.open.append(entry)
        return entry

    async def flush(self) -> None:
        """Flush, and start over where the node was lost or PostgreSQL refuses a record, as the node's task does."""
        try:
            await self.flusher.flush()
        except (LeaseLost, DBAPIError):
            for entry in self.open:
                self.ledger.record_closing(entry, 1012, "shutting_down")
            self.open = []
            await self.flusher.register(self.ledger.sent_seq)


class Cluster:
    """Some nodes, and what an operator does to their database."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self._database = Database(parse_url(self._url), StorageSettings())
        self._operator = await asyncpg.connect(self._url)
        self._nodes = [SimulatedNode(self._database) for _ in range(NODES)]
        for node in self._nodes:
            await node.flusher.register(0)
        self._connections: list[ConnectionEntry] = []
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._operator.close()
        await self._database.close()

    async def take(self, step: str, which: int, number: int) -> None:
        """Let one thing happen on one node, or nothing where it cannot."""
        node = self._nodes[which]
        happens = getattr(self, f"_{step}")(node, number)
        if happens is not None:
            await happens

    # What happens on the streams.

    def _open(self, node: SimulatedNode, number: int) -> None:
        self._connections.append(node.open_one(NAMES[number % 3], number, keeps_up=number % 2 == 0))

    def _close(self, node: SimulatedNode, number: int) -> None:
        if entry := node.one(number):
            node.ledger.record_closing(entry, 1000, 'he said "bye"')
            node.open.remove(entry)

    def _dispatch(self, node: SimulatedNode, number: int) -> None:
        sent = node.ledger.sent_seq
        node.ledger.record_dispatch(sent, sent + 1 + number % 3, to_anybody=number % 5 > 0)

    def _replay(self, node: SimulatedNode, number: int) -> None:
        entry = node.one(number)
        if entry and entry.sent_seq is not None:
            up_to = min(entry.sent_seq + number, node.ledger.sent_seq)
            node.ledger.record_dispatch_to(entry, entry.sent_seq, up_to)

    def _keep_up(self, node: SimulatedNode, number: int) -> None:
        if entry := node.one(number):
            node.ledger.record_live(entry)

    def _lag(self, node: SimulatedNode, number: int) -> None:
        if entry := node.one(number):
            node.ledger.record_position(entry, node.ledger.sent_seq)

    def _receipt(self, node: SimulatedNode, number: int) -> None:
        if entry := node.one(number):
            node.ledger.record_receipt(entry, min(number, node.ledger.sent_seq))

    async def _late_receipt(self, node: SimulatedNode, number: int) -> None:
        if self._connections:
            late = self._connections[number % len(self._connections)]
            await node.ledger.record_late_receipt(late.id, late.recipient, number)

    # What happens to flushes.

    async def _flush(self, node: SimulatedNode, _number: int) -> None:
        await node.flush()

    async def _flush_without_an_answer(self, node: SimulatedNode, _number: int) -> None:
        waiting = node.ledger.pending
        with contextlib.suppress(LeaseLost):
            await node.flusher.flush()
            node.ledger.pending.put_back(waiting)

    async def _flush_that_fails(self, node: SimulatedNode, _number: int) -> None:
        await self._operator.execute(f"SELECT pg_advisory_lock({AdvisoryLock.LEDGER:d})")
        with contextlib.suppress(TimeoutError, DatabaseUnavailable, LeaseLost):
            async with asyncio.timeout(0.02):
                await node.flusher.flush()
        await self._operator.execute(f"SELECT pg_advisory_unlock({AdvisoryLock.LEDGER:d})")

    async def _flush_that_is_refused(self, node: SimulatedNode, _number: int) -> None:
        node.open_one("\0", 0, keeps_up=True)
        await node.flush()

    # What happens to nodes.

    async def _lost(self, node: SimulatedNode, _number: int) -> None:
        await self._operator.execute("SELECT end_nodes(ARRAY[$1::uuid], 'node_lost')", node.ledger.node_id)

    async def _crash(self, node: SimulatedNode, _number: int) -> None:
        node.start()
        await node.flusher.register(0)

    async def _sign_off(self, node: SimulatedNode, number: int) -> None:
        await node.flusher.sign_off()
        await self._crash(node, number)

    async def _purge(self, _node: SimulatedNode, _number: int) -> None:
        await self.purge()

    async def purge(self) -> None:
        """Purge everything that may be purged."""
        older_than = datetime.now(UTC) + timedelta(days=1)
        await delete_ledger(self._operator, PurgeLog(self._operator, older_than), 2**62, older_than)

    async def finish(self) -> None:
        """End every node, as a judge ends lost ones."""
        ids = [row["id"] for row in await self._operator.fetch("SELECT id FROM nodes WHERE ended_at IS NULL")]
        await self._operator.execute("SELECT end_nodes($1::uuid[], 'node_lost')", ids)

    async def rows(self, query: str) -> list[Any]:
        return [tuple(row) for row in await self._operator.fetch(query)]


STEPS = st.tuples(
    st.sampled_from(
        ["open", "dispatch", "flush"] * 4
        + ["close", "replay", "keep_up", "lag", "receipt", "late_receipt"] * 2
        + ["flush_without_an_answer", "flush_that_fails", "flush_that_is_refused"]
        + ["lost", "crash", "sign_off", "purge"]
    ),
    st.integers(0, NODES - 1),
    st.integers(0, 30),
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=20, max_size=60))
def test_the_chain_verifies_and_retention_finds_every_row(
    shared_url: str, loop: asyncio.Runner, steps: list[tuple[str, int, int]]
) -> None:
    async def run() -> None:
        async with Cluster(shared_url) as cluster:
            for step in steps:
                await cluster.take(*step)
            await cluster.finish()
            await assert_untampered(shared_url)
            await cluster.purge()
            assert await cluster.rows(NOT_PURGED) == []
            await assert_untampered(shared_url)

    loop.run(run())
