"""Whether what a node knows of revocations is current, and what is admitted where it is not."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy import text

from service.admin.revoker import CONFIRM_SECONDS
from service.auth import revocation_feed
from service.auth.principal import Principal
from service.auth.revocation_feed import CURRENT_SECONDS, POLL_SECONDS, RevocationFeed
from service.auth.revocations import Target, revoke, set_deactivated
from service.database.engine import Database, parse_url
from service.errors import DatabaseUnavailable
from service.settings import AuthSettings, StorageSettings
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NODE = UUID(int=1)


class Node:
    """A node with a feed, which renews its lease when the test says so."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.registered: UUID | None = NODE
        self.settled = asyncio.Event()
        self.settled.set()
        self.now = 1000.0
        self.feed = RevocationFeed(
            database, lambda _kicked: None, registered_as=lambda: self.registered, settled=self._settle
        )

    async def _settle(self) -> None:
        await self.settled.wait()

    async def revoke(self, jti: str) -> int:
        """Revoke a token through another node, and return its number."""
        async with self.database.transaction() as tx:
            return (await revoke(tx, Target(jti=jti), by="root", reason=None, settings=AuthSettings()))[0].id

    async def sql(self, statement: str) -> None:
        """Change the database by hand."""
        async with self.database.transaction() as tx:
            await tx.execute(text(statement))

    async def confirmed(self) -> int:
        """Return how far the node has confirmed that it read."""
        async with self.database.transaction() as tx:
            return int(await tx.scalar(text("SELECT revocation_id FROM nodes")) or 0)

    def covers(self, jti: str | None = None, subject: str = "alice", age: float = 0) -> bool:
        """Say whether a token is refused that was issued ``age`` seconds ago."""
        now = time.time()
        return self.feed.covers(Principal(subject, frozenset(), ("*",), now + 60, jti, now - age))

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the table."""
        tasks = [asyncio.create_task(task.run()) for task in (self.feed.task, self.feed.confirmations)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
async def node(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    database = Database(parse_url(database_url), StorageSettings())
    made = Node(database)
    monkeypatch.setattr(revocation_feed, "boottime", lambda: made.now)
    await made.sql(
        "INSERT INTO nodes (id, host, pid, started_at, seen_at, sent_seq)"
        f" VALUES ('{NODE}', 'here', 1, clock_timestamp(), clock_timestamp(), 0)"
    )
    yield made
    await database.close()


def test_whoever_revokes_waits_until_what_was_read_before_is_no_longer_current() -> None:
    assert POLL_SECONDS < CURRENT_SECONDS < CONFIRM_SECONDS


async def test_what_was_read_is_current_for_a_while(node: Node) -> None:
    assert not node.feed.is_current
    await node.feed.read()
    assert node.feed.is_current
    node.now += CURRENT_SECONDS - 0.01
    assert node.feed.is_current
    node.now += 0.01
    assert not node.feed.is_current


async def test_it_counts_from_before_it_was_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((1000.0, 1000.0 + CURRENT_SECONDS))
    monkeypatch.setattr(revocation_feed, "boottime", lambda: next(times))
    await node.feed.read()
    assert not node.feed.is_current


async def test_what_was_read_without_a_lease_or_under_another_id_is_not_current(node: Node) -> None:
    node.registered = None
    await node.feed.read()
    node.registered = NODE
    assert not node.feed.is_current  # nobody waited for this node when it was read
    await node.feed.read()
    assert node.feed.is_current
    node.registered = None  # the lease has ended
    assert not node.feed.is_current
    node.registered = UUID(int=2)
    assert not node.feed.is_current


async def test_a_request_waits_for_what_was_revoked_before_it(node: Node) -> None:
    await node.feed.read()
    async with node.following():
        node.now += CURRENT_SECONDS
        await node.revoke("stolen")
        assert not node.covers("stolen")
        await node.feed.ensure_current()
        assert node.covers("stolen")


async def test_many_requests_share_a_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0

    async def read(_feed: RevocationFeed, read=RevocationFeed.read) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
        nonlocal reads
        reads += 1
        return float(await read(node.feed))

    monkeypatch.setattr(RevocationFeed, "read", read)
    node.registered = None
    began = time.monotonic()
    async with node.following():
        await asyncio.gather(*(node.feed.ensure_current() for _ in range(100)))
    polls = (time.monotonic() - began) / POLL_SECONDS
    assert reads <= 2 + polls


@pytest.mark.parametrize("hangs", [False, True])
async def test_where_postgres_is_away_no_request_passes(
    node: Node, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    async def read(_feed: RevocationFeed) -> float:
        if hangs:
            await asyncio.sleep(3600)
        raise DatabaseUnavailable("PostgreSQL is away.")

    await node.feed.read()
    monkeypatch.setattr(RevocationFeed, "read", read)
    monkeypatch.setattr(revocation_feed, "READ_TIMEOUT_SECONDS", 0.2)
    async with node.following():
        await node.feed.ensure_current()  # what it has read is current
        node.now += CURRENT_SECONDS
        with pytest.raises(DatabaseUnavailable):
            await node.feed.ensure_current()


async def test_a_read_whose_connection_is_lost_is_tried_once_more(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [True]

    async def read(_feed: RevocationFeed, read=RevocationFeed.read) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
        if failing:
            failing.clear()
            raise DatabaseUnavailable("The connection was lost.")
        return float(await read(node.feed))

    monkeypatch.setattr(RevocationFeed, "read", read)
    await node.revoke("stolen")
    async with node.following():
        await node.feed.ensure_current()
    assert node.covers("stolen")


async def test_a_node_confirms_what_it_has_read_once_its_commits_are_over(node: Node) -> None:
    node.settled.clear()
    async with node.following():
        number = await node.revoke("stolen")
        node.feed.wake()
        await eventually(lambda: node.covers("stolen"))
        assert await node.confirmed() == 0
        node.settled.set()
        await eventually(lambda: has_confirmed(node, number))


async def has_confirmed(node: Node, number: int) -> bool:
    return await node.confirmed() == number


async def test_what_was_read_already_is_not_applied_once_more(node: Node) -> None:
    """The answer of a deactivation comes after its reactivation was read."""

    async def change(*, deactivated: bool):  # type: ignore[no-untyped-def]  # noqa: ANN202
        async with node.database.transaction() as tx:
            return (
                await set_deactivated(
                    tx, "alice", deactivated=deactivated, by="root", reason=None, settings=AuthSettings()
                )
            )[0]

    left = await change(deactivated=True)
    node.feed.apply(left)
    assert node.covers(age=-60)
    await change(deactivated=False)
    await node.feed.read()
    node.feed.apply(left)
    assert not node.covers(age=-60)
    assert node.covers(age=60)


async def test_who_is_deactivated_follows_the_table_where_it_is_another_one(node: Node) -> None:
    async with node.database.transaction() as tx:
        await set_deactivated(tx, "alice", deactivated=True, by="root", reason=None, settings=AuthSettings())
    await node.feed.read()
    assert node.covers(age=-60)
    await node.feed.read()
    assert node.covers(age=-60)
    await node.sql("DELETE FROM revocations")  # as a failover that lost it
    await node.feed.read()
    assert not node.covers(age=-60)
    assert node.covers(age=60)  # what was revoked is not forgotten
