"""The steps of a purge that delete rows, in small batches.

Each batch is a short transaction, followed by a pause.

Only the step for idempotency keys takes the log's lock; keys are hardly ever as old as what is
purged. Batches commit with ``synchronous_commit = off``, to leave the disk to requests: what a
crash of PostgreSQL undoes is undone together with its count in the purge log, and deleted by the
next run.

Each batch continues where the one before ended, and never looks for the oldest row again: while a
long report is open, deleted rows are still in the indexes, and would be skipped one by one.

An alert stays as long as the log has an event of it, or somebody may be changing it. The ledger
stays where it is about events that are still in the log. It is deleted by whole links of its chain,
from the first one up to the first that covers something that must stay, so that the rest of the
chain can be verified.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.database.locks import TableLock
from service.events.hash_chain import LINK_GRID
from service.retention.purge_log import PurgedCounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    import asyncpg

    from service.retention.purge_log import PurgeLog

ALERTS_BATCH = 500
KEYS_BATCH = 200
LINKS_BATCH = 100
NODES_BATCH = 20
ROWS_BATCH = 1_000
PAGES_PER_RANGE = 32
"""Of the BRIN indexes over the links of dispatches, receipts and sightings."""
PAUSE_RATIO = 1
"""The pause after a batch, relative to the duration of the batch."""

_FIND_KEYS = f"""
SELECT array_agg(source), array_agg(key) FROM (
    SELECT source, key FROM idempotency_keys WHERE answer IS NULL AND seq BETWEEN $1 AND $2 LIMIT {25 * KEYS_BATCH}
) AS found
"""  # noqa: S608 - constant
_DELETE_KEYS = """
DELETE FROM idempotency_keys k USING unnest($1::text[], $2::text[]) AS old (source, key)
WHERE k.source = old.source AND k.key = old.key AND answer IS NULL AND seq BETWEEN $3 AND $4
"""

# An alert that was changed has events besides the one that created it, and is deleted with the last
# of them.
_DELETE_ALERTS = f"""
WITH batch AS MATERIALIZED (
    SELECT id, seq FROM alerts WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT {ALERTS_BATCH}
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

# The last link of ($1, $2] that can be deleted with all before it, where everything up to event $4
# was purged and $3 is the cutoff. The last link of all stays, because the next one follows it.
LAST_DELETABLE_LINK = """
SELECT least(
    $2::bigint,
    (SELECT max(ledger_link_id) - 1 FROM ledger_chain),
    (SELECT min(ledger_link_id) - 1 FROM ledger_chain
     WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND linked_at >= $3),
    (SELECT min(ledger_link_id) - 1 FROM connections
     WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND sent_seq > greatest(after_seq, $4)),
    (SELECT min(ledger_link_id) - 1 FROM dispatches
     WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND up_to_seq > $4),
    (SELECT min(ledger_link_id) - 1 FROM receipts WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND seq > $4),
    (SELECT min(ledger_link_id) - 1 FROM sightings WHERE ledger_link_id > $1 AND ledger_link_id <= $2 AND seq > $4)
)
"""
_BLOCK = "(ctid::text::point)[0]::bigint AS block"
_DELETE_LINKS = f"""
WITH links AS (DELETE FROM ledger_chain WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING ledger_link_id, hash),
     closed AS (DELETE FROM connections WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING 1),
     sent AS (DELETE FROM dispatches WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING {_BLOCK}),
     received AS (DELETE FROM receipts WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING {_BLOCK}),
     seen AS (DELETE FROM sightings WHERE ledger_link_id BETWEEN $1 AND $2 RETURNING {_BLOCK})
SELECT (SELECT hash FROM links ORDER BY ledger_link_id DESC LIMIT 1) AS hash,
       (SELECT count(*) FROM closed) AS connections,
       (SELECT count(*) FROM sent) AS dispatches,
       (SELECT count(*) FROM received) AS receipts,
       (SELECT count(*) FROM seen) AS sightings,
       ARRAY(SELECT DISTINCT block / {PAGES_PER_RANGE} FROM sent) AS sent_ranges,
       ARRAY(SELECT DISTINCT block / {PAGES_PER_RANGE} FROM received) AS received_ranges,
       ARRAY(SELECT DISTINCT block / {PAGES_PER_RANGE} FROM seen) AS seen_ranges
"""  # noqa: S608 - constant
_SUMMARIZE = f"""
SELECT brin_desummarize_range($1::text::regclass, range * {PAGES_PER_RANGE}),
       brin_summarize_range($1::text::regclass, range * {PAGES_PER_RANGE})
FROM unnest($2::bigint[]) AS range
"""  # noqa: S608 - constant
_DELETE_NODES = f"""
DELETE FROM nodes WHERE id IN (
    SELECT id FROM nodes n WHERE ended_at < $1 AND NOT EXISTS (SELECT FROM connections c WHERE c.node_id = n.id)
    LIMIT {NODES_BATCH}
)
"""  # noqa: S608 - constant
_DELETE_REJECTIONS = f"""
DELETE FROM handshake_rejections WHERE id IN (
    SELECT id FROM handshake_rejections WHERE at < $1 ORDER BY at LIMIT {ROWS_BATCH}
)
"""  # noqa: S608 - constant
_DELETE_REJECTION_HOURS = f"""
DELETE FROM rejection_hours WHERE (node_id, hour, reason) IN (
    SELECT node_id, hour, reason FROM rejection_hours WHERE hour < $1 ORDER BY hour LIMIT {ROWS_BATCH}
)
"""  # noqa: S608 - constant
_DELETE_SOURCE_HOURS = f"""
DELETE FROM source_hours WHERE (source, hour) IN (
    SELECT source, hour FROM source_hours WHERE hour < $1 ORDER BY hour LIMIT {ROWS_BATCH}
)
"""  # noqa: S608 - constant
_DELETE_NAMES = f"""
DELETE FROM subject_names WHERE subject IN (
    SELECT subject FROM subject_names WHERE named_at < $1
        AND NOT EXISTS (SELECT FROM connections c WHERE c.recipient = subject_names.subject AND c.closed_at IS NULL)
    ORDER BY named_at LIMIT {ROWS_BATCH}
)
"""  # noqa: S608 - constant


@asynccontextmanager
async def _batch(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Run a batch in a transaction, then pause."""
    started = time.monotonic()
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = off")
        yield
    await asyncio.sleep(PAUSE_RATIO * (time.monotonic() - started))


async def delete_all(connection: asyncpg.Connection, purge_log: PurgeLog, older_than: datetime) -> None:
    """Run all steps but those that belong to the purge of a partition."""
    purged_seq = await purge_log.last_purged_seq()
    await delete_alerts(connection, purge_log, purged_seq, older_than)
    await delete_ledger(connection, purge_log, purged_seq, older_than)
    await delete_nodes(connection, older_than)
    await delete_rejections(connection, purge_log, older_than)
    await delete_source_hours(connection, purge_log, older_than)
    await delete_names(connection, older_than)


def _row_count(status: str) -> int:
    """Return the number in a command tag such as ``DELETE 7``."""
    return int(status.rpartition(" ")[2])


async def delete_keys(connection: asyncpg.Connection, purge_log: PurgeLog, first_seq: int, last_seq: int) -> None:
    """Delete the idempotency keys whose answer is an event in this range.

    An append that finds such a key reads its event a moment later, under the log's lock: it must
    find both or neither.
    """
    while (found := await connection.fetchrow(_FIND_KEYS, first_seq, last_seq)) and found[0]:
        for start in range(0, len(found[0]), KEYS_BATCH):
            sources, keys = (column[start : start + KEYS_BATCH] for column in found)
            async with _batch(connection):
                await connection.execute(TableLock.LOG.lock)
                deleted = await connection.execute(_DELETE_KEYS, sources, keys, first_seq, last_seq)
                await purge_log.add_counts(PurgedCounts(idempotency_keys=_row_count(deleted)))


async def delete_log_links(connection: asyncpg.Connection, last_seq: int) -> None:
    """Delete the links of the log up to ``last_seq``, which must end one."""
    first = await connection.fetchval("SELECT min(last_seq) FROM log_chain")
    while first <= last_seq:
        up_to = min(last_seq, first + LINK_GRID)
        async with _batch(connection):
            await connection.execute("DELETE FROM log_chain WHERE last_seq BETWEEN $1 AND $2", first, up_to)
        first = up_to + 1


async def delete_alerts(
    connection: asyncpg.Connection, purge_log: PurgeLog, purged_seq: int, older_than: datetime
) -> None:
    """Delete old alerts that were created up to ``purged_seq`` and have no event left.

    They are deleted whatever their status; the purge log counts those that were unresolved.
    """
    after: int | None = 0
    while after is not None:
        async with _batch(connection):
            # Or the indexer would index an alert that was just deleted.
            await connection.execute(TableLock.SEARCH_INDEX.lock)
            after, alerts, unresolved = await connection.fetchrow(_DELETE_ALERTS, after, purged_seq, older_than)
            await purge_log.add_counts(PurgedCounts(alerts=alerts, unresolved_alerts=unresolved))


async def delete_ledger(
    connection: asyncpg.Connection, purge_log: PurgeLog, purged_seq: int, older_than: datetime
) -> None:
    """Delete the first links of the ledger that are old and about no event of the log."""
    first = await connection.fetchval("SELECT min(ledger_link_id) FROM ledger_chain")
    while first is not None:
        async with _batch(connection):
            last = await connection.fetchval(
                LAST_DELETABLE_LINK, first - 1, first - 1 + LINKS_BATCH, older_than, purged_seq
            )
            if last < first:
                return
            deleted = await connection.fetchrow(_DELETE_LINKS, first, last)
            await purge_log.record_ledger_link(last, deleted["hash"])
            await purge_log.add_counts(
                PurgedCounts(**{name: deleted[name] for name in ("connections", "dispatches", "receipts", "sightings")})
            )
        await _summarize(connection, "ix_dispatches_ledger_link_id", deleted["sent_ranges"])
        await _summarize(connection, "ix_receipts_ledger_link_id", deleted["received_ranges"])
        await _summarize(connection, "ix_sightings_ledger_link_id", deleted["seen_ranges"])
        first = last + 1


async def _summarize(connection: asyncpg.Connection, index: str, ranges: Sequence[int]) -> None:
    """Summarize ranges of pages of a BRIN index again.

    A summary never shrinks by itself. Where new rows fill the pages of deleted ones, it would span
    the oldest to the newest link, after a while in all ranges, and a query for one link would read
    the whole table.
    """
    if ranges:
        await connection.execute(_SUMMARIZE, index, ranges)


async def delete_nodes(connection: asyncpg.Connection, older_than: datetime) -> None:
    """Delete ended nodes without connections; the purge log does not count them."""
    async for _ in _delete_by_age(connection, _DELETE_NODES, NODES_BATCH, older_than):
        pass


async def delete_rejections(connection: asyncpg.Connection, purge_log: PurgeLog, older_than: datetime) -> None:
    """Delete old rejected handshakes, and the hourly counts of them."""
    async for deleted in _delete_by_age(connection, _DELETE_REJECTIONS, ROWS_BATCH, older_than):
        await purge_log.add_counts(PurgedCounts(rejections=deleted))
    async for deleted in _delete_by_age(connection, _DELETE_REJECTION_HOURS, ROWS_BATCH, older_than):
        await purge_log.add_counts(PurgedCounts(rejection_hours=deleted))


async def delete_source_hours(connection: asyncpg.Connection, purge_log: PurgeLog, older_than: datetime) -> None:
    """Delete old hourly counts of sources."""
    async for deleted in _delete_by_age(connection, _DELETE_SOURCE_HOURS, ROWS_BATCH, older_than):
        await purge_log.add_counts(PurgedCounts(source_hours=deleted))


async def delete_names(connection: asyncpg.Connection, older_than: datetime) -> None:
    """Delete the names that no token said lately, unless a stream is open; the purge log does not count them."""
    async for _ in _delete_by_age(connection, _DELETE_NAMES, ROWS_BATCH, older_than):
        pass


async def _delete_by_age(
    connection: asyncpg.Connection, statement: str, batch_size: int, older_than: datetime
) -> AsyncIterator[int]:
    """Delete ``batch_size`` rows until none is left; yield the count inside each batch."""
    deleted = batch_size
    while deleted == batch_size:
        async with _batch(connection):
            deleted = _row_count(await connection.execute(statement, older_than))
            yield deleted
