"""Revocations: of one token, of all tokens of a subject up to a time, or of one connection.

A revocation is a row, committed before it is answered. Every node follows the rows
(``revocation_feed.py``). The deactivation of a recipient and the reactivation are rows, too: each
revokes the tokens that were issued until then, and says whether any token of the subject is accepted
from then on.

- Rows are numbered under a lock that is held to the commit, so a higher id is never visible before
  a lower one. A trigger takes the lock and notifies the nodes (``alembic/sql/revocations.sql``), so
  a row that an operator inserts is followed like any other.
- A row is kept until every token that it covers has expired, which is at most
  ``TOCSIN_JWT_MAX_LIFETIME_SECONDS``, and a deactivation at least until the reactivation.
- At most ``TOCSIN_REVOCATIONS_MAX`` are in force, all in the memory of each node; one more is
  refused 503. A reactivation is not: each ends a deactivation, so that there are twice as many at
  the most.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from service.database.durability import WAL_RECORD
from service.database.locks import TableLock
from service.errors import Overloaded
from service.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal
    from service.settings import AuthSettings

log = get_logger(__name__)

REVOCATIONS_CHANNEL = "tocsin_revocations"
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""When a deactivation that is in force expires."""
RETRY_AFTER_SECONDS = 60
"""When a revocation may succeed that was one too many."""
CLOSED_STREAM_SECONDS = 3600
"""How long the row of a closed connection is kept, so that one can see who closed it."""


def _readable(column: str) -> str:
    """Return a time as Python can hold it, whatever is stored: a row that cannot be read would stop every node."""
    return f"CASE WHEN {column} IS NOT NULL THEN least(greatest({column}, 'epoch'), '9999-12-31Z') END AS {column}"


COLUMNS = (
    f"id, jti, subject, {_readable('issued_before')}, connection_id, deactivated, reason, revoked_by,"
    f" {_readable('revoked_at')}, {_readable('expires_at')}"
)
_LOCK = text(TableLock.REVOCATIONS.lock)
_COUNT = text("SELECT count(*) FROM revocations WHERE connection_id IS NULL AND expires_at > clock_timestamp()")
_IN_FORCE = text(
    f"""
    SELECT {COLUMNS} FROM revocations
    WHERE expires_at > clock_timestamp()
      AND (jti = :jti OR subject = :subject AND issued_before >= :issued_before)
    ORDER BY id DESC LIMIT 1
    """  # noqa: S608 - constants
)
_OF_TOKEN = text(f"SELECT {COLUMNS} FROM revocations WHERE jti = :jti OR subject = :subject ORDER BY id")  # noqa: S608
_INSERT = text(
    f"""
    INSERT INTO revocations
        (jti, subject, issued_before, connection_id, deactivated, reason, revoked_by, revoked_at, expires_at)
    VALUES (:jti, :subject, :issued_before, :connection_id, :deactivated, :reason, :revoked_by, :now,
            cast(:since AS timestamptz) + make_interval(secs => :kept))
    RETURNING {COLUMNS}
    """  # noqa: S608 - constants
)
_LAST_CHANGE = text(
    f"""
    SELECT {COLUMNS} FROM revocations
    WHERE subject = :subject AND deactivated IS NOT NULL ORDER BY id DESC LIMIT 1
    """  # noqa: S608 - constants
)
_END_DEACTIVATIONS = text(
    "UPDATE revocations SET expires_at = :expires_at WHERE subject = :subject AND deactivated AND id < :id"
)
_WAL_RECORD = text(WAL_RECORD)
_PAGE = text(
    f"""
    SELECT {COLUMNS} FROM revocations
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
    deactivated: bool | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revocation as it is stored."""

    id: int
    jti: str | None
    subject: str | None
    issued_before: datetime | None
    connection_id: UUID | None
    deactivated: bool | None
    reason: str | None
    revoked_by: str
    revoked_at: datetime
    expires_at: datetime


async def revoke(
    tx: AsyncConnection, target: Target, *, by: str, reason: str | None, settings: AuthSettings
) -> tuple[Revocation, bool]:
    """Store a revocation, unless a stored one covers it. Return the stored one, and whether it is new.

    Raises:
        Overloaded: ``revocations_max`` are in force.

    """
    await tx.execute(_LOCK)
    now = _now()
    issued_before = target.issued_before or now
    if target.connection_id is None:
        values = {"jti": target.jti, "subject": target.subject, "issued_before": issued_before}
        known = (await tx.execute(_IN_FORCE, values)).first()
        if known is not None:
            return await _known(tx, known)
    target = replace(target, issued_before=issued_before if target.subject is not None else None)
    return await _store(tx, target, now, by, reason, settings), True


async def set_deactivated(  # noqa: PLR0913 - as revoke
    tx: AsyncConnection, subject: str, *, deactivated: bool, by: str, reason: str | None, settings: AuthSettings
) -> tuple[Revocation | None, bool]:
    """Deactivate a subject, or reactivate it, unless it is. Return the last change, and whether it is new.

    Tokens that were issued by then are revoked for good; of a reactivation, those that were issued
    before its second.

    Raises:
        Overloaded: ``revocations_max`` are in force, and it is a deactivation.

    """
    await tx.execute(_LOCK)
    last = (await tx.execute(_LAST_CHANGE, {"subject": subject})).first()
    if last.deactivated is deactivated if last is not None else not deactivated:
        return await _known(tx, last) if last is not None else (None, False)
    now = _now()
    # Many issuers write iat in whole seconds.
    issued_before = now if last is None or deactivated else max(now.replace(microsecond=0), last.issued_before)
    target = Target(subject=subject, issued_before=issued_before, deactivated=deactivated)
    stored = await _store(tx, target, now, by, reason, settings)
    if not deactivated:
        await tx.execute(_END_DEACTIVATIONS, asdict(stored))
    return stored, True


async def _known(tx: AsyncConnection, row: Sequence[Any]) -> tuple[Revocation, bool]:
    await tx.execute(_WAL_RECORD)  # whoever stored it may still wait for the standbys
    return Revocation(*row), False


async def _store(  # noqa: PLR0913, PLR0917 - the columns, and the limits
    tx: AsyncConnection, target: Target, now: datetime, by: str, reason: str | None, settings: AuthSettings
) -> Revocation:
    if (
        target.deactivated is not False
        and target.connection_id is None
        and (await tx.execute(_COUNT)).scalar_one() >= settings.revocations_max
    ):
        raise Overloaded(
            f"Nothing was revoked: {settings.revocations_max} revocations are in force, the most that"
            " TOCSIN_REVOCATIONS_MAX allows. Set it higher and restart the nodes, or reactivate who is back; GET"
            " /v1/revocations lists what is in force, and when each expires.",
            retry_after=RETRY_AFTER_SECONDS,
        )
    kept = _kept(target, now, settings)
    values = {**asdict(target), **kept, "reason": reason, "revoked_by": by, "now": now}
    revocation = Revocation(*(await tx.execute(_INSERT, values)).one())
    what = {name: str(value) for name, value in asdict(target).items() if value is not None}
    log.info("revoked", revocation=revocation.id, by=by, reason=reason, **what)
    return revocation


def _now() -> datetime:
    """Return the time by the clock that tokens are judged by, too; the database's may be another."""
    return datetime.now(UTC)


def _kept(target: Target, now: datetime, settings: AuthSettings) -> dict[str, Any]:
    """Return from when on, and for how many seconds, a revocation is kept."""
    if target.connection_id is not None:
        return {"since": now, "kept": CLOSED_STREAM_SECONDS}
    if target.deactivated:
        return {"since": NEVER, "kept": 0}
    if target.subject is not None:
        return {"since": target.issued_before, "kept": settings.jwt_max_lifetime_seconds}
    # A token that exists now was issued before now, by a clock that may be ahead of ours.
    return {"since": now, "kept": settings.jwt_max_lifetime_seconds + settings.jwt_leeway_seconds}


async def revocations_before(tx: AsyncConnection, before: int, limit: int) -> Sequence[Revocation]:
    """Return the revocations in force with an ``id`` below ``before``, newest first."""
    return [Revocation(*row) for row in await tx.execute(_PAGE, {"before": before, "limit": limit})]


async def revocations_of(tx: AsyncConnection, principal: Principal) -> Sequence[Revocation]:
    """Return the revocations of a token and of its subject, oldest first."""
    target = {"jti": principal.jti, "subject": principal.subject}
    return [Revocation(*row) for row in await tx.execute(_OF_TOKEN, target)]


async def delete_expired(tx: AsyncConnection) -> None:
    """Delete the revocations whose tokens have expired, by the clock of the database and by this node's."""
    await tx.execute(_DELETE_EXPIRED, {"now": datetime.now(UTC)})
