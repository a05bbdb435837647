"""Millions of events and their alerts, put in by SQL: copies of a row that Tocsin stored itself.

Indexes and keys are dropped before and built afterwards from their own definitions, as when a dump is loaded.
PostgreSQL is set to leave checkpoints and vacuums until the end, and set back.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from service.events.log import ROOM_AHEAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_ID = "('019aa000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"
_OWN = {"events": {"seq": "n", "id": "n", "alert_id": _ID}, "alerts": {"seq": "n", "id": _ID}}
"""The columns in which the copies differ, by table."""
_WHILE_LOADING = {"max_wal_size": "'64GB'", "checkpoint_timeout": "'1h'", "autovacuum": "off"}
_SESSION = {"synchronous_commit": "off", "maintenance_work_mem": "'512MB'"}


async def fill(url: str, events: int) -> None:
    """Bring the log, which holds one event, to so many."""
    async with loading(url, events) as admin:
        await asyncio.gather(*(_fill_table(url, table, events) for table in _OWN))
        await admin.execute("INSERT INTO log_chain VALUES ($1, 2, $1, now(), '')", events)
        # The indexer goes on after the last entry; what it would do to five million is not what is measured.
        await admin.execute(
            "INSERT INTO alert_search (seq, words, attributes) SELECT seq, '', attributes FROM alerts WHERE seq = $1",
            events,
        )


@asynccontextmanager
async def loading(url: str, events: int, max_wal: str = "64GB") -> AsyncIterator[asyncpg.Connection]:
    """Make the partitions for so many events, and have PostgreSQL leave its own work until the end of the block.

    It still has to write a checkpoint when there is ``max_wal`` of log to be replayed.
    """
    admin = await asyncpg.connect(url)
    try:
        for name, value in (_WHILE_LOADING | {"max_wal_size": f"'{max_wal}'"}).items():
            await admin.execute(f"ALTER SYSTEM SET {name} = {value}")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.execute(f"SELECT ensure_event_partitions(1000000, {events + ROOM_AHEAD}, 1000)")
        yield admin
        await admin.execute("CHECKPOINT")
        for name in _WHILE_LOADING:
            await admin.execute(f"ALTER SYSTEM RESET {name}")
        await admin.execute("SELECT pg_reload_conf()")
    finally:
        await admin.close()


async def session(url: str) -> asyncpg.Connection:
    """Open a connection to load through."""
    connection = await asyncpg.connect(url)
    for name, value in _SESSION.items():
        await connection.execute(f"SET {name} = {value}")
    return connection


async def _fill_table(url: str, table: str, events: int) -> None:
    connection = await session(url)
    try:
        restore = await take_off_indexes(connection, table)
        columns = [
            row[0]
            for row in await connection.fetch(
                "SELECT quote_ident(column_name) FROM information_schema.columns"
                " WHERE table_name = $1 AND table_schema = 'public' AND is_generated = 'NEVER'",
                table,
            )
        ]
        values = ", ".join(_OWN[table].get(column, f"stored.{column}") for column in columns)
        await connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values}"
            f" FROM generate_series(2, {events}) AS n, (SELECT * FROM {table} WHERE seq = 1) AS stored"
        )
        for statement in restore:
            await connection.execute(statement)
        await connection.execute(f"ANALYZE {table}")
    finally:
        await connection.close()


async def take_off_indexes(connection: asyncpg.Connection, table: str) -> Sequence[str]:
    """Drop the keys and indexes of a table that no view needs, and return the statements that make them again."""
    constraints = await connection.fetch(
        "SELECT conname, pg_get_constraintdef(oid), EXISTS (SELECT FROM pg_depend WHERE refobjid = c.oid"
        " AND refclassid = 'pg_constraint'::regclass AND classid = 'pg_rewrite'::regclass)"
        " FROM pg_constraint AS c WHERE conrelid = $1::text::regclass AND contype IN ('p', 'u')",
        table,
    )
    dropped = [(name, definition) for name, definition, is_needed in constraints if not is_needed]
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = $1"
        " AND NOT indexname = ANY ($2)",
        table,
        [name for name, *_ in constraints],
    )
    for name, _ in dropped:
        await connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    for name, _ in indexes:
        await connection.execute(f'DROP INDEX "{name}"')
    return [
        *(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}' for name, definition in dropped),
        *(definition.replace(" ON ONLY ", " ON ") for _, definition in indexes),
    ]
