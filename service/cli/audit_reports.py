"""``tocsin audit alert`` and ``tocsin audit report``: an alert, or a period, on one page."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID  # noqa: TC003 - typer evaluates the annotations

import typer

from service.audit import queries, schemas
from service.audit.queries import PageRequest
from service.audit.report import TOP
from service.audit.report import report as query_report
from service.audit.report_schemas import AuditReport
from service.cli.database_query import ask
from service.cli.environment import database_name, say_database
from service.cli.export import export_csv, export_json, limited
from service.cli.invocation import suggest
from service.cli.output import TABLE_ROWS, AsCsv, AsJson, Limit, QueryResult, ResultTable, form_of, show, utc
from service.cli.time_options import Since, Until, day
from service.errors import CommandFailed
from service.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.cli.output import Form


def alert(
    alert_id: Annotated[UUID, typer.Argument(help="The alert's id.", metavar="ID")],
    *,
    limit: Limit = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show who was sent an alert, who received or saw it, and what happened to it."""
    form, settings = form_of(as_json=as_json, as_csv=as_csv), load()
    audit, more = ask(lambda tx: _read_alert(tx, alert_id, limit, form))
    if form != "table":
        say_database(settings)
        return
    head, counts = audit.alert, audit.counts
    reached = f"sent to {counts.sent_to}, received by {counts.received_by}, seen by {counts.seen_by}"
    lines = [
        head.title,
        f"{head.id}, seq {head.seq}, {head.severity}, {head.topic}",
        f"posted by {head.source} at {utc(head.created_at)} UTC",
        f"{head.status} since {utc(head.status_at)} UTC by {head.status_by}, {head.occurrences} times",
        f"For {counts.recipients} admins: {reached}",
        f"Database: {database_name(settings)}",
    ]
    recipients = "recipient sent received first_sent_at first_received_at seen_at waiting"
    tables = [
        ResultTable("Recipients", recipients, audit.recipients, "nobody may see it"),
        ResultTable("Timeline (UTC)", "at seq action actor connection details", audit.timeline),
    ]
    show(QueryResult(audit, lines, tables, (), (), more=more), form)


async def _read_alert(
    tx: AsyncConnection, alert_id: UUID, limit: int | None, form: Form
) -> tuple[schemas.AlertAudit, bool]:
    """Return the audit of an alert, and whether there is more; or export it, and return its head.

    Raises:
        CommandFailed: there is no such alert.

    """
    if (head := await queries.alert_head(tx, alert_id)) is None:
        raise CommandFailed(f"there is no alert {alert_id}; {suggest('audit unreceived')} and GET /v1/alerts list ids")
    fields = {"alert": head, "counts": await queries.recipient_counts(tx, alert_id), "next": None}
    if form == "table":
        page = PageRequest(limit or TABLE_ROWS, max_bytes=None)
        recipients, more_recipients = await queries.alert_recipients(tx, alert_id, page)
        timeline, more_timeline = await queries.timeline(tx, alert_id, page)
        audit = schemas.AlertAudit.model_validate({**fields, "recipients": recipients, "timeline": timeline})
        return audit, bool(more_recipients or more_timeline)
    audit = schemas.AlertAudit.model_validate({**fields, "recipients": [], "timeline": []})
    steps = schemas.TimelineEntry, limited(partial(queries.all_of_timeline, tx, alert_id), limit)
    if form == "csv":
        await export_csv(*steps)
    else:
        recipients_of = schemas.AlertRecipient, limited(partial(queries.all_alert_recipients, tx, alert_id), limit)
        head_fields = audit.model_dump(mode="json", include={"alert", "counts"})
        await export_json(head_fields, {"recipients": recipients_of, "timeline": steps})
    return audit, False


def report(*, since: Since = None, until: Until = None, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Sum up a period on one page; by default the last 24 hours."""
    form, settings = form_of(as_json=as_json, as_csv=as_csv), load()
    start, end = day(since, until)
    audit = AuditReport.model_validate(ask(lambda tx: query_report(tx, start, end)))
    lines = [
        f"From {utc(start)} to {utc(end)} UTC",
        f"Database: {database_name(settings)}",
        "Rejected streams and sources are those of all hours that this touches",
        f"Lists end after {TOP} rows: tocsin audit unreceived, sources and the views of the schema audit have all",
        f"Times are those of live deliveries, {_measured(audit.measured_every)}",
    ]
    if form != "table":
        say_database(settings)
    show(QueryResult(audit, lines, _tables(audit), ("section", "name", "figure", "value"), list(_figures(audit))), form)


def _measured(every: int) -> str:
    return "and what was replayed is counted only" if every == 1 else f"of one event in {every}"


_LATENCIES = "sent received replayed sent_p50 sent_p95 sent_p99 received_p50 received_p95 received_p99"


def _tables(report: AuditReport) -> list[ResultTable]:
    everybody = "nothing: everybody has received what they may see"
    of = report.connections
    closes = f"Connections: {of.opened} opened, {of.open_now} open now; why others ended"
    return [
        ResultTable("Alerts", "severity alerts unresolved", report.alerts),
        ResultTable("Deliveries", _LATENCIES, [report.deliveries]),
        ResultTable("Slowest topics", f"topic {_LATENCIES}", report.slowest_topics),
        ResultTable("Not received, by admin", "recipient alerts max_severity waiting", report.unreceived, everybody),
        ResultTable(closes, "code reason connections", report.closes),
        ResultTable("Rejected streams", "reason rejections", report.rejections),
        ResultTable("Sources, by whole hours", "source alerts repeated replayed refused", report.sources),
        ResultTable("Holes in the log", "after_seq before_seq missing", report.log_gaps, "none"),
    ]


_NAMED_BY = {
    "alerts": "severity",
    "slowest_topics": "topic",
    "unreceived": "recipient",
    "closes": "reason",
    "rejections": "reason",
    "sources": "source",
    "log_gaps": "after_seq",
}


def _figures(report: AuditReport) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield the figures as CSV rows: the section, its subject, the figure, the value."""
    for section, content in report.model_dump(mode="json").items():
        if isinstance(content, list):
            name = _NAMED_BY[section]
            for row in content:
                yield from ((section, row[name], figure, value) for figure, value in row.items() if figure != name)
        elif isinstance(content, dict):
            yield from ((section, None, figure, value) for figure, value in content.items())
        else:
            yield "period", None, section, content
