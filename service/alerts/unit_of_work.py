"""The unit of work of a transaction: what it read under the log's lock, and what it will write.

Without I/O: ``statements.py`` loads it and writes it. In between each command is applied to it in
turn (``commands.py``), and sees what those before it left. Nothing is retried and nothing races, on
one node or on fifty.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import orjson

from service.database.ids import random_ids
from service.errors import NotFound
from service.events.idempotency import mismatch
from service.events.log import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from typing import Any
    from uuid import UUID

    from service.alerts.alert_record import AlertRecord
    from service.alerts.lifecycle import Transition
    from service.alerts.queue_items import Stored
    from service.events.idempotency import IdempotencyKey
    from service.events.position import Position


class Lookup(NamedTuple):
    """What commands need to have read: by id, by key, and the alerts due at ``due_at``."""

    ids: Sequence[UUID] = ()
    dedup_keys: Sequence[tuple[str, str]] = ()
    idempotency: Sequence[tuple[str, str]] = ()
    due_at: datetime | None = None

    @classmethod
    def union(cls, lookups: Iterable[Lookup]) -> Lookup:
        """Return a lookup of all that ``lookups`` need."""
        lookups = list(lookups)
        return cls(
            ids=[alert_id for lookup in lookups for alert_id in lookup.ids],
            dedup_keys=[key for lookup in lookups for key in lookup.dedup_keys],
            idempotency=[key for lookup in lookups for key in lookup.idempotency],
            due_at=max((lookup.due_at for lookup in lookups if lookup.due_at is not None), default=None),
        )


class FirstAnswer(NamedTuple):
    """The first answer to an idempotency key. ``content`` is the hash of the request."""

    content: str
    stored: Stored


class NewAnswer(NamedTuple):
    """The answer to an idempotency key of a source, to be written."""

    source: str
    key: IdempotencyKey
    stored: Stored
    created_at: datetime


@dataclass(slots=True)
class UnitOfWork:
    """What a transaction read, and what it will write.

    ``alerts`` and ``answers`` are kept current: by id, and by source and key. ``changed``,
    ``events`` and ``new_answers`` are to be written. ``start`` is the head of the log that was
    found.
    """

    start: Position
    alerts: dict[UUID, AlertRecord] = field(default_factory=dict)
    answers: dict[tuple[str, str], FirstAnswer] = field(default_factory=dict)
    changed: dict[UUID, AlertRecord] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    new_answers: list[NewAnswer] = field(default_factory=list)
    _holders: dict[tuple[str, str], UUID] = field(init=False)

    def __post_init__(self) -> None:
        self._holders = {
            (alert.topic, alert.dedup_key): alert.id
            for alert in self.alerts.values()
            if alert.is_unresolved and alert.dedup_key is not None
        }

    @property
    def head(self) -> int:
        """The last ``seq`` of the log once this is written."""
        return self.start.seq + len(self.events)

    def find(self, alert_id: UUID) -> AlertRecord:
        """Return an alert.

        Raises:
            NotFound: there is none.

        """
        if (alert := self.alerts.get(alert_id)) is None:
            raise NotFound(f"There is no alert {alert_id}.")
        return alert

    def holder(self, topic: str, dedup_key: str) -> AlertRecord | None:
        """Return the unresolved alert of ``topic`` that holds the key."""
        alert_id = self._holders.get((topic, dedup_key))
        return self.alerts[alert_id] if alert_id is not None else None

    def record(
        self, transition: Transition, actor: str, at: datetime, details: dict[str, Any] | None = None
    ) -> AlertRecord:
        """Record a transition and its event, if any. A new alert is returned with its ``seq``."""
        alert, kind = transition
        if kind is not None:
            if kind == "alert.created":
                alert = replace(alert, seq=self.head + 1)
            [event_id] = random_ids(1)
            self.events.append(
                Event(
                    seq=self.head + 1,
                    id=event_id,
                    alert_id=alert.id,
                    kind=kind,
                    topic=alert.topic,
                    severity=alert.severity,
                    recipients=frozenset(alert.recipients) if alert.recipients is not None else None,
                    actor=actor,
                    occurred_at=at,
                    body=alert.wire(),
                    details=orjson.dumps(details) if details else None,
                )
            )
        self.alerts[alert.id] = self.changed[alert.id] = alert
        if alert.dedup_key is not None:
            key = alert.topic, alert.dedup_key
            if alert.is_unresolved:
                self._holders[key] = alert.id
            elif self._holders.get(key) == alert.id:
                del self._holders[key]
        return alert

    def first_answer(self, source: str, key: IdempotencyKey | None) -> Stored | None:
        """Return the first answer to a key of ``source``, None where the key is new or there is none.

        Raises:
            IdempotencyMismatch: the key was first used for something else.

        """
        if key is None or (answer := self.answers.get((source, key.key))) is None:
            return None
        if answer.content != key.content:
            raise mismatch()
        return answer.stored._replace(replayed=True)

    def keep_answer(self, source: str, key: IdempotencyKey | None, stored: Stored, at: datetime) -> None:
        """Keep the first answer to a key, if there is one."""
        if key is not None:
            self.answers[source, key.key] = FirstAnswer(key.content, stored)
            self.new_answers.append(NewAnswer(source, key, stored, at))
