"""Changes: what they ask the book for, and what they do to it. ``lifecycle.py`` says what becomes of an alert."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import orjson

from service.alerts import lifecycle
from service.alerts.lifecycle import Action, Alert, Transition
from service.alerts.queue_items import DueProcessed, NewAlert, QueueItem, Stored
from service.alerts.unit_of_work import Wanted
from service.errors import ActionConflict, NotFound, RequestRefused
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from service.alerts.queue_items import Outcome
    from service.alerts.schemas import AlertIn
    from service.alerts.unit_of_work import UnitOfWork
    from service.events.log import IdempotencyKey


def posted(alert: AlertIn, source: str, at: datetime, key: IdempotencyKey | None = None) -> NewAlert | PostAlert:
    """Return an alert that was posted, as what waits for its commit."""
    new = NewAlert.of(alert, source, at, key)
    return new if alert.dedup_key is None and alert.escalate_after is None else PostAlert(source, at, new)


@dataclass(slots=True)
class Command(QueueItem):
    """A change, by whom and when."""

    actor: str
    at: datetime

    def wanted(self) -> Wanted:
        """Return what it must see."""
        raise NotImplementedError

    def apply(self, book: UnitOfWork) -> Outcome:
        """Act on the book, and return what became of it.

        Raises:
            RequestRefused: nothing did.

        """
        raise NotImplementedError


@dataclass(slots=True)
class PostAlert(Command):
    """An alert that may repeat another, or that escalates."""

    new: NewAlert

    @property
    def source(self) -> str:
        """Who posted it."""
        return self.actor

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return self.new.size

    def wanted(self) -> Wanted:
        """Ask for the alert that it may repeat."""
        alert, key = self.new.alert, self.new.key
        return Wanted(
            dedup_keys=[(alert.topic, alert.dedup_key)] if alert.dedup_key is not None else [],
            idempotency=[(self.actor, key.key)] if key is not None else [],
        )

    def apply(self, book: UnitOfWork) -> Stored:
        """Store it, or count it as a repetition."""
        key = self.new.key
        if key is not None and (first := book.first_answer(self.actor, key.key, key.content)) is not None:
            return first
        posted = self._state()
        holder = book.holder(posted.topic, posted.dedup_key) if posted.dedup_key is not None else None
        step = lifecycle.repeat(holder, posted, self.at) if holder is not None else Transition(posted, "alert.created")
        alert = book.take(step, self.actor, self.at)
        stored = Stored(alert.id, alert.seq, alert.wire(), repeated=holder is not None)
        if key is not None:
            book.keep_answer(self.actor, key.key, key.content, stored, self.at)
        return stored

    def _state(self) -> Alert:
        alert = self.new.alert
        return Alert(
            id=self.new.id,
            seq=0,
            source=self.actor,
            topic=alert.topic,
            severity=alert.severity,
            title=alert.title,
            body=alert.body,
            attributes=alert.attributes,
            links=[{"title": link.title, "url": link.url} for link in alert.links],
            recipients=alert.recipients,
            dedup_key=alert.dedup_key,
            status="open",
            status_by=self.actor,
            status_at=self.at,
            occurrences=1,
            created_at=self.at,
            updated_at=self.at,
            expires_at=alert.expires_at,
            escalate_after=alert.escalate_after,
            escalate_at=self.at + timedelta(seconds=alert.escalate_after) if alert.escalate_after else None,
        )


@dataclass(slots=True)
class ChangeStatus(Command):
    """An action on an alert."""

    alert_id: UUID
    action: Action

    def wanted(self) -> Wanted:
        """Ask for the alert."""
        return Wanted(ids=[self.alert_id])

    def apply(self, book: UnitOfWork) -> Stored:
        """Act, unless the actor has done it already."""
        return _act(book, book.find(self.alert_id), self)


@dataclass(slots=True)
class ResolveByDedupKey(Command):
    """The end of what a caller knows by its dedup key."""

    topic: str
    dedup_key: str
    action = Action.RESOLVE

    def wanted(self) -> Wanted:
        """Ask for the unresolved alert that holds the key."""
        return Wanted(dedup_keys=[(self.topic, self.dedup_key)])

    def apply(self, book: UnitOfWork) -> Stored:
        """Resolve it."""
        if (alert := book.holder(self.topic, self.dedup_key)) is None:
            raise NotFound(f"No unresolved alert of {self.topic} has the key {self.dedup_key!r}.")
        return _act(book, alert, self)


def _act(book: UnitOfWork, alert: Alert, change: ChangeStatus | ResolveByDedupKey) -> Stored:
    step = lifecycle.act(alert, change.action, change.actor, change.at)
    if step is not None:
        if not alert.is_unresolved and step.alert.is_unresolved and alert.dedup_key is not None:
            holder = book.holder(alert.topic, alert.dedup_key)
            if holder is not None:
                raise ActionConflict(f"The alert {holder.id} has taken its place: it has the same dedup_key.")
        alert = book.take(step, change.actor, change.at)
    return Stored(alert.id, alert.seq, alert.wire())


@dataclass(slots=True)
class AddComment(Command):
    """A comment on an alert; ``id`` is its own. With an idempotency key, a retry makes no second one."""

    alert_id: UUID
    id: UUID
    text: str
    key: str | None = None

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return len(self.text)

    def wanted(self) -> Wanted:
        """Ask for the alert."""
        return Wanted(ids=[self.alert_id], idempotency=[(self.actor, self.key)] if self.key is not None else [])

    def apply(self, book: UnitOfWork) -> Stored:
        """Append it."""
        content = sha256(f"{self.alert_id}\n{self.text}".encode()).hexdigest()
        if self.key is not None and (first := book.first_answer(self.actor, self.key, content)) is not None:
            return first
        comment = {"id": str(self.id), "text": self.text}
        book.take(lifecycle.comment(book.find(self.alert_id), self.at), self.actor, self.at, {"comment": comment})
        shown = {**comment, "alert_id": str(self.alert_id), "actor": self.actor, "at": rfc3339(self.at)}
        stored = Stored(self.id, book.head, orjson.dumps(shown))
        if self.key is not None:
            book.keep_answer(self.actor, self.key, content, stored, self.at)
        return stored


@dataclass(slots=True)
class ProcessDue(Command):
    """The passing of time: what is due by ``at`` is repeated, escalated or expired."""

    def wanted(self) -> Wanted:
        """Ask for what is due."""
        return Wanted(due_at=self.at)

    def apply(self, book: UnitOfWork) -> DueProcessed:
        """Bring up to date what is due."""
        due = [alert for alert in book.alerts.values() if alert.is_due(self.at)]
        for alert in due:
            for step in lifecycle.fall_due(alert, self.at):
                book.take(step, self.actor, self.at)
        return DueProcessed(len(due))


def all_wanted(changes: Sequence[Command]) -> Wanted:
    """Return what ``changes`` must see, together."""
    each = [change.wanted() for change in changes]
    return Wanted(
        ids=[alert_id for one in each for alert_id in one.ids],
        dedup_keys=[key for one in each for key in one.dedup_keys],
        idempotency=[key for one in each for key in one.idempotency],
        due_at=max((one.due_at for one in each if one.due_at is not None), default=None),
    )


def outcomes(changes: Sequence[Command], book: UnitOfWork) -> list[Outcome]:
    """Let each change act on the book, in turn; one that is refused leaves it as it was."""

    def outcome(change: Command) -> Outcome:
        try:
            return change.apply(book)
        except RequestRefused as refusal:
            return refusal

    return [outcome(change) for change in changes]
