"""Queries of ``tocsin audit`` to the database in use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from service.cli.environment import current_database_url
from service.database.engine import migration_engine
from service.settings import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


def ask(query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run a query, all its statements in one snapshot and without a time-out.

    Raises:
        CommandFailed: the database cannot answer.

    """
    with current_database_url(load()) as url:
        return asyncio.run(_ask(url, query))


async def _ask(url: URL, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    engine = migration_engine(url)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await query(connection)
    finally:
        await engine.dispose()
