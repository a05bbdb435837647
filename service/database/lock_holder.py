"""Locks that are held for longer than a statement may take, such as for a retention run.

Such a lock is held by a transaction that does nothing else, on a connection of its own. It has
neither a snapshot nor a transaction id, so it keeps nothing from VACUUM. A message every few
seconds keeps it from ``idle_in_transaction_session_timeout``, which ends that of a node that froze::

    free ──hold()──► held ──the end of the block──► free
                       └──the connection was lost──► the block is cancelled
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from service.database.engine import close_quietly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.database.engine import Database
    from service.database.locks import TableLock


@asynccontextmanager
async def hold(database: Database, lock: TableLock) -> AsyncIterator[bool]:
    """Hold ``lock`` during the block, and yield True; yield False where somebody else has it.

    Raises:
        ConnectionDoesNotExistError: the lock was lost, and the block was cancelled.
        PostgresError, OSError: see ``failures.classify``.

    """
    connection = await database.connect()
    try:
        await connection.execute("BEGIN")
        if not await connection.fetchval(lock.try_lock):
            yield False
            return
        async with asyncio.TaskGroup() as group:
            alive = group.create_task(_keep_alive(connection, database.timeout_seconds / 3))
            yield True
            alive.cancel()
    except BaseExceptionGroup as group_of_one:  # of the task group: what ended it, not what it cancelled
        raise group_of_one.exceptions[0] from None
    finally:
        await close_quietly(connection)


async def _keep_alive(connection: asyncpg.Connection, interval_seconds: float) -> None:
    """Send a message every ``interval_seconds``, until the connection is lost."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    while not connection.is_closed():
        await connection.execute("SELECT")
        try:
            async with asyncio.timeout(interval_seconds):
                await lost.wait()
        except TimeoutError:
            continue
    raise asyncpg.ConnectionDoesNotExistError("the connection that held the lock was lost")
