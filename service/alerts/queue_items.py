"""The items of the committer's queue, and their outcomes.

A ``PendingAlert`` only needs to be stored, and is appended to the log as it is. Everything else is
a ``Command`` (``commands.py``): its outcome depends on the alerts that are there, so it is decided
while the log's lock is held.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from uuid import UUID

import orjson

from service.events.hash_chain import digest, event_line
from service.events.log import Event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from service.alerts.schemas import AlertIn
    from service.auth.principal import Principal
    from service.errors import RequestRefused
    from service.events.idempotency import IdempotencyKey


class Stored(NamedTuple):
    """An alert as a commit left it. ``wire`` is its JSON, or that of the comment that was made.

    ``replayed``: the first answer to the idempotency key. ``repeated``: the alert was there, and
    was counted.
    """

    id: UUID
    seq: int
    wire: bytes
    replayed: bool = False
    repeated: bool = False

    @classmethod
    def first(cls, seq: int, answer: bytes, *, replayed: bool = False) -> Stored:
        """Return a first answer that was kept: a comment or an alert. One that was repeated counts from 2."""
        document = orjson.loads(answer)
        is_repeated = document.get("occurrences", 1) > 1
        return cls(UUID(document["id"]), seq, answer, replayed=replayed, repeated=is_repeated)


class KeyResolved(NamedTuple):
    """How many alerts were resolved by their key, of those up to the id ``read_to``; None: of all."""

    alerts: int
    read_to: UUID | None = None


class DueProcessed(NamedTuple):
    """How many alerts were due."""

    alerts: int


Outcome: TypeAlias = "Stored | KeyResolved | DueProcessed | RequestRefused"


class Waiting:
    """A request that waits for the outcomes of its items: ``done`` when ``left`` is 0."""

    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@dataclass(slots=True, kw_only=True)
class QueueItem:
    """An item of the committer's queue; ``outcome`` is None until it is known."""

    outcome: Outcome | None = None
    waiting: Waiting | None = None
    bearer: Principal | None = None
    """Whose token asked for it: it is refused if that was revoked, or has expired, by the time of the commit."""

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return 0

    @property
    def is_repeatable(self) -> bool:
        """Whether the same request, sent again, stores nothing twice."""
        return True

    @property
    def recipients(self) -> Sequence[str] | None:
        """Those that it names."""
        return None

    def conclude(self, outcome: Outcome) -> None:
        """Set the outcome, unless there is one, and wake the request if this is its last item."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        if (waiting := self.waiting) is not None:
            waiting.left -= 1
            if not waiting.left and not waiting.done.done():
                waiting.done.set_result(None)


@dataclass(slots=True)
class PendingAlert(QueueItem):
    """An alert to be stored. ``wire`` is its JSON."""

    id: UUID
    source: str
    created_at: datetime
    alert: AlertIn
    wire: bytes
    key: IdempotencyKey | None = None

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return len(self.wire)

    @property
    def is_repeatable(self) -> bool:
        """Whether the same request, sent again, stores nothing twice."""
        return self.key is not None

    @property
    def recipients(self) -> Sequence[str] | None:
        """Those that it names."""
        return self.alert.recipients

    def digest(self, event_id: int) -> bytes:
        """Return the digest of its event in the hash chain."""
        return digest(event_line(event_id, "alert.created", self.created_at, self.source, self.wire))

    def event(self, seq: int, event_id: int) -> Event:
        """Return the event that the alert became."""
        alert = self.alert
        recipients = frozenset(alert.recipients) if alert.recipients is not None else None
        return Event(
            seq,
            event_id,
            self.id,
            "alert.created",
            alert.topic,
            alert.severity,
            recipients,
            self.source,
            self.created_at,
            self.wire,
        )
