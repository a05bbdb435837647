from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import make_url

from service.database.engine import parse_url
from service.database.locks import CREATE_MIGRATION_LOCK, TableLock
from service.database.migrate import is_current
from tests.fixtures.weak_servers import execute
from tests.harness import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


async def test_the_schema_is_brought_up_to_date_and_stays_so(
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]], empty_url: str
) -> None:
    for _ in range(2):
        run = await asyncio.to_thread(tocsin_process, "migrate", TOCSIN_DATABASE_URL=empty_url)
        assert (run.returncode, run.stdout) == (0, "The schema is up to date.\n")
        assert await asyncio.to_thread(is_current, parse_url(empty_url))


def test_a_database_that_cannot_be_reached_is_one_line(refused_process: Callable[..., str]) -> None:
    url = "postgresql://tocsin:hunter2@127.0.0.1:1/tocsin"
    assert "check TOCSIN_DATABASE_URL" in refused_process("migrate", TOCSIN_DATABASE_URL=url)


def test_a_database_that_does_not_exist_is_one_line(refused_process: Callable[..., str], server_url: str) -> None:
    url = parse_url(server_url).set(drivername="postgresql", database="nowhere")
    assert "nowhere" in refused_process("migrate", TOCSIN_DATABASE_URL=url.render_as_string(hide_password=False))


@pytest.mark.parametrize("is_first", [True, False])
async def test_two_migrations_at_once_whatever_the_isolation_of_the_database_is(
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]], empty_url: str, *, is_first: bool
) -> None:
    """The first migration has no table to lock: it waits for the one that is making it."""
    database = make_url(empty_url).database
    await execute(empty_url, f"ALTER DATABASE \"{database}\" SET default_transaction_isolation = 'serializable'")
    blocking, watching = await asyncpg.connect(empty_url), await asyncpg.connect(empty_url)
    if not is_first:
        await blocking.execute(CREATE_MIGRATION_LOCK)
    await blocking.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    await blocking.execute(CREATE_MIGRATION_LOCK)
    await blocking.execute(TableLock.MIGRATION.lock)

    async def both_wait() -> bool:
        rows = await watching.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))", blocking.get_server_pid()
        )
        return bool(rows == 2)

    runs = [asyncio.to_thread(tocsin_process, "migrate", TOCSIN_DATABASE_URL=empty_url) for _ in range(2)]
    migrations = asyncio.gather(*runs)
    await eventually(both_wait)
    await blocking.close()
    await watching.close()
    assert [(run.returncode, run.stderr) for run in await migrations] == [(0, ""), (0, "")]
