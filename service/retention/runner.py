"""Retention: what is old is let go, accountably, without disturbing anybody.

One node at a time does it (an advisory lock). A partition of the log goes when the last event in it is older than the
retention; the one that holds the head never does::

    due ──► archived ──► run is recorded ──► keys, links of the chain ──► detached ──► dropped
        (if wanted)   ▲                                                                  │
                      └───────────── a run that was interrupted is taken up here ◄───────┘ noted: dropped_at

Once it is noted it counts as gone, and whoever comes next carries on; every step may be repeated. Its links go before
it is detached, so that at no time the chain covers events that are not there. Then goes, in small batches
(``batches.py``), what was about its events only: alerts, connections with what they were sent and received; and by age
refused handshakes, ended nodes and the hours of sources. Revocations end by themselves.

What is not old enough keeps all that the ledger has on it: ``audit.deliveries`` of it stays the same.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg

from service.database.engine import CONNECTION_LOST, close_quietly
from service.database.leases import AdvisoryLock
from service.errors import ArchiveFailed
from service.logs import get_logger
from service.periodic import PeriodicTask
from service.retention import partitions, purge_steps
from service.retention.archive_process import archive
from service.retention.purge_log import PurgeLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import URL

    from service.database.engine import Database
    from service.settings import RetentionSettings

log = get_logger(__name__)

FIRST_PAUSE_SECONDS = 60
"""A node that has just begun has better things to do."""
PATIENCE = 3600
"""Seconds that one statement of retention may take: it stands in nobody's way."""


class Retention:
    """The retention of a node; ``forget`` is told up to which event the log is gone."""

    def __init__(self, database: Database, settings: RetentionSettings, forget: Callable[[int], None]) -> None:
        self._database = database
        self._settings = settings
        self._folder = settings.archive_dir and settings.archive_dir.absolute()
        self._forget = forget
        self.task = PeriodicTask(
            "retention",
            self._let_go_old,
            settings.retention_interval_seconds,
            first_seconds=min(FIRST_PAUSE_SECONDS, settings.retention_interval_seconds),
            expected=(*CONNECTION_LOST, ArchiveFailed, asyncpg.PostgresError),
            on_failure=_log_failure,
        )

    async def _let_go_old(self) -> None:
        await self.let_go(self.older_than())

    def older_than(self, now: datetime | None = None) -> datetime | None:
        """Return the time before which everything is old; None where everything is kept."""
        if self._settings.retention_days is None:
            return None
        return (now or datetime.now(UTC)) - timedelta(days=self._settings.retention_days)

    async def let_go(self, older_than: datetime | None) -> bool:
        """Let go what is older, once; with None, only carry on with what was begun. False: another node is at it.

        Raises:
            ArchiveFailed: a partition of the log was not archived, and stays, with those after it.
            CONNECTION_LOST: PostgreSQL cannot be reached, or went away.

        """
        connection = await self._database.connect(statement_timeout=PATIENCE)
        try:
            alone = bool(await connection.fetchval(AdvisoryLock.RETENTION.try_session_lock))
            books = PurgeLog(connection, older_than or datetime.now(UTC))
            if alone:
                await _Run(connection, books, self._database.url, self._folder).go(older_than)
            self._forget(await books.purged_seq())
        finally:
            await close_quietly(connection)
        return alone


def _log_failure(error: Exception) -> None:
    if isinstance(error, CONNECTION_LOST):
        log.warning("retention waits for the database")
    elif isinstance(error, ArchiveFailed):
        log.error("what was not archived is not purged", reason=str(error))
    else:
        log.error("retention failed, and is tried again", exc_info=error)


class _Run:
    """One run, on a connection that holds the lock."""

    def __init__(self, connection: asyncpg.Connection, books: PurgeLog, url: URL, folder: Path | None) -> None:
        self._connection = connection
        self._books = books
        self._url = url
        self._folder = folder

    async def go(self, older_than: datetime | None) -> None:
        await self._carry_on()
        if older_than is None:
            return
        try:
            await self._let_partitions_go(older_than)
        finally:
            await self._let_the_rest_go(older_than)

    async def _let_the_rest_go(self, older_than: datetime) -> None:
        connection, books = self._connection, self._books
        purged_seq = await books.purged_seq()
        await purge_steps.delete_alerts(connection, books, purged_seq, older_than)
        await purge_steps.delete_ledger(connection, books, purged_seq, older_than)
        await purge_steps.delete_nodes(connection, older_than)
        await purge_steps.delete_rejections(connection, books, older_than)
        await purge_steps.delete_source_hours(connection, books, older_than)

    async def _let_partitions_go(self, older_than: datetime) -> None:
        for partition in await partitions.due(self._connection, older_than):
            kept: str | None = None
            if self._folder is not None:
                kept = str(await archive(self._url, partition.first_seq, partition.last_seq, self._folder))
            await self._books.note(partition, kept)
            await self._carry_on()
            log.info("purged", first_seq=partition.first_seq, last_seq=partition.last_seq, archive=kept)

    async def _carry_on(self) -> None:
        """Carry out what is noted and not done yet, from wherever it stands."""
        connection = self._connection
        while (purge := await self._books.unfinished()) is not None:
            await purge_steps.delete_keys(connection, self._books, purge.first_seq, purge.last_seq)
            await purge_steps.delete_log_links(connection, purge.last_seq)
            await partitions.detach(connection, purge.name)
            async with connection.transaction():
                await partitions.drop(connection, purge.name)
                await self._books.finish(purge.purge)
