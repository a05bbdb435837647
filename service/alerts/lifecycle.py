"""The life of an alert: one state machine, without I/O. Whoever calls it holds the log's lock.

::

                    ┌────────────── reopen ──────────────┐
                    ▼                                    │
    created ──► open ──── acknowledge ───► acknowledged ─┤
                 │  ▲                        │   │       │
                 │  └── a graver repetition ─┘   │       │
                 │                               │       │
                 ├──────────── resolve ──────────┴──► resolved
                 └──────────── expire ───────────────► expired ── reopen ──► open

Each step is an event of the log. An action that would bring an alert where it already stands changes nothing when the
same actor repeats it, and is a conflict when somebody else was first: of two admins who acknowledge at once, one has
it, and the other is told who.

While an alert is open or acknowledged, another with its ``dedup_key`` in its topic repeats it: it is counted, and
raises the severity if it is graver. The stream is told of repetitions once a second at most; each frame holds the whole
count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from service.errors import ActionConflict
from service.severity import RANK
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from service.severity import Severity

Status = Literal["open", "acknowledged", "resolved", "expired"]
EventKind = Literal[
    "alert.created",
    "alert.repeated",
    "alert.acknowledged",
    "alert.resolved",
    "alert.reopened",
    "alert.commented",
    "alert.expired",
    "alert.escalated",
]

UNRESOLVED: tuple[Status, ...] = ("open", "acknowledged")
REPEATED_EVERY = timedelta(seconds=1)
SERVICE = "tocsin"
"""The actor of what nobody did: expiry, escalation, and the count of repetitions."""


class Action(Enum):
    """What an admin does: its name, where it leads, from where, and the kind of the event."""

    ACKNOWLEDGE = ("acknowledge", "acknowledged", ("open",), "alert.acknowledged")
    RESOLVE = ("resolve", "resolved", UNRESOLVED, "alert.resolved")
    REOPEN = ("reopen", "open", ("acknowledged", "resolved", "expired"), "alert.reopened")

    def __init__(self, verb: str, status: Status, sources: tuple[Status, ...], kind: str) -> None:
        self.verb = verb
        self.status = status
        self.sources = sources
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Alert:
    """The state of an alert, as the table ``alerts`` holds it."""

    id: UUID
    seq: int
    source: str
    topic: str
    severity: Severity
    title: str
    body: str | None
    attributes: dict[str, Any]
    links: list[dict[str, Any]]
    recipients: list[str] | None
    dedup_key: str | None
    status: Status
    status_by: str
    status_at: datetime
    occurrences: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    escalate_after: int | None = None
    escalate_at: datetime | None = None
    last_repeat_event_at: datetime | None = None
    repeat_event_due_at: datetime | None = None

    @property
    def is_unresolved(self) -> bool:
        """Say whether somebody still has to see to it."""
        return self.status in UNRESOLVED

    def is_due(self, at: datetime) -> bool:
        """Say whether time makes something of it by ``at``."""
        times = (self.expires_at, self.escalate_at, self.repeat_event_due_at)
        return self.is_unresolved and any(time is not None and time <= at for time in times)

    def shown(self) -> dict[str, Any]:
        """Return the alert as everybody is shown it, but for its ``seq``, which stands beside it in a frame."""
        return {
            "id": str(self.id),
            "source": self.source,
            "topic": self.topic,
            "severity": self.severity,
            "title": self.title,
            "body": self.body,
            "attributes": self.attributes,
            "links": self.links,
            "recipients": self.recipients,
            "dedup_key": self.dedup_key,
            "status": self.status,
            "status_by": self.status_by,
            "status_at": rfc3339(self.status_at),
            "occurrences": self.occurrences,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
            "expires_at": rfc3339(self.expires_at) if self.expires_at else None,
            "escalate_at": rfc3339(self.escalate_at) if self.escalate_at else None,
        }

    def wire(self) -> bytes:
        """Return ``shown`` as JSON."""
        return orjson.dumps(self.shown())


class Transition(NamedTuple):
    """What became of an alert, and the kind of the event that says so; ``kind`` is None where none is due yet."""

    alert: Alert
    kind: str | None


def act(alert: Alert, action: Action, actor: str, at: datetime) -> Transition | None:
    """Return what an action makes of an alert, None where ``actor`` has done it already.

    Raises:
        ActionConflict: somebody else was first, or it does not lead there from here.

    """
    if alert.status == action.status and alert.status_by == actor:
        return None
    if alert.status not in action.sources:
        raise ActionConflict(_since(alert), members={"alert": {**alert.shown(), "seq": alert.seq}})
    escalates = action is Action.REOPEN and alert.escalate_after is not None
    escalate_at = at + timedelta(seconds=alert.escalate_after or 0) if escalates else None
    # One that expired and is opened again has nothing left to expire.
    expires_at = None if alert.expires_at is not None and alert.expires_at <= at else alert.expires_at
    changed = replace(
        alert, status=action.status, status_by=actor, status_at=at, escalate_at=escalate_at, expires_at=expires_at
    )
    return Transition(_announced(changed, at), action.kind)


def _since(alert: Alert) -> str:
    if alert.status == "expired":
        return f"The alert expired at {rfc3339(alert.status_at)}."
    did = {"open": "opened", "acknowledged": "acknowledged", "resolved": "resolved"}[alert.status]
    return f"{alert.status_by} {did} the alert at {rfc3339(alert.status_at)}."


def repeat(alert: Alert, repeated: Alert, at: datetime) -> Transition:
    """Return what another one with the key of an unresolved alert makes of it; ``repeated`` is how it was posted.

    A graver one goes to the log at once; it reopens an acknowledged alert, for what was acknowledged was less.
    """
    graver = RANK[repeated.severity] > RANK[alert.severity]
    expiries = (alert.expires_at, repeated.expires_at)
    changed = replace(
        alert,
        occurrences=alert.occurrences + 1,
        updated_at=at,
        severity=repeated.severity if graver else alert.severity,
        expires_at=max(filter(None, expiries)) if all(expiries) else None,
    )
    if graver and alert.status == "acknowledged":
        escalate_at = at + timedelta(seconds=alert.escalate_after) if alert.escalate_after is not None else None
        changed = replace(changed, status="open", status_by=repeated.source, status_at=at, escalate_at=escalate_at)
    if graver or alert.last_repeat_event_at is None or at - alert.last_repeat_event_at >= REPEATED_EVERY:
        return Transition(replace(changed, last_repeat_event_at=at, repeat_event_due_at=None), "alert.repeated")
    return Transition(
        replace(changed, repeat_event_due_at=alert.repeat_event_due_at or alert.last_repeat_event_at + REPEATED_EVERY),
        None,
    )


def comment(alert: Alert, at: datetime) -> Transition:
    """Return an alert that was commented on."""
    return Transition(_announced(alert, at), "alert.commented")


def fall_due(alert: Alert, at: datetime) -> Iterator[Transition]:
    """Yield what time has made of an unresolved alert, in order: its repetitions, its escalation, its end."""
    if alert.repeat_event_due_at is not None and alert.repeat_event_due_at <= at:
        alert = replace(alert, last_repeat_event_at=at, repeat_event_due_at=None)
        yield Transition(alert, "alert.repeated")
    if alert.expires_at is not None and alert.expires_at <= at:
        changed = replace(alert, status="expired", status_by=SERVICE, status_at=at, escalate_at=None)
        yield Transition(_announced(changed, at), "alert.expired")
    elif alert.escalate_at is not None and alert.escalate_at <= at:
        # From here on it is for all who may see its topic.
        yield Transition(_announced(replace(alert, recipients=None, escalate_at=None), at), "alert.escalated")


def _announced(alert: Alert, at: datetime) -> Alert:
    """Return an alert whose event is due now: it holds the whole count, so no other has to tell it."""
    return replace(alert, updated_at=at, repeat_event_due_at=None)
