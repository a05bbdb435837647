"""What one of the nodes does for all every few seconds: settle lost nodes, purge what expired, make partitions.

A node whose lease lapsed is gone: its connections are closed at what it last flushed, reason ``node_lost``, so the
ledger claims no more than it knew. After an outage of PostgreSQL, or a pause of the whole machine, every lease has
lapsed; a janitor therefore trusts a lapsed lease only while that of its own node holds, and when its node has flushed
without a failure or a pause for as long as a lease lasts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from service.auth.revocations import purge as purge_revocations
from service.database.leases import AdvisoryLock
from service.events.log import ensure_partitions
from service.ledger.statements import NOTIFY_PRESENCE
from service.logs import get_logger
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from service.database.engine import Database
    from service.ledger.recorder import Ledger
    from service.settings import Settings

log = get_logger(__name__)

_TRY_LOCK = text(AdvisoryLock.HOUSEKEEPING.try_lock)

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

# A connection whose node is lost was sent what is known: what the node last wrote of it.
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

_PURGE_KEYS = text("DELETE FROM idempotency_keys WHERE created_at < clock_timestamp() - make_interval(secs => :age)")


class Housekeeping:
    """The housekeeping of a node."""

    def __init__(self, database: Database, ledger: Ledger, settings: Settings) -> None:
        self._database = database
        self._ledger = ledger
        self._lease = settings.ledger.node_lease_seconds
        self._key_age = settings.storage.idempotency_key_ttl_hours * 3600
        self._partition_events = settings.retention.partition_events
        self.task = PeriodicTask("housekeeping", self.keep_house, settings.ledger.housekeeping_interval_seconds)

    async def keep_house(self) -> None:
        """Do it once, unless another node is at it."""
        since = self._ledger.flushes_since
        may_judge = since is not None and time.monotonic() - since >= self._lease
        async with self._database.transaction() as tx:
            if not await tx.scalar(_TRY_LOCK):
                return
            await ensure_partitions(tx, self._partition_events)
            await tx.execute(_PURGE_KEYS, {"age": self._key_age})
            await purge_revocations(tx)
            if may_judge:
                parameters = {"lease": self._lease, "judge": self._ledger.node_id}
                lost = await tx.scalar(_END_LOST_NODES, parameters)
                if lost:
                    connections = await tx.scalar(_CLOSE_CONNECTIONS, {"lost": lost}) or 0
                    log.warning("nodes lost", nodes=len(lost), connections=connections)
                    await tx.execute(NOTIFY_PRESENCE)
