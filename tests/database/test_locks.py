from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.auth.revocations import REVOCATIONS_CHANNEL
from service.dashboard.node_stats import ANSWER_CHANNEL, REQUEST_CHANNEL
from service.database.engine import Database, parse_url
from service.database.lock_holder import hold
from service.database.locks import TableLock
from service.events.log import EVENTS_CHANNEL
from service.ledger.statements import PRESENCE_CHANNEL
from service.settings import StorageSettings
from tests.harness import ROOT, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SQL = {file.stem: file.read_text() for file in (ROOT / "alembic" / "sql").glob("*.sql")}
LIMIT = 3.0
"""Seconds that a transaction of the tests may do nothing; this process must not be kept from the CPU for as long."""
HOLDER = """
SELECT a.pid, a.backend_xid, a.backend_xmin FROM pg_stat_activity a JOIN pg_locks l USING (pid)
WHERE l.relation = 'locks.retention'::regclass AND l.granted AND a.datname = current_database()
"""


def found(pattern: str) -> dict[str, list[str]]:
    """Return what a pattern finds in the SQL files, by file."""
    return {name: matches for name, text in SQL.items() if (matches := re.findall(pattern, text))}


def test_the_functions_take_the_locks_of_these_names() -> None:
    locks = {
        "commit_attempts": TableLock.LOG,
        "event_partitions": TableLock.PARTITIONS,
        "grant_audit": TableLock.MIGRATION,
        "revocations": TableLock.REVOCATIONS,
        "write_ledger": TableLock.LEDGER,
    }
    assert found(r"LOCK TABLE (locks\.\w+ IN \w+)") == {
        name: [f"locks.{lock.value} IN EXCLUSIVE"] for name, lock in locks.items()
    }


async def test_there_is_one_empty_table_for_each_lock(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    tables = await connection.fetch(
        "SELECT relname, relkind, relnatts, obj_description(oid) FROM pg_class"
        " WHERE relnamespace = 'locks'::regnamespace"
    )
    assert {name for name, *_ in tables} == set(TableLock)
    for name, kind, columns, comment in tables:
        assert (kind, columns) == (b"r", 0), name
        assert comment, name
    await connection.close()


def test_no_other_module_names_a_lock_and_none_takes_one_that_every_role_can_take() -> None:
    modules = [*(ROOT / "service").rglob("*.py"), *(ROOT / "alembic").rglob("*.py")]
    assert [path.name for path in modules if re.search(r"locks\.\{|LOCK TABLE locks", path.read_text())] == ["locks.py"]
    assert not [path for path in modules if re.search(r"pg_(try_)?advisory", path.read_text())]
    assert not found(r"pg_(?:try_)?advisory\w*")


@pytest.mark.parametrize("lock", TableLock)
async def test_a_lock_is_held_to_the_end_of_the_transaction(database_url: str, lock: TableLock) -> None:
    one, other = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    async with one.transaction():
        await one.execute(lock.lock)
        assert await other.fetchval(lock.try_lock) is False
        async with other.transaction():
            assert await other.fetchval(lock.try_lock) is False
            assert await other.fetchval("SELECT 1") == 1, "the transaction goes on"
    async with other.transaction():
        assert await other.fetchval(lock.try_lock) is True
        assert await one.fetchval(lock.try_lock) is False
    await one.close()
    await other.close()


async def test_a_backup_and_a_vacuum_do_not_disturb_one_another_and_the_locks(database_url: str) -> None:
    """``pg_dump`` locks all tables in ACCESS SHARE mode, for as long as it takes."""
    backup, service = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    async with backup.transaction():
        for lock in TableLock:
            await backup.execute(f"LOCK TABLE locks.{lock.value} IN ACCESS SHARE MODE")
        async with service.transaction():
            for lock in TableLock:
                await service.execute(f"{lock.lock} NOWAIT")
    await service.execute("VACUUM ANALYZE")
    await backup.close()
    await service.close()


# Locks that are held for longer.


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(parse_url(database_url), StorageSettings(database_timeout_seconds=LIMIT))
    yield database
    await database.close()


async def test_a_lock_that_is_held_for_long_outlives_the_limits_and_keeps_nothing_from_vacuum(
    database: Database, database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    async with hold(database, TableLock.RETENTION) as is_held:
        assert is_held
        async with hold(database, TableLock.RETENTION) as is_held_too:
            assert not is_held_too
        [(pid, xid, xmin)] = await other.fetch(HOLDER)
        assert (xid, xmin) == (None, None)
        await other.execute("SELECT pg_sleep($1)", LIMIT + 0.5)
        [(same, *_)] = await other.fetch(HOLDER)
        assert same == pid
    assert await eventually(lambda: _is_free(other))
    await other.close()


async def test_who_lost_the_lock_stops(database: Database, database_url: str) -> None:
    other = await asyncpg.connect(database_url)

    async def lose_it() -> None:
        async with hold(database, TableLock.RETENTION):
            [(pid, *_)] = await other.fetch(HOLDER)
            await other.execute("SELECT pg_terminate_backend($1)", pid)
            await eventually(lambda: False)  # until it is cancelled

    with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="held the lock"):
        await lose_it()
    await other.close()


async def test_an_error_under_a_lock_is_raised_as_it_is(database: Database) -> None:
    async def fail() -> None:
        async with hold(database, TableLock.RETENTION):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def _is_free(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval(TableLock.RETENTION.try_lock))


# Channels.


def test_the_functions_notify_the_channels_that_are_listened_to() -> None:
    channels = {"append_alerts": [EVENTS_CHANNEL], "revocations": [REVOCATIONS_CHANNEL]}
    assert found(r"notify_nodes\('(\w+)'") == channels


def test_nothing_notifies_but_through_the_function_that_a_full_queue_does_not_stop() -> None:
    modules = {path: path.read_text() for path in (ROOT / "service").rglob("*.py")}
    assert not [path for path, text in modules.items() if re.search(r"\bpg_notify\b|[\"']NOTIFY", text)]
    assert list(found(r"\bpg_notify\b")) == ["notify_nodes"]


def test_each_channel_has_a_name_of_its_own() -> None:
    channels = [EVENTS_CHANNEL, REVOCATIONS_CHANNEL, PRESENCE_CHANNEL, REQUEST_CHANNEL, ANSWER_CHANNEL]
    assert len(set(channels)) == len(channels)
