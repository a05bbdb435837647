"""Durability: what the answer "stored" depends on, set and verified on each connection.

A commit is durable if ``synchronous_commit`` is ``on`` or ``remote_apply``, and it counts only on
the primary that holds the log. The append needs READ COMMITTED. A setting of the role, of the
database or of the server may say otherwise, an address may lead to a standby or to a second
server, and a connection pooler drops what a client sets. So nothing is taken for granted:

- A direct connection is set up and verified when it is opened (``secure``).
- Behind a pooler, each transaction sets and verifies it at its beginning (``pooler.py``).
- The functions that append verify it once more (``alembic/sql/durability.sql``).

Where it cannot be had, ``UnsafeServer`` says why in one line: at the start the node refuses to
serve, later it answers 503 with that line until it is mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import asyncpg

from service.database.libpq import NO_TRANSACTION_TIMEOUT
from service.errors import TocsinError
from service.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")

log = get_logger(__name__)

SERVER_IDENTITY = """
(SELECT extract(epoch FROM pg_postmaster_start_time()) || '/' || oid
 FROM pg_database WHERE datname = current_database())
"""
"""The function ``server_identity()``, which a database without the schema does not have."""

DURABLE_COMMIT = """
set_config('synchronous_commit',
           CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, {local})
"""
"""The expression that sets it, for the transaction (``true``) or the session (``false``). It is set
where it is ``on`` already, because a reload of the configuration changes what the session did not
set itself."""

_SECURE = f"""
SELECT {DURABLE_COMMIT.format(local="false")} AS synchronous_commit,
       {NO_TRANSACTION_TIMEOUT.format(local="false")},
       pg_backend_pid() AS pid,
       pg_is_in_recovery() AS is_standby,
       current_setting('default_transaction_isolation') AS isolation,
       ARRAY(SELECT name FROM unnest(ARRAY['fsync', 'full_page_writes']) AS name
             WHERE NOT current_setting(name)::boolean) AS unsafe_in_a_crash,
       getdatabaseencoding() AS encoding,
       {SERVER_IDENTITY} AS identity
"""  # noqa: S608 - constant

WAL_RECORD = "SELECT pg_logical_emit_message(true, 'tocsin', '')"
"""The statement that lets a commit that stores nothing wait for the synchronous standbys, too."""

POOLER = "a connection pooler answers for PostgreSQL: set TOCSIN_LISTEN_URL to PostgreSQL's own address"
_UNSUPPORTED_PARAMETER = "unsupported startup parameter"
_SUCCESS = "00"
"""The class of SQLSTATE of messages that are no warnings."""


class CommitUnconfirmed(TocsinError):
    """PostgreSQL committed, and warned: the synchronous standbys may not have it."""


class WatchedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection that keeps what PostgreSQL warned of.

    A wait for a synchronous standby that an operator cancels ends in a warning, not in an error.
    """

    warning: str | None = None

    def watch(self) -> None:
        """Begin to keep warnings."""
        self.add_log_listener(_note_warning)

    def forget_warning(self) -> None:
        """Forget what came before a commit."""
        self.warning = None

    def require_confirmed(self) -> None:
        """Check a commit.

        Raises:
            CommitUnconfirmed: there was a warning since ``forget_warning``.

        """
        if self.warning is not None:
            raise CommitUnconfirmed(self.warning)

    async def confirmed(self, commit: Awaitable[T]) -> T:
        """Return the result of what commits on this connection.

        Raises:
            CommitUnconfirmed: PostgreSQL warned, as when the wait for a standby was canceled.

        """
        self.forget_warning()
        result = await commit
        self.require_confirmed()
        return result


def _note_warning(connection: WatchedConnection, message: asyncpg.PostgresLogMessage) -> None:
    # Its text depends on the language of the server, and it has no SQLSTATE of its own.
    if not message.sqlstate.startswith(_SUCCESS):
        connection.warning = message.message


class UnsafeServer(asyncpg.OperatorInterventionError):  # type: ignore[misc]  # asyncpg ships no types
    """Nothing may be stored at this server at the moment. The message says why, in one line.

    asyncpg raises it for the SQLSTATE of ``alembic/sql/durability.sql``.
    """

    sqlstate = "57T01"


class StandbyServer(UnsafeServer):
    """The server is a standby, or has not finished its recovery."""

    sqlstate = "57T02"


class ServerState(NamedTuple):
    """A server that alerts may be stored at.

    ``identity`` tells this run of it, and the database, from any other. ``unsafe_in_a_crash`` names
    the settings that are off, without which it may lose commits when its machine loses power.
    """

    identity: str
    unsafe_in_a_crash: list[str]


async def secure(connection: asyncpg.Connection) -> ServerState:
    """Set up a direct connection for durable commits, and verify where it leads.

    Raises:
        UnsafeServer: it leads to a pooler, to a standby, or to a database that cannot hold every alert.

    """
    row = await connection.fetchrow(_SECURE)
    if row["pid"] != connection.get_server_pid():
        raise UnsafeServer(POOLER)
    if row["is_standby"]:
        raise StandbyServer("PostgreSQL is a standby, and alerts are stored at the primary only")
    if row["isolation"] != "read committed" or row["synchronous_commit"] not in ("on", "remote_apply"):
        raise UnsafeServer("PostgreSQL did not apply the settings of the connection")
    if (refusal := encoding_refusal(row["encoding"])) is not None:
        raise UnsafeServer(refusal)
    return ServerState(row["identity"], row["unsafe_in_a_crash"])


def encoding_refusal(encoding: str) -> str | None:
    """Return why no alert is stored in a database of this encoding; None: it can hold every one."""
    if encoding == "UTF8":
        return None
    return (
        f"the database has the encoding {encoding}, which cannot hold the text of every alert:"
        " use one that CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' made"
    )


async def leads_to_pooler(connection: asyncpg.Connection) -> bool:
    """Return whether somebody in between answers for the server: the process is then not the one announced."""
    return bool(await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid())


def is_pooler_refusal(error: BaseException) -> bool:
    """Return whether a pooler refused the parameters that a direct connection sets."""
    return isinstance(error, asyncpg.ProtocolViolationError) and _UNSUPPORTED_PARAMETER in str(error)


class FollowedServer:
    """The server that all direct connections of a node lead to.

    An address may lead elsewhere after a failover. The node follows it, with all its connections at
    once: those to the server before, which may still run, are cut. It does not go back, because then
    two servers would take turns.
    """

    def __init__(self) -> None:
        self.identity = ""
        self.unsafe_in_a_crash: list[str] = []
        self._left: set[str] = set()
        self._connections: WeakKeyDictionary[asyncpg.Connection, str] = WeakKeyDictionary()

    def meet(self, connection: asyncpg.Connection, state: ServerState) -> None:
        """Accept a connection, and cut those to another server.

        Raises:
            UnsafeServer: it leads to a server that was left.

        """
        if state.identity in self._left:
            raise UnsafeServer(
                "the address of PostgreSQL leads to two servers in turn: stop the one that is not primary"
            )
        if state.identity != self.identity:
            if self.identity:
                log.warning("the address of PostgreSQL leads to another server, or it was restarted")
                self._left.add(self.identity)
            self.identity, self.unsafe_in_a_crash = state
        self._connections[connection] = state.identity
        for other, identity in list(self._connections.items()):
            if identity != state.identity:
                del self._connections[other]
                other.terminate()
