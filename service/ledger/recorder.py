"""The recorder: what happened on this node's streams, in memory until the next flush.

The ledger never overstates: a dispatch is recorded only after the bytes went to the socket, a
receipt only after the client confirmed it, a sighting only after the client reported it. A crash
loses what was not flushed, so the ledger may then claim less than happened.

What a connection was sent is ``(after_seq, sent_seq]``. While it keeps up, its own ``sent_seq`` is
null and the node's counts for it, so that a flush updates one row, however many connections there
are. While it replays or lags it has its own:

::

    opened ──► own sent_seq ──► null: reads the node's ──► own, for good
               (replays)  ◄──── (keeps up)                 (closed)
                         lags
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from service.database.ids import uuid7
from service.errors import ConsumerLimit
from service.events.position import ORIGIN, HistoryChanged
from service.ledger import statements
from service.ledger.flush_requests import has_flushed
from service.ledger.lease import Lease
from service.ledger.records import (
    Dispatch,
    PendingRecords,
    Receipt,
    RejectionHour,
    Sighting,
    SubjectName,
    printable,
)
from service.ledger.resume_points import ResumePoint
from service.ledger.source_stats import SourceStats
from service.metrics import RECEIPTS, SIGHTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal
    from service.database.engine import Database
    from service.events.position import Position
    from service.ledger.records import ConnectionEntry, Rejection, RejectionKey
    from service.ledger.resume_points import ResumeKey
    from service.settings import LedgerSettings


@dataclass(slots=True)
class LeftBehind:
    """What a node has still to write under the id that it had before the history of the log changed.

    Everything is cut at ``common``, the last position that both histories have. Where that is not
    known, nothing is written. ``flush`` is the number of the last flush that was written.
    """

    node_id: UUID
    flush: int
    records: PendingRecords
    common: Position | None

    def __post_init__(self) -> None:
        self._cut()

    def narrow(self, common: Position | None) -> None:
        """The history changed again: claim nothing after the earlier of the two positions."""
        if self.common is None or common is None:
            self.common = None
        elif common.seq < self.common.seq:
            self.common = common
            self._cut()

    def put_back(self, older: PendingRecords) -> None:
        """Add records that could not be written."""
        self.records.put_back(older)
        self._cut()

    def _cut(self) -> None:
        if self.common is not None:
            self.records.cut(self.common.seq)


class LedgerRecorder:
    """The records of one node.

    ``position`` is how far the node has fanned out to all its connections that keep up.
    """

    def __init__(self, database: Database, settings: LedgerSettings) -> None:
        self._database = database
        self._settings = settings
        self.pending = self._no_records()
        self.in_flight = self._no_records()
        """What a flush is writing now."""
        self.source_stats = SourceStats(settings.source_stats_max)
        self._rejection_hours: dict[RejectionKey, RejectionHour] = {}
        """How many handshakes this node has rejected in the present hour."""
        self.left_behind: LeftBehind | None = None
        """Until the node is registered under its new id."""
        self.become(uuid7(), ORIGIN)
        self._flushing = self.node_id

    def _no_records(self) -> PendingRecords:
        return PendingRecords(self._settings.ledger_pending_max)

    # What the streams report.

    @property
    def is_full(self) -> bool:
        """Whether too many records wait for the database to accept another connection."""
        return self.pending.is_full

    @property
    def may_send(self) -> bool:
        """Whether events may go to sockets: while the lease is held, what is sent can be recorded."""
        return self.lease.is_held

    def record_opening(self, entry: ConnectionEntry) -> None:
        """Record a connection that was accepted."""
        entry.head_seq = self.position.seq
        self.pending.opened.append(entry)
        self.pending.changed.add(entry)
        self.pending.presence_changed = True

    def record_closing(self, entry: ConnectionEntry, code: int, reason: str) -> None:
        """Record the end of a connection; of several calls the first counts."""
        if entry.closed_at is not None:
            return
        if entry.sent_seq is None:
            entry.sent_seq = self.position.seq
        entry.closed_at = datetime.now(UTC)
        entry.close_code = code
        entry.close_reason = printable(reason)
        self._changed(entry)
        self.pending.presence_changed = True

    def record_token(self, entry: ConnectionEntry, jti: str | None, token_expires_at: datetime) -> None:
        """Record the fresh token of a connection."""
        if entry.closed_at is None:
            entry.jti = jti
            entry.token_expires_at = token_expires_at
            self._changed(entry)

    def record_name(self, principal: Principal) -> None:
        """Record what a subject is shown by, from a token that was just verified and says it."""
        if principal.name is not None:
            issued_at = datetime.fromtimestamp(principal.issued_at, UTC)
            self.pending.add_name(SubjectName(principal.subject, principal.name, issued_at))

    def record_live(self, entry: ConnectionEntry) -> None:
        """Record that the connection keeps up: the node's ``sent_seq`` counts for it."""
        if entry.live_seq is None:
            entry.live_seq = self.position.seq
        self._set_sent(entry, None)

    def record_position(self, entry: ConnectionEntry, sent_seq: int, written_seq: int = 0) -> None:
        """Record that the connection replays or lags, and was sent no further than ``sent_seq``.

        ``written_seq`` is up to where it was written: a client may have received that much before it was lost.
        """
        if entry.closed_at is None:
            entry.written_seq = written_seq
        self._set_sent(entry, sent_seq)

    def record_polled(self, entry: ConnectionEntry, seq: int) -> None:
        """Record that an answer up to ``seq`` went to a poll without a cursor; 0: it was lost."""
        if entry.polled_seq != seq:
            entry.polled_seq = seq
            self._changed(entry)

    def record_dispatch(self, after: Position, up_to: Position, *, to_anybody: bool) -> None:
        """Record that ``(after, up_to]`` was sent to all that keep up, if to anybody."""
        self.position = up_to
        if to_anybody:
            self.pending.add_dispatch(self.node_id, after.seq, up_to.seq)

    def record_dispatch_to(self, entry: ConnectionEntry, after_seq: int, up_to_seq: int) -> None:
        """Record that ``(after_seq, up_to_seq]`` was sent to a connection that replays or lags."""
        self.record_position(entry, up_to_seq)
        if entry.node_id == self.node_id:
            self.pending.dispatches.append(Dispatch(self.node_id, entry.id, after_seq, up_to_seq, datetime.now(UTC)))

    def record_receipt(self, entry: ConnectionEntry, seq: int) -> None:
        """Record that the client confirmed everything up to ``seq``."""
        RECEIPTS.inc()
        entry.received_seq = seq
        if entry.node_id == self.node_id:
            self.pending.add_receipt(entry, seq, self._settings.ack_coalesce_seconds)

    def record_sightings(self, recipient: str, topics: tuple[str, ...], alerts: Iterable[UUID]) -> None:
        """Record that ``recipient``, whose token covers ``topics``, saw these alerts.

        The flush drops those that do not exist or that the recipient may not see. An alert that was
        seen counts neither as sent nor as received.
        """
        for alert_id in alerts:
            self.pending.add_sighting(Sighting(alert_id, recipient, topics, self.position.seq))
            SIGHTINGS.inc()

    def record_rejection(self, rejection: Rejection) -> None:
        """Record a rejected handshake; dropped while the recorder is full."""
        rejection.node_id = self.node_id
        self.pending.add_rejection(rejection)

    def count_rejection(self, reason: str) -> None:
        """Count a rejected handshake, of which ``record_rejection`` may keep no record."""
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        key = self.node_id, hour, reason
        counted = self._rejection_hours.get(key)
        if counted is None:
            self._rejection_hours = {known: each for known, each in self._rejection_hours.items() if each.hour == hour}
            counted = self._rejection_hours[key] = RejectionHour(*key)
        counted.rejections += 1
        self.pending.rejection_hours[key] = counted

    def _set_sent(self, entry: ConnectionEntry, sent_seq: int | None) -> None:
        if entry.closed_at is None:  # what was closed never changes again
            entry.sent_seq = sent_seq
            self._changed(entry)

    def _changed(self, entry: ConnectionEntry) -> None:
        if entry.node_id == self.node_id:
            self.pending.changed.add(entry)

    # What the streams ask.

    async def resume_point(self, key: ResumeKey, token_topics: tuple[str, ...], head: Position) -> ResumePoint:
        """Return where a stream resumes: after what was acknowledged on all streams of ``key``.

        A new point begins at ``head`` (of a consumer that has others, see ``resume_points.sql``). It is stored before
        anything is sent, so that whatever comes after it is sent again until it is acknowledged, on whichever node.

        Raises:
            ConsumerLimit: the recipient has as many points as one may have.
            DatabaseUnavailable: PostgreSQL cannot be reached.
            HistoryChanged: the log does not hold ``head``; nothing was stored.

        """
        # Read before the table: what a flush is writing now may be in neither afterwards.
        unwritten = (self.pending, self.in_flight)
        confirmed = [
            (entry.after_seq, entry.received_seq, entry.has_cursor)
            for entry in self.pending.confirmed | self.in_flight.confirmed
            if entry.recipient == key.recipient and entry.node_id == self.node_id and entry.resume_key == key
        ]
        parameters = {
            **key.columns(),
            "token_topics": list(token_topics),
            "start": min((after for after, *_ in confirmed), default=head.seq),
            "head_seq": head.seq,
            "head_id": head.id,
            "points_max": self._settings.resume_points_per_recipient,
            "own_node": self.node_id,
        }
        # Autocommit: were this node to freeze within a transaction, the rows would stay locked against the flushes of
        # the others for as long as a transaction may idle.

        async def begin(tx: AsyncConnection) -> Row[Any] | None:
            return (await tx.execute(statements.BEGIN_RESUME_POINT, parameters)).one_or_none()

        stored = await self._database.reads.run(begin, autocommit=True, subject=key.recipient)
        if stored is None:
            raise HistoryChanged(head)
        if stored.seq is None:
            raise ConsumerLimit(
                f"{key.recipient} has {parameters['points_max']} resume points: see audit.resume_points."
            )
        polled_on = UUID(stored.polled_on) if stored.polled_on else None
        # What this node has not written may be that the answer was lost.
        own = (entry for records in unwritten for entry in records.changed if entry.id == polled_on)
        polled_seq = next((entry.polled_seq for entry in own), stored.polled_seq) if polled_on else None
        point = ResumePoint(stored.seq, stored.event_id, polled_on, polled_seq, stored.polled_elsewhere)
        return point.advanced(stored.sent_seq, confirmed)

    async def is_written(self, connection: UUID, subject: str) -> bool:
        """Wait until what the other node of ``connection`` knows is in the table; return whether it is.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        return await has_flushed(self._database, connection, subject=subject)

    async def move_resume_point(self, key: ResumeKey, void: ResumePoint, start: Position) -> None:
        """Let ``key`` resume at ``start``, because the log does not hold ``void``, where it resumed.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        parameters = {**key.columns(), **start._asdict(), "void_id": void.event_id}
        async with self._database.reads.transaction(autocommit=True, subject=key.recipient) as tx:
            await tx.execute(statements.MOVE_RESUME_POINT, parameters)

    async def record_late_receipt(self, connection: UUID, principal: Principal, seq: int) -> int | None:
        """Record a receipt for a connection that was closed, or is held by another node.

        Return up to where it counts, or None where ``principal`` could not have opened it. It never
        counts beyond what the ledger knows was sent; another node may not have written that yet,
        and the client can send its ack again.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        for entry in itertools.chain(self.pending.changed, self.in_flight.changed):
            if (
                entry.id == connection
                and entry.recipient == principal.subject
                and principal.covers_all(entry.filter.topics)
                and entry.closed_at
                and entry.sent_seq is not None
            ):
                up_to = min(seq, entry.sent_seq)
                if up_to > max(entry.received_seq, entry.after_seq):
                    self.record_receipt(entry, up_to)
                return up_to
        recipient = principal.subject
        parameters = {"connection": connection, "recipient": recipient, "topics": list(principal.topics), "seq": seq}
        async with self._database.reads.transaction(autocommit=True, subject=recipient) as tx:
            known = (await tx.execute(statements.FIND_CONFIRMED, parameters)).one_or_none()
            if known is None:
                return None
            stream = {**known._asdict(), "received_seq": known.seq}
            await statements.advance_resume_points(tx, [stream], self._settings.resume_points_per_recipient)
            if known.is_news:
                receipt = Receipt(connection, known.seq, datetime.now(UTC), time.monotonic())
                await statements.write_final(tx, {"receipts": [receipt]})
        return int(known.seq)

    # What the flusher asks.

    def become(self, node_id: UUID, position: Position) -> None:
        """Go on as another node, which holds no lease yet, without the records of the old one.

        Its totals of rejections are kept: they say nothing about what it sent, and may be written at any time.
        """
        unwritten = self.in_flight.rejection_hours | self.pending.rejection_hours
        self.node_id, self.position = node_id, position
        self.lease = Lease(self._settings.node_lease_seconds)
        self.pending = self._no_records()
        self.pending.rejection_hours = unwritten
        self._rejection_hours = {}
        self.left_behind = None

    def leave_history(self, node_id: UUID, position: Position, common: Position | None, flush: int) -> None:
        """Go on as another node; what waits under the old id is cut at ``common``, and written first.

        ``flush`` is the number of the last flush that was written.
        """
        left_behind = self.left_behind
        if left_behind is None:
            left_behind = LeftBehind(self.node_id, flush, self.pending, common)
        else:  # the present id was never registered
            left_behind.narrow(common)
        self.become(node_id, position)
        self.left_behind = left_behind

    def begin_flush(self) -> PendingRecords:
        """Return the pending records, and keep them as those in flight until ``end_flush``."""
        self.in_flight, self.pending = self.pending, self._no_records()
        self._flushing = self.node_id
        self.in_flight.freeze()
        return self.in_flight

    def end_flush(self, *, written: bool) -> None:
        """Forget the records in flight, or put them back, to those of the node whose they are."""
        left_behind = self.left_behind
        if self._flushing == self.node_id:
            if written:
                self.left_behind = None
            else:
                self.pending.put_back(self.in_flight)
        elif not written and left_behind is not None and left_behind.node_id == self._flushing:
            left_behind.put_back(self.in_flight)
        self.in_flight = self._no_records()
