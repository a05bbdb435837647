"""The service on each version of PostgreSQL that it supports, and with what operators set there."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.fixtures.postgres_cluster import DATABASE, Server, own, programs
from tests.fixtures.weak_servers import execute
from tests.fixtures.whole_life import live_through
from tests.harness import memory_folder, new_database, with_database
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """A database without a schema."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", "template0") as url:
        yield url


LOCALES = {
    15: "LOCALE 'C.UTF-8'",
    16: "LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE-u-ks-level1'",
    17: "LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
}
"""Of the versions that no other test uses; each has a locale that is not that of the other tests."""


@pytest.fixture(params=LOCALES)
def old_server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database of an older version, with one of the locales."""
    version: int = request.param
    if (binaries := programs(version)) is None:
        missing(f"there is no PostgreSQL {version}: run python -m scripts.system_packages and scripts.node_tools")
        raise AssertionError
    with tempfile.TemporaryDirectory(prefix="tocsin-tests-", dir=memory_folder()) as folder:
        own(Path(folder))
        server = Server.create(Path(folder) / "server", binaries)
        server.start()
        try:
            create = f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8' {LOCALES[version]}"
            asyncio.run(execute(with_database(server.url, "postgres"), create))
            yield server.url
        finally:
            server.stop()


async def test_each_supported_version_serves_whatever_the_locale(old_server_url: str, tmp_path: Path) -> None:
    await live_through(old_server_url, tmp_path)


SETTINGS = (
    "array_nulls = off",
    "backslash_quote = off",
    "bytea_output = 'escape'",
    "check_function_bodies = off",
    "client_encoding = 'LATIN1'",
    "client_min_messages = 'debug1'",
    "DateStyle = 'German, DMY'",
    "default_text_search_config = 'german'",
    "default_transaction_deferrable = on",
    "default_transaction_isolation = 'serializable'",
    "extra_float_digits = -15",
    "idle_in_transaction_session_timeout = '300ms'",
    "idle_session_timeout = '300ms'",
    "IntervalStyle = 'sql_standard'",
    "lc_numeric = 'C'",
    "plan_cache_mode = force_generic_plan",
    "quote_all_identifiers = on",
    "row_security = off",
    "search_path = app, public",
    "session_replication_role = 'replica'",
    "standard_conforming_strings = off",
    "statement_timeout = '60s'",
    "synchronous_commit = off",
    "TimeZone = 'Asia/Kathmandu'",
    "transform_null_equals = on",
)
"""What an operator may set for a database, all at once."""


async def test_no_setting_of_the_database_changes_what_is_stored(empty_url: str, tmp_path: Path) -> None:
    name = make_url(empty_url).database
    await execute(empty_url, "CREATE SCHEMA app", *(f'ALTER DATABASE "{name}" SET {setting}' for setting in SETTINGS))
    await live_through(empty_url, tmp_path)


WITHOUT_IDENTITY = """
SELECT oid::regclass::text FROM pg_class c
WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text IN ('public', 'archive', 'audit')
  AND relreplident <> 'f'
  AND NOT EXISTS (SELECT FROM pg_index i WHERE indrelid = c.oid AND indisprimary AND relreplident = 'd')
"""


async def test_a_publication_for_all_tables_refuses_no_change(empty_url: str, tmp_path: Path) -> None:
    await execute(empty_url, "CREATE PUBLICATION everything FOR ALL TABLES")
    await live_through(empty_url, tmp_path)
    connection = await asyncpg.connect(empty_url)
    assert await connection.fetch(WITHOUT_IDENTITY) == []
    await connection.execute("DELETE FROM dispatches")
    await connection.close()
