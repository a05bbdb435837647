"""Records of a history: for each connection what arrived and when, and what was acknowledged; for each post its answer.

All times come from one clock and err on the safe side: before a send, after a read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.faults.client_sockets import ClientSocket
    from tests.faults.trials.records import Subscription

_EVENT = re.compile(rb'\{"type":"event","seq":(\d+),')
NEVER = datetime.max.replace(tzinfo=UTC)
FRAME_MAX = 14
"""The longest header of a frame."""


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def seq_of(payload: bytes) -> int | None:
    """Return the seq of an event frame, None of any other."""
    match = _EVENT.match(payload)
    return int(match[1]) if match else None


class Logged(NamedTuple):
    """An event, as the log holds it. ``size`` is less than that of its frame."""

    seq: int
    topic: str
    severity: str
    recipients: list[str] | None
    occurred_at: datetime
    size: int


@dataclass
class Ack:
    """The client acknowledged everything up to ``seq``, ``in_stream`` or by a request of its own.

    ``confirmed_at`` is when the client knew that the service has it, and ``counts`` up to which seq. ``stored`` says
    whether it was in the database by then.
    """

    seq: int
    in_stream: bool = False
    at: datetime = field(default_factory=now)
    confirmed_at: datetime | None = None
    counts: int = 0
    stored: bool = False

    def confirm(self, counts: int | None = None, *, stored: bool = False) -> None:
        """Note that the service has it."""
        if self.confirmed_at is None:
            self.confirmed_at, self.counts, self.stored = now(), self.seq if counts is None else counts, stored


class Proof(NamedTuple):
    """Everything up to ``seq`` was written to the socket before ``at``, when a later frame was read."""

    seq: int
    at: datetime


class Unread(NamedTuple):
    """Bytes that may have been written to the socket between two times and were never read."""

    size: int
    since: datetime
    until: datetime


@dataclass(eq=False)
class ObservedConnection:
    """One connection as its client saw it. Its user agent identifies it in the ledger, also without a welcome."""

    agent: str
    subscription: Subscription
    transport: str
    pid: int
    asked: int | str | None = None
    began: datetime = field(default_factory=now)
    id: str | None = None
    after: int = 0
    welcomed: datetime | None = None
    seqs: list[int] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    socket: ClientSocket | None = None
    was_killed: bool = False
    """Whether its node was killed while it held the connection; ``unread`` has what was in flight."""
    ended: str = "open"

    def welcome(self, connection: str, after: int) -> None:
        """Note the welcome."""
        self.id, self.after, self.welcomed = connection, after, now()

    def prove(self) -> None:
        """Note that what was read before was written entirely: a frame has arrived that is written only afterwards."""
        if self.seqs:
            self.proofs.append(Proof(self.seqs[-1], now()))

    def __str__(self) -> str:
        return f"{self.transport} {self.agent} of {self.subscription.recipient} ({self.id}, {self.ended})"


class Posted(NamedTuple):
    """An alert that was answered as stored; ``at`` is before it was sent for the first time."""

    seq: int
    alert: dict[str, object]
    at: datetime


class Frames:
    """The frame of each event, which has the same bytes for every reader and on every transport."""

    def __init__(self) -> None:
        self._payloads: dict[int, bytes] = {}
        self.different: list[int] = []

    def compare(self, seq: int, payload: bytes) -> None:
        """Compare a frame with the first of its seq."""
        if self._payloads.setdefault(seq, payload) != payload:
            self.different.append(seq)

    def size(self, event: Logged) -> int:
        """Return how many bytes the event is at least on the wire."""
        return len(self._payloads.get(event.seq, b"")) or event.size
