"""The trial of ``/readyz``. The faults themselves are provoked in ``tests/faults``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.database import write_check
from service.database.engine import Database, parse_url
from service.errors import DatabaseUnavailable
from service.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(parse_url(database_url), StorageSettings())
    yield database
    await database.close()


async def commits(url: str) -> int:
    """Return how many transactions of the database have written."""
    connection = await asyncpg.connect(url)
    count = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
    await connection.close()
    return int(count)


async def test_many_who_ask_cost_one_write(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_check, "FRESH_SECONDS", 3600)
    before = await commits(database_url)
    await asyncio.gather(*(database.write_check.check() for _ in range(50)))
    await database.write_check.check()
    assert await commits(database_url) - before <= 3  # the trial, and the two of this test


async def test_what_a_commit_met_counts_until_a_trial_shows_otherwise(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = database.write_check
    monkeypatch.setattr(write_check, "FRESH_SECONDS", 3600)
    check.failed(asyncpg.PostgresError.new({"S": "ERROR", "C": "53100", "M": "could not extend file"}))
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable) as raised:
            await check.check()
        assert raised.value.members == {"reason": "disk_full"}
    check.succeeded()
    await check.check()
    check.failed(ConnectionResetError())
    monkeypatch.setattr(write_check, "FRESH_SECONDS", 0)
    await check.check()


async def test_a_failure_and_its_end_are_logged_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write_check, "FRESH_SECONDS", 0)
    for _ in range(3):
        database.write_check.failed(
            asyncpg.PostgresError.new({"S": "ERROR", "C": "53100", "M": "could not extend file"})
        )
    for _ in range(2):
        await database.write_check.check()
    output = capfd.readouterr().out
    assert output.count("PostgreSQL stores nothing") == 1
    assert "could not extend file" in output
    assert output.count("PostgreSQL stores again") == 1


async def test_a_trial_that_gets_no_answer_ends(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_check, "TRIAL_SECONDS", 0.2)
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE nodes IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable) as raised:
            await database.write_check.check()
    await connection.close()
    assert raised.value.members == {"reason": "timeout"}
