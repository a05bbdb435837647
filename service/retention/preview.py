"""What retention would let go: nothing is changed, and what happens meanwhile is not counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.retention import partitions
from service.retention.purge_steps import LAST_LINK

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

# $1 the last event that goes, $2 the age, $3 the last link of the ledger's chain that would be deleted.
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
       (SELECT count(*) FROM handshake_rejections WHERE at < $2) AS rejections,
       (SELECT count(*) FROM idempotency_keys WHERE answer IS NULL AND seq <= $1) AS "idempotency keys",
       (SELECT count(*) FROM source_hours WHERE hour < $2) AS "hours of sources"
"""


async def foresee(connection: asyncpg.Connection, older_than: datetime) -> dict[str, int]:
    """Return how many rows of each kind are older than that and may go, with whole partitions of the log."""
    due = await partitions.due(connection, older_than)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        gone = int(await connection.fetchval("SELECT coalesce(max(last_seq), 0) FROM retention_runs"))
        last_seq = due[-1].last_seq if due else gone
        newest = int(await connection.fetchval("SELECT coalesce(max(ledger_link_id), 0) FROM ledger_chain"))
        last_link = int(await connection.fetchval(LAST_LINK, 0, newest, older_than, last_seq))
        counts = await connection.fetchrow(_COUNTS, last_seq, older_than, last_link)
    return {"partitions of the log": len(due), **dict(counts)}
