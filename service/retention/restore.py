"""Restoring an archive: into tables of the schema ``archive``, to be read in psql. Never into the log.

The log is append-only and its head is what it is; what was let go does not come back into it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from service.retention.archive_file import Link, Row

if TYPE_CHECKING:
    import asyncpg

    from service.retention.archive_file import ArchiveReader

CHUNK = 500
"""Items of an archive that are held in memory."""

_TABLES = (
    "CREATE SCHEMA IF NOT EXISTS archive",
    "COMMENT ON SCHEMA archive IS 'What was let go and restored from archives, to be read. Drop it when you are done.'",
    "CREATE TABLE IF NOT EXISTS archive.events (LIKE public.events INCLUDING COMMENTS, PRIMARY KEY (seq))",
    "CREATE INDEX IF NOT EXISTS ix_events_alert_id ON archive.events (alert_id)",
    "CREATE TABLE IF NOT EXISTS archive.log_chain (LIKE public.log_chain INCLUDING COMMENTS, PRIMARY KEY (last_seq))",
)


async def restore(connection: asyncpg.Connection, found: ArchiveReader) -> int:
    """Load an archive, in place of what was restored of these events before, and return how many there are.

    Raises:
        ArchiveDamaged: it does not fit its chain; nothing was restored.

    """
    events = 0
    async with connection.transaction():
        for statement in _TABLES:
            await connection.execute(statement)
        bounds = found.header.first_seq, found.header.last_seq
        await connection.execute("DELETE FROM archive.events WHERE seq BETWEEN $1 AND $2", *bounds)
        await connection.execute("DELETE FROM archive.log_chain WHERE last_seq BETWEEN $1 AND $2", *bounds)
        items = found.items()
        while some := list(islice(items, CHUNK)):
            rows = [item for item in some if isinstance(item, Row)]
            links = [item for item in some if isinstance(item, Link)]
            for table, records, columns in (("events", rows, Row._fields), ("log_chain", links, Link._fields)):
                await connection.copy_records_to_table(table, schema_name="archive", records=records, columns=columns)
            events += len(rows)
    return events
