"""Queries of the views of the schema ``audit``, for the REST API and for ``tocsin audit``.

``LISTS`` is the registry of the paged lists. The report has queries of its own (``report.py``).
Lists are paged by the values that order them, so that a page costs the same wherever it stands, and
rows that arrive meanwhile move nothing from one page to another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import BigInteger, Double, Interval, Uuid, case, cast, exists, extract, func, literal, select, tuple_

from service.alerts.queries import any_topic
from service.alerts.tables import alerts
from service.audit import schemas, views
from service.database.pages import PAGE_BYTES, read_page
from service.http.pagination import START
from service.topics import EVERY_TOPIC

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pydantic import BaseModel
    from sqlalchemy import ColumnElement, FromClause, Select, Subquery, TableClause
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql.elements import KeyedColumnElement

    from service.http.pagination import Keyset

Row = dict[str, Any]

STREAMED_ROWS = 1_000
"""Rows of an export that are in memory at a time."""
ALERTS_IN_A_PART = 500
"""Alerts that are queried first for a page of a list in parts. Each further part is four times as long."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The times from ``since`` on and before ``until``; None is no bound."""

    since: datetime | None = None
    until: datetime | None = None

    def contains(self, at: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
        """Return the conditions that ``at`` lies in the range."""
        after = [at >= self.since] if self.since is not None else []
        return [*after, at < self.until] if self.until is not None else after

    def of_whole_hours(self) -> TimeRange:
        """Return the range with the whole hour that ``since`` lies in."""
        return TimeRange(hour_of(self.since) if self.since is not None else None, self.until)


def hour_of(at: datetime) -> datetime:
    """Return the start of the hour that ``at`` lies in, in UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """At most ``limit`` rows, of at most ``max_bytes`` (``database/pages.py``), after the row with these values."""

    limit: int
    after: Keyset = START
    max_bytes: int | None = PAGE_BYTES


@dataclass(frozen=True, slots=True)
class AuditList:
    """A paged list: the rows of a view, the newest first.

    ``order`` names the columns that order it, which a cursor holds; ``time`` is the column that a
    time range bounds. The columns of ``row`` are selected, intervals in seconds.
    """

    view: TableClause
    row: type[BaseModel]
    order: tuple[str, ...]
    time: str
    by_hour: bool = False
    of_alerts: bool = False
    """A token that covers some topics sees the rows of these topics only."""
    in_parts: bool = False
    """A row is about an alert, and costs much: of the alerts, only the newest that fill the page are queried."""

    @property
    def keyset(self) -> tuple[type, ...]:
        """The Python types of the values that order it."""
        return tuple(self.view.c[name].type.python_type for name in self.order)

    async def page(
        self,
        tx: AsyncConnection,
        times: TimeRange,
        page: PageRequest,
        filters: Mapping[str, Any],
        topics: Sequence[str] = EVERY_TOPIC,
    ) -> tuple[list[Row], Keyset]:
        """Return a page, and where the next one begins.

        A filter is the name of a column, or ``is_open``; the values of a list are alternatives.
        None and an empty list are no filter.
        """
        if page.after is None:
            return [], None
        statement = self._rows(times, filters, topics)
        keys = [self.view.c[name] for name in self.order]
        if not self.in_parts:
            return await _page(tx, statement, keys, page)
        of_alerts = {name: value for name, value in _given(filters).items() if name in alerts.c}
        newest = select(alerts.c.seq).where(*times.contains(alerts.c.created_at), *_matching(alerts, of_alerts))
        return await _page_in_parts(tx, statement, keys, page, newest.order_by(alerts.c.seq.desc()))

    async def all_rows(
        self, tx: AsyncConnection, times: TimeRange, filters: Mapping[str, Any], limit: int | None = None
    ) -> AsyncIterator[Row]:
        """Yield all rows, or the first ``limit``, the newest first; few are in memory at a time.

        The view is queried once: where a page is made of parts, each page costs as much as all rows do.
        """
        keys = [self.view.c[name] for name in self.order]
        async for row in stream_rows(tx, self._rows(times, filters), keys, limit):
            yield row

    def _rows(self, times: TimeRange, filters: Mapping[str, Any], topics: Sequence[str] = EVERY_TOPIC) -> Select[Any]:
        names = dict.fromkeys([*self.row.model_fields, *self.order])
        columns = [seconds(c) if isinstance(c.type, Interval) else c for c in (self.view.c[name] for name in names)]
        times = times.of_whole_hours() if self.by_hour else times
        conditions = [*times.contains(self.view.c[self.time]), *_matching(self.view, _given(filters))]
        if self.of_alerts and tuple(topics) != EVERY_TOPIC:
            conditions.append(any_topic(self.view.c.topic, topics))
        return select(*columns).where(*conditions)


def _given(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters that are one."""
    return {name: value for name, value in filters.items() if value not in (None, [], ())}


def _matching(table: FromClause, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Return the conditions of ``filters`` on the columns of a table."""
    return [_matches(table, name, value) for name, value in filters.items()]


def _matches(table: FromClause, name: str, value: Any) -> ColumnElement[bool]:
    if name == "is_open":
        return table.c.closed_at.is_(None) if value else table.c.closed_at.is_not(None)
    column = table.c[name]
    if name == "topic":
        return any_topic(column, value)
    return column.in_(value) if isinstance(value, list | tuple) else column == value


LISTS = {
    "deliveries": AuditList(
        views.deliveries, schemas.RecipientDelivery, ("seq", "connection"), "occurred_at", of_alerts=True
    ),
    "unreceived": AuditList(
        views.unreceived, schemas.UnreceivedAlert, ("seq", "recipient"), "occurred_at", of_alerts=True, in_parts=True
    ),
    "connections": AuditList(views.connections, schemas.AuditedConnection, ("opened_at", "connection"), "opened_at"),
    "rejections": AuditList(views.rejections, schemas.AuditedRejection, ("at", "rejection"), "at"),
    "rejection_counts": AuditList(
        views.rejection_counts, schemas.RejectionHourCount, ("hour", "reason"), "hour", by_hour=True
    ),
    "sources": AuditList(views.sources, schemas.SourceHourCounts, ("hour", "source"), "hour", by_hour=True),
}
"""The paged lists, by the name that they have in the answer."""


async def rejection_counts(tx: AsyncConnection, times: TimeRange, reason: str | None) -> list[Row]:
    """Return how many streams were rejected for each reason, in all hours that the period touches."""
    view = views.rejection_counts.c
    total = cast(func.sum(view.rejections), BigInteger)
    conditions = times.of_whole_hours().contains(view.hour) + ([view.reason == reason] if reason is not None else [])
    statement = select(view.reason, total.label("rejections")).where(*conditions).group_by(view.reason)
    return [dict(row) for row in (await tx.execute(statement.order_by(total.desc(), view.reason))).mappings()]


async def was_rejected_for(tx: AsyncConnection, reason: str) -> bool:
    """Return whether the ledger has a stream that was rejected for this reason."""
    return bool((await tx.execute(select(exists().where(views.rejections.c.reason == reason)))).scalar_one())


# An alert: what it is about, its recipients, and its timeline.

TIMELINE_KEYSET = (datetime, int, int, str, UUID)
RECIPIENTS_KEYSET = (str,)


async def alert_head(tx: AsyncConnection, alert_id: UUID) -> Row | None:
    """Return an alert without its body, or None where there is none."""
    columns = (alerts.c[name] for name in schemas.AuditedAlert.model_fields)
    row = (await tx.execute(select(*columns).where(alerts.c.id == alert_id))).mappings().first()
    return dict(row) if row else None


async def timeline(tx: AsyncConnection, alert_id: UUID, page: PageRequest) -> tuple[list[Row], Keyset]:
    """Return a page of an alert's events, dispatches, receipts and sightings, the oldest first."""
    statement, keys = _timeline_of(alert_id)
    return await _page(tx, statement, keys, page, newest_first=False)


def all_of_timeline(tx: AsyncConnection, alert_id: UUID, limit: int | None) -> AsyncIterator[Row]:
    """Yield all of an alert's timeline, or the first ``limit`` rows, the oldest first."""
    return stream_rows(tx, *_timeline_of(alert_id), limit, newest_first=False)


def _timeline_of(alert_id: UUID) -> tuple[Select[Any], Sequence[KeyedColumnElement[Any]]]:
    view = views.timeline
    phase = cast(case({"sent": 2, "received": 3, "seen": 4}, value=view.c.action, else_=1), BigInteger).label("phase")
    connection = func.coalesce(view.c.connection, literal(UUID(int=0), Uuid)).label("connection_or_zero")
    keys = (view.c.at, view.c.seq, phase, view.c.actor, connection)
    return select(*view.c, phase, connection).where(view.c.alert_id == alert_id), keys


async def alert_recipients(tx: AsyncConnection, alert_id: UUID, page: PageRequest) -> tuple[list[Row], Keyset]:
    """Return a page of those who were sent an alert, saw it, or may see it, by name."""
    recipients = _recipients_of(alert_id)
    return await _page(tx, select(recipients), (recipients.c.recipient,), page, newest_first=False)


def all_alert_recipients(tx: AsyncConnection, alert_id: UUID, limit: int | None) -> AsyncIterator[Row]:
    """Yield all of those who were sent an alert, saw it, or may see it, or the first ``limit``, by name."""
    recipients = _recipients_of(alert_id)
    return stream_rows(tx, select(recipients), (recipients.c.recipient,), limit, newest_first=False)


async def recipient_counts(tx: AsyncConnection, alert_id: UUID) -> Row:
    """Return how many recipients an alert has, was sent to, was received by, and was seen by."""
    recipients = _recipients_of(alert_id)
    statement = select(
        func.count().label("recipients"),
        func.count().filter(recipients.c.sent > 0).label("sent_to"),
        func.count().filter(recipients.c.received > 0).label("received_by"),
        func.count(recipients.c.seen_at).label("seen_by"),
    ).select_from(recipients)
    return dict((await tx.execute(statement)).mappings().one())


def _recipients_of(alert_id: UUID) -> Subquery:
    deliveries, unreceived = views.deliveries.c, views.unreceived.c
    events = func.count(deliveries.seq.distinct())
    sent = (
        select(
            deliveries.recipient,
            events.label("sent"),
            events.filter(deliveries.received_at.is_not(None)).label("received"),
            func.min(deliveries.sent_at).label("first_sent_at"),
            func.min(deliveries.received_at).label("first_received_at"),
        )
        .where(deliveries.alert_id == alert_id)
        .group_by(deliveries.recipient)
        .subquery()
    )
    waiting = select(unreceived.recipient, unreceived.waiting).where(unreceived.alert_id == alert_id).subquery()
    seen = select(views.sightings).where(views.sightings.c.alert_id == alert_id).subquery()
    sent_or_waiting = func.coalesce(sent.c.recipient, waiting.c.recipient)
    statement = select(
        func.coalesce(sent_or_waiting, seen.c.recipient).label("recipient"),
        func.coalesce(sent.c.sent, 0).label("sent"),
        func.coalesce(sent.c.received, 0).label("received"),
        sent.c.first_sent_at,
        sent.c.first_received_at,
        seen.c.seen_at,
        seconds(waiting.c.waiting),
    ).select_from(
        sent.join(waiting, sent.c.recipient == waiting.c.recipient, full=True).join(
            seen, seen.c.recipient == sent_or_waiting, full=True
        )
    )
    return statement.subquery()


def seconds(interval: KeyedColumnElement[Any]) -> ColumnElement[float]:
    """Return an interval in seconds, under its own name."""
    return cast(extract("epoch", interval), Double).label(interval.key)


async def stream_rows(
    tx: AsyncConnection,
    statement: Select[Any],
    keys: Sequence[KeyedColumnElement[Any]],
    limit: int | None,
    *,
    newest_first: bool = True,
) -> AsyncIterator[Row]:
    """Yield the rows in the order of ``keys``, from a cursor of the database."""
    order = [key.desc() if newest_first else key for key in keys]
    found = await tx.stream(statement.order_by(*order).limit(limit).execution_options(yield_per=STREAMED_ROWS))
    async for row in found.mappings():
        yield dict(row)


async def _page(
    tx: AsyncConnection,
    statement: Select[Any],
    keys: Sequence[KeyedColumnElement[Any]],
    page: PageRequest,
    *,
    newest_first: bool = True,
) -> tuple[list[Row], Keyset]:
    """Return the rows of a page, in the order of ``keys``, and where the next one begins."""
    if page.after is None:
        return [], None
    rows, has_more = await _rows(tx, statement, keys, page, newest_first=newest_first)
    return rows, _key_of(rows[-1], keys) if has_more else None


async def _page_in_parts(
    tx: AsyncConnection,
    statement: Select[Any],
    keys: Sequence[KeyedColumnElement[Any]],
    page: PageRequest,
    newest: Select[Any],
) -> tuple[list[Row], Keyset]:
    """Return the rows of a page whose first key is one of ``newest``, queried for a part of these at a time."""
    rows: list[Row] = []
    after, length = page.after, ALERTS_IN_A_PART
    while True:
        following = newest.where(alerts.c.seq <= after[0]) if after else newest
        first = await tx.scalar(following.offset(length - 1).limit(1))
        part = statement if first is None else statement.where(keys[0] >= first)
        some, has_more = await _rows(tx, part, keys, replace(page, limit=page.limit - len(rows), after=after))
        rows += some
        if first is None or has_more:
            return rows, _key_of(rows[-1], keys) if has_more else None
        after, length = (first, ""), length * 4


async def _rows(
    tx: AsyncConnection,
    statement: Select[Any],
    keys: Sequence[KeyedColumnElement[Any]],
    page: PageRequest,
    *,
    newest_first: bool = True,
) -> tuple[list[Row], bool]:
    """Return the rows of a page, and whether there are more."""
    if page.after:
        here = tuple_(*keys)
        there = tuple_(*(literal(value, key.type) for value, key in zip(page.after, keys, strict=True)))
        statement = statement.where(here < there if newest_first else here > there)
    rows, has_more = await read_page(
        tx, statement, keys, page.limit, newest_first=newest_first, max_bytes=page.max_bytes
    )
    return [dict(row) for row in rows], has_more


def _key_of(row: Row, keys: Sequence[KeyedColumnElement[Any]]) -> Keyset:
    return tuple(row[key.name] for key in keys)
