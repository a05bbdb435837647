"""Whatever row is edited, in whatever column, to whatever value: it is found."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from service.events.tables import events, log_chain
from service.integrity.chain_sources import LEDGER, LOG, take_snapshot
from service.integrity.link_checks import ORIGIN, MismatchFound
from service.ledger.tables import connections, dispatches, ledger_chain, receipts, sightings
from service.severity import SEVERITIES
from tests.harness import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

CHAINED = (events, log_chain, connections, dispatches, receipts, sightings, ledger_chain)
COLUMNS = [(table.name, column.name, str(column.type)) for table in CHAINED for column in table.columns]

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_times = st.datetimes(timezones=st.just(UTC)).map(str) | st.sampled_from(
    ["infinity", "-infinity", "20000-01-01 00:00Z"]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
)
VALUES: dict[str, st.SearchStrategy[str | None]] = {
    "BOOLEAN": st.sampled_from(("true", "false")),
    "BIGINT": st.integers(-(2**63), 2**63 - 1).map(str) | st.integers(-2, 60).map(str),
    "INTEGER": st.integers(-(2**31), 2**31 - 1).map(str),
    "CHAR(32)": st.uuids().map(str),
    "TEXT": _text,
    "ARRAY": st.lists(_text, max_size=3).map(json.dumps),
    "DATETIME": _times,
    "JSON": _json.map(json.dumps),
    "BLOB": st.binary(max_size=40).map(lambda value: "\\x" + value.hex()),
    "VARCHAR(8)": st.sampled_from(SEVERITIES),
}


CONSTRAINTS = "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass ORDER BY contype = 'n'"


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, str, int, str | None]:
    table, column, kind = draw(st.sampled_from(COLUMNS))
    return table, column, draw(st.integers(0, 100)), draw(st.none() | VALUES[kind])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lax_url(server_url: str, recorded_database: str) -> AsyncIterator[str]:
    """A copy that takes everything: somebody has taken the constraints away."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", recorded_database) as url:
        connection = await asyncpg.connect(url)
        for table in CHAINED:
            for row in await connection.fetch(CONSTRAINTS, table.name):
                await connection.execute(f'ALTER TABLE {table.name} DROP CONSTRAINT IF EXISTS "{row[0]}"')
            for column in table.columns:
                await connection.execute(f"ALTER TABLE {table.name} ALTER {column.name} DROP NOT NULL")
        await connection.close()
        yield url


async def fits_now(connection: asyncpg.Connection) -> bool:
    async with connection.transaction():
        return await fits(connection)


async def fits(connection: asyncpg.Connection) -> bool:
    for chain in (LOG, LEDGER):
        seen = await take_snapshot(connection, chain)
        try:
            checked = await chain.check(connection, ORIGIN, seen.head.position)
        except MismatchFound:
            return False
        if seen.orphans or checked.end != seen.head[:2]:
            return False
    return True


async def is_found(connection: asyncpg.Connection, table: str, column: str, row: int, value: str | None) -> bool:
    """Edit a row in a transaction, and say whether it is found there; what is not possible, or no edit, is passed."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        of_closed = "closed_at IS NOT NULL" if table == "connections" else "true"
        place: Any = await connection.fetchrow(
            f"SELECT tableoid, ctid, t::text FROM {table} t WHERE {of_closed} ORDER BY 1, 2"
            f" OFFSET $1 % (SELECT count(*) FROM {table} WHERE {of_closed}) LIMIT 1",
            row,
        )
        kind = await connection.fetchval(
            "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = $1::regclass AND attname = $2",
            table,
            column,
        )
        new = f"cast($1::text AS {kind})"
        if kind == "text[]" and value is not None:
            new = "ARRAY(SELECT json_array_elements_text($1::json))"
        try:
            after = await connection.fetchval(
                f"UPDATE {table} t SET {column} = {new} WHERE tableoid = $2 AND ctid = $3 RETURNING t::text",
                value,
                place[0],
                place[1],
            )
        except asyncpg.PostgresError:
            assume(False)
        assume(after != place[2])
        return not await fits(connection)
    finally:
        await transaction.rollback()


@dataclass(frozen=True)
class Intruder:
    """A superuser on the lax database, with a loop for the synchronous tests."""

    runner: asyncio.Runner
    connection: asyncpg.Connection

    def run(self, work: Coroutine[Any, Any, bool]) -> bool:
        return self.runner.run(work)


@pytest.fixture(scope="module")
def intruder(lax_url: str) -> Iterator[Intruder]:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(lax_url))
        yield Intruder(runner, connection)
        runner.run(connection.close())


@settings(max_examples=60)
@given(edits())
@example(("connections", "ledger_link_id", 0, None))
@example(("connections", "close_reason", 0, None))
@example(("connections", "topics", 0, '["*"]'))
@example(("events", "body", 0, "{}"))
def test_any_edit_of_one_row_is_found(intruder: Intruder, edit: tuple[str, str, int, str | None]) -> None:
    assert intruder.run(is_found(intruder.connection, *edit))


@pytest.mark.long
@settings(max_examples=1_000)
@given(edits())
def test_any_of_many_edits_of_one_row_is_found(intruder: Intruder, edit: tuple[str, str, int, str | None]) -> None:
    assert intruder.run(is_found(intruder.connection, *edit))


def test_the_database_fits_as_it_is(intruder: Intruder) -> None:
    assert intruder.run(fits_now(intruder.connection))
