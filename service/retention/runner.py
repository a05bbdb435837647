"""The retention runner: purges what is old, without disturbing anybody.

One node at a time purges, the one that holds a lock for the whole run. First go whole partitions of the log
(``partition_purge.py``). Then, in small batches (``row_purge.py``), goes what was only about their
events: alerts, sightings, and connections with their dispatches and receipts; and by age, rejected
handshakes, ended nodes and the hourly counts of sources. Expired revocations are deleted by
``maintenance/housekeeping.py``.

What the ledger holds about events that are still there stays: ``audit.deliveries`` of them does not
change.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg

from service.database.engine import close_quietly
from service.database.failures import Failure, classify, condition_of
from service.database.lock_holder import hold
from service.database.locks import TableLock
from service.errors import ArchiveFailed
from service.logs import get_logger
from service.periodic import PeriodicTask
from service.retention import row_purge
from service.retention.archive_process import run_archive_process
from service.retention.partition_purge import due_partitions, finish_partition_purges
from service.retention.purge_log import PurgeLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.database.engine import Database
    from service.settings import RetentionSettings

log = get_logger(__name__)

FIRST_PAUSE_SECONDS = 60
"""A node that has just started has more urgent work."""
STATEMENT_TIMEOUT_SECONDS = 3600
"""Statements of retention may take long: they block nobody."""


class Retention:
    """The retention of a node; ``on_purged`` is called with the last ``seq`` that was purged."""

    def __init__(self, database: Database, settings: RetentionSettings, on_purged: Callable[[int], None]) -> None:
        self._database = database
        self._settings = settings
        self._archive_dir = settings.archive_dir and settings.archive_dir.absolute()
        self._on_purged = on_purged
        self.task = PeriodicTask(
            "retention",
            self._purge_old,
            settings.retention_interval_seconds,
            first_seconds=min(FIRST_PAUSE_SECONDS, settings.retention_interval_seconds),
            expected=(ArchiveFailed, asyncpg.PostgresError),  # nothing that it does is worth the node's end
            on_failure=_log_failure,
        )

    async def _purge_old(self) -> None:
        await self.purge(self.cutoff())

    def cutoff(self, now: datetime | None = None) -> datetime | None:
        """Return the time before which everything is old; None where everything is kept."""
        if self._settings.retention_days is None:
            return None
        return (now or datetime.now(UTC)) - timedelta(days=self._settings.retention_days)

    async def purge(self, older_than: datetime | None) -> bool:
        """Purge once what is older; with None, only finish an interrupted purge.

        Return False if another node purges now.

        Raises:
            ArchiveFailed: a partition of the log was not archived, and stays, with those after it.
            PostgresError, OSError: see ``failures.classify``; the next run goes on from here.

        """
        connection = await self._database.connect(statement_timeout=STATEMENT_TIMEOUT_SECONDS)
        try:
            purge_log = PurgeLog(connection, older_than or datetime.now(UTC))
            async with hold(self._database, TableLock.RETENTION) as is_held:
                if is_held:
                    await finish_partition_purges(connection, purge_log)
                    if older_than is not None:
                        await self._purge(connection, purge_log, older_than)
            self._on_purged(await purge_log.last_purged_seq())
        finally:
            await close_quietly(connection)
        return is_held

    async def _purge(self, connection: asyncpg.Connection, purge_log: PurgeLog, older_than: datetime) -> None:
        try:
            for partition in await due_partitions(connection, older_than):
                first_seq, last_seq, archive = partition.first_seq, partition.last_seq, None
                if self._archive_dir is not None:
                    archive = str(
                        await run_archive_process(self._database.direct_url, first_seq, last_seq, self._archive_dir)
                    )
                await purge_log.record_partition(partition, archive)
                await finish_partition_purges(connection, purge_log)
                log.info("purged", first_seq=first_seq, last_seq=last_seq, archive=archive)
        except ArchiveFailed:
            await row_purge.delete_all(connection, purge_log, older_than)
            raise
        await row_purge.delete_all(connection, purge_log, older_than)


def _log_failure(error: Exception) -> None:
    if isinstance(error, ArchiveFailed):
        log.error("what was not archived is not purged", reason=str(error))
    elif classify(error) is Failure.DEFECT:
        log.error("retention failed, and is tried again", exc_info=error)
    else:
        condition = condition_of(error)
        log.warning("retention waits for the database", reason=condition and condition.reason)
