"""Group commit: many requests, one transaction.

One task owns one connection. While a commit is under way, new alerts gather in a bounded queue; the next commit takes
all that have gathered, up to ``commit_batch_size``. There is no timer: an idle service commits an alert the moment it
arrives.

Invariants:

- A result is handed out only after its transaction was committed: stored before answered.
- A commit whose outcome is unknown is settled by asking, never by storing again. The old backend is ended first,
  because one that still waits for the append lock could commit after it was asked about; then the alerts' ids, made
  before the commit, say what was stored.
- A full queue refuses at once (``Overloaded``); nothing waits without bound.

::

            submit()            append_alerts()          committed
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
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from service.alerts.schemas import content_hash, wire_alert
from service.database.engine import CONNECTION_LOST, close_quietly, unavailable
from service.database.ids import uuid7
from service.errors import IdempotencyMismatch, InternalError, OutcomeUnknown, Overloaded, RequestRefused
from service.events.log import Appended, Event, IdempotencyKey, append_alerts
from service.logs import get_logger
from service.web.metrics import (
    ALERTS_REPLAYED,
    ALERTS_STORED,
    COMMIT_BATCH,
    COMMIT_QUEUE,
    COMMIT_SECONDS,
    COMMITS_SETTLED,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from service.alerts.schemas import AlertIn
    from service.database.engine import Database
    from service.settings import StorageSettings

log = get_logger(__name__)

SETTLE_PAUSE_SECONDS = 0.2


class Stored(NamedTuple):
    """A committed alert. Where ``replayed``, it is the one that the idempotency key was first used for."""

    id: UUID
    seq: int
    wire: bytes
    replayed: bool
    repeated: bool = False


class _Waiting:
    """A request that waits until each of its alerts has its outcome: ``done`` when none is ``left``."""

    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class NewAlert:
    """An alert on its way into the log. ``wire`` is its JSON; ``outcome`` what became of it, once that is known."""

    id: UUID
    source: str
    created_at: datetime
    alert: AlertIn
    wire: bytes
    key: IdempotencyKey | None = None
    outcome: Stored | RequestRefused | None = None
    waiting: _Waiting | None = None

    @classmethod
    def of(cls, alert: AlertIn, source: str, created_at: datetime, key: str | None = None) -> NewAlert:
        """Give ``alert`` an id, and its form on the wire."""
        alert_id = uuid7()
        wire = wire_alert(alert, alert_id, source, created_at)
        idempotency_key = IdempotencyKey(key, content_hash(alert)) if key is not None else None
        return cls(alert_id, source, created_at, alert, wire, idempotency_key)

    def appended(self, result: Appended) -> Stored | IdempotencyMismatch:
        """Return the outcome that ``result`` means; the mismatch: its key was first used for another alert."""
        if result.mismatch:
            return IdempotencyMismatch(
                "The first request with this key held another alert. Use a new key for a new alert."
            )
        if result.body is None:
            return Stored(self.id, result.seq, self.wire, replayed=result.replayed)
        return Stored(UUID(orjson.loads(result.body)["id"]), result.seq, result.body, replayed=result.replayed)

    def conclude(self, outcome: Stored | RequestRefused) -> None:
        """Note what became of the alert, and wake its request if it is the last; an outcome stays what it was."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        if (waiting := self.waiting) is not None:
            waiting.left -= 1
            if not waiting.left and not waiting.done.done():
                waiting.done.set_result(None)

    def event(self, seq: int) -> Event:
        """Return the event that the alert became."""
        alert = self.alert
        recipients = frozenset(alert.recipients) if alert.recipients is not None else None
        return Event(
            seq,
            self.id,
            "alert.created",
            alert.topic,
            alert.severity,
            recipients,
            self.source,
            self.created_at,
            self.wire,
        )


@dataclass(frozen=True, slots=True)
class _Backend:
    """A server process of PostgreSQL; a later one may reuse the number, but not the start."""

    pid: int
    started: datetime


class Committer:
    """Stores alerts, many in one transaction."""

    def __init__(
        self, database: Database, settings: StorageSettings, committed: Callable[[Sequence[Event]], None]
    ) -> None:
        self._database = database
        self._settings = settings
        self._committed = committed
        self._queue: deque[NewAlert] = deque()
        self._arrived = asyncio.Event()
        self._queue_bytes = 0
        self._connection: asyncpg.Connection | None = None
        self._backend: _Backend | None = None
        self._stopped = False

    async def store(self, alert: NewAlert) -> Stored:
        """Store ``alert`` and return once it is committed.

        Raises:
            Overloaded: the queue is full.
            IdempotencyMismatch: its key was first used for another alert.
            DatabaseUnavailable: it was not stored.
            OutcomeUnknown: the database went away during the commit, and stayed away.

        """
        [outcome] = await self.store_all([alert])
        if isinstance(outcome, RequestRefused):
            raise outcome
        return outcome

    async def store_all(self, alerts: Sequence[NewAlert]) -> list[Stored | RequestRefused]:
        """Store ``alerts`` and return what became of each, once all are settled.

        Raises:
            Overloaded: the queue has no room for all of them; none was stored.
            DatabaseUnavailable: the node is stopping; none was stored.

        """
        if alerts:
            self._enqueue(alerts)
            waiting = _Waiting(len(alerts))
            for alert in alerts:
                alert.waiting = waiting
            await waiting.done
        return [alert.outcome for alert in alerts if alert.outcome is not None]

    async def resolve_key(self, topic: str, dedup_key: str, actor: str) -> Stored | None:
        """Resolve the unresolved alert with that key; None: there is none."""
        log.debug("nothing to resolve", topic=topic, dedup_key=dedup_key, actor=actor)
        return None

    def _enqueue(self, alerts: Sequence[NewAlert]) -> None:
        if self._stopped:
            raise unavailable()
        room = self._settings.commit_queue_size - len(self._queue)
        if len(alerts) > room or self._queue_bytes >= self._settings.commit_queue_bytes:
            raise Overloaded("Too many alerts wait for the database. Nothing was stored.", retry_after=1)
        self._queue.extend(alerts)
        self._queue_bytes += sum(len(alert.wire) for alert in alerts)
        self._arrived.set()

    async def run(self) -> None:
        """Commit what arrives, until cancelled."""
        batch: list[NewAlert] = []
        try:
            while True:
                if not self._queue:
                    self._arrived.clear()
                    await self._arrived.wait()
                size = min(len(self._queue), self._settings.commit_batch_size)
                batch = [self._queue.popleft() for _ in range(size)]
                self._queue_bytes -= sum(len(alert.wire) for alert in batch)
                COMMIT_QUEUE.set(len(self._queue))
                await self._commit(batch)
        finally:
            self._stopped = True
            _fail(batch, _unknown())  # what was under way; what had its answer keeps it
            while self._queue:
                _fail([self._queue.popleft()], unavailable())
            if self._connection is not None:
                await close_quietly(self._connection)

    async def _commit(self, batch: list[NewAlert]) -> None:
        started = time.perf_counter()
        try:
            connection = await self._connect()
        except CONNECTION_LOST:
            _fail(batch, unavailable())
            return
        try:
            results = await append_alerts(connection, [alert.wire for alert in batch], [alert.key for alert in batch])
        except CONNECTION_LOST as error:
            log.warning("commit outcome unknown", alerts=len(batch), error=type(error).__name__)
            await self._settle(batch)
        except asyncpg.PostgresError as error:
            await self._commit_one_by_one(batch, error)
        else:
            COMMIT_SECONDS.observe(time.perf_counter() - started)
            COMMIT_BATCH.observe(len(batch))
            self._answer(batch, results)

    async def _commit_one_by_one(self, batch: list[NewAlert], error: asyncpg.PostgresError) -> None:
        """Let an alert that PostgreSQL refuses, which is a defect of ours, fail alone."""
        if len(batch) == 1:
            log.error("alert refused by PostgreSQL", alert=str(batch[0].id), sqlstate=error.sqlstate)
            _fail(batch, InternalError("The alert could not be stored. The service's log has the details."))
            return
        for alert in batch:
            await self._commit([alert])

    def _answer(self, batch: Sequence[NewAlert], results: Sequence[Appended]) -> None:
        stored = [alert.event(result.seq) for alert, result in zip(batch, results, strict=True) if result.body is None]
        ALERTS_STORED.inc(len(stored))
        ALERTS_REPLAYED.inc(len(batch) - len(stored))
        if stored:
            self._committed(stored)
        for alert, result in zip(batch, results, strict=True):
            alert.conclude(alert.appended(result))

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

    async def _settle(self, batch: list[NewAlert]) -> None:
        """Find out what became of a commit whose connection was lost."""
        COMMITS_SETTLED.inc()
        lost = self._backend
        if self._connection is not None:
            self._connection.terminate()
        deadline = time.monotonic() + self._settings.settle_seconds
        while time.monotonic() < deadline:
            try:
                connection = await self._connect()
                if lost is None or await _is_gone(connection, lost):
                    rows = await connection.fetch(
                        "SELECT id, seq FROM alerts WHERE id = ANY ($1)", [alert.id for alert in batch]
                    )
                    self._settled(batch, {row[0]: row[1] for row in rows})
                    return
            except CONNECTION_LOST:
                if self._connection is not None:
                    self._connection.terminate()
            await asyncio.sleep(SETTLE_PAUSE_SECONDS)
        _fail(batch, _unknown())

    def _settled(self, batch: list[NewAlert], seqs: dict[UUID, int]) -> None:
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


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "PostgreSQL went away during the commit. Send the request again with the same Idempotency-Key:"
        " it is stored once.",
        retry_after=1,
    )


def _fail(batch: Sequence[NewAlert], error: RequestRefused) -> None:
    for alert in batch:
        alert.conclude(error)
