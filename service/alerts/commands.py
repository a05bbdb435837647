"""Commands: the changes that are asked for, applied to a unit of work.

A command says what it needs to have read, and records what ``lifecycle.py`` makes of it. Two things
are decided here, under the log's lock: whether the bearer may act on the alert as it is now
(``auth/authorization.py``), and whether a post repeats an unresolved alert (``dedup.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from service.alerts import lifecycle
from service.alerts.dedup import KeyOfSource
from service.alerts.lifecycle import Action, Transition
from service.alerts.queue_items import DueProcessed, KeyResolved, QueueItem, Stored
from service.alerts.shown import summary
from service.alerts.unit_of_work import Lookup
from service.auth.authorization import Operation, authorize, may_read, refusal
from service.errors import ActionConflict, RequestRefused
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from service.alerts.alert_record import AlertRecord
    from service.alerts.queue_items import Outcome
    from service.alerts.unit_of_work import UnitOfWork
    from service.auth.principal import Principal
    from service.events.idempotency import IdempotencyKey


@dataclass(slots=True)
class Command(QueueItem):
    """A change of an alert that was asked for, by whom and when."""

    principal: Principal
    at: datetime

    @property
    def actor(self) -> str:
        """The actor of its events."""
        return self.principal.subject

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
        return Lookup(
            repeated=[identity] if (identity := self.alert.dedup_identity) is not None else [],
            idempotency=[(self.actor, self.key.key)] if self.key is not None else [],
        )

    def apply(self, unit: UnitOfWork) -> Stored:
        """Store it, or count it as a repetition."""
        if (first := unit.first_answer(self.actor, self.key)) is not None:
            return first
        posted = self.alert
        holder = unit.holder(posted)
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
        operation = Operation.RESOLVE if self.action is Action.RESOLVE else Operation.MANAGE
        alert = authorize(self.principal, operation, unit.find(self.alert_id))
        try:
            transition = lifecycle.act(alert, self.action, self.actor, self.at)
        except ActionConflict:
            if may_read(self.principal, alert):
                raise
            raise ActionConflict(f"The alert is {alert.status}.", members={"alert": summary(alert)}) from None
        if transition is None:
            return _stored(alert)
        if not alert.is_unresolved and transition.alert.is_unresolved and (holder := unit.holder(alert)) is not None:
            another = f"The alert {holder.id}" if may_read(self.principal, holder) else "Another alert"
            raise ActionConflict(f"{another} has taken its place: it has the same dedup_key.")
        return _stored(unit.record(transition, self.actor, self.at))


@dataclass(slots=True)
class ResolveByDedupKey(Command):
    """The resolution of the alerts that a source, or its group, knows by a dedup key."""

    topic: str
    dedup_key: str

    @property
    def _key(self) -> KeyOfSource:
        return KeyOfSource(self.actor, self.topic, self.dedup_key)

    def lookup(self) -> Lookup:
        """Ask for the unresolved alerts with the key, whoever their recipients are."""
        return Lookup(keys=[self._key])

    def apply(self, unit: UnitOfWork) -> KeyResolved:
        """Resolve those that were read."""
        own_sources = unit.groups.sharing(self.actor)
        alerts = [
            alert
            for alert in unit.with_key(self._key)
            if refusal(self.principal, Operation.RESOLVE, alert, own_sources=own_sources) is None
        ]
        for alert in alerts:
            transition = lifecycle.act(alert, Action.RESOLVE, self.actor, self.at)
            assert transition is not None  # noqa: S101 - narrows: it is unresolved
            unit.record(transition, self.actor, self.at)
        return KeyResolved(len(alerts), has_more=unit.is_partial)


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
        alert = authorize(self.principal, Operation.MANAGE, unit.find(self.alert_id))
        if (first := unit.first_answer(self.actor, self.key)) is not None:
            return first
        comment = {"id": str(self.id), "text": self.text}
        unit.record(lifecycle.comment(alert, self.at), self.actor, self.at, {"comment": comment})
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
