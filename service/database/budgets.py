"""Budgets: the connections of a node, divided by the kind of work, so that a slow kind starves only itself.

==========  ==============================================================  =======================================
budget      work                                                            connections
==========  ==============================================================  =======================================
``node``    the node's own tasks, ``/readyz``, and what ``admin`` changes   ``TOCSIN_DATABASE_NODE_CONNECTIONS``
``ledger``  the flush of the ledger, which renews the lease                 1
``reads``   lists of alerts, streams that start or replay                   ``TOCSIN_DATABASE_READ_CONNECTIONS``
``audit``   ``/v1/audit/…`` and the deliveries of an alert                  ``TOCSIN_DATABASE_AUDIT_CONNECTIONS``
==========  ==============================================================  =======================================

The committer, LISTEN, retention, the dashboard and what ends abandoned transactions have dedicated
connections beside them.

In front of each budget is a queue. Work on behalf of a subject shares the budget with that of
others: one subject may hold half of the connections, and half of the places in the queue::

    transaction(subject) ──► the subject's share ──► a connection of the budget ──► the transaction
              │ no place left           │ none free in time
              └──────────► TooManyQueries ◄──────────┘
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.ext.asyncio import create_async_engine

from service.database import json_numbers
from service.database.durability import CommitUnconfirmed
from service.database.failures import (
    UNCONFIRMED,
    Failure,
    classify,
    retried,
    too_many_queries,
    unavailable,
    was_rolled_back,
)
from service.errors import RequestRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.database.durability import WatchedConnection

T = TypeVar("T")

STATEMENTS_CACHED = 100
RECYCLE_SECONDS = 60
"""How old a connection becomes. A new one shows where the address leads by now."""
CLOSE_SECONDS = 2
"""How long the end of the transactions is waited for when a budget is closed."""


@dataclass(slots=True)
class _Share:
    """What one subject holds of a budget, and waits for."""

    connections: asyncio.Semaphore
    places: int = 0


class FairQueue:
    """A bounded queue for a number of turns, such as the connections of a budget, half of them for one subject.

    ``places`` counts those that have a turn or wait for one, for ``wait_seconds`` at most.
    """

    def __init__(self, name: str, connections: int, *, places: int, wait_seconds: float | None) -> None:
        self._name = name
        self._turns = connections
        self._free = asyncio.Semaphore(connections)
        self._connections_of_a_subject = _half(connections)
        self._places = places
        self._wait_seconds = wait_seconds
        self._taken = 0
        self._shares: dict[str, _Share] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no subject has a turn or waits for one."""
        return not self._shares

    @asynccontextmanager
    async def turn(self, subject: str | None) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the end of the block; None is the node itself.

        Raises:
            TooManyQueries: there is no place in the queue, or no turn came in time.

        """
        async with AsyncExitStack() as held:
            semaphores = [self._free]
            if subject is not None:
                share = self._enter(subject)
                held.callback(self._leave, subject, share)
                semaphores.insert(0, share.connections)
            try:
                async with asyncio.timeout(self._wait_seconds):
                    for semaphore in semaphores:
                        await held.enter_async_context(semaphore)
            except TimeoutError:
                raise too_many_queries(self._name) from None
            yield

    async def close(self) -> None:
        """Wait for the end of all turns; none begins after it."""
        while self._turns:
            await self._free.acquire()
            self._turns -= 1

    def _enter(self, subject: str) -> _Share:
        share = self._shares.get(subject) or _Share(asyncio.Semaphore(self._connections_of_a_subject))
        if self._taken >= self._places or share.places >= _half(self._places):
            raise too_many_queries(self._name)
        self._taken += 1
        share.places += 1
        self._shares[subject] = share
        return share

    def _leave(self, subject: str, share: _Share) -> None:
        self._taken -= 1
        share.places -= 1
        if not share.places:
            del self._shares[subject]


def _half(number: int) -> int:
    return max(1, number // 2)


class Budget:
    """Transactions on the connections of one budget, at most ``connections``.

    ``connect`` opens one. With ``has_pooler`` it leads through a connection pooler.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[WatchedConnection]],
        connections: int,
        queue: FairQueue,
        *,
        has_pooler: bool,
    ) -> None:
        self.connections = connections
        self.in_use = 0
        """How many connections are in use."""
        self._connect = connect
        self._queue = queue
        self._has_pooler = has_pooler
        # asyncpg reads the address itself: SQLAlchemy would pass on each option of its query as an
        # argument.
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            creator=self._connect_for_pool,
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
            pool_recycle=RECYCLE_SECONDS,
            json_deserializer=json_numbers.loads,
        )

    @asynccontextmanager
    async def transaction(
        self, *, snapshot: bool = False, autocommit: bool = False, subject: str | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """Run a transaction, committed at the end of the block.

        With ``snapshot`` it is read-only, and all its statements see the same instant. With
        ``autocommit`` each statement is a transaction of its own, except behind a pooler: a node
        that freezes after it holds no lock. ``subject`` is for whom it is, None the node itself.

        Raises:
            TooManyQueries: no connection was free in time.
            DatabaseUnavailable: a failure that passes (``failures.py``); nothing was stored, unless
                the connection was lost while the transaction was being committed, or the
                synchronous standbys did not confirm it.

        """
        options: dict[str, Any] = {}
        if snapshot:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        elif autocommit and not self._has_pooler:
            options = {"isolation_level": "AUTOCOMMIT"}
        is_over = False
        try:
            async with self._queue.turn(subject), self._connection() as connection:
                await connection.execution_options(**options)
                watched: Any = (await connection.get_raw_connection()).driver_connection
                watched.forget_warning()
                async with connection.begin():
                    yield connection
                    is_over = True
                    if not autocommit:
                        watched.forget_warning()  # of what was executed, not of the commit
                watched.require_confirmed()
        except RequestRefused:
            raise
        except CommitUnconfirmed as error:
            raise unavailable(UNCONFIRMED, may_be_stored=True) from error
        except Exception as error:
            if classify(error) is Failure.DEFECT:
                raise
            raise unavailable(error, may_be_stored=is_over and not was_rolled_back(error)) from error

    async def run(
        self,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        autocommit: bool = False,
        subject: str | None = None,
    ) -> T:
        """Run ``work`` in a transaction, and again in another one where it was rolled back because of others.

        Raises:
            DatabaseUnavailable: as above.

        """

        async def once() -> T:
            async with self.transaction(autocommit=autocommit, subject=subject) as tx:
                return await work(tx)

        return await retried(once)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        """Take a connection, which is not used again if PostgreSQL is not available over it.

        Another one may lead to another server: one that is read-only may have been the primary.
        """
        self.in_use += 1
        try:
            async with self._engine.connect() as connection:
                try:
                    yield connection
                except Exception as error:
                    if not isinstance(error, RequestRefused) and classify(error) is Failure.UNAVAILABLE:
                        await connection.invalidate()
                    raise
        finally:
            self.in_use -= 1

    def _connect_for_pool(self) -> Any:
        dbapi: Any = self._engine.dialect.dbapi
        return dbapi.connect(
            async_creator_fn=self._connect,
            prepared_statement_cache_size=0 if self._has_pooler else STATEMENTS_CACHED,
        )

    async def close(self) -> None:
        """Close the connections, once no transaction is left, or after ``CLOSE_SECONDS``.

        The loop may end next: a connection that a task gives back in its last turn would never be
        closed. No transaction begins any more.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._queue.close()
        await self._engine.dispose()
