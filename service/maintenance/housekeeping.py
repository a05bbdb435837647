"""Housekeeping: the periodic clean-up that one node does for all of them.

It ends lost nodes, deletes expired idempotency keys, resolutions and revocations, old attempts to
commit and unused resume points, and creates the partitions that the log needs next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from service.auth.revocations import delete_expired as delete_expired_revocations
from service.database.locks import TableLock
from service.events.log import ensure_partitions
from service.ledger.lost_nodes import LostNodes
from service.ledger.statements import DELETE_UNUSED_RESUME_POINTS
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from service.database.engine import Database
    from service.ledger.flusher import LedgerFlusher
    from service.settings import Settings

ATTEMPT_AGE_SECONDS = 3600
"""Attempts to commit are forgotten after this time: by then none can still be under way."""

_TRY_LOCK = text(TableLock.HOUSEKEEPING.try_lock)

_DELETE_EXPIRED_KEYS = text(
    "DELETE FROM idempotency_keys WHERE created_at < clock_timestamp() - make_interval(secs => :age)"
)
_DELETE_EXPIRED_RESOLUTIONS = text(
    "DELETE FROM resolutions WHERE resolved_at < clock_timestamp() - make_interval(secs => :age)"
)
_DELETE_OLD_ATTEMPTS = text("DELETE FROM commit_attempts WHERE at < clock_timestamp() - make_interval(secs => :age)")


class Housekeeping:
    """The housekeeping of a node."""

    def __init__(self, database: Database, flusher: LedgerFlusher, settings: Settings) -> None:
        self._database = database
        self._lost_nodes = LostNodes(flusher)
        self._key_age = settings.storage.idempotency_key_ttl_hours * 3600
        self._point_age = settings.ledger.resume_point_days * 86_400
        self._partition_events = settings.retention.partition_events
        self.task = PeriodicTask("housekeeping", self.run_once, settings.ledger.housekeeping_interval_seconds)

    async def run_once(self) -> None:
        """Observe the other nodes; clean up, unless another node does at this moment."""
        async with self._database.transaction() as tx:
            await self._lost_nodes.observe(tx)
            if not await tx.scalar(_TRY_LOCK):
                return
            await ensure_partitions(tx, self._partition_events)
            await tx.execute(_DELETE_EXPIRED_KEYS, {"age": self._key_age})
            await tx.execute(_DELETE_EXPIRED_RESOLUTIONS, {"age": self._key_age})
            await tx.execute(_DELETE_OLD_ATTEMPTS, {"age": ATTEMPT_AGE_SECONDS})
            await tx.execute(DELETE_UNUSED_RESUME_POINTS, {"age": self._point_age})
            await delete_expired_revocations(tx)
            await self._lost_nodes.end(tx)
