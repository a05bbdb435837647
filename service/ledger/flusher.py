"""The flush of the ledger: what the recorder holds is written every 200 ms, in one transaction.

A flush writes one consistent instant: the node's ``sent_seq``, the connections that changed, the
dispatches, the receipts and the sightings. It also renews the node's lease. It can be repeated,
because every row has a key that was made here; only the counts by source are written once or not at
all. While PostgreSQL is away the records wait, and at the limit the handshake rejects new streams.

A node whose lease lapsed was declared lost by the housekeeping of another. It drops its
connections, whose clients resume, and goes on under a new id::

    register ──► flush, renew ──► sign off
       ▲              │
       └── new id ◄───┘ LeaseLost, or a record that PostgreSQL refuses
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
from service.ledger import statements
from service.ledger.lease import boottime
from service.logs import get_logger
from service.metrics import LEDGER_FLUSH_FAILURES, LEDGER_FLUSH_SECONDS, LEDGER_PENDING_RECORDS
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.database.engine import Database
    from service.ledger.recorder import LedgerRecorder
    from service.settings import LedgerSettings

log = get_logger(__name__)


class LeaseLost(TocsinError):
    """Another node declared this one lost."""


class LedgerFlusher:
    """Writes the records of a node, and holds its lease."""

    def __init__(self, database: Database, recorder: LedgerRecorder, settings: LedgerSettings) -> None:
        self._database = database
        self._recorder = recorder
        self._settings = settings
        self._flushing = asyncio.Lock()
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

    async def register(self, sent_seq: int) -> None:
        """Register as a new node that has fanned out up to ``sent_seq``.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        self._recorder.become(uuid7(), sent_seq)
        started = boottime()
        async with self._database.transaction() as tx:
            await tx.execute(
                statements.REGISTER_NODE,
                {
                    "id": self._recorder.node_id,
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "sent_seq": sent_seq,
                    "lease_seconds": self._settings.node_lease_seconds,
                },
            )
        self._recorder.lease.renew(started)
        self.punctual_since = started

    def task(self, drop_connections: Callable[[], None]) -> PeriodicTask:
        """Return the task that flushes; it calls ``drop_connections`` before it starts over."""
        flush = partial(self._flush_or_start_over, drop_connections)
        return PeriodicTask("ledger_flush", flush, self._settings.ledger_flush_seconds)

    async def _flush_or_start_over(self, drop_connections: Callable[[], None]) -> None:
        try:
            await self.flush()
        except DBAPIError:
            # A bug: PostgreSQL refuses a record. The node must go on. The record cannot be dropped
            # alone: if it closes a connection, the connection's row would go on to claim what the
            # node sends.
            log.exception("ledger flush refused: dropping all connections", dropped=len(self._recorder.pending))
            self._recorder.source_stats.take()
            await self._start_over(drop_connections)
        except LeaseLost:
            log.warning("node lease lost: dropping all connections")
            await self._start_over(drop_connections)

    async def _start_over(self, drop_connections: Callable[[], None]) -> None:
        """Leave the old node's rows as they were last written."""
        drop_connections()
        with contextlib.suppress(DatabaseUnavailable):
            await self.register(self._recorder.sent_seq)

    async def sign_off(self) -> None:
        """Flush for the last time, and end the node."""
        with contextlib.suppress(DatabaseUnavailable, LeaseLost, DBAPIError):
            await self.flush()
            async with self._database.transaction() as tx:
                await tx.execute(
                    statements.END_NODES, {"ids": [self._recorder.node_id], "reason": CloseReason.SHUTTING_DOWN.reason}
                )

    async def flush(self) -> None:
        """Write what waits, and renew the lease.

        Raises:
            DatabaseUnavailable: nothing was lost; the next flush tries again.
            LeaseLost: the node was declared lost.

        """
        async with self._flushing:
            recorder, lease, started = self._recorder, self._recorder.lease, boottime()
            LEDGER_PENDING_RECORDS.set(len(recorder.pending))
            is_fresh = lease.age < lease.seconds / 5
            if not len(recorder.pending) and not len(recorder.source_stats) and is_fresh:
                return
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
        node = {"id": recorder.node_id, "sent_seq": recorder.sent_seq}
        records, counts = recorder.begin_flush(), recorder.source_stats.take()
        rows, final = {**records.rows(), "source_hours": counts}, records.final_rows()
        written = committing = False
        try:
            async with self._database.transaction() as tx:
                await _write(tx, node, rows, final, presence_changed=records.presence_changed)
                committing = True
            written = True
        finally:
            recorder.end_flush(written=written)
            if not committing:  # once the commit was asked for, its outcome is unknown, and counts would add up twice
                recorder.source_stats.put_back(counts)


async def _write(
    tx: AsyncConnection,
    node: dict[str, Any],
    rows: dict[str, Sequence[Any]],
    final: dict[str, Sequence[Any]],
    *,
    presence_changed: bool,
) -> None:
    # The node's row comes first: it is locked from here on, so no housekeeping can declare the node
    # lost meanwhile.
    if (await tx.execute(statements.RENEW_NODE, node)).rowcount == 0:
        raise LeaseLost
    for name, statement in statements.UPSERTS.items():
        if rows[name]:
            await tx.execute(statement, {"rows": orjson.dumps(rows[name]).decode()})
    if presence_changed:
        await tx.execute(statements.NOTIFY_PRESENCE)
    await statements.write_final(tx, final)
