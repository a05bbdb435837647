"""The records of the ledger that wait for the flush: connections, dispatches, receipts and the rest.

They are written as JSON with the names of their fields, which are the names of the columns.
PostgreSQL ignores fields for which the table has no column.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from service.database.ids import uuid7
from service.ledger.resume_points import ResumeKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from service.events.filter import EventFilter

TEXT_MAX = 300


def printable(text: str | None) -> str | None:
    """Return the printable characters of a client's text (so no NUL), at most 300."""
    return None if text is None else "".join(filter(str.isprintable, text))[:TEXT_MAX]


@dataclass(slots=True, eq=False)
class ConnectionEntry:
    """A connection. ``sent_seq`` is None while the connection keeps up with its node.

    ``written_seq`` is up to where it was written, where its socket has not taken all of it. ``consumer`` is the name by
    which the client resumes, empty where it gave none. ``has_cursor`` is whether the client stated ``after_seq``: then
    it had everything up to there. ``polled_seq`` is the cursor of the last answer to a poll without a cursor, 0 where
    there is none, or that was lost.
    """

    node_id: UUID
    recipient: str
    transport: str
    filter: EventFilter
    token_topics: tuple[str, ...]
    remote_addr: str | None
    user_agent: str | None
    jti: str | None
    token_expires_at: datetime
    after_seq: int
    sent_seq: int | None
    live_seq: int | None = None
    """Where it had caught up for the first time: what it was sent up to there was replayed."""
    head_seq: int = 0
    """How far the node had fanned out when it was opened."""
    consumer: str = ""
    has_cursor: bool = False
    id: UUID = field(default_factory=uuid7)
    opened_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    written_seq: int = 0
    polled_seq: int = 0
    received_seq: int = 0
    receipt: Receipt | None = None
    closed_at: datetime | None = None
    close_code: int | None = None
    close_reason: str | None = None

    @property
    def resume_key(self) -> ResumeKey:
        """Whose resume point it moves."""
        return ResumeKey(self.recipient, self.consumer, self.filter)


@dataclass(slots=True)
class Receipt:
    """The client confirmed everything up to ``seq``. A later ack may change it until ``frozen``."""

    connection_id: UUID
    seq: int
    received_at: datetime
    created: float
    """On the monotonic clock."""
    frozen: bool = False


@dataclass(slots=True)
class Sighting:
    """The client reported that ``recipient`` saw an alert.

    The flush writes it if there is such an alert, if ``topics``, those of the token, cover it, and
    if it is for the recipient. What happened to the alert after ``up_to_seq`` was not seen yet.
    """

    alert_id: UUID
    recipient: str
    topics: tuple[str, ...]
    up_to_seq: int
    seen_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True)
class Rejection:
    """A rejected handshake."""

    remote_addr: str | None
    path: str
    reason: str
    subject: str | None
    origin: str | None
    user_agent: str | None
    node_id: UUID | None = None
    id: UUID = field(default_factory=uuid7)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True)
class RejectionHour:
    """How many handshakes the node has rejected in an hour for a reason, in total: it may be written again and again.

    The fields are the columns.
    """

    node_id: UUID
    hour: datetime
    reason: str
    rejections: int = 0


RejectionKey: TypeAlias = "tuple[UUID, datetime, str]"
"""The node, the hour and the reason of a ``RejectionHour``."""


@dataclass(slots=True)
class SubjectName:
    """What the newest token of a subject says that it is shown by."""

    subject: str
    name: str
    issued_at: datetime
    """When the token was issued that says so."""
    named_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True)
class Dispatch:
    """``(after_seq, up_to_seq]`` was sent to one connection, or (None) to all that keep up."""

    node_id: UUID
    connection_id: UUID | None
    after_seq: int
    up_to_seq: int
    at: datetime


@dataclass(slots=True)
class PendingRecords:
    """The records of one node that wait for the next flush, at most about ``limit`` of them.

    At the limit, dispatches to all connections are merged; the handshake rejects new streams.
    Sightings, rejections and names have the same limit each, but do not count for it: clients could
    otherwise keep streams away. Beyond it they are dropped.
    """

    limit: int
    opened: list[ConnectionEntry] = field(default_factory=list)
    """Connections that were opened, in that order."""
    changed: set[ConnectionEntry] = field(default_factory=set)
    """Connections whose row differs from what was last written."""
    confirmed: set[ConnectionEntry] = field(default_factory=set)
    """Connections with a new receipt."""
    receipts: list[Receipt] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    rejection_hours: dict[RejectionKey, RejectionHour] = field(default_factory=dict)
    """The reason is one of a closed set, so these have no limit."""
    sightings: dict[tuple[UUID, str], Sighting] = field(default_factory=dict)
    """By alert and recipient: the first counts."""
    names: dict[str, SubjectName] = field(default_factory=dict)
    """By subject: what the token says that was issued last."""
    presence_changed: bool = False

    def __len__(self) -> int:
        lists = (self.changed, self.receipts, self.dispatches, self.rejections, self.sightings, self.names)
        return sum(map(len, lists)) + len(self.rejection_hours)

    @property
    def is_full(self) -> bool:
        """Whether too many records wait to accept another connection."""
        return len(self.changed) + len(self.receipts) + len(self.dispatches) >= self.limit

    def add_dispatch(self, node_id: UUID, after_seq: int, up_to_seq: int) -> None:
        """Add a dispatch to all connections that keep up; at the limit, merge it into the last.

        The merged dispatch has the time of the last pass: an event may be recorded as sent later
        than it was, never earlier.
        """
        at, waiting = datetime.now(UTC), self.dispatches
        if len(waiting) >= self.limit and waiting[-1].connection_id is None:
            waiting[-1].up_to_seq, waiting[-1].at = up_to_seq, at
        else:
            waiting.append(Dispatch(node_id, None, after_seq, up_to_seq, at))

    def add_receipt(self, entry: ConnectionEntry, seq: int, coalesce_seconds: float) -> None:
        """Add a receipt, or merge it into the last one, if that is newer than ``coalesce_seconds``.

        The merged receipt has the time of the last ack: an event may be recorded as received that
        much later than it was, never earlier.
        """
        now, last = time.monotonic(), entry.receipt
        if last is not None and not last.frozen and now - last.created < coalesce_seconds:
            last.seq, last.received_at = seq, datetime.now(UTC)
        else:
            entry.receipt = Receipt(entry.id, seq, datetime.now(UTC), now)
            self.receipts.append(entry.receipt)
            self.confirmed.add(entry)

    def add_rejection(self, rejection: Rejection) -> None:
        """Add a rejected handshake, or drop it at the limit."""
        if len(self.rejections) < self.limit:
            self.rejections.append(rejection)

    def add_sighting(self, sighting: Sighting) -> None:
        """Add a sighting, unless it is known already; dropped at the limit."""
        if len(self.sightings) < self.limit:
            self.sightings.setdefault((sighting.alert_id, sighting.recipient), sighting)

    def add_name(self, name: SubjectName) -> None:
        """Add a name, unless a token that was issued later says another; dropped at the limit."""
        known = self.names.get(name.subject)
        if len(self.names) < self.limit if known is None else known.issued_at <= name.issued_at:
            self.names[name.subject] = name

    def freeze(self) -> None:
        """Let no later ack change these receipts: they are about to be written."""
        for receipt in self.receipts:
            receipt.frozen = True

    def put_back(self, older: PendingRecords) -> None:
        """Add records that could not be written, before those that came since."""
        self.opened[:0] = older.opened
        self.changed |= older.changed
        self.confirmed |= older.confirmed
        self.receipts[:0] = older.receipts
        self.dispatches[:0] = older.dispatches
        self.rejections[:0] = older.rejections
        self.rejection_hours = older.rejection_hours | self.rejection_hours
        self.sightings = older.sightings | {
            key: new for key, new in self.sightings.items() if key not in older.sightings
        }
        newer, self.names = self.names, older.names
        for name in newer.values():
            self.add_name(name)
        self.presence_changed |= older.presence_changed

    def cut(self, seq: int) -> None:
        """Claim nothing after ``seq``: the log holds other events there than those that were sent.

        A receipt of a later event confirms those up to ``seq``, too.
        """
        for entry in self.changed | self.confirmed:
            entry.after_seq = min(entry.after_seq, seq)
            entry.head_seq = min(entry.head_seq, seq)
            entry.written_seq = min(entry.written_seq, seq)
            entry.received_seq = min(entry.received_seq, seq)
            entry.polled_seq = min(entry.polled_seq, seq)
            if entry.sent_seq is not None:
                entry.sent_seq = min(entry.sent_seq, seq)
            if entry.live_seq is not None:
                entry.live_seq = min(entry.live_seq, seq)
        self.dispatches = [dispatch for dispatch in self.dispatches if dispatch.after_seq < seq]
        for dispatch in self.dispatches:
            dispatch.up_to_seq = min(dispatch.up_to_seq, seq)
        for receipt in self.receipts:
            receipt.seq = min(receipt.seq, seq)
        for sighting in self.sightings.values():
            sighting.up_to_seq = min(sighting.up_to_seq, seq)

    def rows(self) -> dict[str, Sequence[Any]]:
        """Return the rows that may still change, by table; their keys are the columns."""
        return {
            "connections": [_connection_row(entry) for entry in self.changed if entry.closed_at is None],
            "recipients": self._recipient_rows(),
            "handshake_rejections": self.rejections,
            "rejection_hours": list(self.rejection_hours.values()),
            # Sorted, as the recipients.
            "subject_names": [self.names[subject] for subject in sorted(self.names)],
        }

    def resume_rows(self, sent_seq: int) -> list[dict[str, Any]]:
        """Return what moves resume points: a row per connection that changed; ``sent_seq`` is that of the node."""
        opened = set(self.opened)
        return [
            {
                "id": entry.id,
                "recipient": entry.recipient,
                "consumer": entry.consumer,
                "topics": entry.filter.topics,
                "min_severity": entry.filter.min_severity,
                "after_seq": entry.after_seq,
                "has_cursor": entry.has_cursor,
                "sent_seq": max(sent_seq if entry.sent_seq is None else entry.sent_seq, entry.written_seq),
                "received_seq": entry.received_seq,
                "polled_seq": entry.polled_seq,
                "opened": entry in opened,
            }
            for entry in self.changed | self.confirmed
        ]

    def final_rows(self) -> dict[str, Sequence[Any]]:
        """Return the rows that never change again, by the parameter of ``write_ledger``."""
        return {
            "closings": [_connection_row(entry) for entry in self.changed if entry.closed_at is not None],
            "dispatches": self.dispatches,
            "receipts": self.receipts,
            "sightings": list(self.sightings.values()),
        }

    def _recipient_rows(self) -> list[dict[str, Any]]:
        """Return a row per recipient, sorted, so that flushes of two nodes cannot deadlock."""
        rows: dict[str, dict[str, Any]] = {}
        now = datetime.now(UTC)
        for entry in sorted(self.changed | self.confirmed, key=attrgetter("opened_at")):
            row = rows.setdefault(entry.recipient, {})
            row |= {
                "id": entry.recipient,
                "topics": entry.token_topics,
                "topics_at": None,
                "first_seen_at": now,
                "first_seen_seq": min(row.get("first_seen_seq", entry.head_seq), entry.head_seq),
                "last_seen_at": now,
            }
        # The token of the last opening counts, whatever the clocks say: in the order of the flushes, and of this list.
        for entry in self.opened:
            rows[entry.recipient] |= {"topics": entry.token_topics, "topics_at": entry.opened_at}
        return [rows[recipient] for recipient in sorted(rows)]


def _connection_row(entry: ConnectionEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "node_id": entry.node_id,
        "recipient": entry.recipient,
        "transport": entry.transport,
        "consumer": entry.consumer,
        "topics": entry.filter.topics,
        "min_severity": entry.filter.min_severity,
        "remote_addr": entry.remote_addr,
        "user_agent": entry.user_agent,
        "jti": entry.jti,
        "token_expires_at": entry.token_expires_at,
        "opened_at": entry.opened_at,
        "after_seq": entry.after_seq,
        "has_cursor": entry.has_cursor,
        "sent_seq": entry.sent_seq,
        "live_seq": entry.live_seq,
        "closed_at": entry.closed_at,
        "close_code": entry.close_code,
        "close_reason": entry.close_reason,
    }
