"""``tocsin audit alert`` and ``tocsin audit report``: an alert, and a period, each on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from service.audit import queries, schemas
from service.audit.queries import Slice
from service.audit.report import report as report_of
from service.audit.report_schemas import AuditReport, Measured
from service.cli.database_query import ask
from service.cli.output import Answer, AsCsv, AsJson, Limit, Sheet, at, fields, form_of, records, show
from service.cli.time_options import Since, Until, day
from service.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel
    from sqlalchemy.ext.asyncio import AsyncConnection


_RECIPIENT = {
    "recipient": "recipient",
    "sent": "sent",
    "received": "received",
    "first sent": "first_sent_at",
    "first received": "first_received_at",
    "waiting": "waiting",
}
_ENTRY = {name: name for name in ("at", "seq", "action", "actor", "connection", "details")}

AlertId = Annotated[UUID, typer.Argument(help="The alert's id.", metavar="ID")]


def alert(
    alert_id: AlertId,
    *,
    limit: Limit = 200,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Tell who was sent an alert, who received it and who has not, and all that happened to it."""
    form = form_of(as_json=as_json, as_csv=as_csv)

    async def question(tx: AsyncConnection) -> dict[str, Any] | None:
        if (head := await queries.alert_head(tx, alert_id)) is None:
            return None
        people, more_people = await queries.alert_recipients(tx, alert_id, Slice(limit))
        times, more_times = await queries.timeline(tx, alert_id, Slice(limit))
        counts = await queries.recipient_counts(tx, alert_id)
        told = {"alert": head, "counts": counts, "recipients": people, "timeline": times, "next": None}
        return {"told": told, "more": more_people or more_times}

    found = ask(question)
    if found is None:
        raise CommandFailed(f"there is no alert {alert_id}; tocsin audit unreceived and GET /v1/alerts list ids")
    told = schemas.AlertAudit.model_validate(found["told"])
    head, counts = told.alert, told.counts
    answer = Answer(
        told,
        [
            head.title,
            f"{head.id}, seq {head.seq}, {head.severity}, {head.topic}",
            f"posted by {head.source} at {at(head.created_at)} UTC",
            f"{head.status} since {at(head.status_at)} UTC by {head.status_by}, {head.occurrences} times",
            f"For {counts.recipients} admins: sent to {counts.sent_to}, received by {counts.received_by}",
        ],
        [
            Sheet.of("Recipients", _RECIPIENT, told.recipients, "nobody may see it"),
            Sheet.of("Timeline (UTC)", _ENTRY, told.timeline),
        ],
        fields(schemas.TimelineEntry),
        records(told.timeline),
        more=bool(found["more"]),
    )
    show(answer, form)


def report(*, since: Since = None, until: Until = None, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Sum up a period on one page: the last day, if not told otherwise."""
    form = form_of(as_json=as_json, as_csv=as_csv)
    start, end = day(since, until)
    told = AuditReport.model_validate(ask(lambda tx: report_of(tx, start, end)))
    lines = [f"From {at(start)} to {at(end)} UTC"]
    show(Answer(told, lines, _sheets(told), ("section", "name", "figure", "value"), list(_figures(told))), form)


_MEASURED = ("sent", "received", "sent p50", "p95", "p99", "received p50", "p95", "p99")


def _measured(row: Measured) -> tuple[Any, ...]:
    to_sent, to_received = (
        (row.sent_p50, row.sent_p95, row.sent_p99),
        (row.received_p50, row.received_p95, row.received_p99),
    )
    return (row.sent, row.received, *to_sent, *to_received)


def _sheets(told: AuditReport) -> list[Sheet]:
    connections = told.connections
    everybody = "nothing: everybody has received what they may see"
    sources = [(c.source or "(others)", c.alerts, c.repeated, c.replayed, c.refused) for c in told.sources]
    return [
        _sheet("Alerts", told.alerts, "severity", "alerts", "unresolved"),
        Sheet("Deliveries", _MEASURED, [_measured(told.deliveries)]),
        Sheet("Slowest topics", ("topic", *_MEASURED), [(t.topic, *_measured(t)) for t in told.slowest_topics]),
        _sheet("Not received, by admin", told.unreceived, "recipient", "alerts", "worst", "waiting", nothing=everybody),
        _sheet(
            f"Connections: {connections.opened} opened, {connections.open_now} open now; why others ended",
            told.closes,
            *("code", "reason", "connections"),
        ),
        _sheet("Refused streams", told.rejections, "reason", "rejections"),
        Sheet("Sources, by whole hours", ("source", "alerts", "repeated", "replayed", "refused"), sources),
        _sheet("Holes in the log", told.log_gaps, "after_seq", "before_seq", "missing", nothing="none"),
    ]


def _sheet(title: str, rows: Iterable[BaseModel], *columns: str, nothing: str = "nothing") -> Sheet:
    return Sheet.of(title, {name: name for name in columns}, rows, nothing)


_NAMED_BY = {
    "alerts": "severity",
    "slowest_topics": "topic",
    "unreceived": "recipient",
    "closes": "reason",
    "rejections": "reason",
    "sources": "source",
    "log_gaps": "after_seq",
}


def _figures(told: AuditReport) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield the figures of the report, one a row: of which section, of whom or what, which, and how much."""
    for section, content in told.model_dump(mode="json").items():
        if isinstance(content, list):
            name = _NAMED_BY[section]
            for row in content:
                yield from ((section, row[name], figure, value) for figure, value in row.items() if figure != name)
        elif isinstance(content, dict):
            yield from ((section, None, figure, value) for figure, value in content.items())
        else:
            yield "period", None, section, content
