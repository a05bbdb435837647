"""Fixtures: a database that holds what the service wrote while admins came, acknowledged, acted and dropped.

And a log in small partitions that fills quickly, with the retention of a node that nobody publishes to.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio

from service.alerts.search import Indexer
from service.audit.retention import Retention
from service.database.engine import Database, parse_url
from service.events.log import append_alerts
from service.settings import LedgerSettings, RetentionSettings, Settings, StorageSettings
from tests.deliveries.conftest import open_books
from tests.events.test_log import item
from tests.harness import BODY, created, eventually, new_database, serving, start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from tests.harness import Node

__all__ = ["open_books"]

SIZE = 10_000
BATCH = 2_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lived(server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The name of the database, which nobody is connected to: tests copy theirs from it."""
    name = f"lived_{uuid.uuid4().hex}"
    async with new_database(server_url, name, template) as url:
        with serving(url, Settings(ledger=LedgerSettings(receipt_resolution_seconds=1e-9))) as node:
            await live(node)
        await leave_open(url, tmp_path_factory.mktemp("node"))
        yield name


@pytest.fixture
async def altered_url(server_url: str, lived: str) -> AsyncIterator[str]:
    """A copy of it, for one test to alter."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", lived) as url:
        yield url


_CLOSED = "SELECT count(*) FROM connections WHERE closed_at IS NOT NULL HAVING count(*) >= $1"


async def live(node: Node) -> None:
    """Let everything happen that the chains cover."""
    async with await node.live("alice") as alice, node.http("alice", "alerts:read alerts:manage") as console:
        for round_ in range(4):
            bob = await node.live("bob", topics="payments.*", min_severity="warning")
            alert = await node.post(f'Ümläut "{round_}" \\', topic="payments.eu", severity="critical", body="a\nb")
            async with node.http() as client:
                many = [{"title": f"{n}", "topic": "search", "recipients": ["carol", "alice"]} for n in range(5)]
                await client.post("/v1/alerts/batch", json=many)
            await node.post_all([{"topic": "search", "dedup_key": "k", "recipients": ["bob", "alice"]}])
            await console.post(f"/v1/alerts/{alert['id']}/acknowledge")
            await console.post(f"/v1/alerts/{alert['id']}/comments", json={"text": 'I have "it"\n'})
            for frame in await alice.events(8):
                await alice.ack(frame["seq"])
            last = (await bob.events(3))[-1]["seq"]
            await bob.ack(last)
            await eventually(partial(node.sql, "SELECT FROM receipts WHERE seq = $1", last))
            bob.connection.transport.abort()
            await eventually(partial(node.sql, _CLOSED, round_ + 1))


async def leave_open(url: str, folder: Path) -> None:
    """Let a node crash that has a connection."""
    node = start_process(url, folder)
    try:
        stream = await node.live("dave")
        await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NULL"))
    finally:
        node.kill()
        node.end()
    await stream.close()


@dataclass
class Log:
    """A log whose partitions are small, and a look at what is there."""

    url: str
    database: Database
    connection: asyncpg.Connection

    async def fill(self, up_to: int, **fields: Any) -> None:
        """Append alerts until the head is at ``up_to``."""
        while (head := await self.value("SELECT coalesce(max(last_seq), 0) FROM log_chain")) < up_to:
            alerts = [json.dumps({**BODY, **item(**fields)["alert"]}).encode() for _ in range(min(BATCH, up_to - head))]
            await append_alerts(self.connection, alerts, [created(alert) for alert in alerts], [None] * len(alerts))

    async def now(self) -> datetime:
        """Return the database's clock: what was stored so far is older."""
        at: datetime = await self.value("SELECT clock_timestamp()")
        return at

    async def try_to_let_go(self, older_than: datetime | None, archive_dir: Path | None = None) -> bool:
        """Run the retention once, unless another is at it."""
        settings = RetentionSettings(archive_dir=archive_dir)
        return await Retention(self.database, settings, lambda _seq: None).let_go(older_than)

    async def let_go(self, older_than: datetime | None, archive_dir: Path | None = None) -> None:
        """Run the retention once, when no other is at it."""
        await eventually(lambda: self.try_to_let_go(older_than, archive_dir))

    async def index(self) -> None:
        """Let the index of the search catch up."""
        while await Indexer(self.database).advance():
            pass

    async def value(self, query: str, *arguments: Any) -> Any:
        """Ask for one value."""
        return await self.connection.fetchval(query, *arguments)

    async def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask for rows."""
        return [tuple(row) for row in await self.connection.fetch(query, *arguments)]

    async def partitions(self) -> list[str]:
        """Return the tables that hold, or held, parts of the log, attached or not; those ahead are left out."""
        rows = await self.rows(
            "SELECT relname FROM pg_class LEFT JOIN event_partitions() ON name = relname"
            " WHERE relkind = 'r' AND relname LIKE 'events_p%' AND"
            " coalesce(begins, 0) <= (SELECT max(last_seq) FROM log_chain) ORDER BY relname"
        )
        return [row[0] for row in rows]


async def make_small(connection: asyncpg.Connection, partitions: int = 10) -> None:
    """Let the empty log have small partitions."""
    for row in await connection.fetch("SELECT name FROM event_partitions()"):
        await connection.execute(f"DROP TABLE {row['name']}")
    await connection.execute("SELECT ensure_event_partitions($1, $2, 64)", SIZE, SIZE * (partitions - 1))


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Log]:
    connection = await asyncpg.connect(database_url)
    await make_small(connection)
    database = Database(parse_url(database_url), StorageSettings())
    yield Log(database_url, database, connection)
    await database.close()
    await connection.close()
