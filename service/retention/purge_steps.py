"""What goes in small batches: each a short transaction of its own that waits for nobody, followed by a rest.

None takes the log's lock but the one for idempotency keys, which are hardly ever as old as what goes. A batch is not
waited for at its commit (``synchronous_commit = off``), so that the disk is left to those who publish: what a crash of
PostgreSQL undoes is undone as a whole, with its count in the books, and goes again with the next run.

Each goes on where the one before ended, and never looks for the oldest row again: while a long report is open, what was
deleted is still in the indexes, and would be passed over each time.

What must be left alone: an alert as long as an event of it is in the log, or somebody may be changing it; and all of
the ledger that is about events which are still in the log. The ledger goes by whole links of its chain, from the first
one, so that what is left of the chain can be proved: up to the first link that covers something which is to stay.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.database.leases import AdvisoryLock
from service.events.hash_chain import LINK_GRID
from service.retention.purge_log import Counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    import asyncpg

    from service.retention.purge_log import PurgeLog

ALERTS = 500
KEYS = 200
LINKS = 100
NODES = 20
REJECTIONS = SOURCE_HOURS = 1_000
"""The most that one batch looks at."""
PAGES_PER_RANGE = 32
"""Of the indexes over the links of dispatches and receipts."""
REST = 1
"""How long retention rests after a batch, in times of what the batch took."""

_FIND_KEYS = f"""
SELECT array_agg(source), array_agg(key) FROM (
    SELECT source, key FROM idempotency_keys WHERE answer IS NULL AND seq BETWEEN $1 AND $2 LIMIT {25 * KEYS}
) AS found
"""  # noqa: S608 - constant
_DELETE_KEYS = """
DELETE FROM idempotency_keys k USING unnest($1::text[], $2::text[]) AS old (source, key)
WHERE k.source = old.source AND k.key = old.key AND answer IS NULL AND seq BETWEEN $3 AND $4
"""

# An alert that changed has events beside the one that created it, and goes with the last of them.
_DELETE_ALERTS = f"""
WITH batch AS MATERIALIZED (
    SELECT id, seq FROM alerts WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT {ALERTS}
), free AS MATERIALIZED (
    SELECT a.id FROM batch JOIN alerts a ON a.id = batch.id
    WHERE a.updated_at < $3
      AND (a.updated_at = a.created_at OR NOT EXISTS (SELECT FROM events e WHERE e.alert_id = a.id))
    FOR UPDATE OF a SKIP LOCKED
), deleted AS (
    DELETE FROM alerts a USING free WHERE a.id = free.id RETURNING a.seq, a.status
), unindexed AS (
    DELETE FROM alert_search s USING deleted WHERE s.seq = deleted.seq
)
SELECT (SELECT max(seq) FROM batch) AS last_seq, count(*) AS alerts,
       count(*) FILTER (WHERE status IN ('open', 'acknowledged')) AS unresolved
FROM deleted
"""  # noqa: S608 - constant

# The last link of ($1, $2] that may be deleted with all before it: everything up to event $4 is deleted, $3 is the age.
# The last link of all stays, for the next one follows it.
LAST_LINK = """
SELECT least(
    $2::bigint,
    (SELECT max(ledger_link_id) - 1 FROM ledger_chain),
    (SELECT min(ledger_link_id) - 1 FROM ledger_chain
     WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND linked_at >= $3),
    (SELECT min(ledger_link_id) - 1 FROM connections
     WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND sent_seq > greatest(after_seq, $4)),
    (SELECT min(ledger_link_id) - 1 FROM dispatches
     WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND up_to_seq > $4),
    (SELECT min(ledger_link_id) - 1 FROM receipts WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND seq > $4)
)
"""
_BLOCK = "(ctid::text::point)[0]::bigint AS block"
_DELETE_LINKS = f"""
WITH links AS (DELETE FROM ledger_chain WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING ledger_link_id, hash),
     closed AS (DELETE FROM connections WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING 1),
     sent AS (DELETE FROM dispatches WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING {_BLOCK}),
     received AS (DELETE FROM receipts WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING {_BLOCK})
SELECT (SELECT hash FROM links ORDER BY ledger_link_id DESC LIMIT 1) AS hash,
       (SELECT count(*) FROM closed) AS connections,
       (SELECT count(*) FROM sent) AS dispatches,
       (SELECT count(*) FROM received) AS receipts,
       ARRAY(SELECT DISTINCT block / {PAGES_PER_RANGE} FROM sent) AS sent_ranges,
       ARRAY(SELECT DISTINCT block / {PAGES_PER_RANGE} FROM received) AS received_ranges
"""  # noqa: S608 - constant
_SUMMARIZE = f"""
SELECT brin_desummarize_range($1::text::regclass, range * {PAGES_PER_RANGE}),
       brin_summarize_range($1::text::regclass, range * {PAGES_PER_RANGE})
FROM unnest($2::bigint[]) AS range
"""  # noqa: S608 - constant
_DELETE_NODES = f"""
DELETE FROM nodes WHERE id IN (
    SELECT id FROM nodes n WHERE ended_at < $1 AND NOT EXISTS (SELECT FROM connections c WHERE c.node_id = n.id)
    LIMIT {NODES}
)
"""  # noqa: S608 - constant
_DELETE_REJECTIONS = f"""
DELETE FROM handshake_rejections WHERE id IN (
    SELECT id FROM handshake_rejections WHERE at < $1 ORDER BY at LIMIT {REJECTIONS}
)
"""  # noqa: S608 - constant
_DELETE_SOURCE_HOURS = f"""
DELETE FROM source_hours WHERE (source, hour) IN (
    SELECT source, hour FROM source_hours WHERE hour < $1 ORDER BY hour LIMIT {SOURCE_HOURS}
)
"""  # noqa: S608 - constant


@asynccontextmanager
async def _batch(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Run a batch in a transaction, and rest."""
    begun = time.monotonic()
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = off")
        yield
    await asyncio.sleep(REST * (time.monotonic() - begun))


def _rows(status: str) -> int:
    """Return how many rows a command says that it deleted: ``DELETE 7``."""
    return int(status.rpartition(" ")[2])


async def delete_keys(connection: asyncpg.Connection, books: PurgeLog, first_seq: int, last_seq: int) -> None:
    """Forget the idempotency keys whose answer is an event in this range.

    An append that found such a key reads its event a moment later, under the log's lock: it must find both or neither.
    """
    while (found := await connection.fetchrow(_FIND_KEYS, first_seq, last_seq)) and found[0]:
        for start in range(0, len(found[0]), KEYS):
            sources, keys = (column[start : start + KEYS] for column in found)
            async with _batch(connection):
                await connection.execute(AdvisoryLock.LOG.lock)
                deleted = await connection.execute(_DELETE_KEYS, sources, keys, first_seq, last_seq)
                await books.add(Counts(idempotency_keys=_rows(deleted)))


async def delete_log_links(connection: asyncpg.Connection, last_seq: int) -> None:
    """Delete the links of the log's chain up to ``last_seq``, which ends one; the books have its hash."""
    first = await connection.fetchval("SELECT min(last_seq) FROM log_chain")
    while first <= last_seq:
        up_to = min(last_seq, first + LINK_GRID)
        async with _batch(connection):
            await connection.execute("DELETE FROM log_chain WHERE last_seq BETWEEN $1 AND $2", first, up_to)
        first = up_to + 1


async def delete_alerts(connection: asyncpg.Connection, books: PurgeLog, purged_seq: int, older_than: datetime) -> None:
    """Let go the alerts that were created up to ``purged_seq``, did not change since, and are in no event any more.

    They go whatever their status: what nobody has touched for so long is open for no one. The books count them.
    """
    after: int | None = 0
    while after is not None:
        async with _batch(connection):
            await connection.execute(
                AdvisoryLock.SEARCH_INDEX.lock
            )  # or it would put an alert into its index that has just gone
            after, alerts, unresolved = await connection.fetchrow(_DELETE_ALERTS, after, purged_seq, older_than)
            await books.add(Counts(alerts=alerts, unresolved_alerts=unresolved))


async def delete_ledger(connection: asyncpg.Connection, books: PurgeLog, purged_seq: int, older_than: datetime) -> None:
    """Let go the links of the ledger's chain, from the first, that are old and are about no event of the log."""
    first = await connection.fetchval("SELECT min(ledger_link_id) FROM ledger_chain")
    while first is not None:
        async with _batch(connection):
            last = await connection.fetchval(LAST_LINK, first - 1, first - 1 + LINKS, older_than, purged_seq)
            if last < first:
                return
            gone = await connection.fetchrow(_DELETE_LINKS, first, last)
            await books.unlinked(last, gone["hash"])
            await books.add(
                Counts(connections=gone["connections"], dispatches=gone["dispatches"], receipts=gone["receipts"])
            )
        await _summarize(connection, "ix_dispatches_ledger_link_id", gone["sent_ranges"])
        await _summarize(connection, "ix_receipts_ledger_link_id", gone["received_ranges"])
        first = last + 1


async def _summarize(connection: asyncpg.Connection, index: str, ranges: Sequence[int]) -> None:
    """Let an index say again which links its ranges of pages hold.

    It never takes anything back by itself: where new rows fill the pages of old ones it would say "from the oldest to
    the newest", and after a while of all of them, so that whoever asked for one link would read the whole table.
    """
    if ranges:
        await connection.execute(_SUMMARIZE, index, ranges)


async def delete_nodes(connection: asyncpg.Connection, older_than: datetime) -> None:
    """Forget nodes that ended, of which the ledger holds no connection any more."""
    async for _ in _delete_by_age(connection, _DELETE_NODES, NODES, older_than):
        pass  # the books do not count them


async def delete_rejections(connection: asyncpg.Connection, books: PurgeLog, older_than: datetime) -> None:
    """Forget the handshakes that were refused so long ago."""
    async for deleted in _delete_by_age(connection, _DELETE_REJECTIONS, REJECTIONS, older_than):
        await books.add(Counts(rejections=deleted))


async def delete_source_hours(connection: asyncpg.Connection, books: PurgeLog, older_than: datetime) -> None:
    """Delete the hours of sources that began before ``older_than``."""
    async for deleted in _delete_by_age(connection, _DELETE_SOURCE_HOURS, SOURCE_HOURS, older_than):
        await books.add(Counts(source_hours=deleted))


async def _delete_by_age(
    connection: asyncpg.Connection, statement: str, most: int, older_than: datetime
) -> AsyncIterator[int]:
    """Delete by a statement that takes ``most`` rows at a time, until none is left; yield how many, in the batch."""
    deleted = most
    while deleted == most:
        async with _batch(connection):
            deleted = _rows(await connection.execute(statement, older_than))
            yield deleted
