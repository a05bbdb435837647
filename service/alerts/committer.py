"""Group commit: many requests, one transaction.

One task owns one connection. While a commit is under way, new alerts gather in a bounded queue; the next commit takes
all that have gathered, up to ``commit_batch_size``. There is no timer: an idle service commits an alert the moment it
arrives.

Invariants:

- A result is handed out only after its transaction was committed: stored before answered.
- A commit whose outcome is unknown is settled by asking, never by storing again. The old backend is ended first,
  because one that still waits for the append lock could commit after it was asked about. Then the alerts' ids, made
  before the commit, say what was stored; of a transaction of changes PostgreSQL itself is asked, by its number.
- A full queue refuses at once (``Overloaded``); nothing waits without bound.

::

             store()      append_alerts(), Book          committed
    request ───────► queue ───────► in flight ──────────────► answer, and on to the fan-out
                       │ full            │ connection lost
                       ▼                 ▼           found ► answer
                   Overloaded        settling ─── not found ► DatabaseUnavailable: nothing was stored
                                         │ no database in time
                                         ▼
                                   OutcomeUnknown: retry with the same Idempotency-Key
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from service.alerts.commands import Command, PostAlert, ResolveByDedupKey, all_wanted, outcomes
from service.alerts.queue_items import NewAlert, Stored, Waiting
from service.alerts.unit_of_work import UnitOfWork
from service.database.engine import CONNECTION_LOST, close_quietly, unavailable
from service.errors import IdempotencyMismatch, InternalError, NotFound, OutcomeUnknown, Overloaded, RequestRefused
from service.events.log import Appended, append_alerts
from service.logs import get_logger
from service.metrics import (
    ALERTS_REPEATED,
    ALERTS_REPLAYED,
    ALERTS_STORED,
    COMMIT_BATCH,
    COMMIT_QUEUE,
    COMMIT_RECOVERIES,
    COMMIT_SECONDS,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from service.alerts.queue_items import Outcome, QueueItem
    from service.database.engine import Database
    from service.events.log import Event
    from service.http.source_requests import PostOutcome, SourceCounter
    from service.settings import StorageSettings

log = get_logger(__name__)

SETTLE_PAUSE_SECONDS = 0.2
_POSTED = (NewAlert, PostAlert)


class _Decided(NamedTuple):
    """What a transaction of changes comes to, once it is committed."""

    xid: str
    outcomes: list[Outcome]
    events: list[Event]


@dataclass(frozen=True, slots=True)
class _Backend:
    """A server process of PostgreSQL; a later one may reuse the number, but not the start."""

    pid: int
    started: datetime


class Committer:
    """Stores alerts, many in one transaction."""

    def __init__(
        self,
        database: Database,
        settings: StorageSettings,
        committed: Callable[[Sequence[Event]], None],
        sources: SourceCounter,
    ) -> None:
        self._database = database
        self._settings = settings
        self._committed = committed
        self._sources = sources
        self._queue: deque[QueueItem] = deque()
        self._arrived = asyncio.Event()
        self._queue_bytes = 0
        self._connection: asyncpg.Connection | None = None
        self._backend: _Backend | None = None
        self._stopped = False

    async def store(self, pending: NewAlert | Command) -> Stored:
        """Commit an alert, or a change of one, and return what it is now.

        Raises:
            Overloaded: the queue is full.
            RequestRefused: it was not stored; the lifecycle, or an idempotency key, does not allow it.
            DatabaseUnavailable: it was not stored.
            OutcomeUnknown: the database went away during the commit, and stayed away.

        """
        [outcome] = await self.store_all([pending])
        if isinstance(outcome, RequestRefused):
            raise outcome
        assert isinstance(outcome, Stored)  # noqa: S101 - narrows: only a sweep has another
        return outcome

    async def resolve_key(self, topic: str, dedup_key: str, actor: str) -> Stored | None:
        """Resolve the unresolved alert of ``topic`` that holds the key, and return it; None where there is none."""
        try:
            return await self.store(ResolveByDedupKey(actor, datetime.now(UTC), topic, dedup_key))
        except NotFound:
            return None

    async def store_all(self, pending: Sequence[QueueItem]) -> list[Outcome]:
        """Commit ``pending`` and return what became of each, once all are settled.

        Raises:
            Overloaded: the queue has no room for all of them; none was stored.
            DatabaseUnavailable: the node is stopping; none was stored.

        """
        if pending:
            self._enqueue(pending)
            waiting = Waiting(len(pending))
            for item in pending:
                item.waiting = waiting
            await waiting.done
        return [item.outcome for item in pending if item.outcome is not None]

    def _enqueue(self, pending: Sequence[QueueItem]) -> None:
        if self._stopped:
            raise unavailable()
        room = self._settings.commit_queue_size - len(self._queue)
        if len(pending) > room or self._queue_bytes >= self._settings.commit_queue_bytes:
            raise Overloaded("Too many alerts wait for the database. Nothing was stored.", retry_after=1)
        self._queue.extend(pending)
        self._queue_bytes += sum(item.size for item in pending)
        self._arrived.set()

    async def run(self) -> None:
        """Commit what arrives, until cancelled."""
        batch: list[QueueItem] = []
        try:
            while True:
                if not self._queue:
                    self._arrived.clear()
                    await self._arrived.wait()
                size = min(len(self._queue), self._settings.commit_batch_size)
                batch = [self._queue.popleft() for _ in range(size)]
                self._queue_bytes -= sum(item.size for item in batch)
                COMMIT_QUEUE.set(len(self._queue))
                await self._commit([item for item in batch if isinstance(item, NewAlert)])
                await self._commit_changes([item for item in batch if isinstance(item, Command)])
        finally:
            self._stopped = True
            _fail(batch, _unknown())  # what was under way; what had its answer keeps it
            while self._queue:
                _fail([self._queue.popleft()], unavailable())
            if self._connection is not None:
                await close_quietly(self._connection)

    async def _commit(self, batch: list[NewAlert]) -> None:
        """Append alerts that ask for nothing else: one round trip."""
        if not batch:
            return
        started = time.perf_counter()
        try:
            connection = await self._connect()
        except CONNECTION_LOST:
            _fail(batch, unavailable())
            return
        try:
            results = await append_alerts(
                connection,
                [alert.wire for alert in batch],
                [alert.digest for alert in batch],
                [alert.key for alert in batch],
            )
        except CONNECTION_LOST as error:
            log.warning("commit outcome unknown", alerts=len(batch), error=type(error).__name__)
            await self._settle(batch, partial(self._settle_alerts, batch))
        except asyncpg.PostgresError as error:
            await self._commit_one_by_one(batch, error)
        else:
            COMMIT_SECONDS.observe(time.perf_counter() - started)
            COMMIT_BATCH.observe(len(batch))
            self._answer(batch, results)

    async def _commit_changes(self, batch: list[Command]) -> None:
        """Let changes act on what is there: a transaction of six round trips."""
        if not batch:
            return
        started = time.perf_counter()
        decided: _Decided | None = None
        try:
            connection = await self._connect()
            async with connection.transaction():
                book = await UnitOfWork.open(connection, all_wanted(batch))
                decided = _Decided(book.xid, outcomes(batch, book), book.events)
                if book.touched:
                    await book.write(connection)
        except CONNECTION_LOST as error:
            if decided is None:
                _fail(batch, unavailable())
                return
            log.warning("commit outcome unknown", changes=len(batch), error=type(error).__name__)
            await self._settle(batch, partial(self._settle_changes, batch, decided))
        except asyncpg.PostgresError as error:
            await self._commit_one_by_one(batch, error)
        else:
            COMMIT_SECONDS.observe(time.perf_counter() - started)
            COMMIT_BATCH.observe(len(batch))
            self._conclude(batch, decided)

    def _conclude(self, batch: Sequence[Command], decided: _Decided) -> None:
        created = sum(event.kind == "alert.created" for event in decided.events)
        stored = [outcome for outcome in decided.outcomes if isinstance(outcome, Stored)]
        ALERTS_STORED.inc(created)
        ALERTS_REPEATED.inc(sum(outcome.repeated and not outcome.replayed for outcome in stored))
        ALERTS_REPLAYED.inc(sum(outcome.replayed for outcome in stored))
        self._count(batch, decided.outcomes)
        if decided.events:
            self._committed(decided.events)
        for change, outcome in zip(batch, decided.outcomes, strict=True):
            change.conclude(outcome)

    async def _settle_changes(
        self, batch: Sequence[Command], decided: _Decided, connection: asyncpg.Connection
    ) -> None:
        committed = await connection.fetchval("SELECT pg_xact_status($1::text::xid8) = 'committed'", decided.xid)
        log.info("commit settled", changes=len(batch), committed=committed)
        if committed:
            self._conclude(batch, decided)
        else:
            _fail(batch, unavailable())

    async def _commit_one_by_one(
        self, batch: Sequence[NewAlert] | Sequence[Command], error: asyncpg.PostgresError
    ) -> None:
        """Let an alert that PostgreSQL refuses, which is a defect of ours, fail alone."""
        if len(batch) == 1:
            log.error("refused by PostgreSQL", what=type(batch[0]).__name__, sqlstate=error.sqlstate)
            _fail(batch, InternalError("The alert could not be stored. The service's log has the details."))
            return
        for item in batch:
            if isinstance(item, NewAlert):
                await self._commit([item])
            else:
                await self._commit_changes([item])

    def _answer(self, batch: Sequence[NewAlert], results: Sequence[Appended]) -> None:
        stored = [alert.event(result.seq) for alert, result in zip(batch, results, strict=True) if not result.replayed]
        ALERTS_STORED.inc(len(stored))
        ALERTS_REPLAYED.inc(len(batch) - len(stored))
        outcomes = [_outcome(alert, result) for alert, result in zip(batch, results, strict=True)]
        self._count(batch, outcomes)
        if stored:
            self._committed(stored)
        for alert, outcome in zip(batch, outcomes, strict=True):
            alert.conclude(outcome)

    def _count(self, batch: Sequence[QueueItem], outcomes: Sequence[Outcome]) -> None:
        """Count what became of the alerts of each source."""
        for (source, outcome), number in Counter(_post_outcomes(batch, outcomes)).items():
            self._sources.count(source, outcome, number)

    async def _connect(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                row = await connection.fetchrow(
                    "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
                )
            except CONNECTION_LOST:
                connection.terminate()
                raise
            self._connection, self._backend = connection, _Backend(row[0], row[1])
        return self._connection

    async def _settle(
        self, batch: Sequence[QueueItem], settle: Callable[[asyncpg.Connection], Awaitable[None]]
    ) -> None:
        """Find out what became of a commit whose connection was lost."""
        COMMIT_RECOVERIES.inc()
        lost = self._backend
        if self._connection is not None:
            self._connection.terminate()
        deadline = time.monotonic() + self._settings.commit_recovery_timeout_seconds
        while time.monotonic() < deadline:
            try:
                connection = await self._connect()
                if lost is None or await _is_gone(connection, lost):
                    await settle(connection)
                    return
            except CONNECTION_LOST:
                if self._connection is not None:
                    self._connection.terminate()
            await asyncio.sleep(SETTLE_PAUSE_SECONDS)
        _fail(batch, _unknown())

    async def _settle_alerts(self, batch: list[NewAlert], connection: asyncpg.Connection) -> None:
        rows = await connection.fetch("SELECT id, seq FROM alerts WHERE id = ANY ($1)", [alert.id for alert in batch])
        seqs: dict[UUID, int] = {row[0]: row[1] for row in rows}
        stored = [alert for alert in batch if alert.id in seqs]
        log.info("commit settled", stored=len(stored), not_stored=len(batch) - len(stored))
        self._answer(stored, [Appended(seqs[alert.id], replayed=False, mismatch=False, body=None) for alert in stored])
        _fail([alert for alert in batch if alert.id not in seqs], unavailable())


async def _is_gone(connection: asyncpg.Connection, backend: _Backend) -> bool:
    """End a backend that may still be at work, and say whether it has left."""
    left = await connection.fetchval(
        "SELECT bool_and(pg_terminate_backend(pid, 2000)) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2",
        backend.pid,
        backend.started,
    )
    return left is not False


def _outcome(alert: NewAlert, result: Appended) -> Stored | IdempotencyMismatch:
    if result.mismatch:
        return IdempotencyMismatch("The first request with this key held something else. Use a new key.")
    if result.body is None:
        return Stored(alert.id, result.seq, alert.wire, replayed=result.replayed)
    return Stored(UUID(orjson.loads(result.body)["id"]), result.seq, result.body, replayed=result.replayed)


def _post_outcomes(batch: Sequence[QueueItem], outcomes: Sequence[Outcome]) -> Iterator[tuple[str, PostOutcome]]:
    for item, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Stored) and isinstance(item, _POSTED):
            yield item.source, "replayed" if outcome.replayed else "repeated" if outcome.repeated else "alerts"


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "PostgreSQL went away during the commit. Send the request again with the same Idempotency-Key:"
        " it is stored once.",
        retry_after=1,
    )


def _fail(batch: Sequence[QueueItem], error: RequestRefused) -> None:
    for item in batch:
        item.conclude(error)
