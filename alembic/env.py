"""Alembic's environment: one connection, one transaction, one migration at a time."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

import service.alerts.tables
import service.auth.tables
import service.database.message_key
import service.events.tables
import service.ledger.tables
import service.retention.tables  # noqa: F401 - each registers its tables with the metadata
from alembic import context
from service.database.base import metadata
from service.database.engine import migration_engine
from service.database.locks import CREATE_MIGRATION_LOCK, TableLock
from service.errors import CommandFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection


def is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Leave the partitions of the log alone: the service makes them."""
    return not (kind == "table" and name is not None and name.startswith("events_p"))


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=is_ours,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        if connection.scalar(text("SELECT pg_is_in_recovery()")):
            raise CommandFailed("PostgreSQL is a standby: give the address of the primary")
        connection.execute(text("SET LOCAL synchronous_commit = on"))
        connection.execute(text(CREATE_MIGRATION_LOCK))
        connection.execute(text(TableLock.MIGRATION.lock))
        context.run_migrations()


async def run_online() -> None:
    engine = migration_engine(context.config.attributes["url"])
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


# A thread of its own, so that migrations can also be run from inside a running event loop.
failures: list[BaseException] = []


def main() -> None:
    try:
        asyncio.run(run_online())
    except BaseException as error:  # noqa: BLE001 - handed to the calling thread, whatever it is
        failures.append(error)


thread = threading.Thread(target=main)
thread.start()
thread.join()
if failures:
    raise failures[0]
