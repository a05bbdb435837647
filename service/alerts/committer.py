"""Group commit: many requests, one transaction.

One task owns one connection. While a commit is under way, new alerts gather in a bounded queue; the
next commit takes all that have gathered, up to ``commit_batch_size`` and ``BATCH_BYTES``, one of
each subject in turn (``commit_queue.py``). There is no timer: an idle service commits an alert the
moment it arrives.

Invariants:

- An outcome is handed out only after its transaction was committed: stored before answered.
- A commit whose outcome is unknown is recovered by looking for what it stored, never by storing
  again (``commit_connection.py``): alerts by their ids, which were made before the commit; commands
  by the id of the attempt, which their transaction records.
- An outcome that synchronous standbys have not confirmed is unknown. Nothing reaches the fan-out
  before the outcome is known.
- A full queue refuses at once (``Overloaded``); nothing waits without bound.
- An alert whose events could be larger than ``event_max_bytes`` is refused (``event_size.py``).
- A token that was revoked while its alert or command was in the queue is refused.
- A transaction that PostgreSQL rolled back is tried again, refused 503 or, if the error is one of
  this service, tried item by item (``database/failures.py``).

::

             store()      append_alerts(), UnitOfWork    committed
    request ───────► queue ───────► in flight ──────────────► answer, and on to the fan-out
                       │ full            │ connection lost, or not confirmed
                       ▼                 ▼           found ► answer
                   Overloaded        recovery ─── not found ► DatabaseUnavailable: nothing was stored
                                         │ not confirmed in time
                                         ▼
                                   OutcomeUnknown: retry with the same Idempotency-Key
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from service.alerts.commands import Command, PostAlert, apply_all
from service.alerts.commit_connection import CommitConnection
from service.alerts.commit_queue import CommitQueue
from service.alerts.dedup import NO_GROUPS
from service.alerts.event_size import alert_max_bytes, alert_too_large
from service.alerts.queue_items import PendingAlert, Stored, Waiting
from service.alerts.statements import load_unit_of_work, write_unit_of_work
from service.alerts.unit_of_work import Lookup
from service.auth.claims import token_expired
from service.auth.tokens import token_revoked
from service.database.failures import Failure, classify, retried, unavailable, was_rolled_back
from service.database.ids import random_ids
from service.errors import IdempotencyMismatch, InternalError, OutcomeUnknown, RequestRefused
from service.events.idempotency import mismatch
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
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from service.alerts.dedup import DedupGroups
    from service.alerts.queue_items import Outcome, QueueItem
    from service.alerts.statements import SettledAttempt
    from service.auth.tokens import Revocations
    from service.database.durability import WatchedConnection
    from service.database.engine import Database
    from service.events.log import Event
    from service.events.position import Position
    from service.http.source_requests import PostOutcome, SourceCounter
    from service.settings import StorageSettings

log = get_logger(__name__)

Item = TypeVar("Item", bound="QueueItem")

BATCH_BYTES = 256 * 1024
"""A transaction takes no further item once its items have so many bytes: each is hashed, encoded and sent."""
_POSTED = (PendingAlert, PostAlert)


class _Decided(NamedTuple):
    """The outcomes of a transaction of commands, once it is committed."""

    outcomes: list[Outcome]
    before: Position
    events: list[Event]


class Committer:
    """Stores alerts, many in one transaction."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the node that it needs
        self,
        database: Database,
        settings: StorageSettings,
        committed: Callable[[Position, Sequence[Event]], None],
        sources: SourceCounter,
        revocations: Revocations,
        groups: DedupGroups = NO_GROUPS,
    ) -> None:
        self._connection = CommitConnection(database)
        self._write_check = database.write_check
        self._settings = settings
        self._idle_timeout = settings.commit_recovery_timeout_seconds / 2  # so that recovery gets the lock in time
        self._committed = committed
        self._sources = sources
        self._revocations = revocations
        self._concluded = asyncio.Event()
        """Set while no batch is under way, and for a moment after each."""
        self._concluded.set()
        self._groups = groups
        self._alert_max_bytes = alert_max_bytes(settings.event_max_bytes)
        self._queue = CommitQueue(items_max=settings.commit_queue_size, bytes_max=settings.commit_queue_bytes)
        self._arrived = asyncio.Event()
        self._stopped = False

    async def store(self, item: PendingAlert | Command) -> Stored:
        """Commit an alert, or a change of one, and return what it is now.

        Raises:
            Overloaded: the queue is full.
            RequestTooLarge: the alert, or the comment, is too large for an event.
            RequestRefused: the lifecycle, or an idempotency key, does not allow it.
            DatabaseUnavailable: it was not stored.
            OutcomeUnknown: the database, or a synchronous standby, went away during the commit, and
                stayed away.

        """
        [outcome] = await self.store_all([item])
        if isinstance(outcome, RequestRefused):
            raise outcome
        assert isinstance(outcome, Stored)  # noqa: S101 - narrows: those with other outcomes are stored by store_all
        return outcome

    async def store_all(self, items: Sequence[QueueItem]) -> list[Outcome]:
        """Commit ``items`` and return the outcome of each, once all are known.

        Raises:
            Overloaded: the queue has no room for all of them; none was stored.
            DatabaseUnavailable: the node is stopping; none was stored.

        """
        if within := self._within_size(items):
            self._enqueue(within)
            waiting = Waiting(len(within))
            for item in within:
                item.waiting = waiting
            await waiting.done
        return [item.outcome for item in items if item.outcome is not None]

    def _within_size(self, items: Sequence[QueueItem]) -> Sequence[QueueItem]:
        """Refuse the alerts that are too large, and return the other items."""
        too_large = [item for item in items if item.size > self._alert_max_bytes and isinstance(item, _POSTED)]
        for item in too_large:
            item.conclude(alert_too_large(item.size, self._settings.event_max_bytes))
        return [item for item in items if item.outcome is None] if too_large else items

    def _enqueue(self, items: Sequence[QueueItem]) -> None:
        if self._stopped:
            raise unavailable()
        self._queue.put(items)
        self._arrived.set()

    async def batch_concluded(self) -> None:
        """Return once the outcome of the batch under way is known, if there is one."""
        await self._concluded.wait()

    async def run(self) -> None:
        """Commit what arrives, until cancelled."""
        batch: list[QueueItem] = []
        try:
            while True:
                if not self._queue:
                    self._arrived.clear()
                    await self._arrived.wait()
                batch = self._queue.take(most=self._settings.commit_batch_size, max_bytes=BATCH_BYTES)
                COMMIT_QUEUE.set(len(self._queue))
                self._concluded.clear()
                await self._commit_alerts([item for item in batch if isinstance(item, PendingAlert)])
                await self._commit_commands([item for item in batch if isinstance(item, Command)])
                self._concluded.set()
        finally:
            self._concluded.set()
            self._stopped = True
            _fail(batch, _unknown())  # only those whose commit was under way: an outcome stays what it was
            _fail(self._queue.take_all(), unavailable())
            await self._connection.close()

    # Alerts that only need to be stored: one round trip.

    async def _commit_alerts(self, batch: list[PendingAlert]) -> None:
        if not batch:
            return
        started = time.perf_counter()
        connection = await self._connection_for(batch)
        batch = self._still_valid(batch)
        if connection is None or not batch:
            return
        attempt, *ids = random_ids(1 + len(batch))
        digests = [alert.digest(event_id) for alert, event_id in zip(batch, ids, strict=True)]
        columns = [alert.wire for alert in batch], ids, digests, [alert.key for alert in batch]
        try:
            append = retried(lambda: append_alerts(connection, *columns, attempt=attempt))
            before, results = await connection.confirmed(append)
        except Exception as error:  # noqa: BLE001 - each is answered
            await self._conclude_failed(batch, error, attempt, partial(self._conclude_settled_alerts, batch, ids))
        else:
            _observe(started, len(batch))
            self._conclude_alerts(before, batch, ids, results)

    def _conclude_settled_alerts(
        self, batch: Sequence[PendingAlert], ids: Sequence[int], settled: SettledAttempt
    ) -> None:
        stored = [pair for pair in zip(batch, ids, strict=True) if pair[0].id in settled.alert_ids]
        log.info("commit recovered", stored=len(stored), not_stored=len(batch) - len(stored))
        if stored:
            seqs = range(settled.before.seq + 1, settled.before.seq + 1 + len(stored))
            results = [Appended(seq, replayed=False, mismatch=False, body=None) for seq in seqs]
            alerts, event_ids = zip(*stored, strict=True)
            self._conclude_alerts(settled.before, alerts, event_ids, results)
        _fail(batch, unavailable())  # the others: an outcome stays what it was

    def _conclude_alerts(
        self, before: Position, batch: Sequence[PendingAlert], ids: Sequence[int], results: Sequence[Appended]
    ) -> None:
        events = [
            alert.event(result.seq, event_id)
            for alert, event_id, result in zip(batch, ids, results, strict=True)
            if not result.replayed
        ]
        ALERTS_STORED.inc(len(events))
        ALERTS_REPLAYED.inc(len(batch) - len(events))
        outcomes = [_outcome(alert, result) for alert, result in zip(batch, results, strict=True)]
        self._conclude(batch, outcomes, before, events)

    # Commands, whose outcome depends on what is stored: a transaction of six round trips.

    async def _commit_commands(self, batch: list[Command]) -> None:
        if not batch:
            return
        started = time.perf_counter()
        connection = await self._connection_for(batch)
        batch = self._still_valid(batch)
        if connection is None or not batch:
            return
        [attempt] = random_ids(1)
        decided: _Decided | None = None  # once nothing is left to do but to commit

        async def decide_and_commit() -> _Decided:
            nonlocal decided
            decided = None
            async with connection.transaction():
                lookup = Lookup.union(command.lookup() for command in batch)
                unit = await load_unit_of_work(connection, attempt, lookup, self._idle_timeout, self._groups)
                unit.event_max_bytes = self._settings.event_max_bytes
                outcomes = apply_all(batch, unit)
                await write_unit_of_work(connection, unit)
                decided = _Decided(outcomes, unit.start, unit.events)
            return decided

        try:
            committed = await connection.confirmed(retried(decide_and_commit))
        except Exception as error:  # noqa: BLE001 - each is answered
            conclude = partial(self._conclude_settled_commands, batch, decided) if decided is not None else None
            await self._conclude_failed(batch, error, attempt, conclude)
        else:
            _observe(started, len(batch))
            self._conclude_commands(batch, committed)

    def _conclude_settled_commands(self, batch: Sequence[Command], decided: _Decided, settled: SettledAttempt) -> None:
        log.info("commit recovered", commands=len(batch), committed=settled.committed)
        if settled.committed:
            self._conclude_commands(batch, decided)
        else:
            _fail(batch, unavailable())

    def _conclude_commands(self, batch: Sequence[Command], decided: _Decided) -> None:
        stored = [outcome for outcome in decided.outcomes if isinstance(outcome, Stored)]
        ALERTS_STORED.inc(sum(event.kind == "alert.created" for event in decided.events))
        ALERTS_REPEATED.inc(sum(outcome.repeated and not outcome.replayed for outcome in stored))
        ALERTS_REPLAYED.inc(sum(outcome.replayed for outcome in stored))
        self._conclude(batch, decided.outcomes, decided.before, decided.events)

    # Both.

    async def _connection_for(self, batch: Sequence[QueueItem]) -> WatchedConnection | None:
        """Return the connection, or None once the batch is refused because nothing can be committed."""
        try:
            connection = await self._connection.get()
            if not self._revocations.is_current:
                await self._revocations.ensure_current()
        except Exception as error:
            if classify(error) is Failure.DEFECT:
                raise
            self._refuse(batch, error)
            return None
        return connection

    def _still_valid(self, batch: Sequence[Item]) -> list[Item]:
        """Refuse the items whose token was revoked or has expired, and return the others without an outcome."""
        now = time.time()
        for item in batch:
            if item.bearer is None:
                continue
            if self._revocations.covers(item.bearer):
                item.conclude(token_revoked())
            elif item.bearer.expires_at <= now:
                item.conclude(token_expired())
        return [item for item in batch if item.outcome is None]

    async def _conclude_failed(
        self,
        batch: Sequence[PendingAlert] | Sequence[Command],
        error: Exception,
        attempt: int,
        conclude: Callable[[SettledAttempt], None] | None,
    ) -> None:
        """Conclude a batch whose transaction failed; ``conclude`` is None where it failed before its commit."""
        if conclude is not None and not was_rolled_back(error):
            await self._recover(batch, error, attempt, conclude)
        elif classify(error) is not Failure.DEFECT:
            self._refuse(batch, error)
        elif len(batch) > 1:
            await self._commit_one_by_one(batch)
        else:  # an error in this service: it fails alone
            log.error("an alert cannot be stored", what=type(batch[0]).__name__, exc_info=error)
            _fail(batch, InternalError("The alert could not be stored. The service's log has the details."))

    def _refuse(self, batch: Sequence[QueueItem], error: Exception) -> None:
        """Refuse a batch that PostgreSQL cannot store now."""
        self._write_check.failed(error)
        if classify(error) is Failure.UNAVAILABLE:
            self._connection.terminate()  # another one may lead to another server
        _fail(batch, unavailable(error))

    async def _commit_one_by_one(self, batch: Sequence[PendingAlert] | Sequence[Command]) -> None:
        for item in batch:
            if isinstance(item, PendingAlert):
                await self._commit_alerts([item])
            else:
                await self._commit_commands([item])

    async def _recover(
        self,
        batch: Sequence[QueueItem],
        error: Exception,
        attempt: int,
        conclude: Callable[[SettledAttempt], None],
    ) -> None:
        """Find out what became of a commit whose connection was lost, or that was not confirmed."""
        log.warning("commit outcome unknown", items=len(batch), error=type(error).__name__)
        COMMIT_RECOVERIES.inc()
        alert_ids = [item.id for item in batch if isinstance(item, PendingAlert)]
        timeout = self._settings.commit_recovery_timeout_seconds
        settled = await self._connection.settle(attempt, alert_ids, timeout)
        if settled is None:
            _fail(batch, _unknown())
        else:
            conclude(settled)

    def _conclude(
        self, batch: Sequence[QueueItem], outcomes: Sequence[Outcome], before: Position, events: Sequence[Event]
    ) -> None:
        """Count the outcomes by source, pass the events to the fan-out, and answer the requests."""
        self._write_check.succeeded()
        for (source, result), number in Counter(_post_outcomes(batch, outcomes)).items():
            self._sources.count(source, result, number)
        if events:
            self._committed(before, events)
        for item, outcome in zip(batch, outcomes, strict=True):
            item.conclude(outcome)


def _observe(started: float, items: int) -> None:
    COMMIT_SECONDS.observe(time.perf_counter() - started)
    COMMIT_BATCH.observe(items)


def _outcome(alert: PendingAlert, result: Appended) -> Stored | IdempotencyMismatch:
    if result.mismatch:
        return mismatch()
    if result.body is None:
        return Stored(alert.id, result.seq, alert.wire, replayed=result.replayed)
    return Stored.first(result.seq, result.body, replayed=result.replayed)


def _post_outcomes(batch: Sequence[QueueItem], outcomes: Sequence[Outcome]) -> Iterator[tuple[str, PostOutcome]]:
    for item, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Stored) and isinstance(item, _POSTED):
            yield item.source, "replayed" if outcome.replayed else "repeated" if outcome.repeated else "alerts"


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "PostgreSQL, or a synchronous standby, went away during the commit. Send the request again with the same"
        " Idempotency-Key: it is stored once.",
        retry_after=1,
    )


def _fail(batch: Iterable[QueueItem], error: RequestRefused) -> None:
    for item in batch:
        item.conclude(error)
