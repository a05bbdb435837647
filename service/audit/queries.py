"""All questions that are asked of the views of the schema ``audit``, but for the report's; ``report.py`` has those.

Lists are paged by the values that they are ordered by, so that a page costs the same wherever it stands, and what
arrives meanwhile moves nothing from one page to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Double, Uuid, case, cast, extract, func, literal, select, tuple_

from service.alerts.queries import any_topic
from service.alerts.tables import alerts
from service.audit import views
from service.http.pagination import START
from service.topics import EVERY_TOPIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select, Subquery
    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.http.pagination import Keyset

Row = dict[str, Any]

NOBODY = UUID(int=0)
"""Where the connection of an event would stand, in the order of a timeline."""

HEAD = (
    "id",
    "seq",
    "source",
    "topic",
    "severity",
    "title",
    "status",
    "status_by",
    "status_at",
    "occurrences",
    "recipients",
    "created_at",
    "updated_at",
)


@dataclass(frozen=True, slots=True)
class Period:
    """A time: from ``since`` on, and before ``until``; None is no bound."""

    since: datetime | None = None
    until: datetime | None = None

    def holds(self, at: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
        """Return the conditions that ``at`` lies in it."""
        after = [at >= self.since] if self.since is not None else []
        return [*after, at < self.until] if self.until is not None else after


@dataclass(frozen=True, slots=True)
class Slice:
    """A page that is asked for: at most ``limit`` rows after a place."""

    limit: int
    after: Keyset = START


def seconds(interval: ColumnElement[Any]) -> ColumnElement[float]:
    """Return an interval in seconds."""
    return cast(extract("epoch", interval), Double)


async def alert_head(tx: AsyncConnection, alert_id: UUID) -> Row | None:
    """Return what an alert is about and where it stands, or None where there is none."""
    statement = select(*(alerts.c[name] for name in HEAD)).where(alerts.c.id == alert_id)
    row = (await tx.execute(statement)).mappings().first()
    return dict(row) if row else None


TIMELINE_KEYSET = (datetime, int, int, str, UUID)


async def timeline(tx: AsyncConnection, alert_id: UUID, page: Slice) -> tuple[list[Row], Keyset]:
    """Return what happened to an alert, oldest first: its events, each sending and each receipt."""
    view = views.timeline
    rank = case((view.c.action == "sent", 2), (view.c.action == "received", 3), else_=1).label("rank")
    connection = func.coalesce(view.c.connection, literal(NOBODY, Uuid)).label("connection_or_nobody")
    keys = (view.c.at, view.c.seq, rank, view.c.actor, connection)
    statement = select(*view.c, rank, connection).where(view.c.alert_id == alert_id)
    rows, more = await _page(tx, statement, keys, page, newest_first=False)
    return [_without(row, "alert_id", "rank", "connection_or_nobody") for row in rows], more


def _recipients_of(alert_id: UUID) -> Subquery:
    sent = (
        select(
            views.deliveries.c.recipient,
            func.count(views.deliveries.c.seq.distinct()).label("sent"),
            func.count(views.deliveries.c.seq.distinct())
            .filter(views.deliveries.c.received_at.is_not(None))
            .label("received"),
            func.min(views.deliveries.c.sent_at).label("first_sent_at"),
            func.min(views.deliveries.c.received_at).label("first_received_at"),
        )
        .where(views.deliveries.c.alert_id == alert_id)
        .group_by(views.deliveries.c.recipient)
        .subquery()
    )
    waiting = (
        select(views.unreceived.c.recipient, views.unreceived.c.waiting)
        .where(views.unreceived.c.alert_id == alert_id)
        .subquery()
    )
    recipient = func.coalesce(sent.c.recipient, waiting.c.recipient).label("recipient")
    statement = select(
        recipient,
        func.coalesce(sent.c.sent, 0).label("sent"),
        func.coalesce(sent.c.received, 0).label("received"),
        sent.c.first_sent_at,
        sent.c.first_received_at,
        seconds(waiting.c.waiting).label("waiting"),
    ).select_from(sent.join(waiting, sent.c.recipient == waiting.c.recipient, full=True))
    return statement.subquery()


ALERT_RECIPIENTS_KEYSET = (str,)


async def alert_recipients(tx: AsyncConnection, alert_id: UUID, page: Slice) -> tuple[list[Row], Keyset]:
    """Return who was sent an alert and who received it, and who may see it and did not, by name."""
    every = _recipients_of(alert_id)
    return await _page(tx, select(every), (every.c.recipient,), page, newest_first=False)


async def recipient_counts(tx: AsyncConnection, alert_id: UUID) -> Row:
    """Return how many admins an alert is for, was sent to, and was received by."""
    every = _recipients_of(alert_id)
    statement = select(
        func.count().label("recipients"),
        func.count().filter(every.c.sent > 0).label("sent_to"),
        func.count().filter(every.c.received > 0).label("received_by"),
    ).select_from(every)
    return dict((await tx.execute(statement)).mappings().one())


RECIPIENT_KEYSET = (int, UUID)


async def deliveries_to(
    tx: AsyncConnection, recipient: str, period: Period, topics: Sequence[str], page: Slice
) -> tuple[list[Row], Keyset]:
    """Return what an admin was sent of the events of a period, newest first."""
    view = views.deliveries
    columns = (column for column in view.c if column.name not in ("recipient", "latency"))
    statement = select(*columns, seconds(view.c.latency).label("latency")).where(
        view.c.recipient == recipient, *period.holds(view.c.occurred_at), *_covered(view.c.topic, topics)
    )
    return await _page(tx, statement, (view.c.seq, view.c.connection), page)


@dataclass(frozen=True, slots=True)
class Unreceived:
    """Which alerts that somebody has not received; what is given narrows the list, all of it together."""

    period: Period
    topics: Sequence[str] = ()
    severities: Sequence[str] = ()
    statuses: Sequence[str] = ()
    recipients: Sequence[str] = ()


UNRECEIVED_KEYSET = (int, str)


async def unreceived(
    tx: AsyncConnection, wanted: Unreceived, topics: Sequence[str], page: Slice
) -> tuple[list[Row], Keyset]:
    """Return who has not received which alert, the newest alert first."""
    view = views.unreceived
    columns = (column for column in view.c if column.name != "waiting")
    statement = select(*columns, seconds(view.c.waiting).label("waiting")).where(
        *wanted.period.holds(view.c.occurred_at), *_covered(view.c.topic, topics)
    )
    if wanted.topics:
        statement = statement.where(any_topic(view.c.topic, wanted.topics))
    for column, values in (
        (view.c.severity, wanted.severities),
        (view.c.status, wanted.statuses),
        (view.c.recipient, wanted.recipients),
    ):
        if values:
            statement = statement.where(column.in_(values))
    return await _page(tx, statement, (view.c.seq, view.c.recipient), page)


CONNECTIONS_KEYSET = (datetime, UUID)


async def connections(
    tx: AsyncConnection, recipient: str | None, period: Period, page: Slice, *, is_open: bool | None = None
) -> tuple[list[Row], Keyset]:
    """Return the connections that were opened in a period, newest first."""
    view = views.connections
    columns = (column for column in view.c if column.name != "duration")
    statement = select(*columns, seconds(view.c.duration).label("duration")).where(*period.holds(view.c.opened_at))
    if recipient is not None:
        statement = statement.where(view.c.recipient == recipient)
    if is_open is not None:
        statement = statement.where(view.c.closed_at.is_(None) if is_open else view.c.closed_at.is_not(None))
    return await _page(tx, statement, (view.c.opened_at, view.c.connection), page)


REJECTIONS_KEYSET = (datetime, int)


async def rejections(tx: AsyncConnection, reason: str | None, period: Period, page: Slice) -> tuple[list[Row], Keyset]:
    """Return the streams that were refused in a period, newest first.

    Nothing tells two of one instant apart, so a place is a time, and how many of that time were shown.
    """
    view = views.rejections
    at, shown = page.after or (None, 0)
    statement = select(*view.c).where(*period.holds(view.c.at))
    if reason is not None:
        statement = statement.where(view.c.reason == reason)
    if at is not None:
        statement = statement.where(view.c.at <= at)
    of_one_time = (column for column in view.c if column.name != "at")
    statement = statement.order_by(view.c.at.desc(), *of_one_time).offset(shown).limit(page.limit + 1)
    found = [dict(row) for row in (await tx.execute(statement)).mappings()]
    rows = found[: page.limit]
    if len(found) <= page.limit:
        return rows, None
    last = rows[-1]["at"]
    return rows, (last, sum(row["at"] == last for row in rows) + (shown if last == at else 0))


SOURCES_KEYSET = (datetime, str)


async def sources(tx: AsyncConnection, source: str | None, period: Period, page: Slice) -> tuple[list[Row], Keyset]:
    """Return what each source did in each hour that a period touches, the newest hour first."""
    view = views.sources
    statement = select(*view.c).where(*Period(hour_of(period.since), period.until).holds(view.c.hour))
    if source is not None:
        statement = statement.where(view.c.source == source)
    return await _page(tx, statement, (view.c.hour, view.c.source), page)


def hour_of(at: datetime | None) -> datetime | None:
    """Return when the hour that ``at`` lies in began, in UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0) if at is not None else None


def _covered(topic: ColumnElement[str], topics: Sequence[str]) -> list[ColumnElement[bool]]:
    return [] if tuple(topics) == EVERY_TOPIC else [any_topic(topic, topics)]


async def _page(
    tx: AsyncConnection,
    statement: Select[Any],
    keys: Sequence[ColumnElement[Any]],
    page: Slice,
    *,
    newest_first: bool = True,
) -> tuple[list[Row], Keyset]:
    """Return the rows of a page, in the order of ``keys``, and where the next one begins."""
    if page.after is None:
        return [], None
    if page.after:
        here = tuple_(*keys)
        there = tuple_(*(literal(value, key.type) for value, key in zip(page.after, keys, strict=True)))
        statement = statement.where(here < there if newest_first else here > there)
    statement = statement.order_by(*(key.desc() if newest_first else key for key in keys)).limit(page.limit + 1)
    found = [dict(row) for row in (await tx.execute(statement)).mappings()]
    rows = found[: page.limit]
    more = tuple(rows[-1][key.name] for key in keys) if len(found) > page.limit else None
    return rows, more


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
