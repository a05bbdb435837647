"""The hash chains of the log and the ledger as the verifier sees them.

Retention deletes a chain from its beginning; the purge log says what the first link that is left
follows.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import asyncpg

from service.database.failures import is_database_error
from service.database.libpq import connect_session
from service.errors import CommandFailed
from service.integrity.link_checks import ORIGIN, CheckedRange, LinkRef, Mismatch, check_ledger, check_log, time_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

ChainName: TypeAlias = Literal["log", "ledger"]

_ORPHANED_EVENTS = f"""
SELECT min(seq), max(seq), min({time_of("occurred_at")}), 'they stand before the first link' FROM events
WHERE seq <= $1 HAVING count(*) > 0
UNION ALL
SELECT min(seq), max(seq), min({time_of("occurred_at")}), 'they stand beyond the last link' FROM events
WHERE seq > $2 HAVING count(*) > 0
"""  # noqa: S608 - constant
_ORPHANED_ROWS = f"""
SELECT min(ledger_link_id), max(ledger_link_id), min({time_of("at")}),
       format('%s row(s) of %s stand outside the chain', count(*), source)
FROM (
    SELECT 'connections' AS source, ledger_link_id, closed_at AS at FROM connections
    WHERE closed_at IS NOT NULL OR ledger_link_id IS NOT NULL
    UNION ALL SELECT 'dispatches', ledger_link_id, at FROM dispatches
    UNION ALL SELECT 'receipts', ledger_link_id, received_at FROM receipts
    UNION ALL SELECT 'sightings', ledger_link_id, seen_at FROM sightings
) AS rows
WHERE ledger_link_id IS NULL OR ledger_link_id <= $1 OR ledger_link_id > $2
GROUP BY source, ledger_link_id
"""  # noqa: S608 - constant


@dataclass(frozen=True)
class Chain:
    """A chain of links: where PostgreSQL holds it, and how it is checked."""

    name: ChainName
    table: str
    column: str
    """The column that holds the position of a link."""
    purged: str
    """The query for the last purged link, and whether rows before it are still being deleted."""
    orphans: str
    """The query for rows outside the chain: before its first link ($1) or after its last ($2)."""
    check: Callable[[asyncpg.Connection, LinkRef, int], Awaitable[CheckedRange]]
    range_size: int
    """How many positions are checked at a time."""


_PURGED_LOG = """
SELECT last_seq, log_hash, dropped_at IS NULL FROM retention_runs
WHERE last_seq IS NOT NULL ORDER BY last_seq DESC LIMIT 1
"""
_PURGED_LEDGER = """
SELECT ledger_link_id, ledger_hash, false FROM retention_runs
WHERE ledger_link_id IS NOT NULL ORDER BY ledger_link_id DESC LIMIT 1
"""

LOG = Chain("log", "log_chain", "last_seq", _PURGED_LOG, _ORPHANED_EVENTS, check_log, 20_000)
LEDGER = Chain("ledger", "ledger_chain", "ledger_link_id", _PURGED_LEDGER, _ORPHANED_ROWS, check_ledger, 500)


class PurgedPrefix(NamedTuple):
    """The last purged link; while ``in_progress``, some rows before it are still there."""

    end: LinkRef = ORIGIN
    in_progress: bool = False


NOTHING_PURGED = PurgedPrefix()


class ChainHead(NamedTuple):
    """The last link of a chain. ``linked_at`` is None where there is none."""

    position: int
    hash: bytes
    linked_at: datetime | None


class ChainSnapshot(NamedTuple):
    """The head of a chain, the rows outside it and the positions of hashes, at one instant.

    ``found`` holds None for a hash that no link has.
    """

    head: ChainHead
    orphans: list[Mismatch]
    found: dict[bytes, int | None]


class TablesMissing(CommandFailed):
    """The database has not all tables that are verified: its schema is that of another version."""


@asynccontextmanager
async def snapshot_connection(address: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection whose queries all see the same instant.

    Raises:
        TablesMissing: the schema is not up to date.
        CommandFailed: the database cannot be read.

    """
    try:
        connection = await connect_session(address, timeout=10, server_settings={"jit": "off"})
        try:
            # Built-in functions take precedence over functions of the same name beside our tables.
            await connection.execute(
                "SELECT pg_catalog.set_config("
                "'search_path', 'pg_catalog, ' || pg_catalog.current_setting('search_path'), false)"
            )
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await connection.close(timeout=5)
    except asyncpg.UndefinedTableError as error:
        raise TablesMissing(f"{error}: bring the schema up to date") from None
    except Exception as error:
        if not is_database_error(error):
            raise
        raise CommandFailed(
            f"the database cannot be read: {error or type(error).__name__}; run the command again, it goes on from here"
        ) from None


async def read_purged_prefix(connection: asyncpg.Connection, chain: Chain) -> PurgedPrefix:
    """Return how much of a chain was purged, according to the purge log."""
    row = await connection.fetchrow(chain.purged)
    return PurgedPrefix(LinkRef(row[0], row[1]), row[2]) if row is not None else NOTHING_PURGED


async def take_snapshot(
    connection: asyncpg.Connection, chain: Chain, hashes: Sequence[bytes] = (), purged: PurgedPrefix = NOTHING_PURGED
) -> ChainSnapshot:
    """Return the extent of a chain, and the positions of the links that have one of ``hashes``."""
    column, start = chain.column, purged.end
    newest = await connection.fetchrow(
        f"SELECT {column}, hash, {time_of('linked_at')} FROM {chain.table} WHERE {column} > $1"  # noqa: S608 - constants
        f" ORDER BY {column} DESC LIMIT 1",
        start.position,
    )
    head = ChainHead(*newest) if newest is not None else ChainHead(*start, None)
    orphans = [Mismatch(*row) for row in await connection.fetch(chain.orphans, start.position, head.position)]
    first = await connection.fetchval(
        f"SELECT min({column}) FROM {chain.table}"  # noqa: S608 - constants
        f" WHERE {column} < $1 OR ({column} = $1 AND hash IS DISTINCT FROM $2)",
        *start,
    )
    if purged.in_progress:
        orphans = [orphan for orphan in orphans if orphan.last is None or orphan.last > start.position]
    elif first is not None:
        orphans.append(Mismatch(first, first, None, "a link stands before the first"))
    known = await connection.fetch(
        f"SELECT hash, {column} FROM {chain.table} WHERE hash = ANY ($1) AND {column} > $2",  # noqa: S608 - constants
        hashes,
        start.position,
    )
    return ChainSnapshot(head, orphans, {**dict.fromkeys(hashes), start.hash: start.position, **dict(known)})
