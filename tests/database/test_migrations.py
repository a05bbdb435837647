from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from alembic import command
from service.database.engine import parse_url
from service.database.migrate import configuration, is_current, migrate
from tests.harness import ROOT, new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import URL


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[URL]:
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", "template0") as url:
        yield parse_url(url)


async def catalogue(url: URL) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        rows = await connection.fetch(
            """ SELECT n.nspname || '.' || c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid =
            relnamespace WHERE n.nspname IN ('public', 'audit') UNION SELECT proname, 'function' FROM pg_proc WHERE
            pronamespace = 'public'::regnamespace UNION SELECT typname, 'type' FROM pg_type WHERE typtype = 'e' ORDER
            BY 1, 2
            """
        )
    finally:
        await connection.close()
    return [(row[0], row[1]) for row in rows]


async def test_the_tables_in_the_code_are_those_of_the_migrations(empty_url: URL) -> None:
    migrate(empty_url)
    command.check(configuration(empty_url))


async def test_every_migration_goes_down_to_where_it_came_from(empty_url: URL) -> None:
    revisions = [r.revision for r in ScriptDirectory.from_config(configuration(empty_url)).walk_revisions()][::-1]
    command.ensure_version(configuration(empty_url))
    before = [await catalogue(empty_url)]
    for revision in revisions:
        command.upgrade(configuration(empty_url), revision)
        before.append(await catalogue(empty_url))
    for number in range(len(revisions), 0, -1):
        assert await catalogue(empty_url) == before[number]
        command.downgrade(configuration(empty_url), "-1")
        assert await catalogue(empty_url) == before[number - 1]
    migrate(empty_url)
    assert await catalogue(empty_url) == before[-1]


async def test_a_database_is_current_only_after_the_newest_migration(empty_url: URL) -> None:
    assert not is_current_in_a_thread(empty_url)
    migrate(empty_url)
    assert is_current_in_a_thread(empty_url)


def is_current_in_a_thread(url: URL) -> bool:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - this test's loop is running already

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(is_current, url).result()


def test_every_sql_file_opens_with_its_description_and_is_executed() -> None:
    """A file that no migration names would look as if it were part of the schema."""
    migrations = "".join(file.read_text() for file in (ROOT / "alembic" / "versions").glob("*.py"))
    for file in (ROOT / "alembic" / "sql").iterdir():
        assert file.read_text().startswith("-- "), file.name
        assert f'"{file.stem}"' in migrations, file.name
