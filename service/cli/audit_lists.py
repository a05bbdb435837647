"""``tocsin audit recipient``, ``unreceived`` and so on: the lists of ``/v1/audit``, from the database.

A list is a function that makes its query. Its keyword-only parameters are the command's filters, its docstring is the
command's help; ``audit_list`` adds the period, the limit and the form.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit import queries, schemas
from service.audit.queries import Period, Row, Slice
from service.cli.database_query import ask
from service.cli.option_checks import one_of, subject, topics
from service.cli.output import AsCsv, AsJson, Limit, QueryResult, ResultTable, form_of, records, show, utc
from service.cli.time_options import Since, Until, day, period
from service.database.base import STATUSES
from service.http.pagination import Keyset
from service.severity import SEVERITIES
from service.topics import EVERY_TOPIC

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel

    Query = Callable[..., Awaitable[tuple[list[Row], Keyset]]]


def audit_list(
    title: str,
    page: type[BaseModel],
    fields: str,
    *,
    empty: str = "nothing",
    of_a_day: bool = False,
) -> Callable[[Query], Callable[..., None]]:
    """Make a command of a query whose rows are in the only list of ``page``.

    ``of_a_day``: without ``--since`` and ``--until`` it is about the last 24 hours, and not about all that is kept.
    """
    rows_field, row = next((name, args[0]) for name, f in page.model_fields.items() if (args := get_args(f.annotation)))

    def command(query: Query) -> Callable[..., None]:
        def run(
            *,
            since: Since = None,
            until: Until = None,
            limit: Limit = 200,
            as_json: AsJson = False,
            as_csv: AsCsv = False,
            **filters: Any,
        ) -> None:
            form = form_of(as_json=as_json, as_csv=as_csv)
            start, end = (day if of_a_day else period)(since, until)
            rows, more = ask(lambda tx: query(tx, Period(start, end), Slice(limit), **filters))
            bounds = {"since": start, "until": end}
            document = page.model_validate({**filters, **bounds, rows_field: rows, "next": None})
            times = "".join(f" {word} {utc(at)}" for word, at in (("from", start), ("until", end)) if at is not None)
            heading = f"{title.format(**filters)}{times} (UTC)"
            table = ResultTable(heading, fields, getattr(document, rows_field), empty)
            csv = records(table.rows)
            show(QueryResult(document, [], [table], list(row.model_fields), csv, more=more is not None), form)

        filters, options = (inspect.signature(of, eval_str=True).parameters.values() for of in (query, run))
        kept = [one for one in (*filters, *options) if one.kind is one.KEYWORD_ONLY]
        run.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined] # typer reads it
        run.__name__, run.__doc__ = query.__name__, query.__doc__
        return run

    return command


Rows = tuple[list[Row], Keyset]
Name = Annotated[str, typer.Argument(help="The subject of their tokens.", metavar="NAME", callback=subject)]
Topics = Annotated[list[str] | None, typer.Option(help="A topic or a pattern; repeat for several.", callback=topics)]
Severities = Annotated[list[str] | None, typer.Option(help="Repeat for several.", callback=one_of(*SEVERITIES))]
Statuses = Annotated[list[str] | None, typer.Option(help="Repeat for several.", callback=one_of(*STATUSES))]
Recipients = Annotated[list[str] | None, typer.Option(help="Not received by; repeat for several.", callback=subject)]
Recipient = Annotated[str | None, typer.Option(help="Of this admin.", callback=subject)]
IsOpen = Annotated[bool | None, typer.Option("--open/--closed", help="Those that are open, or closed.")]
Reason = Annotated[str | None, typer.Option(help="Such as scope_missing.", callback=subject)]
Source = Annotated[str | None, typer.Option(help="The subject of the token.", callback=subject)]


@audit_list(
    "What {recipient} was sent, newest first",
    schemas.RecipientAudit,
    "occurred_at seq kind severity topic alert_id sent_at received_at latency",
    of_a_day=True,
)
async def recipient(tx: AsyncConnection, period: Period, page: Slice, *, recipient: Name) -> Rows:
    """List what an admin was sent, and when they received it."""
    return await queries.deliveries_to(tx, recipient, period, EVERY_TOPIC, page)


@audit_list(
    "Not received, newest first",
    schemas.UnreceivedPage,
    "recipient waiting severity topic title status alert_id occurred_at sent_at",
    empty="nothing: everybody has received what they may see",
    of_a_day=True,
)
async def unreceived(  # noqa: PLR0913 - the filters of the list
    tx: AsyncConnection,
    period: Period,
    page: Slice,
    *,
    topic: Topics = None,
    severity: Severities = None,
    status: Statuses = None,
    recipient: Recipients = None,
) -> Rows:
    """List who has not received which alert that they may see."""
    wanted = queries.Unreceived(period, topic or (), severity or (), status or (), recipient or ())
    return await queries.unreceived(tx, wanted, EVERY_TOPIC, page)


@audit_list(
    "Connections, newest first",
    schemas.ConnectionPage,
    "opened_at recipient transport remote_addr closed_at duration close_code close_reason sent_seq received_seq"
    " connection",
)
async def connections(
    tx: AsyncConnection, period: Period, page: Slice, *, recipient: Recipient = None, is_open: IsOpen = None
) -> Rows:
    """List the connections of admins.

    A period is when they were opened.
    """
    return await queries.connections(tx, recipient, period, page, is_open=is_open)


@audit_list(
    "Rejected streams, newest first",
    schemas.RejectionPage,
    "at reason subject remote_addr path origin user_agent",
)
async def rejections(tx: AsyncConnection, period: Period, page: Slice, *, reason: Reason = None) -> Rows:
    """List the streams that were rejected at the handshake."""
    return await queries.rejections(tx, reason, period, page)


@audit_list(
    "Sources by the hour, newest first",
    schemas.SourcePage,
    "hour source alerts repeated replayed refused first_at last_at",
)
async def sources(tx: AsyncConnection, period: Period, page: Slice, *, source: Source = None) -> Rows:
    """List what each source posted, by the hour."""
    return await queries.sources(tx, source, period, page)
