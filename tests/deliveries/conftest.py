"""Fixtures: a ledger and a janitor without a node around them, on a real database."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.database.engine import Database, parse_url
from service.deliveries.facts import ConnectionEntry
from service.deliveries.janitor import Janitor
from service.deliveries.ledger import Ledger
from service.events.filter import EventFilter
from service.settings import LedgerSettings, Settings, StorageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID


@dataclass
class Books:
    """The ledger and the janitor of a node that nobody connects to, and a connection to look at what they wrote."""

    ledger: Ledger
    janitor: Janitor
    database: asyncpg.Connection

    def connection(self, recipient: str = "alice", **fields: Any) -> ConnectionEntry:
        """Open a connection that keeps up from the start."""
        given = {"after_seq": 0, "sent_seq": None, "user_agent": None, **fields}
        entry = ConnectionEntry(
            node_id=self.ledger.node_id,
            recipient=recipient,
            transport="websocket",
            filter=EventFilter(),
            token_topics=("*",),
            remote_addr="127.0.0.1",
            token_id=None,
            token_expires_at=datetime.now(UTC) + timedelta(hours=1),
            **given,
        )
        self.ledger.opened(entry)
        return entry

    async def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask the database."""
        return [tuple(row) for row in await self.database.fetch(query, *arguments)]

    async def age(self, node: UUID, seconds: float) -> None:
        """Pretend that a node was last heard of ``seconds`` ago."""
        await self.database.execute(
            "UPDATE nodes SET seen_at = clock_timestamp() - make_interval(secs => $2) WHERE id = $1", node, seconds
        )

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep the node's next flush waiting."""
        transaction = self.database.transaction()
        await transaction.start()
        await self.database.execute("SELECT FROM nodes WHERE id = $1 FOR UPDATE", self.ledger.node_id)
        try:
            yield
        finally:
            await transaction.rollback()


@pytest.fixture
async def open_books(database_url: str) -> AsyncIterator[Callable[..., Awaitable[Books]]]:
    async with AsyncExitStack() as stack:

        async def open_one(*, storage: StorageSettings | None = None, **settings: Any) -> Books:
            every = Settings(storage=storage or StorageSettings(), ledger=LedgerSettings(**settings))
            database = Database(parse_url(database_url), every.storage)
            stack.push_async_callback(database.close)
            ledger = Ledger(database, every.ledger)
            await ledger.register(0)
            observer = await asyncpg.connect(database_url)
            stack.push_async_callback(observer.close)
            return Books(ledger, Janitor(database, ledger, every), observer)

        yield open_one
