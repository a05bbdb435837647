"""Connections to PostgreSQL: transactions within budgets, and dedicated connections.

A use case opens its own transaction, visibly: ``async with database.reads.transaction() as tx``, or
``database.reads.run(work)`` for one that may be tried again; ``budgets.py`` says which budget is for
what. The committer has a connection of its own (``database.connect_for_transactions()``), because
it needs asyncpg beneath SQLAlchemy, for one hand-tuned statement. What needs a session, such as
LISTEN, has a dedicated connection (``database.connect()``).

Whatever the server's defaults are, every commit is durable, at the server that holds the log, and
READ COMMITTED: ``durability.py`` sets and verifies it on each direct connection. With
``TOCSIN_LISTEN_URL`` transactions go through a pooler (``pooler.py``), and all else does not.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

import asyncpg
from sqlalchemy import URL, NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from service.database.budgets import Budget, FairQueue
from service.database.durability import (
    POOLER,
    FollowedServer,
    UnsafeServer,
    WatchedConnection,
    is_pooler_refusal,
    secure,
)
from service.database.failures import Failure, classify
from service.database.libpq import SESSION, checked, connect, connect_session, within
from service.database.pooler import PoolerConnection, beginning
from service.database.write_check import WriteCheck
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.settings import StorageSettings

_DIALECT = "postgresql+asyncpg://"
PORT_MAX = 65535
AUDITS_PER_CONNECTION = 8
"""Queries of the budget ``audit`` that run or wait for each of its connections."""


_HOSTS = re.compile(r"(?P<before>[\w+]+://(?:[^@]*@)?+)(?P<hosts>[^/?#@]*,[^/?#@]*)(?P<after>[/?#].*)?")
_QUERY = re.compile(r"(?P<before>[\w+]+://(?:[^:/]*(?::[^@]*)?@)?+[^?]*\?)(?P<query>.*)")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>.*))?")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?|/.*")
"""A name, an IPv6 address, or the folder of a socket."""
_DATABASE = re.compile(r"[^/@:?#,;&=]*")
_PLACES = {"user": "username", "password": "password", "dbname": "database", "database": "database"}
"""The places in an address of what may also be a parameter, which counts more."""
_READS_ONLY = "TOCSIN_AUDITOR_URL"


def parse_url(address: str, setting: str = "TOCSIN_DATABASE_URL") -> URL:
    """Return the SQLAlchemy URL of a ``postgresql://`` address of libpq's form, which may name several hosts.

    Hosts, ports and the database are shown in messages, so each is held to its form: what follows an
    unescaped sign in a password would be taken for one of them.

    Raises:
        ConfigurationError: it is something else, or has a parameter that is not honoured. The message
            shows no value of it.

    """
    try:
        url = make_url(_with_plus(_hosts_in_query(address)), keep_blank_values=True)
        urlsplit(address_of(url))  # as asyncpg will
    except Exception:  # noqa: BLE001 - there are several kinds, and each quotes the URL with its password
        url = None
    if (
        url is None
        or url.get_backend_name() not in ("postgresql", "postgres")
        or address.count("@") > 1  # what follows the first would be taken for the host
        or not _can_be_shown(url := _in_their_places(url))
    ):
        raise ConfigurationError(
            f"{setting} must look like postgresql://user:password@host:5432/database;"
            " in the password write / as %2F, @ as %40, # as %23, ? as %3F and % as %25"
        )
    return checked(url.set(drivername="postgresql+asyncpg"), setting, stores=setting != _READS_ONLY)


def _in_their_places(url: URL) -> URL:
    given = {name: value for name, value in url.query.items() if name in _PLACES and value and isinstance(value, str)}
    placed: dict[str, Any] = {_PLACES[name]: value for name, value in given.items()}
    return url.difference_update_query(given).set(**placed)


def _with_plus(address: str) -> str:
    """Escape each ``+`` of the query: libpq reads it as itself, and SQLAlchemy as a blank."""
    if (found := _QUERY.fullmatch(address)) is None:
        return address
    return found["before"] + found["query"].replace("+", "%2B")


def _can_be_shown(url: URL) -> bool:
    hosts = [url.host or "", *str(url.query.get("host", "")).split(",")]
    ports = [str(url.port or ""), *str(url.query.get("port", "")).split(",")]
    return (
        all(_HOST.fullmatch(unquote(host)) for host in hosts if host)
        and all(port.isascii() and port.isdecimal() and 0 < int(port) <= PORT_MAX for port in ports if port)
        and len(ports) - 1 in (1, len(hosts) - 1)
        and _DATABASE.fullmatch(unquote(url.database or "")) is not None
    )


def _hosts_in_query(address: str) -> str:
    """Rewrite ``//a:1,b:2/c``, which SQLAlchemy does not read, as ``///c?host=a,b&port=1,2``."""
    if (found := _HOSTS.fullmatch(address)) is None:
        return address
    pairs = [pair for host in found["hosts"].split(",") if (pair := _HOST_AND_PORT.fullmatch(host)) is not None]
    hosts = ",".join(pair["host"].removeprefix("[").removesuffix("]") for pair in pairs)
    ports = ",".join(pair["port"] or "5432" for pair in pairs)
    path, _, query = (found["after"] or "/").partition("?")
    return f"{found['before']}{path}?{query}{'&' if query else ''}host={hosts}&port={ports}"


def shown_address(url: URL) -> str:
    """Return an address as messages show it: hosts, ports and database, and nothing that may be a secret."""
    query = {name: url.query[name] for name in ("host", "port") if name in url.query}
    return URL.create("postgresql", None, None, url.host, url.port, url.database, query).render_as_string()


def address_of(url: URL) -> str:
    """Return the whole address as text, with the password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def migration_engine(url: URL) -> AsyncEngine:
    """Return an engine for migrations and the schema, without the service's limits, nor those of the role."""
    return create_async_engine(
        _DIALECT,
        async_creator=lambda: connect_session(url),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",  # a migration that waited for another has to see what that one did
    )


class Database:
    """A PostgreSQL database: budgets for transactions, and dedicated connections.

    ``transaction`` and ``run`` are those of the budget ``node``.

    ``url`` is the address of its transactions. ``direct_url`` is that of the server itself: the same,
    or ``TOCSIN_LISTEN_URL``, and then the first one leads through a pooler.
    """

    def __init__(self, url: URL, settings: StorageSettings) -> None:
        listen_url = settings.listen_url
        seconds = settings.database_connect_timeout_seconds
        self.url = within(url, seconds)
        self.direct_url = (
            within(parse_url(listen_url.get_secret_value(), "TOCSIN_LISTEN_URL"), seconds)
            if listen_url is not None
            else self.url
        )
        self.write_check = WriteCheck(self)
        self._has_pooler = listen_url is not None
        self._settings = settings
        self._server = FollowedServer()
        places, audits = settings.database_queue_size, settings.database_audit_connections
        self.node = self._budget("node", settings.database_node_connections, places)
        self.ledger = self._budget("ledger", 1, places)
        self.reads = self._budget("reads", settings.database_read_connections, places)
        longest = max(settings.report_timeout_seconds, settings.database_timeout_seconds)
        self.audit = self._budget("audit", audits, audits * AUDITS_PER_CONNECTION, statement_timeout=longest)
        self.budgets = (self.node, self.ledger, self.reads, self.audit)
        self.transaction, self.run = self.node.transaction, self.node.run

    def _budget(self, name: str, connections: int, places: int, *, statement_timeout: float | None = None) -> Budget:
        queue = FairQueue(
            name, connections, places=places, wait_seconds=self._settings.database_connect_timeout_seconds
        )
        connect_ = partial(self.connect_for_transactions, statement_timeout=statement_timeout)
        return Budget(connect_, connections, queue, has_pooler=self._has_pooler)

    async def connect(self, *, statement_timeout: float | None = None) -> WatchedConnection:
        """Open a dedicated connection to the server itself, for what needs a session.

        ``statement_timeout`` is in seconds.

        Whatever the server answers to the attempt passes: a running node does not end because its
        database is being restored, or its password changed.

        Raises:
            UnsafeServer: nothing may be stored there.

        """
        try:
            connection = await self._open(
                self.direct_url,
                statement_timeout,
                server_settings={
                    **SESSION,
                    # A node that freezes in the middle of a transaction holds its locks no longer than
                    # this.
                    "idle_in_transaction_session_timeout": f"{self._settings.database_timeout_seconds * 1000:.0f}",
                },
            )
        except asyncpg.ProtocolViolationError as error:
            raise (UnsafeServer(POOLER) if is_pooler_refusal(error) else error) from None
        try:
            self._server.meet(connection, await secure(connection))
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def connect_for_transactions(self, *, statement_timeout: float | None = None) -> WatchedConnection:
        """Open a connection for transactions: through the pooler, where there is one.

        ``statement_timeout`` is in seconds.

        Raises:
            UnsafeServer: nothing may be stored there.

        """
        direct = await self.connect(statement_timeout=statement_timeout)
        if not self._has_pooler:
            return direct
        await close_quietly(direct)  # it was to learn which server it is
        connection: Any = await self._open(
            self.url,
            statement_timeout,
            connection_class=PoolerConnection,
            statement_cache_size=0,
        )
        connection.beginning = lambda: beginning(self._server.identity, self._settings.database_timeout_seconds)
        return cast("WatchedConnection", connection)

    async def _open(self, url: URL, statement_timeout: float | None = None, **options: Any) -> WatchedConnection:
        try:
            connection: WatchedConnection = await connect(
                url,
                command_timeout=statement_timeout or self._settings.database_timeout_seconds,
                **{"connection_class": WatchedConnection, **options},
            )
        except asyncpg.PostgresError as error:
            if classify(error) is not Failure.DEFECT:
                raise
            raise asyncpg.PostgresConnectionError(str(error)) from error  # such as a database that allows none now
        connection.watch()
        return connection

    @property
    def unsafe_in_a_crash(self) -> list[str]:
        """The settings that are off, without which PostgreSQL may lose commits in a crash of its machine."""
        return self._server.unsafe_in_a_crash

    @property
    def timeout_seconds(self) -> float:
        """How long a statement may take, and a transaction may be idle."""
        return self._settings.database_timeout_seconds

    @property
    def connections(self) -> int:
        """The largest number of connections in all budgets."""
        return sum(budget.connections for budget in self.budgets)

    @property
    def connections_in_use(self) -> int:
        """The number of them that are in use."""
        return sum(budget.in_use for budget in self.budgets)

    async def close(self) -> None:
        """Close the budgets, once no transaction is left."""
        await asyncio.gather(*(budget.close() for budget in self.budgets))


async def close_quietly(connection: asyncpg.Connection) -> None:
    """Close a dedicated connection that may already be broken."""
    try:
        await asyncio.shield(connection.close(timeout=1))
    except Exception as error:
        connection.terminate()
        if classify(error) is Failure.DEFECT:
            raise


async def verify(url: URL, settings: StorageSettings) -> None:
    """Verify that alerts can be stored: before a node serves, which refuses to otherwise.

    Raises:
        UnsafeServer: nothing may be stored there.

    """
    database = Database(url, settings)
    try:
        connection = await database.connect_for_transactions()
        try:
            await connection.execute("SELECT require_durability()")
        finally:
            await close_quietly(connection)
    finally:
        await database.close()
