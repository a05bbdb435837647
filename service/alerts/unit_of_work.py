"""The unit of work of a transaction that changes alerts: what it read under the log's lock, and what it will write.

``UnitOfWork.open`` takes the lock, which is held to the commit, and reads the alerts that the commands are about; each
command is then applied to it in turn (``commands.py``), and ``write`` writes the outcome in one statement: the alerts,
the events, and the answers to idempotency keys. Nothing is retried and nothing races, on one node or on fifty.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from service.alerts.lifecycle import Alert, Transition
from service.alerts.queue_items import Stored
from service.database.leases import AdvisoryLock
from service.errors import IdempotencyMismatch, NotFound
from service.events.hash_chain import digest
from service.events.log import EVENTS_CHANNEL, Event
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg

SWEEP_MAX = 500
"""The most alerts that one transaction brings up to date."""

_COLUMNS = (
    "id, seq, source, topic, severity::text, title, body, attributes, links, recipients, dedup_key, status::text,"
    " status_by, status_at, occurrences, created_at, updated_at, expires_at, escalate_after, escalate_at,"
    " last_repeat_event_at, repeat_event_due_at"
)
_UNRESOLVED = "status IN ('open', 'acknowledged')"

# $1 ids, $2 and $3 topics and keys, $4 the time where alerts are due, else null. The second part finds who holds the
# key of an alert that may be reopened. The rows are locked because retention, which alone does not hold the log's lock,
# may be about to delete one: it passes over those that are locked, and what it deleted is not found here.
_READ_ALERTS = f"""
SELECT {_COLUMNS} FROM alerts WHERE id IN (
    SELECT unnest($1::uuid[])
    UNION ALL
    SELECT holder.id FROM alerts named JOIN alerts holder ON holder.topic = named.topic
           AND holder.dedup_key = named.dedup_key AND holder.{_UNRESOLVED}
    WHERE named.id = ANY ($1)
    UNION ALL
    SELECT id FROM unnest($2::text[], $3::text[]) AS k (topic, dedup_key) JOIN alerts USING (topic, dedup_key)
    WHERE {_UNRESOLVED}
    UNION ALL
    (SELECT id FROM alerts WHERE {_UNRESOLVED} AND due_at <= $4 ORDER BY due_at LIMIT {SWEEP_MAX})
) FOR NO KEY UPDATE OF alerts
"""  # noqa: S608 - constant

_READ_ANSWERS = """
SELECT k.source, k.key, encode(k.request_hash, 'hex'), k.seq, coalesce(k.answer, e.body)::text
FROM unnest($1::text[], $2::text[]) AS asked (source, key)
JOIN idempotency_keys k USING (source, key) LEFT JOIN events e ON e.seq = k.seq
"""

_WRITE = f"""
WITH changed AS (
    INSERT INTO alerts (id, seq, source, topic, severity, title, body, attributes, links, recipients, dedup_key, status,
                        status_by, status_at, occurrences, created_at, updated_at, expires_at, escalate_after,
                        escalate_at, last_repeat_event_at, repeat_event_due_at)
    SELECT * FROM json_to_recordset($1::json) AS (
        id uuid, seq bigint, source text, topic text, severity severity, title text, body text, attributes jsonb,
        links jsonb, recipients text[], dedup_key text, status alert_status, status_by text, status_at timestamptz,
        occurrences integer, created_at timestamptz, updated_at timestamptz, expires_at timestamptz,
        escalate_after integer, escalate_at timestamptz, last_repeat_event_at timestamptz,
        repeat_event_due_at timestamptz)
    ON CONFLICT (id) DO UPDATE SET
        severity = excluded.severity, recipients = excluded.recipients, status = excluded.status,
        status_by = excluded.status_by, status_at = excluded.status_at, occurrences = excluded.occurrences,
        updated_at = excluded.updated_at, expires_at = excluded.expires_at, escalate_at = excluded.escalate_at,
        last_repeat_event_at = excluded.last_repeat_event_at, repeat_event_due_at = excluded.repeat_event_due_at
), appended AS (
    INSERT INTO events (seq, alert_id, kind, topic, severity, recipients, actor, occurred_at, body, details)
    SELECT * FROM json_to_recordset($2::json) AS (
        seq bigint, alert_id uuid, kind text, topic text, severity severity, recipients text[], actor text,
        occurred_at timestamptz, body json, details json)
), answered AS (
    INSERT INTO idempotency_keys (source, key, request_hash, seq, created_at, answer)
    SELECT source, key, decode(hash, 'hex'), seq, created_at, answer FROM json_to_recordset($3::json) AS (
        source text, key text, hash text, seq bigint, created_at timestamptz, answer json)
)
SELECT link_log($4, $5), pg_notify('{EVENTS_CHANNEL}', $6::text) WHERE $6 IS NOT NULL
"""  # noqa: S608 - constant


class Wanted(NamedTuple):
    """What changes ask the book for; ``due_at`` is a time where alerts that are due by then are among it."""

    ids: Sequence[UUID] = ()
    dedup_keys: Sequence[tuple[str, str]] = ()
    idempotency: Sequence[tuple[str, str]] = ()
    due_at: datetime | None = None


class Answer(NamedTuple):
    """The first answer to an idempotency key: ``content`` is the hash of what was asked for."""

    content: str
    stored: Stored


@dataclass(slots=True)
class UnitOfWork:
    """What a transaction has read, and what it will write."""

    xid: str
    found: int
    head: int
    alerts: dict[UUID, Alert]
    answers: dict[tuple[str, str], Answer]
    holders: dict[tuple[str, str], UUID] = field(default_factory=dict)
    touched: dict[UUID, Alert] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    async def open(cls, connection: asyncpg.Connection, wanted: Wanted) -> UnitOfWork:
        """Take the lock of the log, and read. The snapshot of each statement after the lock is newer than it."""
        await connection.execute(AdvisoryLock.LOG.lock)
        head, xid = await connection.fetchrow(
            "SELECT coalesce(max(last_seq), 0), pg_current_xact_id()::text FROM log_chain"
        )
        topics, keys = [topic for topic, _ in wanted.dedup_keys], [key for _, key in wanted.dedup_keys]
        rows = await connection.fetch(_READ_ALERTS, wanted.ids, topics, keys, wanted.due_at)
        book = cls(xid, head, head, {row["id"]: _alert(row) for row in rows}, {})
        if wanted.idempotency:
            sources, keys = [source for source, _ in wanted.idempotency], [key for _, key in wanted.idempotency]
            for source, key, content, seq, body in await connection.fetch(_READ_ANSWERS, sources, keys):
                stored = Stored(UUID(orjson.loads(body)["id"]), seq, body.encode())
                book.answers[source, key] = Answer(content, stored)
        for alert in book.alerts.values():
            if alert.is_unresolved and alert.dedup_key is not None:
                book.holders[alert.topic, alert.dedup_key] = alert.id
        return book

    async def write(self, connection: asyncpg.Connection) -> None:
        """Write what was put into the book."""
        await connection.execute(
            _WRITE,
            orjson.dumps([_row(alert) for alert in self.touched.values()]).decode(),
            orjson.dumps([_event_row(event) for event in self.events]).decode(),
            orjson.dumps(self.kept).decode(),
            self.found,
            b"".join(digest(event.line) for event in self.events),
            str(self.head) if self.events else None,
        )

    def find(self, alert_id: UUID) -> Alert:
        """Return an alert.

        Raises:
            NotFound: there is none.

        """
        if (alert := self.alerts.get(alert_id)) is None:
            raise NotFound(f"There is no alert {alert_id}.")
        return alert

    def holder(self, topic: str, dedup_key: str) -> Alert | None:
        """Return the unresolved alert of ``topic`` that holds the key."""
        alert_id = self.holders.get((topic, dedup_key))
        return self.alerts[alert_id] if alert_id is not None else None

    def take(self, step: Transition, actor: str, at: datetime, details: dict[str, Any] | None = None) -> Alert:
        """Put an alert where ``step`` leaves it, and append its event, if any."""
        alert = step.alert
        if step.kind is not None:
            self.head += 1
            if step.kind == "alert.created":
                alert = replace(alert, seq=self.head)
            recipients = frozenset(alert.recipients) if alert.recipients is not None else None
            self.events.append(
                Event(
                    self.head,
                    alert.id,
                    step.kind,
                    alert.topic,
                    alert.severity,
                    recipients,
                    actor,
                    at,
                    alert.wire(),
                    orjson.dumps(details) if details else None,
                )
            )
        self.alerts[alert.id] = self.touched[alert.id] = alert
        if alert.dedup_key is not None:
            key = alert.topic, alert.dedup_key
            if alert.is_unresolved:
                self.holders[key] = alert.id
            elif self.holders.get(key) == alert.id:
                del self.holders[key]
        return alert

    def first_answer(self, source: str, key: str, content: str) -> Stored | None:
        """Return what the key was first answered, None where it is new.

        Raises:
            IdempotencyMismatch: it was first used for something else.

        """
        answer = self.answers.get((source, key))
        if answer is not None and answer.content != content:
            raise IdempotencyMismatch("The first request with this key held something else. Use a new key.")
        return answer.stored._replace(replayed=True) if answer is not None else None

    def keep_answer(self, source: str, key: str, content: str, stored: Stored, at: datetime) -> None:
        """Remember the answer to a key."""
        self.answers[source, key] = Answer(content, stored)
        self.kept.append(
            {
                "source": source,
                "key": key,
                "hash": content,
                "seq": stored.seq,
                "created_at": rfc3339(at),
                "answer": orjson.Fragment(stored.wire),
            }
        )


def _alert(row: asyncpg.Record) -> Alert:
    state = dict(row)
    state["id"] = UUID(bytes=state["id"].bytes)  # asyncpg's own kind is not JSON to the encoder
    state["attributes"], state["links"] = orjson.loads(state["attributes"]), orjson.loads(state["links"])
    return Alert(**state)


def _row(alert: Alert) -> dict[str, Any]:
    return {field.name: getattr(alert, field.name) for field in fields(alert)}


def _event_row(event: Event) -> dict[str, Any]:
    return {
        **event._asdict(),
        "recipients": sorted(event.recipients) if event.recipients is not None else None,
        "body": orjson.Fragment(event.body),
        "details": orjson.Fragment(event.details) if event.details is not None else None,
    }
