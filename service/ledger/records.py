"""The facts of the ledger: connections, dispatches, receipts and refused handshakes, until they are written.

They are written as JSON with the names of their fields, which are the names of the columns; what a table has no column
for is left out by PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from service.database.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from service.events.filter import EventFilter

TEXT_MAX = 300


def plain(text: str | None) -> str | None:
    """Return what a client said of itself as the ledger keeps it: printable, which leaves NUL out, and bounded."""
    return None if text is None else "".join(filter(str.isprintable, text))[:TEXT_MAX]


@dataclass(slots=True, eq=False)
class ConnectionEntry:
    """A connection as the ledger knows it. ``sent_seq`` is None while it keeps up with its node."""

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
    id: UUID = field(default_factory=uuid7)
    opened_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    received_seq: int = 0
    receipt: Receipt | None = None
    closed_at: datetime | None = None
    close_code: int | None = None
    close_reason: str | None = None


@dataclass(slots=True)
class Receipt:
    """The client acknowledged everything up to ``seq``. While ``open``, an ack that follows closely is folded in."""

    connection_id: UUID
    seq: int
    received_at: datetime
    begun: float
    open: bool = True


@dataclass(slots=True)
class Rejection:
    """A handshake that was refused."""

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
class Dispatch:
    """``(after_seq, up_to_seq]`` went to one connection, or (None) to all that kept up."""

    node_id: UUID
    connection_id: UUID | None
    after_seq: int
    up_to_seq: int
    at: datetime


@dataclass(slots=True)
class PendingRecords:
    """What waits to be written."""

    changed: set[ConnectionEntry] = field(default_factory=set)
    acknowledged: set[ConnectionEntry] = field(default_factory=set)
    receipts: list[Receipt] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    presence: bool = False

    def __len__(self) -> int:
        return len(self.changed) + len(self.receipts) + len(self.dispatches) + len(self.rejections)

    def put_back(self, older: PendingRecords) -> None:
        """Take facts back that could not be written."""
        self.changed |= older.changed
        self.acknowledged |= older.acknowledged
        self.receipts[:0] = older.receipts
        self.dispatches[:0] = older.dispatches
        self.rejections[:0] = older.rejections
        self.presence |= older.presence

    def rows(self) -> dict[str, Sequence[Any]]:
        """Return what to write into each table: one consistent instant, whose keys are the columns."""
        return {
            "connections": [_connection_row(entry) for entry in self.changed if entry.closed_at is None],
            "recipients": self._recipient_rows(),
            "handshake_rejections": self.rejections,
        }

    def final_rows(self) -> dict[str, Sequence[Any]]:
        """Return what is final, and is linked to the ledger's chain."""
        return {
            "closings": [_connection_row(entry) for entry in self.changed if entry.closed_at is not None],
            "dispatches": self.dispatches,
            "receipts": self.receipts,
        }

    def _recipient_rows(self) -> list[dict[str, Any]]:
        """Return one row for each admin that was seen, in one order on every node, so that flushes never deadlock."""
        rows: dict[str, dict[str, Any]] = {}
        now = datetime.now(UTC)
        for entry in sorted(self.changed | self.acknowledged, key=attrgetter("opened_at")):
            row = rows.setdefault(entry.recipient, {"received_seq": None})
            if entry.received_seq:
                row["received_seq"] = max(row["received_seq"] or 0, entry.received_seq)
            row |= {
                "id": entry.recipient,
                "topics": entry.token_topics,
                "topics_at": entry.opened_at,
                "first_seen_at": now,
                "last_seen_at": now,
            }
        return [rows[recipient] for recipient in sorted(rows)]


def _connection_row(entry: ConnectionEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "node_id": entry.node_id,
        "recipient": entry.recipient,
        "transport": entry.transport,
        "topics": entry.filter.topics,
        "min_severity": entry.filter.min_severity,
        "remote_addr": entry.remote_addr,
        "user_agent": entry.user_agent,
        "jti": entry.jti,
        "token_expires_at": entry.token_expires_at,
        "opened_at": entry.opened_at,
        "after_seq": entry.after_seq,
        "sent_seq": entry.sent_seq,
        "closed_at": entry.closed_at,
        "close_code": entry.close_code,
        "close_reason": entry.close_reason,
    }
