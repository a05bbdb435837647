"""Failures of PostgreSQL: the one place that says what follows from an error, by its SQLSTATE.

===============  ==================================================================================
``RETRY``        The transaction was rolled back because of others at the same time: a deadlock, a
                 conflict, a lock that was not free in time. It is tried again at once, a few times
                 (``retried``), and is then answered 503.
``UNAVAILABLE``  PostgreSQL cannot do the work now: it cannot be reached, stops, is read-only, has
                 no disk, memory or connection left, took too long. 503 with ``Retry-After``; a
                 periodic task tries again at its next run.
``DEFECT``       Everything else: an error in this service or in its installation. 500, logged; the
                 node stops where it was not serving a request.
===============  ==================================================================================

The first two never stop a node, and are never a reason to drop anything.

SQLSTATE: PostgreSQL's documentation, appendix A. A 503 names the condition, and repeats nothing of
the server's own message.
"""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.database.durability import StandbyServer, UnsafeServer
from service.errors import DatabaseUnavailable, OutcomeUnknown, QueryTimeout, RequestRefused, TooManyQueries
from service.metrics import DATABASE_FAILURES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

RETRIES = 3
"""How often a transaction is tried again that failed because of others."""
RETRY_PAUSE_SECONDS = 0.05
"""The longest pause before the first retry; it doubles, and each pause is random within it."""
RETRY_AFTER_SECONDS = 1

UnavailableReason = Literal[
    "conflict",
    "connection_refused",
    "disk_full",
    "in_recovery",
    "io_error",
    "lock_timeout",
    "out_of_resources",
    "pool_exhausted",
    "read_only",
    "schema_missing",
    "stopping",
    "timeout",
    "too_many_connections",
    "unconfirmed",
    "unreachable",
    "unsafe_server",
]
"""The ``reason`` in a 503, and the label of the metric: a closed set."""


class Failure(Enum):
    """What follows from an error of the database."""

    RETRY = auto()
    UNAVAILABLE = auto()
    DEFECT = auto()


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that passes: its class, its name in a 503, and the sentence that a client may read."""

    failure: Failure
    reason: UnavailableReason
    sentence: str


UNREACHABLE = Condition(Failure.UNAVAILABLE, "unreachable", "PostgreSQL cannot be reached at the moment.")
IN_RECOVERY = Condition(Failure.UNAVAILABLE, "in_recovery", "PostgreSQL is in recovery, and stores nothing.")
UNCONFIRMED = Condition(
    Failure.UNAVAILABLE, "unconfirmed", "The synchronous standbys of PostgreSQL have not confirmed the commit."
)
_TIMEOUT = Condition(Failure.UNAVAILABLE, "timeout", "PostgreSQL took too long.")
_RESOURCES = Condition(Failure.UNAVAILABLE, "out_of_resources", "PostgreSQL is out of memory or another resource.")
_POOL = Condition(Failure.UNAVAILABLE, "pool_exhausted", "All connections of this node to PostgreSQL are in use.")
_REFUSED = Condition(Failure.UNAVAILABLE, "connection_refused", "PostgreSQL refuses the connections of this node.")
_CONFLICT = Condition(Failure.RETRY, "conflict", "PostgreSQL undid the change because of others at the same time.")
_UNSAFE = Condition(Failure.UNAVAILABLE, "unsafe_server", "Alerts cannot be stored at this server.")

_SCHEMA = Condition(
    Failure.UNAVAILABLE, "schema_missing", "PostgreSQL does not show this node the tables of this version."
)

_OF_SQLSTATE: dict[str, Condition] = {
    # A whole code is looked up before its class.
    "08": UNREACHABLE,
    "25006": Condition(Failure.UNAVAILABLE, "read_only", "PostgreSQL is read-only at the moment."),
    "25P03": _TIMEOUT,  # idle_in_transaction_session_timeout
    "25P04": _TIMEOUT,  # transaction_timeout
    "28": _REFUSED,  # an invalid password, or pg_hba.conf
    "3D": _REFUSED,  # there is no such database, as while it is restored
    "3F000": _SCHEMA,  # a schema, column, function, object or table that is not there: a restore under way,
    "40": _CONFLICT,
    "42501": _REFUSED,  # or a role whose privileges were changed
    "42703": _SCHEMA,
    "42704": _SCHEMA,
    "42883": _SCHEMA,
    "42P01": _SCHEMA,
    "53": _RESOURCES,
    "53100": Condition(Failure.UNAVAILABLE, "disk_full", "The disk of PostgreSQL is full."),
    "53300": Condition(Failure.UNAVAILABLE, "too_many_connections", "PostgreSQL has too many connections."),
    "54000": _RESOURCES,  # the queue of notifications is full
    "55P03": Condition(Failure.RETRY, "lock_timeout", "A lock in PostgreSQL was not free in time."),
    "57": Condition(Failure.UNAVAILABLE, "stopping", "PostgreSQL is stopping or starting."),
    "57014": _TIMEOUT,  # statement_timeout, or canceled by an operator
    "57P05": _TIMEOUT,  # idle_session_timeout
    UnsafeServer.sqlstate: _UNSAFE,
    StandbyServer.sqlstate: IN_RECOVERY,
    "58": Condition(Failure.UNAVAILABLE, "io_error", "PostgreSQL cannot read or write its files."),
}
_DATA_EXCEPTION = "22"
_TOO_COMPLEX = "54001"  # the stack of a parser is full
_OF_KIND: tuple[tuple[type[BaseException], Condition], ...] = (
    (PoolTimeout, _POOL),
    (TimeoutError, _TIMEOUT),
    (OSError, UNREACHABLE),
    # Of asyncpg itself: the connection is closed, or ended between two messages.
    (asyncpg.InterfaceError, UNREACHABLE),
    (asyncpg.InternalClientError, UNREACHABLE),
)
"""What is raised without a SQLSTATE; the first that fits counts."""
_OF_REASON: dict[str | None, Condition] = {
    condition.reason: condition
    for condition in (IN_RECOVERY, UNCONFIRMED, *(one for _, one in _OF_KIND), *_OF_SQLSTATE.values())
}


def driver_error(error: BaseException) -> BaseException:
    """Return what asyncpg raised, of an error that SQLAlchemy or ``unavailable`` wrapped."""
    while True:
        wrapped = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(error, DBAPIError | DatabaseUnavailable) or wrapped is None or wrapped.__cause__ is None:
            return error
        error = wrapped.__cause__


def condition_of(error: BaseException) -> Condition | None:
    """Return the passing condition that ``error`` shows; None for a defect."""
    cause = driver_error(error)
    if isinstance(cause, asyncpg.InvalidCachedStatementError):
        return _CONFLICT  # the schema changed under a prepared statement; the next try prepares it again
    if isinstance(cause, UnsafeServer) and not isinstance(cause, StandbyServer):
        return replace(_UNSAFE, sentence=f"{cause}.")
    if isinstance(cause, asyncpg.PostgresError):
        sqlstate = cause.sqlstate or ""
        return _OF_SQLSTATE.get(sqlstate) or _OF_SQLSTATE.get(sqlstate[:2])
    if isinstance(cause, DatabaseUnavailable):
        return _OF_REASON.get(cause.members.get("reason"), UNREACHABLE)
    return next((condition for kind, condition in _OF_KIND if isinstance(cause, kind) and not _is_misuse(cause)), None)


def classify(error: BaseException) -> Failure:
    """Return what follows from an error that work on the database raised.

    The service's own 503 (``Overloaded``, ``OutcomeUnknown``) passes, too.
    """
    condition = condition_of(error)
    if condition is not None:
        return condition.failure
    passes = isinstance(error, RequestRefused) and error.status == DatabaseUnavailable.status
    return Failure.UNAVAILABLE if passes else Failure.DEFECT


def was_rolled_back(error: BaseException) -> bool:
    """Return whether ``error`` says for certain that its transaction was not committed.

    PostgreSQL reported an ERROR, or was never sent the statement. Otherwise the connection was lost
    (also by a FATAL error, which may follow a commit), and the outcome is unknown.
    """
    cause = driver_error(error)
    if not isinstance(cause, asyncpg.PostgresError):
        return _is_misuse(cause)
    severity = getattr(cause, "severity_en", None) or cause.severity
    return severity == "ERROR" and condition_of(cause) is not UNREACHABLE


def _is_misuse(error: BaseException) -> bool:
    """Say whether asyncpg refused what this service asked of it, such as a value out of range."""
    misuse = ValueError | asyncpg.UnsupportedClientFeatureError | asyncpg.UnsupportedServerFeatureError
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, misuse)


def is_of_the_data(error: BaseException) -> bool:
    """Say whether a value of the query is the cause: PostgreSQL, or asyncpg before it, cannot hold or parse it."""
    cause = driver_error(error)
    sqlstate = cause.sqlstate or "" if isinstance(cause, asyncpg.PostgresError) else ""
    return sqlstate.startswith(_DATA_EXCEPTION) or sqlstate == _TOO_COMPLEX


def is_database_error(error: BaseException) -> bool:
    """Return whether ``error`` comes of the database or the way there, and not of a file or a pipe."""
    cause = driver_error(error)
    kinds = (
        asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | ConnectionError | TimeoutError
    )
    return isinstance(cause, kinds | socket.gaierror | DatabaseUnavailable) and not isinstance(cause, BrokenPipeError)


def unavailable(
    failure: BaseException | Condition = UNREACHABLE, *, may_be_stored: bool = False
) -> DatabaseUnavailable:
    """Return the 503 for a failure of the database, and count it.

    ``may_be_stored`` where the connection was lost while the transaction was being committed.
    """
    condition = failure if isinstance(failure, Condition) else condition_of(failure) or UNREACHABLE
    DATABASE_FAILURES.labels(condition.reason).inc()
    kind = OutcomeUnknown if may_be_stored else DatabaseUnavailable
    outcome = "It is unknown whether anything was stored" if may_be_stored else "Nothing was stored"
    return kind(
        f"{condition.sentence} {outcome}; send the request again.",
        retry_after=RETRY_AFTER_SECONDS,
        members={"reason": condition.reason},
    )


def too_many_queries(budget: str) -> TooManyQueries:
    """Return the 503 where no connection of a budget is free, and count it."""
    DATABASE_FAILURES.labels(_POOL.reason).inc()
    return TooManyQueries(
        f"Too many queries of this kind ({budget}) are under way. Wait for the answer of one before you send the next.",
        retry_after=RETRY_AFTER_SECONDS,
        members={"reason": _POOL.reason},
    )


def query_timeout(seconds: float) -> QueryTimeout:
    """Return the 503 where a query of a request takes longer than it may, and count it."""
    DATABASE_FAILURES.labels(_TIMEOUT.reason).inc()
    return QueryTimeout(
        f"The query took longer than {seconds:g} s. Ask for less at once: a shorter period (since, until), fewer"
        " topics, one recipient or source.",
        retry_after=RETRY_AFTER_SECONDS,
        members={"reason": _TIMEOUT.reason},
    )


async def retried(work: Callable[[], Awaitable[T]]) -> T:
    """Run a whole transaction, and again where it was rolled back because of others."""
    for retry in range(RETRIES):
        try:
            return await work()
        except Exception as error:
            if classify(error) is not Failure.RETRY or not was_rolled_back(error):
                raise
        await asyncio.sleep(random.uniform(0, RETRY_PAUSE_SECONDS * 2**retry))  # noqa: S311 - jitter
    return await work()
