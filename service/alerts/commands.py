"""Commands: the changes that are asked for, applied to a unit of work.

A command says what it needs to have read, and records what ``lifecycle.py`` makes of it. Two things
are decided here, under the log's lock: whether the bearer may act on the alert as it is now
(``auth/authorization.py``), and whether a post repeats an unresolved alert (``dedup.py``) or is late
(``late_posts.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson

from service.alerts import lifecycle
from service.alerts.dedup import EVERYBODY, DedupIdentity, KeyOfSource
from service.alerts.event_size import require_comment
from service.alerts.late_posts import INSTANT, Occurrence, Resolution, is_late, is_outdated, precedes
from service.alerts.lifecycle import Action, Transition
from service.alerts.queue_items import DueProcessed, KeyResolved, QueueItem, Stored
from service.alerts.shown import summary
from service.alerts.unit_of_work import FIRST_ID, Lookup
from service.auth.authorization import Operation, authorize, may_read, refusal
from service.errors import ActionConflict, InvalidRequest, RequestRefused
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
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
    occurrence: Occurrence | None = None
    """None: it cannot be late."""
    _size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._size = len(self.alert.wire())

    @property
    def source(self) -> str:
        """Who posted it."""
        return self.actor

    @property
    def size(self) -> int:
        """How many bytes of the queue it takes."""
        return self._size

    @property
    def is_repeatable(self) -> bool:
        """Whether the same request, sent again, stores nothing twice."""
        return self.key is not None or self.alert.dedup_key is not None

    @property
    def recipients(self) -> Sequence[str] | None:
        """Those that it names."""
        return self.alert.recipients

    def lookup(self) -> Lookup:
        """Ask for the alert that it may repeat."""
        identities = (identity,) if (identity := self.alert.dedup_identity) is not None else ()
        return Lookup(
            repeated=[*identities],
            idempotency=[(self.actor, self.key.key)] if self.key is not None else [],
            resolved=identities if self.occurrence is not None else (),
        )

    def apply(self, unit: UnitOfWork) -> Stored:
        """Store it, or count it as a repetition."""
        if (first := unit.first_answer(self.actor, self.key)) is not None:
            return first
        posted = self.alert
        require_future(posted.expires_at, self.at)
        if (resolution := self._resolution_of_it(unit)) is not None:
            alert = self._store_late(unit, resolution)
        elif (holder := unit.holder(posted)) is not None:
            is_news = not is_outdated(self.occurrence, holder)
            alert = unit.record(lifecycle.repeat(holder, posted, self.at, is_news=is_news), self.actor, self.at)
        else:
            alert = unit.record(Transition(posted, "alert.created"), self.actor, self.at)
        stored = _stored(alert, repeated=alert.id != posted.id)
        unit.keep_answer(self.actor, self.key, stored, self.at)
        return stored

    def _resolution_of_it(self, unit: UnitOfWork) -> Resolution | None:
        """Return the resolution of what it is about, if it is late. What was reopened since counts as open."""
        if self.occurrence is None or (identity := self.alert.dedup_identity) is None:
            return None
        for resolution in unit.last_resolutions(identity):
            resolved = unit.find(resolution.alert_id)
            is_open = resolved is not None and resolved.is_unresolved
            if not is_open and is_late(self.occurrence, resolution, resolved, self.at):
                return resolution
        return None

    def _store_late(self, unit: UnitOfWork, resolution: Resolution) -> AlertRecord:
        """Count it on the alert that was resolved; where there is none, store it as one that is resolved."""
        if (resolved := unit.find(resolution.alert_id)) is not None:
            return unit.record(lifecycle.count(resolved, self.at), self.actor, self.at)
        created = unit.record(Transition(self.alert, "alert.created"), self.actor, self.at)
        unit.keep_resolution(resolution._replace(alert_id=created.id))
        return unit.record(_resolving(created, self.actor, self.at), self.actor, self.at)


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
        if self.action is Action.RESOLVE and alert.occurred_at is not None and alert.dedup_identity is not None:
            unit.keep_resolution(Resolution(alert.dedup_identity, alert.id, self.at, None))
        return _stored(unit.record(transition, self.actor, self.at))


@dataclass(slots=True)
class ResolveByDedupKey(Command):
    """The resolution of the alerts that a source, or its group, knows by a dedup key.

    ``began_at`` and ``ended_at`` are when that began and ended, by the clock of the source, if it says
    so. What began after its end is not resolved: the command is late (``late_posts.precedes``). The
    alerts up to the id ``after`` were looked at before, by a command that did not read all.
    """

    topic: str
    dedup_key: str
    began_at: datetime | None = None
    ended_at: datetime | None = None
    replica_skew: timedelta = timedelta()
    after: UUID = FIRST_ID

    @property
    def _key(self) -> KeyOfSource:
        return KeyOfSource(self.actor, self.topic, self.dedup_key)

    @property
    def _identity(self) -> DedupIdentity:
        return DedupIdentity(self._key, EVERYBODY)

    def lookup(self) -> Lookup:
        """Ask for the unresolved alerts with the key, whoever their recipients are."""
        return Lookup(keys=[(self._key, self.after)], resolved=[self._identity])

    def apply(self, unit: UnitOfWork) -> KeyResolved:
        """Resolve those that were read."""
        own_sources = unit.groups.sharing(self.actor)
        before = unit.last_resolutions(self._identity)
        known_end = max((one.ended_at for one in before if one.ended_at is not None), default=None)
        alerts = [
            alert
            for alert in unit.with_key(self._key)
            if refusal(self.principal, Operation.RESOLVE, alert, own_sources=own_sources) is None
            and not (self.ended_at is not None and precedes(self.ended_at, alert, known_end, self.replica_skew))
        ]
        for alert in alerts:
            unit.record(_resolving(alert, self.actor, self.at), self.actor, self.at)
            if alert.dedup_identity is not None:
                ended_at = self.ended_at or alert.occurred_at or self.at
                unit.keep_resolution(Resolution(alert.dedup_identity, alert.id, self.at, ended_at))
        if unit.keys_read_to is not None:
            return KeyResolved(len(alerts), read_to=max(self.after, unit.keys_read_to))
        if not alerts:
            self._keep_for_late_posts(unit, before, known_end)
        return KeyResolved(len(alerts))

    def following(self, read_to: UUID) -> ResolveByDedupKey:
        """Return the command that resolves the alerts with higher ids."""
        return replace(self, outcome=None, waiting=None, after=read_to)

    def _keep_for_late_posts(self, unit: UnitOfWork, before: Sequence[Resolution], known_end: datetime | None) -> None:
        """Keep when it ended, unless that is known: what it resolves may still be on its way."""
        ended_at = self.ended_at or (self.began_at + INSTANT if self.began_at is not None else None)
        if known_end is None or (ended_at is not None and known_end < ended_at):
            alert_id = before[0].alert_id if before else None
            unit.keep_resolution(Resolution(self._identity, alert_id, self.at, ended_at or self.at))


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
        require_comment(self.text, len(alert.wire()), unit.event_max_bytes)
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


def require_future(expires_at: datetime | None, at: datetime) -> None:
    """Refuse an alert that has expired before it is stored.

    With an idempotency key, it may be the repetition of one that had not, so that is looked up first.

    Raises:
        InvalidRequest: it expires at the time ``at``, or before.

    """
    if expires_at is not None and expires_at <= at:
        detail = "must lie in the future"
        raise InvalidRequest(f"/expires_at: {detail}.", errors=[{"pointer": "/expires_at", "detail": detail}])


def apply_all(commands: Iterable[Command], unit: UnitOfWork) -> list[Outcome]:
    """Apply commands in turn, and return their outcomes; a refused one changes nothing."""

    def outcome(command: Command) -> Outcome:
        try:
            return command.apply(unit)
        except RequestRefused as refusal:
            return refusal

    return [outcome(command) for command in commands]


def _resolving(alert: AlertRecord, actor: str, at: datetime) -> Transition:
    """Return the transition that resolves an unresolved alert."""
    transition = lifecycle.act(alert, Action.RESOLVE, actor, at)
    assert transition is not None  # noqa: S101 - narrows: it is unresolved
    return transition


def _stored(alert: AlertRecord, *, repeated: bool = False) -> Stored:
    return Stored(alert.id, alert.seq, alert.wire(), repeated=repeated)
