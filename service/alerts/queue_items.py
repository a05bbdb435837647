"""What waits for a commit, and what became of it.

A ``NewAlert`` that asks for nothing but to be stored goes into the log as it is. Everything else is a ``Command``: what
becomes of it depends on what is there, so it is decided while the log's lock is held (``changes.py``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from service.alerts.schemas import content_hash, wire_alert
from service.database.ids import uuid7
from service.events.hash_chain import digest, event_line
from service.events.log import Event, IdempotencyKey

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from service.alerts.schemas import AlertIn
    from service.errors import RequestRefused


class Stored(NamedTuple):
    """An alert as a commit left it. ``wire`` is its JSON, or that of the comment that was made.

    ``replayed``: it is what the idempotency key was first used for. ``repeated``: it was there, and was counted.
    """

    id: UUID
    seq: int
    wire: bytes
    replayed: bool = False
    repeated: bool = False


class DueProcessed(NamedTuple):
    """How many alerts were due."""

    alerts: int


Outcome: TypeAlias = "Stored | DueProcessed | RequestRefused"


class Waiting:
    """A request that waits until each of its items has its outcome: ``done`` when none is ``left``."""

    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@dataclass(slots=True, kw_only=True)
class QueueItem:
    """An item of the committer's queue; ``outcome`` is None until it is known."""

    outcome: Outcome | None = None
    waiting: Waiting | None = None

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return 0

    def conclude(self, outcome: Outcome) -> None:
        """Note what became of the item, and wake its request if it is the last; an outcome stays what it was."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        if (waiting := self.waiting) is not None:
            waiting.left -= 1
            if not waiting.left and not waiting.done.done():
                waiting.done.set_result(None)


@dataclass(slots=True)
class NewAlert(QueueItem):
    """An alert on its way into the log. ``wire`` is its JSON."""

    id: UUID
    source: str
    created_at: datetime
    alert: AlertIn
    wire: bytes
    key: IdempotencyKey | None = None

    @classmethod
    def of(cls, alert: AlertIn, source: str, created_at: datetime, key: IdempotencyKey | None = None) -> NewAlert:
        """Give ``alert`` an id, and its form on the wire."""
        alert_id = uuid7()
        return cls(alert_id, source, created_at, alert, wire_alert(alert, alert_id, source, created_at), key)

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return len(self.wire)

    @property
    def digest(self) -> bytes:
        """What the chain holds of its event."""
        return digest(event_line("alert.created", self.created_at, self.source, self.wire))

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


def idempotency_key(key: str | None, alert: AlertIn) -> IdempotencyKey | None:
    """Return the key that an alert was posted with, if any, beside what it stands for."""
    return IdempotencyKey(key, content_hash(alert)) if key is not None else None
