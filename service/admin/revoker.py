"""Revoking: a revocation is in effect, on every node, once its request is answered.

This node applies it as soon as it is committed, and also where the outcome of the commit is unknown.
Then it waits until every node that serves, itself included, has confirmed that it applies it
(``nodes.revocation_id``), and that no commit is under way that was admitted before. After
``CONFIRM_SECONDS`` the answer names the nodes that have not: these admit nobody before they have
read it (``auth/revocation_feed.py``), so it is in effect there, too, except on a commit under way.

Whoever revokes may be revoked while the request waits, for a lock say. So the token is checked once
more, by its expiry and against the table, under the lock of the revocations that is held to the commit: a revocation
of that token is committed either before, and found, or after, and answered later.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy import text

from service.auth.claims import token_expired
from service.auth.revocation_feed import CURRENT_SECONDS, RevokedTokens
from service.auth.revocations import revocations_of
from service.auth.tokens import token_revoked
from service.errors import DatabaseUnavailable, OutcomeUnknown
from service.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal
    from service.auth.revocation_feed import RevocationFeed
    from service.auth.revocations import Revocation
    from service.database.engine import Database

log = get_logger(__name__)

CONFIRM_SECONDS = CURRENT_SECONDS + 0.5
"""How long to wait for the confirmations: what a node had read before is no longer current then."""
ASK_SECONDS = 0.02

_UNCONFIRMED = text("SELECT id FROM nodes WHERE ended_at IS NULL AND revocation_id < :id ORDER BY id")


R = TypeVar("R", bound="Revocation | None")


@dataclass(frozen=True, slots=True)
class Revoked(Generic[R]):
    """A revocation that is in effect; None where there was nothing to do.

    ``unconfirmed`` are the nodes that have not confirmed, None where PostgreSQL could not be asked.
    """

    revocation: R
    is_new: bool
    unconfirmed: list[UUID] | None


class Revoker:
    """Stores revocations, and waits until they are in effect."""

    def __init__(self, database: Database, feed: RevocationFeed) -> None:
        self._database = database
        self._feed = feed

    async def revoke(
        self, store: Callable[[AsyncConnection], Awaitable[tuple[R, bool]]], *, bearer: Principal
    ) -> Revoked[R]:
        """Commit what ``store`` returns, a revocation and whether it is new, and wait until it is in effect.

        ``bearer`` is whose token requests it, and ``store`` takes the lock of the revocations.

        Raises:
            TokenRevoked, TokenExpired: that token was revoked meanwhile, or has expired; nothing was stored.
            DatabaseUnavailable: nothing was stored.
            OutcomeUnknown: it may be stored. This node applies it all the same.

        """
        stored: Revocation | None = None

        async def storing(tx: AsyncConnection) -> tuple[R, bool]:
            nonlocal stored
            revocation, is_new = await store(tx)
            await _require_still_valid(tx, bearer, but_not=revocation.id if revocation is not None and is_new else None)
            stored = revocation
            return revocation, is_new

        try:
            revocation, is_new = await self._database.run(storing)
        except (OutcomeUnknown, asyncio.CancelledError):
            if stored is not None and stored.deactivated is not False:
                self._feed.apply(stored)
            raise
        if revocation is None:
            return Revoked(revocation, is_new, [])
        self._feed.apply(revocation)
        unconfirmed = await self._unconfirmed(revocation.id)
        if unconfirmed != []:
            log.warning("revocation not confirmed", revocation=revocation.id, nodes=unconfirmed)
        return Revoked(revocation, is_new, unconfirmed)

    async def _unconfirmed(self, revocation_id: int) -> list[UUID] | None:
        """Wait for the confirmations, and return the nodes that have not confirmed in time."""
        unconfirmed: list[UUID] | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECONDS):
                while unconfirmed != []:
                    await asyncio.sleep(ASK_SECONDS)
                    with suppress(DatabaseUnavailable):
                        async with self._database.transaction() as tx:
                            unconfirmed = list((await tx.scalars(_UNCONFIRMED, {"id": revocation_id})).all())
        return unconfirmed


async def _require_still_valid(tx: AsyncConnection, bearer: Principal, *, but_not: int | None) -> None:
    """Refuse a token that has expired or that the table revokes, ``but_not`` by the revocation that was just stored.

    Raises:
        TokenRevoked: the table revokes it.
        TokenExpired: its ``exp`` has passed.

    """
    revoked = RevokedTokens()
    for revocation in await revocations_of(tx, bearer):
        if revocation.id != but_not:
            revoked.add(revocation)
    if revoked.covers(bearer):
        raise token_revoked()
    if bearer.expires_at <= time.time():
        raise token_expired()
