"""``tocsin audit recipient``, ``unreceived`` and so on: the lists of ``/v1/audit``, directly on the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.audit import queries, schemas
from service.audit.queries import Period, Slice
from service.auth.principal import is_subject
from service.cli.database_query import ask
from service.cli.output import AsCsv, AsJson, Limit, Sheet, form_of, listed, show
from service.cli.time_options import Since, Until, day, period
from service.database.base import STATUSES
from service.severity import SEVERITIES
from service.topics import EVERY_TOPIC, is_topic_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def _name(value: str | None, option: str) -> None:
    if value is not None and not is_subject(value):
        raise typer.BadParameter("must be 1 to 200 printable characters", param_hint=option)


def _one_of(values: Iterable[str], known: Sequence[str], option: str) -> None:
    if not set(values) <= set(known):
        raise typer.BadParameter(f"must be one of {', '.join(known)}", param_hint=option)


def recipient(  # noqa: PLR0913 - the options of a list
    name: Annotated[str, typer.Argument(help="The admin: the subject of their tokens.", metavar="NAME")],
    *,
    since: Since = None,
    until: Until = None,
    limit: Limit = 200,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List what an admin was sent, and when they received it: of the last day, if not told otherwise."""
    form = form_of(as_json=as_json, as_csv=as_csv)
    _name(name, "NAME")
    start, end = day(since, until)
    rows, more = ask(lambda tx: queries.deliveries_to(tx, name, Period(start, end), EVERY_TOPIC, Slice(limit)))
    told = schemas.RecipientAudit.model_validate(
        {"recipient": name, "since": start, "until": end, "deliveries": rows, "next": None}
    )
    columns = {
        "happened": "occurred_at",
        "seq": "seq",
        "kind": "kind",
        "severity": "severity",
        "topic": "topic",
        "alert": "alert_id",
        "sent": "sent_at",
        "received": "received_at",
        "latency": "latency",
    }
    sheet = Sheet.of(f"What {name} was sent, newest first", columns, told.deliveries)
    show(
        listed(told, sheet, told.deliveries, schemas.RecipientDelivery, Period(start, end), more=more is not None), form
    )


def unreceived(  # noqa: PLR0913 - the options of a list
    *,
    since: Since = None,
    until: Until = None,
    topic: Annotated[list[str] | None, typer.Option(help="A topic or a pattern; repeat for several.")] = None,
    severity: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Where the alert stands now; repeat for several.")] = None,
    recipient: Annotated[list[str] | None, typer.Option(help="Who has not received it; repeat for several.")] = None,
    limit: Limit = 200,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List who has not received which alert that they may see: of the last day, if not told otherwise."""
    form = form_of(as_json=as_json, as_csv=as_csv)
    if not all(map(is_topic_pattern, topic or ())):
        raise typer.BadParameter("must be topics such as payments, payments.* or *", param_hint="--topic")
    _one_of(severity or (), SEVERITIES, "--severity")
    _one_of(status or (), STATUSES, "--status")
    for name in recipient or ():
        _name(name, "--recipient")
    start, end = day(since, until)
    wanted = queries.Unreceived(Period(start, end), topic or (), severity or (), status or (), recipient or ())
    rows, more = ask(lambda tx: queries.unreceived(tx, wanted, EVERY_TOPIC, Slice(limit)))
    told = schemas.UnreceivedPage.model_validate({"unreceived": rows, "next": None})
    columns = {
        "recipient": "recipient",
        "waiting": "waiting",
        "severity": "severity",
        "topic": "topic",
        "title": "title",
        "status": "status",
        "alert": "alert_id",
        "created": "occurred_at",
        "first sent": "sent_at",
    }
    sheet = Sheet.of(
        "Not received, newest first", columns, told.unreceived, "nothing: everybody has received what they may see"
    )
    show(listed(told, sheet, told.unreceived, schemas.NotReceived, Period(start, end), more=more is not None), form)


def connections(  # noqa: PLR0913 - the options of a list
    *,
    recipient: Annotated[str | None, typer.Option(help="Whose.")] = None,
    is_open: Annotated[bool | None, typer.Option("--open/--closed", help="Those that are open, or that ended.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 200,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the connections of admins; a period is when they were opened."""
    form = form_of(as_json=as_json, as_csv=as_csv)
    _name(recipient, "--recipient")
    bounds = period(since, until)
    rows, more = ask(lambda tx: queries.connections(tx, recipient, bounds, Slice(limit), is_open=is_open))
    told = schemas.ConnectionPage.model_validate({"connections": rows, "next": None})
    columns = {
        "opened": "opened_at",
        "recipient": "recipient",
        "transport": "transport",
        "from": "remote_addr",
        "closed": "closed_at",
        "lasted": "duration",
        "code": "close_code",
        "reason": "close_reason",
        "sent seq": "sent_seq",
        "received seq": "received_seq",
        "connection": "connection",
    }
    sheet = Sheet.of("Connections, newest first", columns, told.connections)
    show(listed(told, sheet, told.connections, schemas.AuditedConnection, bounds, more=more is not None), form)


def rejections(  # noqa: PLR0913 - the options of a list
    *,
    reason: Annotated[str | None, typer.Option(help="Why, such as scope_missing.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 200,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the streams that were refused at the handshake."""
    form = form_of(as_json=as_json, as_csv=as_csv)
    _name(reason, "--reason")
    bounds = period(since, until)
    rows, more = ask(lambda tx: queries.rejections(tx, reason, bounds, Slice(limit)))
    told = schemas.RejectionPage.model_validate({"rejections": rows, "next": None})
    columns = {
        "at": "at",
        "reason": "reason",
        "subject": "subject",
        "from": "remote_addr",
        "path": "path",
        "origin": "origin",
        "user agent": "user_agent",
    }
    sheet = Sheet.of("Refused streams, newest first", columns, told.rejections)
    show(listed(told, sheet, told.rejections, schemas.AuditedRejection, bounds, more=more is not None), form)


def sources(  # noqa: PLR0913 - the options of a list
    *,
    source: Annotated[str | None, typer.Option(help="Who posted: the subject of the token.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 200,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List what became of what each source of alerts posted, by the hour."""
    form = form_of(as_json=as_json, as_csv=as_csv)
    _name(source, "--source")
    bounds = period(since, until)
    rows, more = ask(lambda tx: queries.sources(tx, source, bounds, Slice(limit)))
    told = schemas.SourcePage.model_validate({"sources": rows, "next": None})
    columns = ("hour", "source", "alerts", "repeated", "replayed", "refused", "first", "last")
    cells = [
        (c.hour, c.source or "(others)", c.alerts, c.repeated, c.replayed, c.refused, c.first_at, c.last_at)
        for c in told.sources
    ]
    sheet = Sheet("Sources by the hour, newest first", columns, cells)
    show(listed(told, sheet, told.sources, schemas.SourceCounts, bounds, more=more is not None), form)
