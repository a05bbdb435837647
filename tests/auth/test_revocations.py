"""What a revocation covers and for how long, and what a node knows when the table is another one than it was."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from service.auth.claims import principal_of
from service.auth.principal import Principal
from service.auth.revocation_feed import RevokedTokens
from service.auth.revocations import Target, revoke, set_deactivated
from service.database.engine import Database, parse_url
from service.errors import DatabaseUnavailable
from service.settings import AuthSettings, IssuerSettings, StorageSettings
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


# Tokens without iat.

LONGEST = 3600
LIMITS = AuthSettings(jwt_max_lifetime_seconds=LONGEST)
WITHOUT_IAT = IssuerSettings(issuer="tocsin", audience=("tocsin",), require_iat=False)


def without_iat(subject: str, expires_at: float) -> Principal:
    claims = {"iss": "tocsin", "aud": "tocsin", "sub": subject, "exp": expires_at}
    return principal_of(claims, WITHOUT_IAT, LIMITS)


async def test_a_token_without_iat_is_revoked_until_it_expires_or_not_at_all(follower: Follower) -> None:
    now = time.time()
    for ago in (0, 600, 1800, LONGEST, 100 * LONGEST):
        subject, before = f"alice-{ago}", datetime.fromtimestamp(now - ago, UTC)
        async with follower.database.transaction() as tx:
            row, _ = await revoke(
                tx, Target(subject=subject, issued_before=before), by="root", reason=None, settings=LIMITS
            )
        revoked = RevokedTokens()
        revoked.add(row)
        for age, lifetime in itertools.product((1, 300, 900, 3000), (600, 2000, LONGEST)):
            if (expires_at := now - age + lifetime) > now + 1:
                is_revoked = revoked.covers(without_iat(subject, expires_at))
                assert is_revoked or age <= ago
                assert not is_revoked or row.expires_at.timestamp() >= expires_at


async def test_who_is_reactivated_gets_in_with_a_token_of_the_longest_lifetime(follower: Follower) -> None:
    async with follower.database.transaction() as tx:
        for deactivated in (True, False):
            await set_deactivated(tx, "alice", deactivated=deactivated, by="root", reason=None, settings=LIMITS)
    await follower.feed.read()
    now = time.time()
    assert not follower.revoked.covers(without_iat("alice", now + LONGEST))
    assert follower.revoked.covers(without_iat("alice", now + LONGEST - 5))  # may have been issued 5 s ago


# The history of the table.


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
