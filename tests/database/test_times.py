"""Times that PostgreSQL holds and Python does not: years beyond 9999, before 1970, and infinity."""

from __future__ import annotations

from functools import partial
from itertools import product

import asyncpg
import pytest

from tests.admin.test_revocations import refused
from tests.harness import eventually, serving, token

UNREADABLE = ("12000-01-01", "0044-03-15 BC", "1969-12-31 23:59:59Z", "10000-01-01Z", "infinity", "-infinity")
COLUMNS = ("issued_before", "revoked_at", "expires_at")
COLUMNS_OF_TIMES = """
SELECT relname, attname, string_agg(pg_get_constraintdef(o.oid), ' ') AS checked
FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid LEFT JOIN pg_constraint o ON conrelid = c.oid AND contype = 'c'
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
  AND atttypid = 'timestamptz'::regtype AND attgenerated = ''
GROUP BY 1, 2
"""


async def insert(connection: asyncpg.Connection, subject: str, column: str, time: str) -> None:
    """Insert a revocation by hand, all of whose times but one are good."""
    times = {**dict.fromkeys(COLUMNS, "now()"), "expires_at": "now() + interval '1 hour'", column: f"'{time}'"}
    await connection.execute(
        f"INSERT INTO revocations (subject, revoked_by, {', '.join(times)})"
        f" VALUES ('{subject}', 'operator', {', '.join(times.values())})"
    )


async def test_no_revocation_is_stored_with_a_time_that_a_node_cannot_read(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    for column, time in product(COLUMNS, UNREADABLE):
        with pytest.raises(asyncpg.CheckViolationError, match="ck_revocations_times"):
            await insert(connection, "alice", column, time)
        for good in ("1970-01-01Z", "9999-12-31 23:59:59.999999Z"):
            await insert(connection, "alice", column, good)
    await connection.close()


async def test_every_time_of_every_table_is_checked(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(COLUMNS_OF_TIMES)
    await connection.close()
    assert {("revocations", "expires_at"), ("alerts", "created_at"), ("events_p0", "occurred_at")} <= {
        (table, column) for table, column, _ in rows
    }
    for table, column, checked in rows:
        assert f"{column} >= '1970-01-01" in (checked or ""), table
        assert f"{column} < '10000-01-01" in checked, table


@pytest.mark.parametrize("time", UNREADABLE)
async def test_a_node_starts_with_what_is_there_all_the_same(database_url: str, time: str) -> None:
    """The owner of the tables may have dropped the constraint."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE revocations DROP CONSTRAINT ck_revocations_times")
    bearer = token("alice", jti="stolen")
    with serving(database_url) as node:
        for column in COLUMNS:
            await insert(connection, f"bad {column}", column, time)
        await connection.execute(
            "INSERT INTO revocations (jti, revoked_by, revoked_at, expires_at)"
            " VALUES ('stolen', 'operator', now(), now() + interval '1 hour')"
        )
        await eventually(partial(refused, node, bearer))
        await node.post("it goes on")
    with serving(database_url) as another:
        assert await refused(another, bearer)
        async with another.http("root", "admin") as client:
            assert (await client.get("/v1/revocations")).status_code == 200
    await connection.close()
