"""The purge of partitions of the log: which are due, and how one is detached and dropped.

A partition is due when its last event is older than the retention; the one that holds the head
never is::

    due ──► archived ──► recorded in the purge log ──► keys, links ──► detached ──► dropped
         (if wanted)   ▲                                                             │
                       └── an interrupted purge continues here ◄──┘ recorded: dropped_at

Once it is recorded it counts as purged, and the next run continues; every step can be repeated. Its
links are deleted before it is detached, so that the chain never covers events that are gone.

``DROP TABLE`` of a partition, and a plain ``DETACH``, lock the whole log: they would wait for an
operator's long report, and every POST would wait behind them. ``DETACH … CONCURRENTLY`` waits for
those who read the log without blocking anybody. Where it is interrupted while it waits, by a crash
or by us, the partition is invisible but not detached; the statement that completes it,
``FINALIZE``, blocks the creation of partitions while it waits. So neither waits longer than a
second for a lock, and both are tried again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from service.database.failures import Failure, classify
from service.logs import get_logger
from service.retention.purge_log import Partition
from service.retention.row_purge import delete_keys, delete_log_links

if TYPE_CHECKING:
    from datetime import datetime

    from service.retention.purge_log import PurgeLog

log = get_logger(__name__)

DETACH_RETRY_SECONDS = 5

# Only partitions wholly below the head. A link never crosses the end of a partition; the time of
# the last link is the database's own, and none of the partition's events was stored later.
_FULL_PARTITIONS = """
SELECT p.name, p.ends - 1 AS last_seq, link.last_id, link.hash, link.linked_at,
       (SELECT first_seq FROM log_chain WHERE last_seq >= p.begins ORDER BY last_seq LIMIT 1) AS first_seq
FROM event_partitions() p LEFT JOIN log_chain link ON link.last_seq = p.ends - 1
WHERE p.ends <= (SELECT max(last_seq) FROM log_chain)
  AND p.begins > coalesce((SELECT max(last_seq) FROM retention_runs), -1)
ORDER BY p.begins
"""
_IS_DETACHING = "SELECT detaching FROM event_partitions() WHERE name = $1"


async def due_partitions(connection: asyncpg.Connection, older_than: datetime) -> list[Partition]:
    """Return the partitions to purge, oldest first: all of their events are older."""
    due = []
    for name, last_seq, last_id, log_hash, linked_at, first_seq in await connection.fetch(_FULL_PARTITIONS):
        if linked_at is None:
            log.error("no link of the chain ends with a partition of the log: it is not purged", partition=name)
            break
        if linked_at >= older_than:
            break
        due.append(Partition(name, first_seq, last_seq, last_id, log_hash))
    return due


async def finish_partition_purges(connection: asyncpg.Connection, purge_log: PurgeLog) -> None:
    """Finish the purge of each partition that is recorded as purged and is still there."""
    while (purge := await purge_log.next_unfinished()) is not None:
        await delete_keys(connection, purge_log, purge.first_seq, purge.last_seq)
        await delete_log_links(connection, purge.last_seq)
        await _detach(connection, purge.partition)
        async with connection.transaction():
            await connection.execute(f'DROP TABLE IF EXISTS "{purge.partition}"')
            await purge_log.mark_dropped(purge.id)


async def _detach(connection: asyncpg.Connection, name: str) -> None:
    """Detach a partition once nobody reads it; do nothing if it is detached already."""
    waited = False
    while (detaching := await connection.fetchval(_IS_DETACHING, name)) is not None:
        how = "FINALIZE" if detaching else "CONCURRENTLY"
        await connection.execute("SET lock_timeout = '1s'")
        try:
            await connection.execute(f'ALTER TABLE events DETACH PARTITION "{name}" {how}')
        except asyncpg.PostgresError as error:
            if classify(error) is not Failure.RETRY:
                raise
            if not waited:
                log.warning("retention waits for a long transaction", partition=name)
            waited = True
            await asyncio.sleep(DETACH_RETRY_SECONDS)
        finally:
            await connection.execute("RESET lock_timeout")
