"""Reading alerts: one, or pages, newest first; only those that the bearer may look up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Text, and_, any_, cast, func, literal, or_, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from service.alerts.alert_record import FIELDS, AlertRecord
from service.alerts.search import read_found
from service.alerts.search_index import has_attributes
from service.alerts.tables import alerts
from service.auth.principal import Scope
from service.database.base import severity_type
from service.database.pages import read_page
from service.events.log import read_head
from service.events.tables import events
from service.http.pagination import START, encode_cursor
from service.timestamps import rfc3339
from service.topics import EVERY_TOPIC, is_topic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, RowMapping, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.auth.principal import Principal
    from service.events.position import Position
    from service.http.pagination import Keyset

_COLUMNS = [alerts.c[name] for name in FIELDS]


@dataclass(frozen=True, slots=True)
class AlertQuery:
    """A query for a list of alerts; an empty list of values means any.

    ``since`` and ``until`` bound when an alert was created, the first included; ``before`` is the
    ``seq`` that the page before ended with.
    """

    topics: Sequence[str] = ()
    severities: Sequence[str] = ()
    min_severity: str | None = None
    statuses: Sequence[str] = ()
    sources: Sequence[str] = ()
    dedup_keys: Sequence[str] = ()
    ids: Sequence[UUID] = ()
    words: str | None = None
    attributes: dict[str, Any] | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: Keyset = START
    limit: int = 50


def any_topic(topic: ColumnElement[str], patterns: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that one of ``patterns`` covers ``topic``.

    A pattern that is a topic is compared by equality, so that the index on topic and seq gives the
    order.
    """
    topics = [pattern for pattern in patterns if is_topic(pattern)]
    wildcards = [pattern for pattern in patterns if not is_topic(pattern)]
    if not wildcards:
        return topic.in_(topics)
    return or_(topic.in_(topics), topic.like(any_(func.topic_likes(literal(wildcards, ARRAY(Text))))))


# The index on topic and seq is asked for each topic; DISTINCT would read all of it.
_TOPICS = text(
    """
    WITH RECURSIVE found AS (
        SELECT min(topic) AS topic FROM alerts
        UNION ALL
        SELECT (SELECT min(a.topic) FROM alerts a WHERE a.topic > found.topic) FROM found WHERE found.topic IS NOT NULL
    )
    SELECT topic FROM found WHERE topic IS NOT NULL
    """
)


async def topics_of_alerts(tx: AsyncConnection) -> Sequence[str]:
    """Return the topics that alerts have, in order."""
    return (await tx.execute(_TOPICS)).scalars().all()


def visible_to(principal: Principal) -> ColumnElement[bool]:
    """Return the condition that an alert is in the list of ``principal``: the twin of ``auth/authorization.py``.

    With ``alerts:read`` those that it may READ, which are those of its stream; with ``alerts:write``
    alone those that it may LOOK_UP.
    """
    theirs: ColumnElement[bool] = func.is_addressed(alerts.c.recipients, literal(principal.subject, Text))
    if principal.may(Scope.ALERTS_WRITE) and not principal.may(Scope.ALERTS_READ):
        theirs = alerts.c.source == principal.subject
    return theirs if principal.topics == EVERY_TOPIC else and_(theirs, any_topic(alerts.c.topic, principal.topics))


async def list_alerts(
    tx: AsyncConnection, principal: Principal, query: AlertQuery
) -> tuple[list[AlertRecord], str | None, Position]:
    """Return a page of the list of ``principal``, the cursor of the next one, and the head of the log at that time."""
    listed = _listed(principal, query)
    head = await read_head(tx)
    if query.words is None:
        rows, has_more = await read_page(tx, listed, (alerts.c.seq,), query.limit, newest_first=True)
    else:
        end = query.before[0] if query.before else head.seq + 1
        rows, has_more = await read_found(tx, query.words, listed, end, query.limit)
    page = [_alert(row) for row in rows]
    return page, encode_cursor((page[-1].seq,)) if has_more else None, head


def _listed(principal: Principal, query: AlertQuery) -> Select[Any]:
    """Return the alerts of the list of ``principal`` that pass the filters, whatever their words."""
    statement = select(*_COLUMNS).where(visible_to(principal))
    if query.topics and "*" not in query.topics:
        statement = statement.where(any_topic(alerts.c.topic, query.topics))
    for name, values in (
        ("severity", query.severities),
        ("status", query.statuses),
        ("source", query.sources),
        ("dedup_key", query.dedup_keys),
        ("id", query.ids),
    ):
        if values:
            statement = statement.where(alerts.c[name].in_(values))
    if query.min_severity:
        statement = statement.where(alerts.c.severity >= cast(query.min_severity, severity_type))
    if query.since is not None:
        statement = statement.where(alerts.c.created_at >= query.since)
    if query.until is not None:
        statement = statement.where(alerts.c.created_at < query.until)
    if query.attributes is not None:
        statement = statement.where(has_attributes(query.attributes))
    if query.before:
        statement = statement.where(alerts.c.seq < query.before[0])
    return statement


async def find_alert(tx: AsyncConnection, alert_id: UUID) -> AlertRecord | None:
    """Return an alert, whoever may see it; None if there is none."""
    row = (await tx.execute(select(*_COLUMNS).where(alerts.c.id == alert_id))).mappings().first()
    return _alert(row) if row else None


async def find_timeline(
    tx: AsyncConnection, alert_id: UUID, after: Keyset, limit: int, *, newest_first: bool
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the events of an alert after the one at ``after``, and the cursor of the next page."""
    state = cast(events.c.body, JSONB)
    statement = select(
        events.c.seq,
        events.c.kind,
        events.c.occurred_at,
        events.c.actor,
        events.c.severity,
        state["status"].astext.label("status"),
        state["occurrences"].as_integer().label("occurrences"),
        state["title"].astext.label("title"),
        state["body"].astext.label("body"),
        events.c.details,
    ).where(events.c.alert_id == alert_id)
    if after:
        statement = statement.where(events.c.seq < after[0] if newest_first else events.c.seq > after[0])
    rows, has_more = await read_page(tx, statement, (events.c.seq,), limit, newest_first=newest_first)
    page = [
        {
            "seq": row["seq"],
            "kind": row["kind"],
            "at": rfc3339(row["occurred_at"]),
            "actor": row["actor"],
            "status": row["status"],
            "severity": row["severity"],
            "occurrences": row["occurrences"],
            "title": row["title"],
            "body": row["body"],
            **(row["details"] or {}),
        }
        for row in rows
    ]
    return page, encode_cursor((page[-1]["seq"],)) if has_more else None


def _alert(row: RowMapping) -> AlertRecord:
    alert_id, *values = (row[name] for name in FIELDS)
    return AlertRecord(UUID(int=alert_id.int), *values)  # the driver has a UUID of its own, which orjson does not know
