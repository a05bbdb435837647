"""How the commands of ``tocsin audit`` ask the database in use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import DBAPIError

from service.cli.environment import database_url
from service.database.engine import CONNECTION_LOST, migration_engine
from service.database.migrate import is_current
from service.errors import CommandFailed
from service.settings import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


def ask(question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Ask the database in use, with all statements of one instant, however long it takes.

    Raises:
        CommandFailed: the database cannot answer.

    """
    with database_url(load()) as url:
        if not is_current(url):
            raise CommandFailed("the database has another schema than this version needs: run tocsin migrate")
        try:
            return asyncio.run(_ask(url, question))
        except (DBAPIError, *CONNECTION_LOST) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            why = " ".join(str(cause).split()) or type(cause).__name__
            raise CommandFailed(f"the database did not answer: {why}") from None


async def _ask(url: URL, question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    engine = migration_engine(url)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await question(connection)
    finally:
        await engine.dispose()
