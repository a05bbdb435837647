"""The books of retention: what a run let go, noted in the transaction that deletes it.

A partition of the log has a row of its own, which is written before the partition goes: whoever finds the row without
``dropped_at`` carries on. What else goes in a run is added to the last of its rows, or to one of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from service.retention.partitions import Partition

_OPEN = "INSERT INTO retention_runs (at, older_than) VALUES (clock_timestamp(), $1) RETURNING id"
_OPEN_PARTITION = """
INSERT INTO retention_runs (at, older_than, partition, first_seq, last_seq, log_hash, archive, events)
VALUES (clock_timestamp(), $1, $2, $3, $4, $5, $6, (SELECT count(*) FROM events WHERE seq BETWEEN $3 AND $4))
RETURNING id
"""
_ADD = """
UPDATE retention_runs
SET alerts = alerts + $2, unresolved_alerts = unresolved_alerts + $3, connections = connections + $4,
    dispatches = dispatches + $5, receipts = receipts + $6, rejections = rejections + $7,
    idempotency_keys = idempotency_keys + $8, source_hours = source_hours + $9
WHERE id = $1
"""
_UNFINISHED = """
SELECT id, partition, first_seq, last_seq FROM retention_runs WHERE partition IS NOT NULL AND dropped_at IS NULL
ORDER BY id LIMIT 1
"""


class Counts(NamedTuple):
    """How many rows of each kind were let go."""

    alerts: int = 0
    unresolved_alerts: int = 0
    connections: int = 0
    dispatches: int = 0
    receipts: int = 0
    rejections: int = 0
    idempotency_keys: int = 0
    source_hours: int = 0


class Unfinished(NamedTuple):
    """A partition that was noted as purged, and is not gone yet."""

    purge: int
    name: str
    first_seq: int
    last_seq: int


class PurgeLog:
    """The books of one run."""

    def __init__(self, connection: asyncpg.Connection, older_than: datetime) -> None:
        self._connection = connection
        self._older_than = older_than
        self._purge: int | None = None

    async def note(self, partition: Partition, archive: str | None) -> None:
        """Note that a partition goes. From here on it counts as gone."""
        self._purge = await self._connection.fetchval(
            _OPEN_PARTITION,
            self._older_than,
            partition.name,
            partition.first_seq,
            partition.last_seq,
            partition.log_hash,
            archive,
        )

    async def add(self, counts: Counts) -> None:
        """Count what the transaction deletes."""
        if any(counts):
            await self._connection.execute(_ADD, await self._current(), *counts)

    async def unlinked(self, number: int, last_hash: bytes) -> None:
        """Note the last link of the ledger's chain that the transaction deletes."""
        await self._connection.execute(
            "UPDATE retention_runs SET ledger_link_id = $2, ledger_hash = $3 WHERE id = $1",
            await self._current(),
            number,
            last_hash,
        )

    async def unfinished(self) -> Unfinished | None:
        """Return the oldest partition that was noted and is not gone yet; what follows is added to its row."""
        row = await self._connection.fetchrow(_UNFINISHED)
        if row is None:
            return None
        self._purge = row["id"]
        return Unfinished(*row)

    async def finish(self, purge: int) -> None:
        """Note that a partition is gone."""
        await self._connection.execute("UPDATE retention_runs SET dropped_at = clock_timestamp() WHERE id = $1", purge)

    async def purged_seq(self) -> int:
        """Return the last event that is gone, 0 where none is."""
        return int(await self._connection.fetchval("SELECT coalesce(max(last_seq), 0) FROM retention_runs"))

    async def _current(self) -> int:
        if self._purge is None:
            self._purge = await self._connection.fetchval(_OPEN, self._older_than)
        return self._purge
