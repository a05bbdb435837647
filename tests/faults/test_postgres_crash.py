"""PostgreSQL is killed right after alerts were answered, and its own settings would not make them durable."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.fixtures.pooler import MODES, pooling
from tests.harness import eventually, start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.faults.conftest import Postgres

KILLS = 3
WEAK = {"synchronous_commit": "off", "wal_writer_delay": "10s"}


@pytest.fixture
async def weak_database(own_postgres: Postgres, own_database: str) -> AsyncIterator[str]:
    """A database of a server that writes what was committed seconds later, where nobody asks for more."""
    await alter_system(own_postgres, *(f"SET {name} = '{value}'" for name, value in WEAK.items()))
    yield own_database
    own_postgres.start()
    await alter_system(own_postgres, *(f"RESET {name}" for name in WEAK))


async def alter_system(postgres: Postgres, *changes: str) -> None:
    connection = await asyncpg.connect(postgres.url)
    for change in changes:
        await connection.execute(f"ALTER SYSTEM {change}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.mark.parametrize("mode", ["", *(pytest.param(mode, marks=pytest.mark.long) for mode in MODES)])
async def test_what_was_answered_is_there_after_postgres_was_killed(
    own_postgres: Postgres, weak_database: str, tmp_path: Path, mode: str
) -> None:
    with ExitStack() as stack:
        variables: dict[str, str] = {}
        if mode:
            pooler = stack.enter_context(pooling(weak_database, mode))
            variables = {"TOCSIN_DATABASE_URL": pooler, "TOCSIN_LISTEN_URL": weak_database}
        node = start_process(weak_database, tmp_path, 0, **variables)
        stack.callback(node.end)
        answered: set[int] = set()
        revoked: set[str] = set()
        for kill in range(KILLS):
            answered |= set(await node.post_all([{}, {"dedup_key": f"{kill}"}] * 10))
            async with node.http("root", "admin") as admin:
                assert (await admin.post("/v1/revocations", json={"jti": f"stolen-{kill}"})).status_code == 201
            revoked.add(f"stolen-{kill}")
            await asyncio.to_thread(own_postgres.kill)
            await asyncio.to_thread(own_postgres.start)
            rows = await node.sql("SELECT seq FROM events")
            assert answered <= {row[0] for row in rows}
            assert revoked <= {row[0] for row in await node.sql("SELECT jti FROM revocations")}

            async def serves_again() -> bool:
                async with node.http() as client:
                    return (await client.get("/readyz")).status_code == 200

            await eventually(serves_again)
