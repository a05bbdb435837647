"""Commands: the changes that are asked for, applied to a unit of work.

A command says what it needs to have read, and records what ``lifecycle.py`` makes of it. Deduplication is
decided here: a post whose ``dedup_key`` an unresolved alert holds repeats that alert (``PostAlert``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from service.alerts import lifecycle
from service.alerts.lifecycle import Action, Transition
from service.alerts.queue_items import DueProcessed, QueueItem, Stored
from service.alerts.unit_of_work import Lookup
from service.errors import ActionConflict, NotFound, RequestRefused
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from service.alerts.alert_record import AlertRecord
    from service.alerts.queue_items import Outcome
    from service.alerts.unit_of_work import UnitOfWork
    from service.events.idempotency import IdempotencyKey


@dataclass(slots=True)
class Command(QueueItem):
    """A change of an alert that was asked for, by whom and when."""

    actor: str
    at: datetime

    def lookup(self) -> Lookup:
        """Return what it needs to have read."""
        raise NotImplementedError

    def apply(self, unit: UnitOfWork) -> Outcome:
        """Record what it does in the unit of work, and return the outcome.

        Raises:
            RequestRefused: nothing was recorded.

        """
        raise NotImplementedError


@dataclass(slots=True)
class PostAlert(Command):
    """An alert that may repeat another, or that escalates. ``alert`` has no ``seq`` yet."""

    alert: AlertRecord
    key: IdempotencyKey | None = None

    @property
    def source(self) -> str:
        """Who posted it."""
        return self.actor

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return len(self.alert.wire())

    @property
    def is_repeatable(self) -> bool:
        """Whether the same request, sent again, stores nothing twice."""
        return self.key is not None or self.alert.dedup_key is not None

    def lookup(self) -> Lookup:
        """Ask for the alert that it may repeat."""
        alert = self.alert
        return Lookup(
            dedup_keys=[(alert.topic, alert.dedup_key)] if alert.dedup_key is not None else [],
            idempotency=[(self.actor, self.key.key)] if self.key is not None else [],
        )

    def apply(self, unit: UnitOfWork) -> Stored:
        """Store it, or count it as a repetition."""
        if (first := unit.first_answer(self.actor, self.key)) is not None:
            return first
        posted = self.alert
        holder = unit.holder(posted.topic, posted.dedup_key) if posted.dedup_key is not None else None
        created = Transition(posted, "alert.created")
        transition = created if holder is None else lifecycle.repeat(holder, posted, self.at)
        stored = _stored(unit.record(transition, self.actor, self.at), repeated=holder is not None)
        unit.keep_answer(self.actor, self.key, stored, self.at)
        return stored


@dataclass(slots=True)
class ChangeStatus(Command):
    """An action on an alert."""

    alert_id: UUID
    action: Action

    def lookup(self) -> Lookup:
        """Ask for the alert."""
        return Lookup(ids=[self.alert_id])

    def apply(self, unit: UnitOfWork) -> Stored:
        """Act, unless the actor repeats the action."""
        alert = unit.find(self.alert_id)
        transition = lifecycle.act(alert, self.action, self.actor, self.at)
        if transition is None:
            return _stored(alert)
        if not alert.is_unresolved and transition.alert.is_unresolved and alert.dedup_key is not None:
            holder = unit.holder(alert.topic, alert.dedup_key)
            if holder is not None:
                raise ActionConflict(f"The alert {holder.id} has taken its place: it has the same dedup_key.")
        return _stored(unit.record(transition, self.actor, self.at))


@dataclass(slots=True)
class ResolveByDedupKey(Command):
    """The resolution of an alert that its source knows by its dedup key."""

    topic: str
    dedup_key: str

    def lookup(self) -> Lookup:
        """Ask for the unresolved alert that holds the key."""
        return Lookup(dedup_keys=[(self.topic, self.dedup_key)])

    def apply(self, unit: UnitOfWork) -> Stored:
        """Resolve it."""
        if (alert := unit.holder(self.topic, self.dedup_key)) is None:
            raise NotFound(f"No unresolved alert of {self.topic} has the key {self.dedup_key!r}.")
        return ChangeStatus(self.actor, self.at, alert.id, Action.RESOLVE).apply(unit)


@dataclass(slots=True)
class AddComment(Command):
    """A comment on an alert; ``id`` is the comment's. With a key, a retry makes no second one."""

    alert_id: UUID
    id: UUID
    text: str
    key: IdempotencyKey | None = None

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return len(self.text)

    def lookup(self) -> Lookup:
        """Ask for the alert."""
        return Lookup(ids=[self.alert_id], idempotency=[(self.actor, self.key.key)] if self.key is not None else [])

    def apply(self, unit: UnitOfWork) -> Stored:
        """Append it."""
        if (first := unit.first_answer(self.actor, self.key)) is not None:
            return first
        comment = {"id": str(self.id), "text": self.text}
        transition = lifecycle.comment(unit.find(self.alert_id), self.at)
        unit.record(transition, self.actor, self.at, {"comment": comment})
        answer = {**comment, "alert_id": str(self.alert_id), "actor": self.actor, "at": rfc3339(self.at)}
        stored = Stored(self.id, unit.head, orjson.dumps(answer))
        unit.keep_answer(self.actor, self.key, stored, self.at)
        return stored


@dataclass(slots=True)
class ProcessDue(Command):
    """The passing of time: alerts that are due by ``at`` are repeated, escalated or expired."""

    def lookup(self) -> Lookup:
        """Ask for the due alerts."""
        return Lookup(due_at=self.at)

    def apply(self, unit: UnitOfWork) -> DueProcessed:
        """Record the due transitions."""
        due = [alert for alert in unit.alerts.values() if alert.is_due(self.at)]
        for alert in due:
            for transition in lifecycle.process_due(alert, self.at):
                unit.record(transition, self.actor, self.at)
        return DueProcessed(len(due))


def apply_all(commands: Iterable[Command], unit: UnitOfWork) -> list[Outcome]:
    """Apply commands in turn, and return their outcomes; a refused one changes nothing."""

    def outcome(command: Command) -> Outcome:
        try:
            return command.apply(unit)
        except RequestRefused as refusal:
            return refusal

    return [outcome(command) for command in commands]


def _stored(alert: AlertRecord, *, repeated: bool = False) -> Stored:
    return Stored(alert.id, alert.seq, alert.wire(), repeated=repeated)
