"""Fixtures: a PostgreSQL that a test may stop and start, and the check that every test of faults ends with."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import make_url

from service.database.embedded import BINARIES, embedded_postgres
from service.database.engine import parse_url
from service.database.migrate import migrate
from tests.fixtures.audit_verify import assert_untampered
from tests.harness import PATIENCE, memory_folder, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@dataclass
class Postgres:
    """A PostgreSQL of the test's own."""

    folder: Path
    url: str

    def stop(self, mode: str) -> None:
        """Stop it: ``fast`` ends its sessions and writes a checkpoint, ``immediate`` is a crash."""
        self._control("stop", "-m", mode)

    def kill(self) -> None:
        """Kill its first process; the others end when they notice, and what was in their memory is lost."""
        pid = int((self.folder / "postmaster.pid").read_text().split()[0])
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(map(_exists, [pid, *children])):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (self.folder / "postmaster.pid").unlink()

    def start(self) -> None:
        """Start it as it was started before."""
        if not (self.folder / "postmaster.pid").exists():
            options = f"-h '' -k {make_url(self.url).query['host']}"
            self._control("start", "-l", str(self.folder / "log"), "-o", options)

    @property
    def user(self) -> str | None:
        """The user that it runs as, which the wheel makes, because PostgreSQL refuses root."""
        return "pgserver" if os.geteuid() == 0 else None

    def _control(self, *arguments: str) -> None:
        command = [str(BINARIES / "pg_ctl"), "-w", "-D", str(self.folder), *arguments]
        subprocess.run(command, check=True, user=self.user, stdout=subprocess.DEVNULL)


def _exists(pid: int) -> bool:
    """Say whether there is such a process, reaped or not, as PostgreSQL asks for the one in its lock file."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="package")
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL 18 that may be stopped; it runs again in the end."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-outage-", dir=memory_folder()))
    try:
        with embedded_postgres(folder) as url:
            postgres = Postgres(folder / "postgres", url.render_as_string(hide_password=False))
            yield postgres
            postgres.start()
            postgres.stop("fast")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def own_database(own_postgres: Postgres) -> AsyncIterator[str]:
    """A migrated database on it."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    url = with_database(own_postgres.url, name)
    migrate(parse_url(url))
    yield url
    own_postgres.start()


@pytest.fixture(autouse=True)
def _untampered(request: pytest.FixtureRequest) -> Iterator[None]:
    """End each test with the audit of its database, whatever was killed in it; its nodes have stopped by then."""
    names = {"database_url", "own_database", "shared_url"} & set(request.fixturenames)
    urls = [request.getfixturevalue(name) for name in sorted(names)]
    yield
    for url in [] if request.node.get_closest_marker("unlinked") else urls:
        asyncio.run(assert_untampered(url))
