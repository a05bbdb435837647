"""Restore an archive into tables of the schema ``archive``, to be read in psql.

Archives are never restored into the log, which is append-only.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from service.retention.archive_file import ArchivedEvent, ArchivedLink

if TYPE_CHECKING:
    import asyncpg

    from service.retention.archive_file import ArchiveReader

CHUNK = 500
"""Items of an archive that are in memory at a time."""

_TABLES = (
    "CREATE SCHEMA IF NOT EXISTS archive",
    "COMMENT ON SCHEMA archive IS 'Purged events that were restored from archives. Drop it when you are done.'",
    "CREATE TABLE IF NOT EXISTS archive.events (LIKE public.events INCLUDING COMMENTS, PRIMARY KEY (seq))",
    "CREATE INDEX IF NOT EXISTS ix_events_alert_id ON archive.events (alert_id)",
    "CREATE TABLE IF NOT EXISTS archive.log_chain (LIKE public.log_chain INCLUDING COMMENTS, PRIMARY KEY (last_seq))",
)


async def restore_archive(connection: asyncpg.Connection, archive: ArchiveReader) -> int:
    """Load an archive, in place of an earlier restore, and return the number of events.

    Raises:
        ArchiveDamaged: it does not match its chain; nothing was restored.

    """
    count = 0
    async with connection.transaction():
        for statement in _TABLES:
            await connection.execute(statement)
        bounds = archive.header.first_seq, archive.header.last_seq
        await connection.execute("DELETE FROM archive.events WHERE seq BETWEEN $1 AND $2", *bounds)
        await connection.execute("DELETE FROM archive.log_chain WHERE last_seq BETWEEN $1 AND $2", *bounds)
        items = archive.items()
        while chunk := list(islice(items, CHUNK)):
            events = [item for item in chunk if isinstance(item, ArchivedEvent)]
            links = [item for item in chunk if isinstance(item, ArchivedLink)]
            for table, records, columns in (
                ("events", events, ArchivedEvent._fields),
                ("log_chain", links, ArchivedLink._fields),
            ):
                await connection.copy_records_to_table(table, schema_name="archive", records=records, columns=columns)
            count += len(events)
    return count
