"""The SQL of the unit of work: load it under the log's lock, write it in one statement, and settle it.

The lists of columns follow from the fields of ``AlertRecord`` and ``Event``, their types from
``tables.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy.dialects import postgresql

from service.alerts.alert_record import FIELDS, IMMUTABLE, AlertRecord
from service.alerts.queue_items import Stored
from service.alerts.tables import alerts, idempotency_keys
from service.alerts.unit_of_work import FirstAnswer, UnitOfWork
from service.events.hash_chain import digest
from service.events.log import EVENTS_CHANNEL, Event
from service.events.position import Position
from service.events.tables import events
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg
    from sqlalchemy import Table

    from service.alerts.unit_of_work import Lookup, NewAnswer

DUE_MAX = 500
"""The most due alerts that one transaction processes."""

_BEGIN = "SELECT lock_log($1), set_config('idle_in_transaction_session_timeout', $2, true)"
# The attempt is recorded whatever the commands do: a transaction that writes nothing is not confirmed by synchronous
# standbys, and what it found may not have reached them.
_RECORD_AND_READ_HEAD = """
WITH recorded AS (INSERT INTO commit_attempts (id, committed, at) VALUES ($1, true, clock_timestamp()))
SELECT seq, id FROM log_head
"""

_UNRESOLVED = "status IN ('open', 'acknowledged')"
# The driver would ask the database what an enum is.
_COLUMNS = ", ".join(f"{name}::text" if isinstance(alerts.c[name].type, postgresql.ENUM) else name for name in FIELDS)

# $1 ids, $2 and $3 topics and keys, $4 the time where alerts are due, else null. The second part
# finds who holds the key of an alert that may be reopened. The rows are locked because retention,
# which alone does not hold the log's lock, may be about to delete one: it passes over those that
# are locked, and what it deleted is not found here.
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
    (SELECT id FROM alerts WHERE {_UNRESOLVED} AND due_at <= $4 ORDER BY due_at LIMIT {DUE_MAX})
) FOR NO KEY UPDATE OF alerts
"""  # noqa: S608 - constant

_READ_ANSWERS = """
SELECT k.source, k.key, encode(k.request_hash, 'hex'), k.seq, coalesce(k.answer, e.body)::text
FROM unnest($1::text[], $2::text[]) AS asked (source, key)
JOIN idempotency_keys k USING (source, key) LEFT JOIN events e ON e.seq = k.seq
"""


def _insert(table: Table, names: Iterable[str], parameter: int) -> str:
    """Return the statement that inserts the objects of a JSON array, members named as columns."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    columns = {name: table.c[name].type.compile(dialect) for name in names}
    types = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)})"  # noqa: S608 - constants
        f" SELECT * FROM json_to_recordset(${parameter}::json) AS ({types})"
    )


_WRITE = f"""
WITH changed AS (
    {_insert(alerts, FIELDS, 1)}
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in FIELDS if name not in IMMUTABLE)}
), appended AS (
    {_insert(events, Event._fields, 2)}
), answered AS (
    {_insert(idempotency_keys, idempotency_keys.c.keys(), 3)}
)
SELECT link_log($4, $5, $6), notify_nodes('{EVENTS_CHANNEL}', $7::text) WHERE $7 IS NOT NULL
"""


async def load_unit_of_work(
    connection: asyncpg.Connection, attempt: int, lookup: Lookup, idle_timeout_seconds: float
) -> UnitOfWork:
    """Take the log's lock, which is held to the commit, record the attempt, and read.

    The snapshot of each later statement is newer than the lock. If the node freezes or is cut off,
    PostgreSQL ends the transaction after ``idle_timeout_seconds``, and the lock with it.
    """
    await connection.execute(_BEGIN, attempt, f"{idle_timeout_seconds * 1000:.0f}")
    head = Position(*await connection.fetchrow(_RECORD_AND_READ_HEAD, attempt))
    topics, keys = [topic for topic, _ in lookup.dedup_keys], [key for _, key in lookup.dedup_keys]
    rows = await connection.fetch(_READ_ALERTS, lookup.ids, topics, keys, lookup.due_at)
    answers = {}
    if lookup.idempotency:
        sources, keys = [source for source, _ in lookup.idempotency], [key for _, key in lookup.idempotency]
        for source, key, content, seq, body in await connection.fetch(_READ_ANSWERS, sources, keys):
            stored = Stored(UUID(orjson.loads(body)["id"]), seq, body.encode())
            answers[source, key] = FirstAnswer(content, stored)
    read = [_alert(row) for row in rows]
    return UnitOfWork(head, {alert.id: alert for alert in read}, answers)


async def write_unit_of_work(connection: asyncpg.Connection, unit: UnitOfWork) -> None:
    """Write the alerts that changed, the events, and the answers to idempotency keys."""
    if not unit.changed:
        return
    await connection.execute(
        _WRITE,
        _json({name: getattr(alert, name) for name in FIELDS} for alert in unit.changed.values()),
        _json(map(_event_row, unit.events)),
        _json(map(_answer_row, unit.new_answers)),
        unit.start.seq,
        [event.id for event in unit.events],
        b"".join(digest(event.line) for event in unit.events),
        str(unit.head) if unit.events else None,
    )


class SettledAttempt(NamedTuple):
    """What an attempt stored: a transaction of commands, or these alerts, which follow ``before``."""

    committed: bool
    alert_ids: frozenset[UUID]
    before: Position


async def settle_attempt(
    connection: asyncpg.Connection, attempt: int, alert_ids: Sequence[UUID], timeout_seconds: float
) -> SettledAttempt:
    """Give an attempt up, unless it was committed, and return what it stored."""
    row = await connection.fetchrow(
        "SELECT committed, alert_ids, before_seq, before_id FROM settle_attempt($1, $2)",
        attempt,
        alert_ids,
        timeout=timeout_seconds,
    )
    return SettledAttempt(row[0], frozenset(row[1]), Position(row[2], row[3]))


def _json(rows: Iterable[dict[str, Any]]) -> str:
    return orjson.dumps(list(rows)).decode()


def _alert(row: asyncpg.Record) -> AlertRecord:
    state = dict(row)
    state["id"] = UUID(bytes=state["id"].bytes)  # the driver has a UUID of its own, which orjson does not know
    state["attributes"], state["links"] = orjson.loads(state["attributes"]), orjson.loads(state["links"])
    return AlertRecord(**state)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        **event._asdict(),
        "recipients": sorted(event.recipients) if event.recipients is not None else None,
        "body": orjson.Fragment(event.body),
        "details": orjson.Fragment(event.details) if event.details is not None else None,
    }


def _answer_row(answer: NewAnswer) -> dict[str, Any]:
    return {
        "source": answer.source,
        "key": answer.key.key,
        "request_hash": rf"\x{answer.key.content}",
        "seq": answer.stored.seq,
        "answer": orjson.Fragment(answer.stored.wire),
        "created_at": rfc3339(answer.created_at),
    }
