"""Lost nodes: a node whose lease lapsed is ended, and its connections are closed.

They are closed at what the node last flushed, so that the ledger claims no more. After an outage of
PostgreSQL, or a pause of the whole machine, every lease has lapsed; therefore the node that judges
must hold its own lease, and must have flushed in time, without a failure or a pause, for as long as
a lease lasts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from service.ledger.statements import NOTIFY_PRESENCE
from service.logs import get_logger

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

log = get_logger(__name__)

_END_LOST_NODES = text(
    """
    WITH lost AS (
        UPDATE nodes SET ended_at = clock_timestamp()
        WHERE ended_at IS NULL AND seen_at < clock_timestamp() - make_interval(secs => :lease)
          AND EXISTS (SELECT FROM nodes judge WHERE judge.id = :judge AND judge.ended_at IS NULL
                      AND judge.seen_at >= clock_timestamp() - make_interval(secs => :lease))
        RETURNING id
    )
    SELECT array_agg(id) FROM lost
    """
)
_CLOSE_CONNECTIONS = text(
    """
    WITH closing AS (
        SELECT c.*, n.sent_seq AS node_sent_seq, n.seen_at FROM connections c JOIN nodes n ON n.id = c.node_id
        WHERE n.id = ANY (:lost) AND c.closed_at IS NULL
    )
    SELECT count(*), write_ledger(json_agg(to_jsonb(closing) || jsonb_build_object(
        'sent_seq', coalesce(sent_seq, node_sent_seq), 'closed_at', seen_at, 'close_reason', 'node_lost'
    ) - 'ledger_link_id'), '[]', '[]')
    FROM closing HAVING count(*) > 0
    """
)


async def end_lost_nodes(tx: AsyncConnection, judge: UUID, lease_seconds: float) -> None:
    """End nodes whose lease lapsed, with ``node_lost``, if the node ``judge`` holds its own."""
    lost = await tx.scalar(_END_LOST_NODES, {"lease": lease_seconds, "judge": judge})
    if lost:
        connections = await tx.scalar(_CLOSE_CONNECTIONS, {"lost": lost}) or 0
        log.warning("nodes lost", nodes=len(lost), connections=connections)
        await tx.execute(NOTIFY_PRESENCE)
