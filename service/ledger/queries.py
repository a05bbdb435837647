"""Queries of the ledger: the deliveries of an alert, and who is connected now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from service.topics import any_covers

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal

_TOPIC_OF_ALERT = text("SELECT topic FROM alerts WHERE id = :alert_id")

_DELIVERIES = text(
    """
    SELECT seq, kind, recipient, connection, node, sent_at, received_at, extract(epoch FROM latency)::float8 AS latency
    FROM audit.deliveries
    WHERE alert_id = :alert_id AND (seq, connection) > (:after_seq, cast(:after_connection AS uuid))
    ORDER BY seq, connection LIMIT :limit
    """
)

_PRESENCE = text("SELECT recipient, connections, since FROM audit.presence ORDER BY recipient LIMIT :limit")

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
    """A connected recipient: on how many connections, since when."""

    recipient: str
    connections: int
    since: datetime


async def may_audit(tx: AsyncConnection, principal: Principal, alert_id: UUID) -> bool:
    """Return whether the alert exists and the principal's topics cover it."""
    topic = await tx.scalar(_TOPIC_OF_ALERT, {"alert_id": alert_id})
    return topic is not None and any_covers(principal.topics, topic)


async def deliveries_of(
    tx: AsyncConnection, alert_id: UUID, after: tuple[int, UUID], limit: int
) -> list[dict[str, Any]]:
    """Return the next ``limit`` deliveries of an alert after ``(seq, connection)``."""
    parameters = {"alert_id": alert_id, "after_seq": after[0], "after_connection": after[1], "limit": limit}
    return [dict(row) for row in (await tx.execute(_DELIVERIES, parameters)).mappings()]


async def is_open(tx: AsyncConnection, connection_id: UUID) -> bool:
    """Return whether a node holds the connection, as of the last flushes."""
    held: bool = (await tx.execute(_IS_OPEN, {"id": connection_id})).scalar_one()
    return held


async def present_recipients(tx: AsyncConnection, limit: int) -> list[PresenceEntry]:
    """Return the recipients that are connected to any node, by name."""
    rows = (await tx.execute(_PRESENCE, {"limit": limit})).all()
    return [PresenceEntry(*row) for row in rows]
