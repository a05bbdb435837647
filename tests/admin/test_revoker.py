"""A revocation whose commit, or whose confirmation, is uncertain."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest

from service.admin import revoker
from service.admin.revoker import Revoked, Revoker
from service.auth.principal import Principal
from service.auth.revocations import Revocation
from service.errors import DatabaseUnavailable, OutcomeUnknown, TokenExpired
from tests.fixtures.revocations import unregistered_feed
from tests.harness import HOUR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

NOW = datetime.now(UTC)
BY_ID = Revocation(1, "stolen", None, None, None, None, None, "root", NOW, NOW + timedelta(days=1))
OF_ALICE = replace(BY_ID, jti=None, subject="alice", issued_before=NOW)
ALICE = Principal("alice", frozenset(), ("*",), NOW.timestamp() + HOUR, "stolen", NOW.timestamp() - 60)
FRESH = replace(ALICE, jti=None, issued_at=NOW.timestamp() + 1)
ROOT = replace(ALICE, subject="root", jti=None)
NODE = UUID(int=1)


class FakeDatabase:
    """A database whose commits fail with ``error``, and that names the nodes which have not confirmed."""

    def __init__(self, error: BaseException | None = None, *unconfirmed: list[UUID] | None) -> None:
        self.error = error
        self.unconfirmed = list(unconfirmed)

    async def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run a transaction."""
        result = await work(self)
        if self.error is not None:
            raise self.error
        return result

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[FakeDatabase]:
        """Begin a transaction, for ``scalars``."""
        if self.unconfirmed[0] is None:
            raise DatabaseUnavailable("PostgreSQL went away.")
        yield self

    async def execute(self, *_: object) -> list[Any]:
        """Execute a query: nobody has revoked the token that revokes."""
        return []

    async def scalars(self, *_: object) -> FakeDatabase:
        """Execute a query."""
        return self

    def all(self) -> list[UUID]:
        """Return the next answer; the last one is repeated."""
        answer = self.unconfirmed[0] if len(self.unconfirmed) == 1 else self.unconfirmed.pop(0)
        return answer or []


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests in which nobody confirms anything wait for so long; the others get what they wait for at once."""
    monkeypatch.setattr(revoker, "CONFIRM_SECONDS", 1)


async def revoke(database: FakeDatabase, revocation: Revocation = BY_ID) -> tuple[Revoked[Revocation], list[bool]]:
    """Revoke, and return whether an old and a fresh token are covered, too, where it does not fail."""
    feed = unregistered_feed(cast("Any", database))

    async def store(_tx: object) -> tuple[Revocation, bool]:
        return revocation, True

    try:
        return await Revoker(cast("Any", database), feed).revoke(store, bearer=ROOT), covered(feed)
    except BaseException as error:
        error.args = (covered(feed),)
        raise


def covered(feed: Any) -> list[bool]:
    return [feed.covers(principal) for principal in (ALICE, FRESH)]


async def test_it_is_applied_before_it_is_answered() -> None:
    revoked, tokens = await revoke(FakeDatabase(None, []))
    assert (revoked.revocation, revoked.is_new, revoked.unconfirmed) == (BY_ID, True, [])
    assert tokens == [True, False]


@pytest.mark.parametrize("error", [OutcomeUnknown("PostgreSQL went away during the commit."), asyncio.CancelledError()])
async def test_where_its_outcome_is_unknown_it_is_applied_all_the_same(error: BaseException) -> None:
    for revocation, expected in (
        (BY_ID, [True, False]),
        (OF_ALICE, [True, False]),
        (replace(OF_ALICE, deactivated=True), [True, True]),
        (replace(OF_ALICE, deactivated=False), [False, False]),  # a reactivation lets nobody in before it is certain
    ):
        with pytest.raises(type(error)) as raised:
            await revoke(FakeDatabase(error), revocation)
        assert raised.value.args == (expected,)


async def test_what_was_not_stored_is_not_applied() -> None:
    with pytest.raises(DatabaseUnavailable) as raised:
        await revoke(FakeDatabase(DatabaseUnavailable("Nothing was stored.")))
    assert raised.value.args == ([False, False],)


async def test_it_waits_for_the_confirmations() -> None:
    database = FakeDatabase(None, [NODE], [NODE], [])
    assert (await revoke(database))[0].unconfirmed == []
    assert database.unconfirmed == [[]]


async def test_it_does_not_wait_for_ever() -> None:
    assert (await revoke(FakeDatabase(None, [NODE])))[0].unconfirmed == [NODE]


async def test_where_postgres_goes_away_it_is_not_known_who_has_confirmed() -> None:
    assert (await revoke(FakeDatabase(None, None)))[0].unconfirmed is None


async def test_a_token_that_has_expired_meanwhile_revokes_nothing() -> None:
    feed = unregistered_feed(cast("Any", FakeDatabase()))

    async def store(_tx: object) -> tuple[Revocation, bool]:
        return BY_ID, True

    with pytest.raises(TokenExpired):
        await Revoker(cast("Any", FakeDatabase()), feed).revoke(store, bearer=replace(ROOT, expires_at=time.time()))
    assert covered(feed) == [False, False]
