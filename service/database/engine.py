"""Connections to PostgreSQL: pooled transactions, and dedicated connections.

A use case opens its own transaction, visibly: ``async with database.transaction() as tx``, or
``database.run(work)`` for one that may be tried again. The
committer and the notification listener have a dedicated connection (``database.connect()``),
because they need asyncpg beneath SQLAlchemy: for one hand-tuned statement, and for LISTEN.

Every connection sets ``synchronous_commit = on`` and READ COMMITTED, whatever the server's defaults
are: the first makes a committed answer durable, the second gives the append function a snapshot
newer than its lock.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import asyncpg
import orjson
from sqlalchemy import NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from service.database.failures import Failure, classify, retried, unavailable, was_rolled_back
from service.database.write_check import WriteCheck
from service.errors import ConfigurationError, RequestRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy import URL, QueuePool
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from service.settings import StorageSettings

T = TypeVar("T")

_DIALECT = "postgresql+asyncpg://"
PORT_MAX = 65535


def parse_url(text: str) -> URL:
    """Return the SQLAlchemy URL of a ``postgresql://`` address.

    Raises:
        ConfigurationError: it is something else.

    """
    try:
        url = make_url(text)
    except Exception:  # noqa: BLE001 - SQLAlchemy raises several kinds, and each quotes the URL with its password
        url = None
    if url is None or url.get_backend_name() not in ("postgresql", "postgres") or (url.port or 0) > PORT_MAX:
        raise ConfigurationError("TOCSIN_DATABASE_URL must look like postgresql://user:password@host:5432/database")
    return url.set(drivername="postgresql+asyncpg")


def address_of(url: URL) -> str:
    """Return the address for asyncpg, which reads libpq's options, such as ``sslmode``, in its query."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def migration_engine(url: URL) -> AsyncEngine:
    """Return an engine for migrations and the schema, without the service's limits."""
    return create_async_engine(_DIALECT, async_creator=lambda: asyncpg.connect(address_of(url)), poolclass=NullPool)


class Database:
    """A PostgreSQL database: pooled transactions and dedicated connections."""

    def __init__(self, url: URL, settings: StorageSettings) -> None:
        self.url = url
        self.write_check = WriteCheck(self)
        self._settings = settings
        self._server_settings = {
            "application_name": "tocsin",
            "synchronous_commit": "on",
            "default_transaction_isolation": "read committed",
            "timezone": "UTC",
            # A node that freezes in the middle of a transaction holds its locks no longer than
            # this.
            "idle_in_transaction_session_timeout": f"{settings.database_timeout_seconds * 1000:.0f}",
        }
        # asyncpg reads the address itself: SQLAlchemy would pass on each option of its query as an
        # argument.
        self._engine = create_async_engine(
            _DIALECT,
            async_creator=self.connect,
            pool_size=settings.database_pool_size,
            max_overflow=0,
            pool_timeout=settings.database_connect_timeout_seconds,
            pool_pre_ping=True,
            json_deserializer=orjson.loads,  # jsonb writes 1e300 in digits, which json would read as an int
        )

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
        """Run a transaction, committed at the end of the block.

        With ``snapshot`` it is read-only, and all its statements see the same instant. With
        ``autocommit`` each statement is a transaction of its own: a node that freezes after it
        holds no lock.

        Raises:
            DatabaseUnavailable: a failure that passes (``failures.py``); nothing was stored, unless
                the connection was lost while the transaction was being committed.

        """
        options: dict[str, Any] = {}
        if snapshot:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        elif autocommit:
            options = {"isolation_level": "AUTOCOMMIT"}
        is_over = False
        try:
            async with self._pooled_connection() as connection:
                await connection.execution_options(**options)
                async with connection.begin():
                    yield connection
                    is_over = True
        except RequestRefused:
            raise
        except Exception as error:
            if classify(error) is Failure.DEFECT:
                raise
            raise unavailable(error, may_be_stored=is_over and not was_rolled_back(error)) from error

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]], *, autocommit: bool = False) -> T:
        """Run ``work`` in a transaction, and again in another one where it was rolled back because of others.

        Raises:
            DatabaseUnavailable: as above.

        """

        async def once() -> T:
            async with self.transaction(autocommit=autocommit) as tx:
                return await work(tx)

        return await retried(once)

    @asynccontextmanager
    async def _pooled_connection(self) -> AsyncIterator[AsyncConnection]:
        """Take a connection of the pool, which is not used again if PostgreSQL is not available over it.

        Another one may lead to another server: one that is read-only may have been the primary.
        """
        async with self._engine.connect() as connection:
            try:
                yield connection
            except Exception as error:
                if not isinstance(error, RequestRefused) and classify(error) is Failure.UNAVAILABLE:
                    await connection.invalidate()
                raise

    async def connect(self, *, statement_timeout: float | None = None) -> asyncpg.Connection:
        """Open a dedicated connection outside the pool; ``statement_timeout`` is in seconds.

        Whatever the server answers to the attempt passes: a running node does not end because its
        database is being restored, or its password changed.
        """
        try:
            return await asyncpg.connect(
                address_of(self.url),
                timeout=self._settings.database_connect_timeout_seconds,
                command_timeout=statement_timeout or self._settings.database_timeout_seconds,
                server_settings=self._server_settings,
            )
        except asyncpg.PostgresError as error:
            if classify(error) is not Failure.DEFECT:
                raise
            raise asyncpg.PostgresConnectionError(str(error)) from error  # such as a database that allows none now

    @property
    def pool_size(self) -> int:
        """The largest number of connections in the pool."""
        return self._settings.database_pool_size

    @property
    def pool_in_use(self) -> int:
        """The number of them that are in use."""
        return cast("QueuePool", self._engine.pool).checkedout()

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()


async def close_quietly(connection: asyncpg.Connection) -> None:
    """Close a dedicated connection that may already be broken."""
    try:
        await asyncio.shield(connection.close(timeout=1))
    except Exception as error:
        connection.terminate()
        if classify(error) is Failure.DEFECT:
            raise
