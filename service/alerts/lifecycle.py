"""The life of an alert: a state machine without I/O. Callers hold the log's lock.

::

                    ┌────────────── reopen ──────────────┐
                    ▼                                    │
    created ──► open ──── acknowledge ───► acknowledged ─┤
                 │  ▲                        │   │       │
                 │  └── repeat, if more ─────┘   │       │
                 │      severe                   │       │
                 ├──────────── resolve ──────────┴──► resolved
                 └──────────── expire ───────────────► expired ── reopen ──► open

Each transition is an event of the log. An action that leads to the status that the alert already
has changes nothing when the same actor repeats it, and is a conflict when somebody else was first:
of two admins who acknowledge at once, one succeeds, and the other is answered with who was first.

While an alert is open or acknowledged, another with its ``dedup_key`` in its topic repeats it: the
occurrence is counted, its title, body, attributes and links are shown from then on, unless something
newer is known, and it raises the severity if it is more severe. The severity does not fall while the
alert is unresolved: who filters by it, or acknowledged it, would not see the next rise. One that is
late is counted on the alert that was resolved. The log gets at most one event of repetitions a
second; each holds the whole count.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple

import orjson

from service.alerts.alert_record import CONTENT, UNRESOLVED, AlertRecord, Status
from service.errors import ActionConflict
from service.severity import RANK
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

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

REPEAT_INTERVAL = timedelta(seconds=1)
SERVICE = "tocsin"
"""The actor of expiry, escalation and the count of repetitions."""


class Action(Enum):
    """An action: its name, the status it leads to, those it starts from, the kind of its event."""

    ACKNOWLEDGE = ("acknowledge", "acknowledged", ("open",), "alert.acknowledged")
    RESOLVE = ("resolve", "resolved", UNRESOLVED, "alert.resolved")
    REOPEN = ("reopen", "open", ("acknowledged", "resolved", "expired"), "alert.reopened")

    def __init__(self, verb: str, status: Status, sources: tuple[Status, ...], kind: EventKind) -> None:
        self.verb = verb
        self.status = status
        self.sources = sources
        self.kind = kind


class Transition(NamedTuple):
    """An alert after a change, and the kind of its event, None where the event is due later."""

    alert: AlertRecord
    kind: EventKind | None


def act(alert: AlertRecord, action: Action, actor: str, at: datetime) -> Transition | None:
    """Return the transition of an action, None where ``actor`` repeats it.

    Raises:
        ActionConflict: somebody else was first, or the current status does not allow it.

    """
    if alert.status == action.status and alert.status_by == actor:
        return None
    if alert.status not in action.sources:
        current = orjson.Fragment(alert.wire_with_seq())
        raise ActionConflict(_describe_status(alert), members={"alert": current})
    escalates = action is Action.REOPEN and alert.escalate_after is not None
    escalate_at = at + timedelta(seconds=alert.escalate_after or 0) if escalates else None
    # An alert that is reopened after it expired does not expire again.
    expires_at = None if alert.expires_at is not None and alert.expires_at <= at else alert.expires_at
    changed = replace(
        alert, status=action.status, status_by=actor, status_at=at, escalate_at=escalate_at, expires_at=expires_at
    )
    return Transition(_with_event(changed, at), action.kind)


def _describe_status(alert: AlertRecord) -> str:
    if alert.status == "expired":
        return f"The alert expired at {rfc3339(alert.status_at)}."
    did = {"open": "opened", "acknowledged": "acknowledged", "resolved": "resolved"}[alert.status]
    return f"{alert.status_by} {did} the alert at {rfc3339(alert.status_at)}."


def repeat(alert: AlertRecord, repeated: AlertRecord, at: datetime, *, is_news: bool = True) -> Transition:
    """Return the transition of an unresolved alert when ``repeated`` is posted with the same key.

    A more severe one is an event at once, and reopens an acknowledged alert: what somebody
    acknowledged was less severe. ``is_news``: it says what to show from then on.
    """
    is_more_severe = RANK[repeated.severity] > RANK[alert.severity]
    expiries = (alert.expires_at, repeated.expires_at)
    changed = replace(
        alert,
        **({name: getattr(repeated, name) for name in CONTENT} if is_news else {}),
        occurred_at=max(filter(None, (alert.occurred_at, repeated.occurred_at)), default=None),
        severity=repeated.severity if is_more_severe else alert.severity,
        expires_at=max(filter(None, expiries)) if all(expiries) else None,
    )
    if is_more_severe and alert.status == "acknowledged":
        escalate_at = at + timedelta(seconds=alert.escalate_after) if alert.escalate_after is not None else None
        changed = replace(changed, status="open", status_by=repeated.source, status_at=at, escalate_at=escalate_at)
    return count(changed, at, at_once=is_more_severe)


def count(alert: AlertRecord, at: datetime, *, at_once: bool = False) -> Transition:
    """Return the transition of an alert, resolved or not, when one more occurrence is counted."""
    changed = replace(alert, occurrences=alert.occurrences + 1, updated_at=at)
    due_at = at if at_once or alert.last_repeat_event_at is None else alert.last_repeat_event_at + REPEAT_INTERVAL
    if due_at <= at:
        return Transition(replace(changed, last_repeat_event_at=at, repeat_event_due_at=None), "alert.repeated")
    return Transition(replace(changed, repeat_event_due_at=alert.repeat_event_due_at or due_at), None)


def comment(alert: AlertRecord, at: datetime) -> Transition:
    """Return the transition of a comment."""
    return Transition(_with_event(alert, at), "alert.commented")


def process_due(alert: AlertRecord, at: datetime) -> Iterator[Transition]:
    """Yield the transitions due at ``at``: pending repeat event, and of an unresolved alert escalation or expiry."""
    if alert.repeat_event_due_at is not None and alert.repeat_event_due_at <= at:
        alert = replace(alert, last_repeat_event_at=at, repeat_event_due_at=None)
        yield Transition(alert, "alert.repeated")
    if not alert.is_unresolved:
        return
    if alert.expires_at is not None and alert.expires_at <= at:
        changed = replace(alert, status="expired", status_by=SERVICE, status_at=at, escalate_at=None)
        yield Transition(_with_event(changed, at), "alert.expired")
    elif alert.escalate_at is not None and alert.escalate_at <= at:
        # From here on the alert is for all who may see its topic.
        yield Transition(_with_event(replace(alert, recipients=None, escalate_at=None), at), "alert.escalated")


def _with_event(alert: AlertRecord, at: datetime) -> AlertRecord:
    """Return an alert with an event at ``at``, which holds the whole count: no repeat event is pending."""
    return replace(alert, updated_at=at, repeat_event_due_at=None)
