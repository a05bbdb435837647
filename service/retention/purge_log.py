"""The purge log: what each run of retention deleted, recorded in the transaction that deletes it.

A partition of the log has a row of its own, which is written before the partition is dropped: a run
that finds a row without ``dropped_at`` finishes that purge. What else a run deletes is added to the
last of its rows, or to a row of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

_INSERT = "INSERT INTO retention_runs (at, older_than) VALUES (clock_timestamp(), $1) RETURNING id"
_INSERT_PARTITION = """
INSERT INTO retention_runs (at, older_than, partition, first_seq, last_seq, last_id, log_hash, archive, events)
VALUES (clock_timestamp(), $1, $2, $3, $4, $5, $6, $7, (SELECT count(*) FROM events WHERE seq BETWEEN $3 AND $4))
RETURNING id
"""
_ADD_COUNTS = """
UPDATE retention_runs
SET alerts = alerts + $2, unresolved_alerts = unresolved_alerts + $3, connections = connections + $4,
    dispatches = dispatches + $5, receipts = receipts + $6, sightings = sightings + $7,
    rejections = rejections + $8, rejection_hours = rejection_hours + $9, idempotency_keys = idempotency_keys + $10,
    source_hours = source_hours + $11
WHERE id = $1
"""
_NEXT_UNFINISHED = """
SELECT id, partition, first_seq, last_seq FROM retention_runs WHERE partition IS NOT NULL AND dropped_at IS NULL
ORDER BY id LIMIT 1
"""


class Partition(NamedTuple):
    """A partition of the log: its events, the id of the last, and the hash of their last link."""

    name: str
    first_seq: int
    last_seq: int
    last_id: int
    log_hash: bytes


class PurgedCounts(NamedTuple):
    """How many rows of each kind were deleted. The fields are columns."""

    alerts: int = 0
    unresolved_alerts: int = 0
    connections: int = 0
    dispatches: int = 0
    receipts: int = 0
    sightings: int = 0
    rejections: int = 0
    rejection_hours: int = 0
    idempotency_keys: int = 0
    source_hours: int = 0


class UnfinishedPurge(NamedTuple):
    """A partition that is recorded as purged, and was not dropped yet."""

    id: int
    partition: str
    first_seq: int
    last_seq: int


class PurgeLog:
    """The purge log of one run."""

    def __init__(self, connection: asyncpg.Connection, older_than: datetime) -> None:
        self._connection = connection
        self._older_than = older_than
        self._id: int | None = None

    async def record_partition(self, partition: Partition, archive: str | None) -> None:
        """Record that a partition is purged. From now on it counts as purged."""
        self._id = await self._connection.fetchval(
            _INSERT_PARTITION,
            self._older_than,
            *partition,
            archive,
        )

    async def add_counts(self, counts: PurgedCounts) -> None:
        """Add what the transaction deletes."""
        if any(counts):
            await self._connection.execute(_ADD_COUNTS, await self._current(), *counts)

    async def record_ledger_link(self, link_id: int, last_hash: bytes) -> None:
        """Record the last link of the ledger's chain that the transaction deletes."""
        await self._connection.execute(
            "UPDATE retention_runs SET ledger_link_id = $2, ledger_hash = $3 WHERE id = $1",
            await self._current(),
            link_id,
            last_hash,
        )

    async def next_unfinished(self) -> UnfinishedPurge | None:
        """Return the oldest unfinished purge of a partition; what follows is added to its row."""
        row = await self._connection.fetchrow(_NEXT_UNFINISHED)
        if row is None:
            return None
        self._id = row["id"]
        return UnfinishedPurge(*row)

    async def mark_dropped(self, purge: int) -> None:
        """Record that the partition of a purge was dropped."""
        await self._connection.execute("UPDATE retention_runs SET dropped_at = clock_timestamp() WHERE id = $1", purge)

    async def last_purged_seq(self) -> int:
        """Return the last event that was purged, 0 where none was."""
        return int(await self._connection.fetchval("SELECT coalesce(max(last_seq), 0) FROM retention_runs"))

    async def _current(self) -> int:
        if self._id is None:
            self._id = await self._connection.fetchval(_INSERT, self._older_than)
        return self._id
