"""The unit of work of a transaction: what it read under the log's lock, and what it will write.

Without I/O: ``statements.py`` loads it and writes it. In between each command is applied to it in
turn (``commands.py``), and sees what those before it left. Nothing is retried and nothing races, on
one node or on fifty.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import orjson

from service.alerts.dedup import NO_GROUPS
from service.database.ids import random_ids
from service.events.idempotency import mismatch
from service.events.log import Event
from service.settings import EVENT_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from typing import Any

    from service.alerts.alert_record import AlertRecord
    from service.alerts.dedup import DedupGroups, DedupIdentity, KeyOfSource
    from service.alerts.late_posts import Resolution
    from service.alerts.lifecycle import Transition
    from service.alerts.queue_items import Stored
    from service.events.idempotency import IdempotencyKey
    from service.events.position import Position

FIRST_ID = UUID(int=0)
"""An id that every other follows."""


class Lookup(NamedTuple):
    """What commands need to have read, and the alerts due at ``due_at``.

    ``repeated`` asks for the unresolved alert that another one repeats, ``keys`` for the unresolved
    alerts with a key whose ids follow another one, ``resolved`` for the last resolution, and the
    alert that it resolved; all of any source of the group.
    """

    ids: Sequence[UUID] = ()
    repeated: Sequence[DedupIdentity] = ()
    keys: Sequence[tuple[KeyOfSource, UUID]] = ()
    idempotency: Sequence[tuple[str, str]] = ()
    due_at: datetime | None = None
    resolved: Sequence[DedupIdentity] = ()

    @classmethod
    def union(cls, lookups: Iterable[Lookup]) -> Lookup:
        """Return a lookup of all that ``lookups`` need."""
        lookups = list(lookups)
        return cls(
            ids=[alert_id for lookup in lookups for alert_id in lookup.ids],
            repeated=[identity for lookup in lookups for identity in lookup.repeated],
            keys=[key for lookup in lookups for key in lookup.keys],
            idempotency=[key for lookup in lookups for key in lookup.idempotency],
            due_at=max((lookup.due_at for lookup in lookups if lookup.due_at is not None), default=None),
            resolved=tuple(identity for lookup in lookups for identity in lookup.resolved),
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

    ``alerts``, ``answers`` and ``resolutions`` are kept current: by id, by source and key, by what
    repeats what. ``changed``, ``events``, ``new_answers``, ``new_resolutions`` and
    ``search_changes`` (the ``seq`` of alerts whose words or attributes changed) are to be written.
    ``start`` is the head of the log that was found. No event should be larger than
    ``event_max_bytes``. ``keys_read_to``: of the alerts with the keys that were asked for, those up to
    this id were read; None: all.
    """

    start: Position
    alerts: dict[UUID, AlertRecord] = field(default_factory=dict)
    answers: dict[tuple[str, str], FirstAnswer] = field(default_factory=dict)
    changed: dict[UUID, AlertRecord] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    new_answers: list[NewAnswer] = field(default_factory=list)
    resolutions: dict[DedupIdentity, Resolution] = field(default_factory=dict)
    new_resolutions: dict[DedupIdentity, Resolution] = field(default_factory=dict)
    search_changes: set[int] = field(default_factory=set)
    groups: DedupGroups = NO_GROUPS
    event_max_bytes: int = EVENT_MAX_BYTES
    keys_read_to: UUID | None = None
    _holders: dict[KeyOfSource, dict[str, UUID]] = field(init=False)
    """The ids of the unresolved alerts with a key, by audience."""

    def __post_init__(self) -> None:
        self._holders = defaultdict(dict)
        for alert in self.alerts.values():
            self._keep_holder(alert)

    @property
    def head(self) -> int:
        """The last ``seq`` of the log once this is written."""
        return self.start.seq + len(self.events)

    def find(self, alert_id: UUID | None) -> AlertRecord | None:
        """Return an alert that commands have asked for."""
        return self.alerts.get(alert_id) if alert_id is not None else None

    def holder(self, posted: AlertRecord) -> AlertRecord | None:
        """Return the unresolved alert that ``posted`` repeats, if any."""
        if (identity := posted.dedup_identity) is None:
            return None
        found = (self._holders[key].get(identity.audience) for key in self.groups.keys(identity.key))
        return next((self.alerts[alert_id] for alert_id in found if alert_id is not None), None)

    def with_key(self, key: KeyOfSource) -> list[AlertRecord]:
        """Return the unresolved alerts with a key, of its source or its group."""
        return [self.alerts[alert_id] for one in self.groups.keys(key) for alert_id in self._holders[one].values()]

    def last_resolutions(self, identity: DedupIdentity) -> list[Resolution]:
        """Return the last resolutions of what repeats what, of each source of the group, the newest first."""
        identities = (identity._replace(key=key) for key in self.groups.keys(identity.key))
        found = [self.resolutions[one] for one in identities if one in self.resolutions]
        return sorted(found, key=lambda resolution: resolution.resolved_at, reverse=True)

    def keep_resolution(self, resolution: Resolution) -> None:
        """Keep the last resolution of what repeats what."""
        kept = resolution.after(self.resolutions.get(resolution.identity))
        self.resolutions[kept.identity] = self.new_resolutions[kept.identity] = kept

    def _keep_holder(self, alert: AlertRecord) -> None:
        if (identity := alert.dedup_identity) is None:
            return
        holders = self._holders[identity.key]
        if alert.is_unresolved:
            holders[identity.audience] = alert.id
        elif holders.get(identity.audience) == alert.id:
            del holders[identity.audience]

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
        before = self.alerts.get(alert.id)
        if before is not None and _searched(before) != _searched(alert):
            self.search_changes.add(alert.seq)
        self.alerts[alert.id] = self.changed[alert.id] = alert
        self._keep_holder(alert)
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


def _searched(alert: AlertRecord) -> tuple[str, str | None, bytes]:
    """Return what the search index holds of an alert and a repetition may change."""
    return alert.title, alert.body, orjson.dumps(alert.attributes, option=orjson.OPT_SORT_KEYS)
