"""The committer's connection, and the recovery of a commit whose outcome is unknown.

When the connection is lost during a commit, the transaction may have been committed or not, and its
backend may still be at work: one that waits for the log's lock could commit after it was asked
about. So the backend is ended first, and then the database is asked, over a new connection.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.database.engine import close_quietly
from service.database.failures import Failure, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    import asyncpg

    from service.database.engine import Database

RECOVERY_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Backend:
    """A server process of PostgreSQL; a later one may reuse the number, but not the start."""

    pid: int
    started: datetime


class CommitConnection:
    """One connection to PostgreSQL, which is replaced when it is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.Connection | None = None
        self._backend: _Backend | None = None

    async def get(self) -> asyncpg.Connection:
        """Return the connection."""
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                row = await connection.fetchrow(
                    "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
                )
            except BaseException:
                connection.terminate()
                raise
            self._connection, self._backend = connection, _Backend(row[0], row[1])
        return self._connection

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await close_quietly(self._connection)

    async def recover(self, ask: Callable[[asyncpg.Connection], Awaitable[None]], timeout_seconds: float) -> bool:
        """Let ``ask`` find out what became of a lost commit; return False if time ran out."""
        lost = self._backend
        self.terminate()
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            try:
                connection = await self.get()
                if lost is None or await _is_gone(connection, lost):
                    await ask(connection)
                    return True
            except Exception as error:
                if classify(error) is Failure.DEFECT:
                    raise
                self.terminate()
            await asyncio.sleep(RECOVERY_PAUSE_SECONDS)
        return False

    def terminate(self) -> None:
        """Cut the connection; ``get`` opens another one."""
        if self._connection is not None:
            self._connection.terminate()


async def _is_gone(connection: asyncpg.Connection, backend: _Backend) -> bool:
    """End a backend that may still be at work, and say whether it has ended."""
    ended = await connection.fetchval(
        "SELECT bool_and(pg_terminate_backend(pid, 2000)) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2",
        backend.pid,
        backend.started,
    )
    return ended is not False
