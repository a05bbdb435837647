"""The ledger: what happened on this node's streams, collected in memory and flushed in one transaction.

The ledger never overstates. It is told of a dispatch only after the bytes went to the socket, of a receipt only after
the client acknowledged, and a flush writes one consistent instant: the node's ``sent_seq``, the connections that
changed, the dispatches and the receipts. A crash loses what was not flushed, so the ledger may then claim less than
happened.

What a connection was sent is ``(after_seq, sent_seq]``. While it keeps up, its own ``sent_seq`` is null and the node's
counts for it; one row update a flush, however many connections. While it replays or lags it has its own:

::

    opened ──► own sent_seq ──► null: reads the node's ──► own, for good
               (replays)  ◄──── (keeps up)                 (closed)
                         lags

A flush can be repeated: every row has a key made here, but for the counts of sources, which are written once or not at
all. While PostgreSQL is away the facts wait, and ``is_full`` tells the handshake to refuse. A node whose lease lapsed
was declared lost by another's janitor; it drops its connections, whose clients resume, and goes on under a new id.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy.exc import DBAPIError

from service.database.ids import uuid7
from service.errors import DatabaseUnavailable, TocsinError
from service.ledger import statements
from service.ledger.records import Dispatch, PendingRecords, Receipt, plain
from service.ledger.source_stats import SourceStats
from service.logs import get_logger
from service.metrics import LEDGER_FLUSH_FAILURES, LEDGER_FLUSH_SECONDS, LEDGER_PENDING_RECORDS, RECEIPTS
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.database.engine import Database
    from service.ledger.records import ConnectionEntry, Rejection
    from service.settings import LedgerSettings

log = get_logger(__name__)


class LeaseLost(TocsinError):
    """Another node declared this one lost."""


class Ledger:
    """The facts of one node, and their flushing."""

    def __init__(self, database: Database, settings: LedgerSettings) -> None:
        self._database = database
        self._settings = settings
        self._facts = PendingRecords()
        self._being_written = PendingRecords()
        self.source_stats = SourceStats(settings.source_stats_max)
        self._flushing = asyncio.Lock()
        self._renewed = 0.0
        self.node_id = uuid7()
        self.sent_seq = 0
        self.flushes_since: float | None = None
        """Since when, on the monotonic clock, every flush succeeded in time; None after one that failed."""

    # What the streams report.

    @property
    def is_full(self) -> bool:
        """Say whether too many facts wait for the database to take on another connection."""
        return len(self._facts) >= self._settings.ledger_pending_max

    def opened(self, entry: ConnectionEntry) -> None:
        """Note a connection that was accepted."""
        self._facts.changed.add(entry)
        self._facts.presence = True

    def keeps_up(self, entry: ConnectionEntry) -> None:
        """Note that from here on the node's ``sent_seq`` counts for the connection."""
        entry.sent_seq = None
        self._change(entry)

    def renewed(self, entry: ConnectionEntry, jti: str | None, token_expires_at: datetime) -> None:
        """Note the fresh token of a connection."""
        entry.jti = jti
        entry.token_expires_at = token_expires_at
        self._change(entry)

    def stands_at(self, entry: ConnectionEntry, sent_seq: int) -> None:
        """Note that the connection replays or lags, and was sent no further than ``sent_seq``."""
        entry.sent_seq = sent_seq
        self._change(entry)

    def dispatched(self, after_seq: int, up_to_seq: int, *, to_anybody: bool) -> None:
        """Note that ``(after_seq, up_to_seq]`` went to every connection that keeps up, if any of it was for anybody."""
        self.sent_seq = up_to_seq
        if not to_anybody:
            return
        waiting = self._facts.dispatches
        at = datetime.now(UTC)
        if len(waiting) >= self._settings.ledger_pending_max and waiting[-1].connection_id is None:
            waiting[-1].up_to_seq, waiting[-1].at = up_to_seq, at  # later is less than happened, never more
        else:
            waiting.append(Dispatch(self.node_id, None, after_seq, up_to_seq, at))

    def dispatched_to(self, entry: ConnectionEntry, after_seq: int, up_to_seq: int) -> None:
        """Note that ``(after_seq, up_to_seq]`` went to a connection that replays or lags."""
        entry.sent_seq = up_to_seq
        self._change(entry)
        if entry.node_id == self.node_id:
            self._facts.dispatches.append(Dispatch(self.node_id, entry.id, after_seq, up_to_seq, datetime.now(UTC)))

    def received(self, entry: ConnectionEntry, seq: int) -> None:
        """Note that the client acknowledged everything up to ``seq``.

        Acks that come closer together than ``ack_coalesce_seconds`` are one row, with the time of the last: an
        event may be said to be received that much later than it was, never earlier.
        """
        RECEIPTS.inc()
        entry.received_seq = seq
        if entry.node_id != self.node_id:
            return
        now, last = time.monotonic(), entry.receipt
        if last is not None and last.open and now - last.begun < self._settings.ack_coalesce_seconds:
            last.seq, last.received_at = seq, datetime.now(UTC)
        else:
            entry.receipt = Receipt(entry.id, seq, datetime.now(UTC), now)
            self._facts.receipts.append(entry.receipt)
            self._facts.acknowledged.add(entry)

    def closed(self, entry: ConnectionEntry, code: int, reason: str) -> None:
        """Note the end of a connection."""
        if entry.sent_seq is None:
            entry.sent_seq = self.sent_seq
        entry.closed_at = datetime.now(UTC)
        entry.close_code = code
        entry.close_reason = plain(reason)
        self._change(entry)
        self._facts.presence = True

    def rejected(self, rejection: Rejection) -> None:
        """Note a refused handshake; forgotten while the ledger is full."""
        if not self.is_full:
            rejection.node_id = self.node_id
            self._facts.rejections.append(rejection)

    def _change(self, entry: ConnectionEntry) -> None:
        if entry.node_id == self.node_id:
            self._facts.changed.add(entry)

    # What the streams ask.

    async def start_of(self, recipient: str, topics: tuple[str, ...], head: int) -> int:
        """Return where ``recipient`` goes on: after what they last acknowledged, on any connection.

        A new one begins at ``head``. That is remembered before anything is sent, so that whatever comes after it is
        sent again until it is acknowledged, on whichever node.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        # Looked at before the table: what is being written now may be in neither afterwards.
        acknowledged = self._facts.acknowledged | self._being_written.acknowledged
        waiting = [entry.received_seq for entry in acknowledged if entry.recipient == recipient]
        parameters = {"id": recipient, "topics": list(topics), "head": max(waiting, default=head)}
        # Many streams of one admin may ask at once: were this node to freeze, each would keep the row from the flushes
        # of the others for as long as a transaction may idle, one after the other.
        async with self._database.transaction(autocommit=True) as tx:
            stored: int = (await tx.execute(statements.BEGIN_RECIPIENT, parameters)).scalar_one()
        return max([*waiting, stored])

    async def acknowledge(self, connection: UUID, recipient: str, seq: int) -> int | None:
        """Note an ack for a connection that is not open here: it has ended, or is another node's.

        Return up to where it counts, which is never beyond what the ledger knows was sent (another node's may not have
        been written yet: the client can send its ack again), or None where ``recipient`` has no such connection.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        for entry in itertools.chain(self._facts.changed, self._being_written.changed):
            if (
                entry.id == connection
                and entry.recipient == recipient
                and entry.closed_at
                and entry.sent_seq is not None
            ):
                up_to = min(seq, entry.sent_seq)
                if up_to > max(entry.received_seq, entry.after_seq):
                    self.received(entry, up_to)
                return up_to
        asked = {"connection": connection, "recipient": recipient, "seq": seq}
        async with self._database.transaction(autocommit=True) as tx:
            known = (await tx.execute(statements.FIND_ACKNOWLEDGED, asked)).one_or_none()
            if known is None:
                return None
            await tx.execute(statements.MOVE_RECIPIENT, {"recipient": recipient, "seq": known.seq})
            if known.is_news:
                receipt = Receipt(connection, known.seq, datetime.now(UTC), time.monotonic())
                await _write_final(tx, {"closings": [], "dispatches": [], "receipts": [receipt]})
        return int(known.seq)

    # Writing.

    async def register(self, sent_seq: int) -> None:
        """Begin as a node that has fanned out up to ``sent_seq``.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        self.node_id = uuid7()
        self.sent_seq = sent_seq
        self._facts = PendingRecords()
        async with self._database.transaction() as tx:
            await tx.execute(
                statements.REGISTER_NODE,
                {
                    "id": self.node_id,
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "sent_seq": sent_seq,
                    "lease_seconds": self._settings.node_lease_seconds,
                },
            )
        self.flushes_since = self._renewed = time.monotonic()

    def task(self, drop_connections: Callable[[], None]) -> PeriodicTask:
        """Return the task that flushes; ``drop_connections`` is called before the node starts over."""
        flush = partial(self._flush_or_start_over, drop_connections)
        return PeriodicTask("ledger_flush", flush, self._settings.ledger_flush_seconds)

    async def _flush_or_start_over(self, drop_connections: Callable[[], None]) -> None:
        try:
            await self.flush()
        except DBAPIError:
            # A fact that PostgreSQL refuses, which is a defect of ours, must not stop the node; nor may it be
            # forgotten alone, for the row of a connection that has ended would go on to claim what the node sends.
            log.exception("ledger flush refused: dropping all connections", forgotten=len(self._facts))
            self.source_stats.take()
            await self._start_over(drop_connections)
        except LeaseLost:
            log.warning("node lease lost: dropping all connections")
            await self._start_over(drop_connections)

    async def _start_over(self, drop_connections: Callable[[], None]) -> None:
        """Leave the old id, and what it claims, as they were last written."""
        drop_connections()
        with contextlib.suppress(DatabaseUnavailable):
            await self.register(self.sent_seq)

    async def end(self) -> None:
        """Flush for the last time and sign off."""
        with contextlib.suppress(DatabaseUnavailable, LeaseLost, DBAPIError):
            await self.flush()
            async with self._database.transaction() as tx:
                await tx.execute(statements.END_NODE, {"id": self.node_id})

    async def flush(self) -> None:
        """Write what waits, and renew the lease.

        Raises:
            DatabaseUnavailable: nothing was lost; the next flush tries again.
            LeaseLost: the node was declared lost.

        """
        async with self._flushing:
            LEDGER_PENDING_RECORDS.set(len(self._facts))
            now = time.monotonic()
            if (
                not len(self._facts)
                and not len(self.source_stats)
                and now - self._renewed < self._settings.node_lease_seconds / 5
            ):
                return
            facts = self._being_written = self._facts
            self._facts = PendingRecords()
            node = {"id": self.node_id, "sent_seq": self.sent_seq}
            for receipt in facts.receipts:
                receipt.open = False
            calls = self.source_stats.take()
            rows, final = {**facts.rows(), "source_hours": calls}, facts.final_rows()
            committing = False
            try:
                async with self._database.transaction() as tx:
                    await _write(tx, node, rows, final, presence=facts.presence)
                    committing = True
            except BaseException:
                LEDGER_FLUSH_FAILURES.inc()
                self.flushes_since = None
                self._facts.put_back(facts)
                if not committing:  # once it is asked to commit nobody knows, and counts must not be written twice
                    self.source_stats.put_back(calls)
                raise
            finally:
                self._being_written = PendingRecords()
            renewed, before = time.monotonic(), self._renewed
            if self.flushes_since is None or renewed - before > self._settings.node_lease_seconds:
                self.flushes_since = renewed
            self._renewed = renewed
            LEDGER_FLUSH_SECONDS.observe(renewed - now)


async def _write(
    tx: AsyncConnection,
    node: dict[str, Any],
    rows: dict[str, Sequence[Any]],
    final: dict[str, Sequence[Any]],
    *,
    presence: bool,
) -> None:
    # The node's row comes first: it is locked from here on, so no janitor can declare the node lost meanwhile.
    if (await tx.execute(statements.RENEW_NODE, node)).rowcount == 0:
        raise LeaseLost
    for name, statement in statements.FLUSH.items():
        if rows[name]:
            await tx.execute(statement, {"rows": orjson.dumps(rows[name]).decode()})
    if presence:
        await tx.execute(statements.NOTIFY_PRESENCE)
    await _write_final(tx, final)


async def _write_final(tx: AsyncConnection, rows: dict[str, Sequence[Any]]) -> None:
    if any(rows.values()):
        await tx.execute(statements.WRITE_LEDGER, {name: orjson.dumps(some).decode() for name, some in rows.items()})
