"""The oldest partitions of the log: which of them are due, and how one is taken off and dropped.

``DROP TABLE`` of a partition, and a plain ``DETACH``, lock the whole log: they would wait for an operator's long
report, and every POST would wait behind them. ``DETACH … CONCURRENTLY`` waits for those who read the log without
standing in anybody's way. Where it is ended while it waits, by a crash or by us, the partition is invisible but not
off; the statement that takes it off from there, ``FINALIZE``, keeps others from attaching the next partition while it
waits. So neither waits longer than a second for a lock, and both are tried again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from service.logs import get_logger

if TYPE_CHECKING:
    from datetime import datetime

log = get_logger(__name__)

DETACH_PAUSE_SECONDS = 5


class Partition(NamedTuple):
    """A partition of the log that is due: the events ``first_seq`` to ``last_seq``, and the hash that they end with."""

    name: str
    first_seq: int
    last_seq: int
    log_hash: bytes


# Only those that lie wholly below the head. A link never crosses the end of a partition; the time of the last one is
# the database's own, and not before any of its events was stored.
_FULL = """
SELECT p.name, p.ends - 1 AS last_seq, link.hash, link.linked_at,
       (SELECT first_seq FROM log_chain WHERE last_seq >= p.begins ORDER BY last_seq LIMIT 1) AS first_seq
FROM event_partitions() p LEFT JOIN log_chain link ON link.last_seq = p.ends - 1
WHERE p.ends <= (SELECT max(last_seq) FROM log_chain)
  AND p.begins > coalesce((SELECT max(last_seq) FROM retention_runs), -1)
ORDER BY p.begins
"""
_IS_DETACHING = "SELECT detaching FROM event_partitions() WHERE name = $1"


async def due(connection: asyncpg.Connection, older_than: datetime) -> list[Partition]:
    """Return the partitions, oldest first, that hold nothing younger and were not purged yet."""
    found = []
    for name, last_seq, log_hash, linked_at, first_seq in await connection.fetch(_FULL):
        if linked_at is None:
            log.error("no link of the chain ends with a partition of the log: it is not purged", partition=name)
            break
        if linked_at >= older_than:
            break
        found.append(Partition(name, first_seq, last_seq, log_hash))
    return found


async def detach(connection: asyncpg.Connection, name: str) -> None:
    """Take a partition off the log, once nobody reads it any more; nothing happens where it is off already."""
    waited = False
    while (detaching := await connection.fetchval(_IS_DETACHING, name)) is not None:
        how = "FINALIZE" if detaching else "CONCURRENTLY"
        await connection.execute("SET lock_timeout = '1s'")
        try:
            await connection.execute(f'ALTER TABLE events DETACH PARTITION "{name}" {how}')
        except asyncpg.LockNotAvailableError:
            if not waited:
                log.warning("retention waits for a long transaction", partition=name)
            waited = True
            await asyncio.sleep(DETACH_PAUSE_SECONDS)
        finally:
            await connection.execute("RESET lock_timeout")


async def drop(connection: asyncpg.Connection, name: str) -> None:
    """Drop a partition that was detached; nothing happens where it is gone already."""
    await connection.execute(f'DROP TABLE IF EXISTS "{name}"')
