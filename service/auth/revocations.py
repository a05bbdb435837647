"""Revocations: of one token, of all tokens of a subject up to a time, or of one connection.

A revocation is a row, committed before it is answered. Every node follows the rows: a notification
wakes it, a poll limits the delay of a lost notification, and it reads all rows before it serves. It
keeps revoked tokens in memory (``RevokedTokens``); of a revoked connection it only closes the
stream.

- Rows are numbered under a lock that is held to the commit, so a higher id is never visible before
  a lower one, and reading on from the last id misses none, as long as the table is the same one.
  After a failover or a restore, ids are issued again. So all rows are read where the server was
  started since, or is another one; where the last row is no longer there; and after each connect of
  LISTEN.
- A node keeps what it has read until it has expired, also where the table lost it.
- A row is kept until every token that it covers has expired, which is at most
  ``TOCSIN_JWT_MAX_LIFETIME_SECONDS``.
- At most ``TOCSIN_REVOCATIONS_MAX`` are in force, all in the memory of each node; one more is
  refused 503.
- A node that cannot reach PostgreSQL uses the rows that it has read, and reads the others
  afterwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from service.database.durability import WAL_RECORD
from service.database.locks import TableLock
from service.errors import Overloaded
from service.logs import get_logger
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal
    from service.database.engine import Database
    from service.settings import AuthSettings

log = get_logger(__name__)

REVOCATIONS_CHANNEL = "tocsin_revocations"
POLL_SECONDS = 0.5
"""The delay of a lost notification: with the time to close, a revocation takes effect within a
second."""
DROP_EXPIRED_SECONDS = 60
"""How often expired tokens are dropped from memory."""
REST_SECONDS = 0.05
"""The pause between two reads, whatever wakes the node: every role of the database may notify."""
CLOSED_STREAM_SECONDS = 3600
"""How long the row of a closed connection is kept, so that one can see who closed it."""

_COLUMNS = "id, jti, subject, issued_before, connection_id, reason, revoked_by, revoked_at, expires_at"
_TARGETS = ("jti", "subject", "issued_before", "connection_id")
_LOCK = text(TableLock.REVOCATIONS.lock)
_COUNT = text("SELECT count(*) FROM revocations WHERE connection_id IS NULL AND expires_at > clock_timestamp()")
_IN_FORCE = text(
    f"""
    SELECT {_COLUMNS} FROM revocations
    WHERE expires_at > clock_timestamp()
      AND (jti = :jti OR subject = :subject AND issued_before >= :issued_before)
    ORDER BY id DESC LIMIT 1
    """  # noqa: S608 - constants
)
_INSERT = text(
    f"""
    WITH stored AS (
        INSERT INTO revocations
            (jti, subject, issued_before, connection_id, reason, revoked_by, revoked_at, expires_at)
        VALUES (:jti, :subject, :issued_before, :connection_id, :reason, :revoked_by, :now,
                cast(:since AS timestamptz) + make_interval(secs => :kept))
        RETURNING *
    )
    SELECT {_COLUMNS}, notify_nodes('{REVOCATIONS_CHANNEL}', '') FROM stored
    """  # noqa: S608 - constants
)
_WAL_RECORD = text(WAL_RECORD)
_NOW = text("SELECT clock_timestamp()")
_SERVER = text("SELECT pg_postmaster_start_time() AS started, clock_timestamp() AS now")
# Only what has expired is deleted.
_IS_THERE = text(
    """
    SELECT cast(:expires_at AS timestamptz) < clock_timestamp()
        OR EXISTS (SELECT FROM revocations WHERE id = :id AND revoked_at = :revoked_at)
    """
)
_AFTER = text(f"SELECT {_COLUMNS} FROM revocations WHERE id > :id ORDER BY id")  # noqa: S608 - constants
_PAGE = text(
    f"""
    SELECT {_COLUMNS} FROM revocations
    WHERE expires_at > clock_timestamp() AND id < :before ORDER BY id DESC LIMIT :limit
    """  # noqa: S608 - constants
)
_DELETE_EXPIRED = text("DELETE FROM revocations WHERE expires_at < least(clock_timestamp(), :now)")


@dataclass(frozen=True, slots=True)
class Target:
    """A token, a subject's tokens issued before a time (None: now), or a connection to revoke."""

    jti: str | None = None
    subject: str | None = None
    issued_before: datetime | None = None
    connection_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revocation as it is stored."""

    id: int
    jti: str | None
    subject: str | None
    issued_before: datetime | None
    connection_id: UUID | None
    reason: str | None
    revoked_by: str
    revoked_at: datetime
    expires_at: datetime


class RevokedTokens:
    """The revoked tokens in memory."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._before: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._until) + len(self._before)

    def covers(self, principal: Principal) -> bool:
        """Return whether the token of ``principal`` is revoked."""
        if principal.jti in self._until:
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

    def drop_expired(self, now: float) -> None:
        """Drop what covers only expired tokens; ``now`` is in seconds since the epoch."""
        self._until = {name: until for name, until in self._until.items() if until > now}
        self._before = {name: entry for name, entry in self._before.items() if entry[1] > now}


class RevocationFeed:
    """Follows the revocations of all nodes; calls ``on_change`` with the connections to close."""

    def __init__(
        self, database: Database, revoked: RevokedTokens, on_change: Callable[[Collection[UUID]], None]
    ) -> None:
        self._database = database
        self._revoked = revoked
        self._on_change = on_change
        self._last: Revocation | None = None
        self._server_started: datetime | None = None
        self._connects = 0
        self._connects_read = 0
        self._drop_expired_at = time.monotonic() + DROP_EXPIRED_SECONDS
        self.task = PeriodicTask(
            "revocations", self._follow, POLL_SECONDS, rest_seconds=REST_SECONDS, failure_rest_seconds=POLL_SECONDS
        )

    def wake(self) -> None:
        """Read on soon: there may be new rows."""
        self.task.wake()

    def connected(self) -> None:
        """Read all rows soon: notifications may have been lost, and the server may be another one."""
        self._connects += 1
        self.task.wake()

    async def _follow(self) -> None:
        now = await self.read()
        if time.monotonic() >= self._drop_expired_at:
            # By both clocks: one that was set ahead may be set back, and then the tokens are valid.
            self._revoked.drop_expired(min(time.time(), now))
            self._drop_expired_at = time.monotonic() + DROP_EXPIRED_SECONDS

    async def read(self) -> float:
        """Read the rows that were committed since the last time, or all (see above).

        Return the time of the database, in seconds since the epoch.

        Raises:
            DatabaseUnavailable: they cannot be read now.

        """
        connects = self._connects
        async with self._database.transaction() as tx:
            server = (await tx.execute(_SERVER)).one()
            last = self._last if await self._goes_on(tx, server.started) else None
            rows = [Revocation(*row) for row in await tx.execute(_AFTER, {"id": last.id if last else 0})]
        self._server_started, self._connects_read = server.started, connects
        self._last = rows[-1] if rows else last
        for revocation in rows:
            self._revoked.add(revocation)
        if rows:
            self._on_change({row.connection_id for row in rows if row.connection_id is not None})
        return float(server.now.timestamp())

    async def _goes_on(self, tx: AsyncConnection, server_started: datetime) -> bool:
        """Say whether the rows after the last one are all that this node does not know."""
        if self._last is None or self._connects != self._connects_read or self._server_started != server_started:
            return False
        row = {"id": self._last.id, "revoked_at": self._last.revoked_at, "expires_at": self._last.expires_at}
        return bool(await tx.scalar(_IS_THERE, row))


async def revoke(
    tx: AsyncConnection, target: Target, *, by: str, reason: str | None, settings: AuthSettings
) -> tuple[Revocation, bool]:
    """Store a revocation, unless a stored one covers it. Return the stored one, and whether it is new.

    Raises:
        Overloaded: ``revocations_max`` are in force.

    """
    await tx.execute(_LOCK)
    now = datetime.now(UTC)  # the clock that tokens are judged by, too; the database's may be another
    issued_before = target.issued_before or now
    values: dict[str, Any] = {
        "jti": target.jti,
        "subject": target.subject,
        "issued_before": issued_before if target.subject is not None else None,
    }
    if target.connection_id is None:
        known = (await tx.execute(_IN_FORCE, values)).first()
        if known is not None:
            await tx.execute(_WAL_RECORD)  # whoever stored it may still wait for the standbys
            return Revocation(*known), False
        if (await tx.execute(_COUNT)).scalar_one() >= settings.revocations_max:
            raise Overloaded(
                f"{settings.revocations_max} revocations are in force, the most that TOCSIN_REVOCATIONS_MAX allows.",
                retry_after=DROP_EXPIRED_SECONDS,
            )
    values |= {"connection_id": target.connection_id, "reason": reason, "revoked_by": by, "now": now}
    values |= _kept(target, now, issued_before, settings)
    revocation = Revocation(*(await tx.execute(_INSERT, values)).one()[:-1])
    what = {name: str(value) for name, value in values.items() if name in _TARGETS and value is not None}
    log.info("revoked", revocation=revocation.id, by=by, reason=reason, **what)
    return revocation, True


def _kept(target: Target, now: datetime, issued_before: datetime, settings: AuthSettings) -> dict[str, Any]:
    """Return from when on, and for how many seconds, a revocation is kept."""
    if target.connection_id is not None:
        return {"since": now, "kept": CLOSED_STREAM_SECONDS}
    if target.subject is not None:
        return {"since": issued_before, "kept": settings.jwt_max_lifetime_seconds}
    # A token that exists now was issued before now, by a clock that may be ahead of ours.
    return {"since": now, "kept": settings.jwt_max_lifetime_seconds + settings.jwt_leeway_seconds}


async def revocations_before(tx: AsyncConnection, before: int, limit: int) -> Sequence[Revocation]:
    """Return the revocations in force with an ``id`` below ``before``, newest first."""
    return [Revocation(*row) for row in await tx.execute(_PAGE, {"before": before, "limit": limit})]


async def delete_expired(tx: AsyncConnection) -> None:
    """Delete the revocations whose tokens have expired, by the clock of the database and by this node's."""
    await tx.execute(_DELETE_EXPIRED, {"now": datetime.now(UTC)})
