"""The revocations that a node knows when the table is another one than it was: after a failover, or a restore."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from service.auth.principal import Principal
from service.auth.revocations import Target, revoke
from service.database.engine import Database, parse_url
from service.errors import DatabaseUnavailable
from service.settings import AuthSettings, StorageSettings
from tests.fixtures.revocations import unregistered_feed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Follower:
    """A feed, and what it knows."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.feed = unregistered_feed(database)
        self.revoked = self.feed.revoked

    def refuses(self, jti: str) -> bool:
        """Say whether a token is refused."""
        now = time.time()
        principal = Principal("alice", frozenset(), ("*",), expires_at=now + 60, issued_at=now, jti=jti)
        return self.revoked.covers(principal)

    async def revoke(self, *jtis: str) -> None:
        """Revoke tokens, through any node."""
        for jti in jtis:
            async with self.database.transaction() as tx:
                await revoke(tx, Target(jti=jti), by="root", reason=None, settings=AuthSettings())

    async def sql(self, *statements: str) -> None:
        """Change the table by hand."""
        async with self.database.transaction() as tx:
            for statement in statements:
                await tx.execute(text(statement))


@pytest.fixture
async def follower(database_url: str) -> AsyncIterator[Follower]:
    database = Database(parse_url(database_url), StorageSettings())
    yield Follower(database)
    await database.close()


async def test_an_id_that_is_issued_again_is_read_again(follower: Follower) -> None:
    await follower.revoke("kept", "lost")
    await follower.feed.read()
    await follower.sql("DELETE FROM revocations WHERE jti = 'lost'", "ALTER TABLE revocations ALTER id RESTART WITH 2")
    await follower.revoke("new")
    await follower.feed.read()
    assert follower.refuses("new")
    assert follower.refuses("kept")
    assert follower.refuses("lost")  # what was known is not forgotten


async def test_ids_that_were_issued_again_further_back_are_read_where_the_last_row_is_gone(follower: Follower) -> None:
    await follower.revoke("a", "b", "c")
    await follower.feed.read()
    await follower.sql("DELETE FROM revocations WHERE id > 1", "ALTER TABLE revocations ALTER id RESTART WITH 2")
    await follower.revoke("new")
    await follower.feed.read()
    assert follower.refuses("new")
    await follower.revoke("after")
    await follower.feed.read()
    assert follower.refuses("after")


async def test_all_is_read_after_a_connect_of_listen(follower: Follower) -> None:
    await follower.revoke("a", "b")
    await follower.feed.read()
    await follower.sql("UPDATE revocations SET jti = 'new' WHERE jti = 'a'")  # the last row is as it was
    await follower.feed.read()
    assert not follower.refuses("new")
    follower.feed.connected()
    await follower.feed.read()
    assert follower.refuses("new")


async def test_all_is_read_again_after_a_read_that_failed(database_url: str, follower: Follower) -> None:
    await follower.revoke("a", "b")
    await follower.feed.read()
    await follower.sql("UPDATE revocations SET jti = 'new' WHERE jti = 'a'")
    follower.feed.connected()
    await follower.sql("ALTER TABLE revocations RENAME TO away")
    with pytest.raises(DatabaseUnavailable):
        await follower.feed.read()
    await follower.sql("ALTER TABLE away RENAME TO revocations")
    await follower.feed.read()
    assert follower.refuses("new")


async def test_a_last_row_that_has_expired_and_was_deleted_is_no_other_history(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.revoke("a", "b")
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    await follower.sql(f"UPDATE revocations SET expires_at = '{past}' WHERE jti = 'b'")
    await follower.feed.read()
    await follower.sql("DELETE FROM revocations WHERE jti = 'b'")
    read: list[str | None] = []
    monkeypatch.setattr(follower.revoked, "add", lambda revocation: read.append(revocation.jti))
    await follower.feed.read()
    assert read == []
    await follower.revoke("c")
    await follower.feed.read()
    assert read == ["c"]


async def test_what_covers_expired_tokens_is_dropped_by_the_slower_clock(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.revoke("a")
    await follower.feed.read()
    monkeypatch.setattr(follower.feed, "_drop_expired_at", 0)
    monkeypatch.setattr(time, "time", lambda clock=time.time: clock() + 10 * 365 * 86400)
    await follower.feed._follow()
    assert len(follower.revoked) == 1
    monkeypatch.undo()
    follower.revoked.drop_expired(time.time() + 10 * 365 * 86400)
    assert len(follower.revoked) == 0
