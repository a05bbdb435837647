"""The SQL of the unit of work: load it under the log's lock, write it in one statement, and settle it.

The lists of columns follow from the fields of ``AlertRecord`` and ``Event``, their types from
``tables.py``.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy.dialects import postgresql

from service.alerts.alert_record import FIELDS, IMMUTABLE, AlertRecord
from service.alerts.dedup import NO_GROUPS, DedupIdentity, KeyOfSource
from service.alerts.late_posts import Resolution
from service.alerts.queue_items import Stored
from service.alerts.tables import alerts, idempotency_keys, resolutions
from service.alerts.unit_of_work import FirstAnswer, UnitOfWork
from service.database import json_numbers
from service.events.hash_chain import digest
from service.events.log import EVENTS_CHANNEL, Event
from service.events.position import Position
from service.events.tables import events
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg
    from sqlalchemy import Table

    from service.alerts.dedup import DedupGroups
    from service.alerts.unit_of_work import Lookup, NewAnswer

DUE_MAX = 500
"""The most due alerts that one transaction processes."""
KEYS_MAX = 500
"""The most alerts that one transaction reads by their keys: those with the lowest ids."""

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

# $1 ids, $2 to $5 what repeated alerts have in common, $6 and $7 sources and their groups, $8 the time
# where alerts are due, else null. The second part finds what has taken the place of an alert that may
# be reopened. The rows are locked because retention, which alone does not hold the log's lock, may be
# about to delete one: it passes over those that are locked, and what it deleted is not found here.
_READ_ALERTS = f"""
SELECT {_COLUMNS} FROM alerts WHERE id IN (
    SELECT unnest($1::uuid[])
    UNION ALL
    SELECT holder.id
    FROM alerts named
    CROSS JOIN LATERAL (
        SELECT named.source
        UNION
        SELECT other.source FROM unnest($6::text[], $7::text[]) AS own (source, name)
        JOIN unnest($6::text[], $7::text[]) AS other (source, name) USING (name) WHERE own.source = named.source
    ) AS sharing
    JOIN alerts holder ON holder.source = sharing.source AND holder.topic = named.topic
         AND holder.dedup_key = named.dedup_key AND holder.dedup_audience = named.dedup_audience
         AND holder.{_UNRESOLVED}
    WHERE named.id = ANY ($1)
    UNION ALL
    SELECT id FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
                   AS k (source, topic, dedup_key, dedup_audience)
    JOIN alerts USING (source, topic, dedup_key, dedup_audience) WHERE {_UNRESOLVED}
    UNION ALL
    (SELECT id FROM alerts WHERE due_at <= $8 ORDER BY due_at LIMIT {DUE_MAX})
) FOR NO KEY UPDATE OF alerts
"""  # noqa: S608 - constant

_READ_KEYS = f"""
SELECT {_COLUMNS} FROM alerts WHERE id IN (
    SELECT id FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[]) AS k (source, topic, dedup_key, after)
    JOIN alerts USING (source, topic, dedup_key) WHERE {_UNRESOLVED} AND id > k.after ORDER BY id LIMIT $5
) FOR NO KEY UPDATE OF alerts
"""  # noqa: S608 - constant

_READ_ANSWERS = """
SELECT k.source, k.key, encode(k.request_hash, 'hex'), k.seq, coalesce(k.answer, e.body)::text
FROM unnest($1::text[], $2::text[]) AS asked (source, key)
JOIN idempotency_keys k USING (source, key) LEFT JOIN events e ON e.seq = k.seq
"""


_READ_RESOLUTIONS = """
SELECT source, topic, dedup_key, dedup_audience, alert_id, resolved_at, ended_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k (source, topic, dedup_key, dedup_audience)
JOIN resolutions USING (source, topic, dedup_key, dedup_audience)
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
), resolved AS (
    {_insert(resolutions, resolutions.c.keys(), 8)}
    ON CONFLICT (source, topic, dedup_key, dedup_audience) DO UPDATE
    SET alert_id = excluded.alert_id, ended_at = coalesce(excluded.ended_at, resolutions.ended_at),
        resolved_at = CASE WHEN excluded.ended_at IS NULL AND resolutions.ended_at IS NOT NULL
                           THEN resolutions.resolved_at ELSE excluded.resolved_at END
), reworded AS (
    INSERT INTO search_changes (seq) SELECT unnest($9::bigint[])
)
SELECT link_log($4, $5, $6), notify_nodes('{EVENTS_CHANNEL}', $7::text) WHERE $7 IS NOT NULL
"""  # noqa: S608 - constant


async def load_unit_of_work(
    connection: asyncpg.Connection,
    attempt: int,
    lookup: Lookup,
    idle_timeout_seconds: float,
    groups: DedupGroups = NO_GROUPS,
) -> UnitOfWork:
    """Take the log's lock, which is held to the commit, record the attempt, and read.

    The snapshot of each later statement is newer than the lock. If the node freezes or is cut off,
    PostgreSQL ends the transaction after ``idle_timeout_seconds``, and the lock with it.
    """
    await connection.execute(_BEGIN, attempt, f"{idle_timeout_seconds * 1000:.0f}")
    head = Position(*await connection.fetchrow(_RECORD_AND_READ_HEAD, attempt))
    repeated = _identities(lookup.repeated, groups)
    last = await _read_resolutions(connection, _identities(lookup.resolved, groups))
    ids = [*lookup.ids, *(one.alert_id for one in last if one.alert_id is not None)]
    asked = *_arrays(repeated, 4), *_arrays(groups.members, 2)
    rows = await connection.fetch(_READ_ALERTS, ids, *asked, lookup.due_at)
    answers, keys_read_to = {}, None
    if lookup.keys:
        # Of a key that several commands ask for, it reads what follows the lowest of their ids.
        after = {
            key: last for one, last in sorted(lookup.keys, key=itemgetter(1), reverse=True) for key in groups.keys(one)
        }
        with_keys = await connection.fetch(_READ_KEYS, *_arrays(after, 3), [*after.values()], KEYS_MAX)
        rows = [*rows, *with_keys]
        if len(with_keys) == KEYS_MAX:
            keys_read_to = _uuid(max(row["id"] for row in with_keys))
    if lookup.idempotency:
        for source, key, content, seq, body in await connection.fetch(_READ_ANSWERS, *_arrays(lookup.idempotency, 2)):
            answers[source, key] = FirstAnswer(content, Stored.first(seq, body.encode()))
    found = {alert.id: alert for alert in map(_alert, rows)}
    known = {resolution.identity: resolution for resolution in last}
    return UnitOfWork(head, found, answers, resolutions=known, groups=groups, keys_read_to=keys_read_to)


def _identities(identities: Iterable[DedupIdentity], groups: DedupGroups) -> list[tuple[str, str, str, str]]:
    """Return the identities of the source and of those that share their keys with it."""
    return [(*key, audience) for one, audience in identities for key in groups.keys(one)]


async def _read_resolutions(
    connection: asyncpg.Connection, identities: Sequence[tuple[str, str, str, str]]
) -> list[Resolution]:
    if not identities:
        return []
    rows = await connection.fetch(_READ_RESOLUTIONS, *_arrays(identities, 4))
    return [Resolution(DedupIdentity(KeyOfSource(*row[:3]), row[3]), _uuid(row[4]), row[5], row[6]) for row in rows]


def _uuid(value: UUID | None) -> UUID | None:
    """Return a UUID of Python: the driver has one of its own, which orjson does not know."""
    return UUID(bytes=value.bytes) if value is not None else None


async def write_unit_of_work(connection: asyncpg.Connection, unit: UnitOfWork) -> None:
    """Write the alerts that changed, the events, and the answers to idempotency keys."""
    if not (unit.changed or unit.new_resolutions):
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
        _json(map(_resolution_row, unit.new_resolutions.values())),
        sorted(unit.search_changes),
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


def _arrays(rows: Iterable[Sequence[str]], width: int) -> list[list[str]]:
    """Return the columns of rows: arrays to be read with ``unnest``."""
    rows = list(rows)
    return [[row[number] for row in rows] for number in range(width)]


def _json(rows: Iterable[dict[str, Any]]) -> str:
    return orjson.dumps(list(rows)).decode()


def _alert(row: asyncpg.Record) -> AlertRecord:
    state = dict(row)
    state["id"] = _uuid(state["id"])
    state["attributes"], state["links"] = json_numbers.loads(state["attributes"]), orjson.loads(state["links"])
    return AlertRecord(**state)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        **event._asdict(),
        "recipients": sorted(event.recipients) if event.recipients is not None else None,
        "body": orjson.Fragment(event.body),
        "details": orjson.Fragment(event.details) if event.details is not None else None,
    }


def _resolution_row(resolution: Resolution) -> dict[str, Any]:
    key, audience = resolution.identity
    return {
        "source": key.source,
        "topic": key.topic,
        "dedup_key": key.key,
        "dedup_audience": audience,
        "alert_id": resolution.alert_id,
        "resolved_at": resolution.resolved_at,
        "ended_at": resolution.ended_at,
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
