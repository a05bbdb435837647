"""Queries of the ledger: the deliveries of an alert, and who is connected now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import text

from service.auth.authorization import AlertFacts, Operation, authorize

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal

NO_CONNECTION = UUID(int=0)
"""Stands for none in the order of the deliveries."""

_FACTS_OF_ALERT = text("SELECT topic, source, recipients FROM alerts WHERE id = :alert_id")

_DELIVERIES = text(
    """
    WITH delivery AS (
        SELECT seq, kind, recipient, connection, node, sent_at, received_at,
               extract(epoch FROM latency)::float8 AS latency, seen_at, replayed
        FROM audit.deliveries WHERE alert_id = :alert_id
        UNION ALL
        SELECT seq, NULL, recipient, NULL, NULL, NULL, NULL, NULL, seen_at, NULL
        FROM audit.sightings s
        WHERE alert_id = :alert_id AND NOT EXISTS (
            SELECT FROM audit.deliveries d
            WHERE d.alert_id = s.alert_id AND d.recipient = s.recipient AND d.seq <= s.seq
        )
    )
    SELECT * FROM delivery
    WHERE (seq, coalesce(connection, :none), recipient) > (:after_seq, :after_connection, :after_recipient)
    ORDER BY seq, coalesce(connection, :none), recipient LIMIT :limit
    """
).bindparams(none=NO_CONNECTION)

_PRESENCE = text("SELECT recipient, connections, since, name FROM audit.presence ORDER BY recipient LIMIT :limit")

_NAMES = text("SELECT subject, name FROM subject_names WHERE subject = ANY (:subjects)")

_IS_OPEN = text(
    """
    SELECT EXISTS (
        SELECT FROM connections c JOIN nodes n ON n.id = c.node_id
        WHERE c.id = :id AND c.closed_at IS NULL AND n.ended_at IS NULL
    )
    """
)


@dataclass(frozen=True, slots=True)
class PresenceEntry:
    """A connected recipient: on how many connections, since when, and what they are shown by."""

    recipient: str
    connections: int
    since: datetime
    name: str | None = None


async def authorize_receipts(tx: AsyncConnection, principal: Principal, alert_id: UUID) -> None:
    """Refuse to show who received an alert, unless the principal may see it.

    Raises:
        RequestRefused: the alert does not exist, or the principal may not see its receipts.

    """
    row = (await tx.execute(_FACTS_OF_ALERT, {"alert_id": alert_id})).one_or_none()
    authorize(principal, Operation.SEE_RECEIPTS, AlertFacts(*row) if row is not None else None)


async def deliveries_of(
    tx: AsyncConnection, alert_id: UUID, after: tuple[int, UUID, str], limit: int
) -> list[dict[str, Any]]:
    """Return the next ``limit`` deliveries of an alert after ``(seq, connection, recipient)``.

    A recipient who saw the alert, and was sent none of its events by then, has a row without a
    connection.
    """
    position = dict(zip(("after_seq", "after_connection", "after_recipient"), after, strict=True))
    rows = await tx.execute(_DELIVERIES, {"alert_id": alert_id, "limit": limit, **position})
    return [dict(row) for row in rows.mappings()]


async def is_open(tx: AsyncConnection, connection_id: UUID) -> bool:
    """Return whether a node holds the connection, as of the last flushes."""
    held: bool = (await tx.execute(_IS_OPEN, {"id": connection_id})).scalar_one()
    return held


async def present_recipients(tx: AsyncConnection, limit: int) -> list[PresenceEntry]:
    """Return the recipients that are connected to any node, by name."""
    rows = (await tx.execute(_PRESENCE, {"limit": limit})).all()
    return [PresenceEntry(*row) for row in rows]


async def names_of(tx: AsyncConnection, subjects: Collection[str]) -> dict[str, str]:
    """Return what these subjects are shown by, as far as a token of theirs said it."""
    rows = await tx.execute(_NAMES, {"subjects": list(subjects)})
    return {row.subject: row.name for row in rows}
