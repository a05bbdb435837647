"""The revocations that a node follows: in memory, read from the table, and confirmed to the others.

A notification wakes the feed, a poll limits the delay of a lost one, and a node reads all rows
before it serves. Of a revoked connection it only closes the stream.

What a node has read is *current* for ``CURRENT_SECONDS``, and only while the node holds the lease of
the row in ``nodes`` under which it read. Otherwise it reads again before it admits anybody
(``ensure_current``)::

    read ──► current: admits at once ──2 s later, or the lease ended──► not current
     ▲                    │                                                 │
     └── poll (0.5 s) ◄───┘                                                 │
     └── the next request, stream, commit or pass of the fan-out waits ◄────┘

Whoever revokes waits for the confirmation of each node that has a row (``admin/revoker.py``), for
longer than what was read is current. So once a revocation is answered no node admits what it covers:
a node has confirmed it, or was too slow, frozen or cut off, and reads it before it admits anybody.
A node that cannot read answers 503.

- Reading on from the last id misses no row, as long as the table is the same one. After a failover
  or a restore, ids are issued again. So all rows are read where the server was started since, or is
  another one; where the last row is no longer there; and after each connect of LISTEN.
- A node keeps what it has read until it has expired, also where the table lost it. Only who is
  deactivated follows the table.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from service.auth.revocations import COLUMNS, Revocation
from service.database.failures import UNREACHABLE, unavailable
from service.errors import DatabaseUnavailable
from service.periodic import PeriodicTask
from service.timestamps import boottime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal
    from service.database.engine import Database

POLL_SECONDS = 0.5
"""The delay of a lost notification: with the time to close, a revocation takes effect within a
second."""
CURRENT_SECONDS = 2
"""How long what was read counts as current, from before it was read."""
READ_TIMEOUT_SECONDS = 2
"""How long a request waits for revocations to be read."""
REST_SECONDS = 0.05
"""The pause between two reads, whatever wakes the node: every role of the database may notify."""
DROP_EXPIRED_SECONDS = 60
"""How often expired tokens are dropped from memory."""

_SERVER = text("SELECT pg_postmaster_start_time() AS started, clock_timestamp() AS now")
# Only what has expired is deleted.
_IS_THERE = text(
    """
    SELECT cast(:expires_at AS timestamptz) < clock_timestamp()
        OR EXISTS (SELECT FROM revocations WHERE id = :id AND revoked_at = :revoked_at)
    """
)
_AFTER = text(f"SELECT {COLUMNS} FROM revocations WHERE id > :id ORDER BY id")  # noqa: S608 - constants
_CONFIRM = text("UPDATE nodes SET revocation_id = :last WHERE id = :node")


class RevokedTokens:
    """The revoked tokens, and who is deactivated, in memory."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._before: dict[str, tuple[float, float]] = {}
        self._deactivated: set[str] = set()

    def __len__(self) -> int:
        return len(self._until) + len(self._before)

    def covers(self, principal: Principal) -> bool:
        """Return whether the token of ``principal`` is revoked, or its subject deactivated."""
        if principal.jti in self._until or principal.subject in self._deactivated:
            return True
        entry = self._before.get(principal.subject)
        return entry is not None and principal.issued_at < entry[0]

    def add(self, revocation: Revocation) -> None:
        """Revoke what a revocation covers. Of several for one subject the latest counts."""
        until = revocation.expires_at.timestamp()
        if revocation.jti is not None:
            self._until[revocation.jti] = max(until, self._until.get(revocation.jti, 0))
        elif revocation.subject is not None and revocation.issued_before is not None:
            entry = (revocation.issued_before.timestamp(), until)
            self._before[revocation.subject] = max(entry, self._before.get(revocation.subject, entry))
            if revocation.deactivated is not None:
                (self._deactivated.add if revocation.deactivated else self._deactivated.discard)(revocation.subject)

    def reactivate_all(self) -> None:
        """Forget who is deactivated: all rows are added again."""
        self._deactivated.clear()

    def drop_expired(self, now: float) -> None:
        """Drop what covers only expired tokens; ``now`` is in seconds since the epoch."""
        self._until = {name: until for name, until in self._until.items() if until > now}
        self._before = {name: entry for name, entry in self._before.items() if entry[1] > now}


class RevocationFeed:
    """Follows the revocations of all nodes.

    ``on_change`` is called with the connections to close, ``registered_as`` returns under which id
    the node holds its lease, None where it holds none, and ``settled`` returns once no commit is
    under way that began before.
    """

    def __init__(
        self,
        database: Database,
        on_change: Callable[[Collection[UUID]], None],
        *,
        registered_as: Callable[[], UUID | None],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._on_change = on_change
        self._registered_as = registered_as
        self._settled = settled
        self.revoked = RevokedTokens()
        self._last: Revocation | None = None
        self._server_started: datetime | None = None
        self._connects = self._connects_read = 0
        self._read_at = -math.inf
        self._read_as: UUID | None = None
        self._confirmed: tuple[UUID, int] | None = None
        self._waiting: list[asyncio.Future[bool]] = []
        self._failure: DatabaseUnavailable | None = None
        """Why the last read failed."""
        self._drop_expired_at = time.monotonic() + DROP_EXPIRED_SECONDS
        self.task = PeriodicTask(
            "revocations", self._follow, POLL_SECONDS, rest_seconds=REST_SECONDS, failure_rest_seconds=POLL_SECONDS
        )
        self.confirmations = PeriodicTask("revocations_confirmed", self.confirm, POLL_SECONDS)

    # What the rest of the node asks.

    def covers(self, principal: Principal) -> bool:
        """Return whether the token of ``principal`` is revoked, or its subject deactivated."""
        return self.revoked.covers(principal)

    @property
    def is_current(self) -> bool:
        """Whether every revocation that was answered by now is in memory."""
        return (
            self._read_as is not None
            and boottime() - self._read_at < CURRENT_SECONDS
            and self._read_as is self._registered_as()
        )

    async def ensure_current(self) -> None:
        """Return once every revocation that was answered before the call is in memory.

        Raises:
            DatabaseUnavailable: they cannot be read now.

        """
        if self.is_current:
            return
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                # Only the connection may have been lost: one read may fail.
                is_read = await self._next_read() or await self._next_read()
        except TimeoutError:
            is_read = False
        if not is_read:
            raise unavailable(self._failure or UNREACHABLE)

    async def _next_read(self) -> bool:
        """Wait for a read that begins from now on, and return whether it succeeded."""
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self.task.wake()
        return await waiting

    def apply(self, revocation: Revocation) -> None:
        """Apply a revocation of this node's now, unless it was read already. The feed reads it, too."""
        if self._last is None or revocation.id > self._last.id:
            self._add([revocation])
        self.task.wake()

    # Following the table.

    def wake(self) -> None:
        """Read on soon: there may be new rows."""
        self.task.wake()

    def connected(self) -> None:
        """Read all rows soon: notifications may have been lost, and the server may be another one."""
        self._connects += 1
        self.task.wake()

    async def _follow(self) -> None:
        waiting, self._waiting = self._waiting, []
        is_read = False
        try:
            now = await self.read()
            is_read, self._failure = True, None
        except DatabaseUnavailable as failure:
            self._failure = failure
            raise
        finally:
            for one in waiting:
                if not one.done():
                    one.set_result(is_read)
        if time.monotonic() >= self._drop_expired_at:
            # By both clocks: one that was set ahead may be set back, and then the tokens are valid.
            self.revoked.drop_expired(min(time.time(), now))
            self._drop_expired_at = time.monotonic() + DROP_EXPIRED_SECONDS

    async def read(self) -> float:
        """Read the rows that were committed since the last time, or all (see above).

        Return the time of the database, in seconds since the epoch.

        Raises:
            DatabaseUnavailable: they cannot be read now.

        """
        began, registered, connects = boottime(), self._registered_as(), self._connects
        async with self._database.transaction() as tx:
            server = (await tx.execute(_SERVER)).one()
            last = self._last if await self._goes_on(tx, server.started) else None
            rows = [Revocation(*row) for row in await tx.execute(_AFTER, {"id": last.id if last else 0})]
        if last is None:
            self.revoked.reactivate_all()
            self._confirmed = None
        self._server_started, self._connects_read = server.started, connects
        self._last = rows[-1] if rows else last
        self._add(rows)
        self._read_at, self._read_as = began, registered
        self.confirmations.wake()
        return float(server.now.timestamp())

    async def _goes_on(self, tx: AsyncConnection, server_started: datetime) -> bool:
        """Say whether the rows after the last one are all that this node does not know."""
        if self._last is None or self._connects != self._connects_read or self._server_started != server_started:
            return False
        row = {"id": self._last.id, "revoked_at": self._last.revoked_at, "expires_at": self._last.expires_at}
        return bool(await tx.scalar(_IS_THERE, row))

    def _add(self, rows: Collection[Revocation]) -> None:
        for revocation in rows:
            self.revoked.add(revocation)
        if rows:
            self._on_change({row.connection_id for row in rows if row.connection_id is not None})

    async def confirm(self) -> None:
        """Write down how far this node has read, once no commit is under way that began before.

        Raises:
            DatabaseUnavailable: it cannot be written now.

        """
        if self._read_as is None or self._last is None or self._confirmed == (self._read_as, self._last.id):
            return
        node, last = self._read_as, self._last.id
        await self._settled()
        async with self._database.transaction() as tx:
            await tx.execute(_CONFIRM, {"node": node, "last": last})
        self._confirmed = node, last
