"""Fixtures: a real PostgreSQL, a database a test, and nodes on it."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import pytest_asyncio
import structlog

from service.database.embedded import embedded_postgres
from service.database.engine import parse_url
from service.database.migrate import migrate
from service.settings import LimitSettings, Settings
from tests.harness import Node, Process, memory_folder, new_database, serving, start_process, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

pytest_plugins = [
    "tests.tiers",
    "tests.fixtures.recorded_database",
    "tests.fixtures.nothing_set",
    "tests.fixtures.notifications",
    "tests.fixtures.small_log",
    "tests.fixtures.open_ledger",
    "tests.fixtures.weak_servers",
    "tests.fixtures.failover",
]

TEMPLATE = "tocsin_template"


class StandardOutput(io.StringIO):
    """Writes to the descriptor, because nodes log in threads of theirs while pytest exchanges ``sys.stdout``."""

    def write(self, text: str) -> int:
        return os.write(1, text.encode())


# A traceback with the locals of each frame, structlog's default, takes five seconds.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ],
    logger_factory=structlog.WriteLoggerFactory(StandardOutput()),
)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The address of a PostgreSQL 18 for the whole run."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-tests-", dir=memory_folder()))
    try:
        with embedded_postgres(folder) as embedded:
            url = embedded.render_as_string(hide_password=False)
            asyncio.run(_without_fsync(url))
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _without_fsync(url: str) -> None:
    """Make and drop databases ten times as fast. Processes are killed here, but nobody cuts the machine's power."""
    connection = await asyncpg.connect(url)
    for setting in ("fsync", "full_page_writes"):
        await connection.execute(f"ALTER SYSTEM SET {setting} = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """A migrated database that tests copy theirs from."""

    async def create() -> None:
        connection = await asyncpg.connect(server_url)
        await connection.execute(f'CREATE DATABASE "{TEMPLATE}"')
        await connection.close()

    asyncio.run(create())
    migrate(parse_url(with_database(server_url, TEMPLATE)))
    return TEMPLATE


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database of the test's own, migrated and empty."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", template) as url:
        yield url


@pytest.fixture
def node(database_url: str) -> Iterator[Node]:
    """A node with default settings."""
    with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database for the cases of a module that do not disturb one another."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", template) as url:
        yield url


@pytest.fixture(scope="module")
def lenient(shared_url: str) -> Iterator[Node]:
    """A node without rate limits, shared by those tests of a module that look only at what they made."""
    every = "1000000/second"
    limits = LimitSettings(write_limit=every, read_limit=every, auth_failure_limit=every, connect_limit=every)
    with serving(shared_url, Settings(limits=limits)) as running:
        yield running


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start nodes in processes of their own; they are stopped in the end."""
    started: list[Process] = []

    def start_one(port: int = 0, arguments: Sequence[str] = (), **variables: str) -> Process:
        started.append(start_process(database_url, tmp_path, port, arguments, **variables))
        return started[-1]

    yield start_one
    for process in started:
        process.end()
