"""The flush of the ledger: what the recorder holds is written every 200 ms, in one transaction.

A flush writes one consistent instant: the node's ``sent_seq``, the connections that changed, the
dispatches, the receipts and the sightings. It also renews the node's lease. It can be repeated,
because every row has a key that was made here; only the counts by source are written once or not at
all. While PostgreSQL is away the records wait, and at the limit the handshake rejects new streams.

A node whose lease lapsed was declared lost by the housekeeping of another. It drops its
connections, whose clients resume, and goes on under a new id::

    register ──► flush, renew ──► sign off
       ▲              │
       └── new id ◄───┘ LeaseLost, or a record that PostgreSQL refuses: what waits is dropped
                        HistoryChanged: what waits is cut, and written under the old id

A flush writes only what the log holds: in its own transaction it checks the position up to which
everything was sent (``events/position.py``). After a failover that lost commits, or a restored
backup, the log has other events there, or none; then nothing is written until the fan-out has found
the last position in common (``start_over``). A failover may lose flushes only: then the node's row
has the number of an earlier one, and the node counts as lost, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy.exc import DBAPIError

from service.database.ids import uuid7
from service.errors import CloseReason, DatabaseUnavailable, TocsinError
from service.events.position import HistoryChanged
from service.ledger import statements
from service.logs import get_logger
from service.metrics import LEDGER_FLUSH_FAILURES, LEDGER_FLUSH_SECONDS, LEDGER_PENDING_RECORDS
from service.periodic import PeriodicTask
from service.timestamps import boottime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.database.engine import Database
    from service.events.position import Position
    from service.ledger.recorder import LedgerRecorder, LeftBehind
    from service.settings import LedgerSettings

log = get_logger(__name__)

HISTORY_CHANGED = "history_changed"
"""Why the connections of a node end that met another history of the log than the one it sent."""


class LeaseLost(TocsinError):
    """Another node declared this one lost, or a failover lost what it had written."""


class LedgerFlusher:
    """Writes the records of a node, and holds its lease."""

    def __init__(self, database: Database, recorder: LedgerRecorder, settings: LedgerSettings) -> None:
        self._database = database
        self._recorder = recorder
        self._settings = settings
        self._flushing = asyncio.Lock()
        self._registered: UUID | None = None
        self._attempted = self._confirmed = 0
        """The numbers of the last flush, and of the last one that was certainly written."""
        self._task: PeriodicTask | None = None
        self._is_requested = False
        """Whether another node waits for a flush."""
        self.punctual_since: float | None = None
        """Since when (boot time) no flush failed, and none took as long as a lease; None after one that failed."""

    @property
    def node_id(self) -> UUID:
        """The id under which this node is registered."""
        return self._recorder.node_id

    @property
    def holds_lease(self) -> bool:
        """Whether nobody can have declared this node lost."""
        return self._recorder.lease.is_held

    async def register(self, position: Position) -> None:
        """Register as a new node that has fanned out up to ``position``.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.
            HistoryChanged: the log does not hold the position.

        """
        self._recorder.become(uuid7(), position)
        await self.flush()

    def start_over(self, position: Position, common: Position | None) -> None:
        """Go on as a new node at ``position``, because the history of the log changed.

        Call it once all streams are closed. What waits under the old id is cut at ``common``, the
        last position that both histories have, or dropped where that is not known. The next flush
        writes it and registers the new node; until then, no event may be sent.
        """
        self._recorder.leave_history(uuid7(), position, common, self._confirmed)
        if self._task is not None:
            self._task.wake()

    def task(self, drop_connections: Callable[[], None], history_changed: Callable[[], None]) -> PeriodicTask:
        """Return the task that flushes.

        It calls ``drop_connections`` before it starts over, and ``history_changed`` when the log
        does not hold the node's position; nothing is written then until ``start_over``.
        """
        flush = partial(self._flush_or_start_over, drop_connections, history_changed)
        self._task = PeriodicTask("ledger_flush", flush, self._settings.ledger_flush_seconds)
        return self._task

    def requested(self, node_id: str) -> None:
        """Flush at once, also nothing, if another node has asked this one for it (``flush_requests.py``)."""
        if node_id == str(self.node_id) and self._task is not None:
            self._is_requested = True
            self._task.wake()

    async def _flush_or_start_over(
        self, drop_connections: Callable[[], None], history_changed: Callable[[], None]
    ) -> None:
        node_id = self.node_id
        try:
            await self.flush()
        except HistoryChanged:
            history_changed()
        except (DBAPIError, LeaseLost) as error:
            if node_id == self.node_id:  # start_over was not called meanwhile
                self._log_loss(error)
                await self._drop_all(drop_connections)

    def _log_loss(self, error: Exception) -> None:
        if isinstance(error, LeaseLost):
            log.warning("node lease lost: dropping all connections")
            return
        # A bug: PostgreSQL refuses a record. The node must go on. The record cannot be dropped alone:
        # if it closes a connection, the connection's row would go on to claim what the node sends.
        dropped = len(self._recorder.pending)
        log.error("ledger flush refused: dropping all connections", dropped=dropped, exc_info=error)
        self._recorder.source_stats.take()

    async def _drop_all(self, drop_connections: Callable[[], None]) -> None:
        """Go on as a new node, and leave the old node's rows as they were last written."""
        drop_connections()
        with contextlib.suppress(DatabaseUnavailable, HistoryChanged):  # the next flush meets it again
            await self.register(self._recorder.position)

    async def sign_off(self) -> None:
        """Flush for the last time, and end the node."""
        with contextlib.suppress(DatabaseUnavailable, HistoryChanged, LeaseLost, DBAPIError):
            await self.flush()
            async with self._database.ledger.transaction() as tx:
                await tx.execute(
                    statements.END_NODES, {"ids": [self._recorder.node_id], "reason": CloseReason.SHUTTING_DOWN.reason}
                )

    async def flush(self) -> None:
        """Write what waits, and renew the lease; register the node first, where it is new.

        Raises:
            DatabaseUnavailable: nothing was lost; the next flush tries again.
            HistoryChanged: the log does not hold the node's position; nothing was written.
            LeaseLost: the node was declared lost.

        """
        async with self._flushing:
            recorder, lease, started = self._recorder, self._recorder.lease, boottime()
            LEDGER_PENDING_RECORDS.set(len(recorder.pending))
            is_fresh = lease.age < lease.seconds / 5
            if is_fresh and not (self._is_requested or len(recorder.pending) or len(recorder.source_stats)):
                return
            self._is_requested = False
            try:
                await self._write_pending()
            except BaseException:
                LEDGER_FLUSH_FAILURES.inc()
                self.punctual_since = None
                raise
            finished = boottime()
            if self.punctual_since is None or not lease.is_held:
                self.punctual_since = finished
            lease.renew(started)
            LEDGER_FLUSH_SECONDS.observe(finished - started)

    async def _write_pending(self) -> None:
        recorder = self._recorder
        node_id, position, left_behind = recorder.node_id, recorder.position, recorder.left_behind
        records, counts = recorder.begin_flush(), recorder.source_stats.take()
        rows, final = {**records.rows(), "source_hours": counts}, records.final_rows()
        streams = records.resume_rows(position.seq)
        written = committing = False
        self._attempted += 1
        try:
            async with self._database.ledger.transaction() as tx:
                if left_behind is not None:
                    await self._write_left_behind(tx, left_behind)
                await self._hold_lease(tx, node_id, position)
                await self._write(tx, rows, streams, final, presence_changed=records.presence_changed)
                committing = True
            written = True
            self._registered, self._confirmed = node_id, self._attempted
        finally:
            recorder.end_flush(written=written)
            if not committing:  # once the commit was asked for, its outcome is unknown, and counts would add up twice
                recorder.source_stats.put_back(counts)

    async def _hold_lease(self, tx: AsyncConnection, node_id: UUID, position: Position) -> None:
        """Renew the lease, or register the node. Its row is locked from here on.

        So no housekeeping can declare the node lost meanwhile.
        """
        if node_id == self._registered:
            holds = await self._renew(tx, node_id, position, self._confirmed)
        else:
            node = {
                "id": node_id,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "sent_seq": position.seq,
                "sent_id": position.id,
                "flush": self._attempted,
                "lease_seconds": self._settings.node_lease_seconds,
            }
            holds = await tx.scalar(statements.REGISTER_NODE, node)
        if holds is None and await tx.scalar(statements.LOG_HOLDS, position._asdict()):
            raise LeaseLost
        if not holds:  # also where the row was lost together with events
            raise HistoryChanged(position)

    async def _renew(self, tx: AsyncConnection, node_id: UUID, position: Position, confirmed_flush: int) -> bool | None:
        """Return whether the log holds ``position``; None where the node's row is not as it was written."""
        node = {
            "id": node_id,
            "sent_seq": position.seq,
            "sent_id": position.id,
            "flush": self._attempted,
            "confirmed_flush": confirmed_flush,
        }
        holds: bool | None = await tx.scalar(statements.RENEW_NODE, node)
        return holds

    async def _write_left_behind(self, tx: AsyncConnection, left: LeftBehind) -> None:
        """Write what the node left behind under its old id, as far as the log holds it, and end that id."""
        common = left.common
        if (
            common is not None
            and await tx.scalar(statements.LOG_HOLDS, common._asdict())
            and await self._renew(tx, left.node_id, common, left.flush)
        ):
            records = left.records
            streams = records.resume_rows(common.seq)
            await self._write(tx, records.rows(), streams, records.final_rows(), presence_changed=True)
        await tx.execute(statements.END_NODES, {"ids": [left.node_id], "reason": HISTORY_CHANGED})

    async def _write(
        self,
        tx: AsyncConnection,
        rows: dict[str, Sequence[Any]],
        streams: Sequence[Any],
        final: dict[str, Sequence[Any]],
        *,
        presence_changed: bool,
    ) -> None:
        for name, statement in statements.UPSERTS.items():
            if rows.get(name):
                await tx.execute(statement, {"rows": orjson.dumps(rows[name]).decode()})
        if streams:
            await statements.advance_resume_points(tx, streams, self._settings.resume_points_per_recipient)
        if presence_changed:
            await tx.execute(statements.NOTIFY_PRESENCE)
        await statements.write_final(tx, final)
