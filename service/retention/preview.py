"""The preview of a purge: how many rows it would delete, counted in one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.retention.partition_purge import due_partitions
from service.retention.row_purge import LAST_DELETABLE_LINK

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

# $1 is the last event to be purged, $2 the cutoff, $3 the last link of the ledger's chain to be
# purged.
_COUNTS = """
WITH old AS (
    SELECT status FROM alerts a WHERE seq <= $1 AND updated_at < $2
       AND NOT EXISTS (SELECT FROM events e WHERE e.alert_id = a.id AND e.seq > $1)
)
SELECT (SELECT count(*) FROM events WHERE seq <= $1) AS events,
       (SELECT count(*) FROM old) AS alerts,
       (SELECT count(*) FROM old WHERE status IN ('open', 'acknowledged')) AS "of them unresolved",
       (SELECT count(*) FROM connections WHERE ledger_link_id <= $3) AS connections,
       (SELECT count(*) FROM dispatches WHERE ledger_link_id <= $3) AS dispatches,
       (SELECT count(*) FROM receipts WHERE ledger_link_id <= $3) AS receipts,
       (SELECT count(*) FROM sightings WHERE ledger_link_id <= $3) AS sightings,
       (SELECT count(*) FROM handshake_rejections WHERE at < $2) AS rejections,
       (SELECT count(*) FROM rejection_hours WHERE hour < $2) AS "hours of rejections",
       (SELECT count(*) FROM idempotency_keys WHERE answer IS NULL AND seq <= $1) AS "idempotency keys",
       (SELECT count(*) FROM source_hours WHERE hour < $2) AS "hours of sources"
"""


async def preview_purge(connection: asyncpg.Connection, older_than: datetime) -> dict[str, int]:
    """Return how many rows of each kind a purge would delete now, by the name of the kind."""
    due = await due_partitions(connection, older_than)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        purged = int(await connection.fetchval("SELECT coalesce(max(last_seq), 0) FROM retention_runs"))
        last_seq = due[-1].last_seq if due else purged
        newest = int(await connection.fetchval("SELECT coalesce(max(ledger_link_id), 0) FROM ledger_chain"))
        last_link = int(await connection.fetchval(LAST_DELETABLE_LINK, 0, newest, older_than, last_seq))
        counts = await connection.fetchrow(_COUNTS, last_seq, older_than, last_link)
    return {"partitions of the log": len(due), **dict(counts)}
