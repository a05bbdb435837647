"""``tocsin audit recipient``, ``unreceived``, …: the lists of ``/v1/audit``, from the database.

A command is declared by a function: its keyword-only parameters are the command's filters, its
docstring is the command's help. ``audit_list`` adds the period, the limit and the form, and queries
the list of that name in ``audit/queries.py``.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.audit import schemas
from service.audit.queries import LISTS, PageRequest, TimeRange
from service.cli.database_query import ask
from service.cli.option_checks import one_of, subject, topics
from service.cli.output import AsCsv, AsJson, Limit, QueryResult, ResultTable, form_of, records, show, utc
from service.cli.time_options import Since, Until, day, period
from service.database.base import STATUSES
from service.severity import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel


def audit_list(  # noqa: PLR0913 - all that the lists differ in
    name: str,
    title: str,
    page: type[BaseModel],
    fields: str,
    *,
    empty: str = "nothing",
    of_a_day: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command that shows the list ``name``, whose answer over REST is a ``page``.

    ``of_a_day``: without ``--since`` and ``--until`` it is about the last 24 hours, and not about
    all that is kept.
    """
    source = LISTS[name]

    def command(declaration: Callable[..., None]) -> Callable[..., None]:
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
            rows, more = ask(
                lambda tx: source.page(tx, TimeRange(start, end), PageRequest(limit, max_bytes=None), filters)
            )
            bounds = {"since": start, "until": end}
            document = page.model_validate({**filters, **bounds, name: rows, "next": None})
            times = "".join(f" {word} {utc(at)}" for word, at in (("from", start), ("until", end)) if at is not None)
            heading = f"{title.format(**filters)}{times} (UTC)"
            table = ResultTable(heading, fields, getattr(document, name), empty)
            csv = records(table.rows)
            show(QueryResult(document, [], [table], list(source.row.model_fields), csv, more=more is not None), form)

        filters, options = (inspect.signature(of, eval_str=True).parameters.values() for of in (declaration, run))
        kept = [one for one in (*filters, *options) if one.kind is one.KEYWORD_ONLY]
        run.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined] # typer reads it
        run.__name__, run.__doc__ = declaration.__name__, declaration.__doc__
        return run

    return command


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
    "deliveries",
    "What {recipient} was sent, newest first",
    schemas.RecipientAudit,
    "occurred_at seq kind severity topic alert_id sent_at received_at seen_at latency",
    of_a_day=True,
)
def recipient(*, recipient: Name) -> None:
    """List what an admin was sent, and when they received it."""


@audit_list(
    "unreceived",
    "Not received, newest first",
    schemas.UnreceivedPage,
    "recipient waiting severity topic title status alert_id occurred_at sent_at seen_at",
    empty="nothing: everybody has received what they may see",
    of_a_day=True,
)
def unreceived(
    *,
    topic: Topics = None,
    severity: Severities = None,
    status: Statuses = None,
    recipient: Recipients = None,
) -> None:
    """List who has not received which alert that they may see."""


@audit_list(
    "connections",
    "Connections, newest first",
    schemas.ConnectionPage,
    "opened_at recipient transport remote_addr closed_at duration close_code close_reason sent_seq received_seq"
    " connection",
)
def connections(*, recipient: Recipient = None, is_open: IsOpen = None) -> None:
    """List the connections of admins.

    A period is when they were opened.
    """


@audit_list(
    "rejections",
    "Rejected streams, newest first",
    schemas.RejectionPage,
    "at reason subject remote_addr path origin user_agent",
)
def rejections(*, reason: Reason = None) -> None:
    """List the streams that were rejected at the handshake."""


@audit_list(
    "sources",
    "Sources by the hour, newest first",
    schemas.SourcePage,
    "hour source alerts repeated replayed refused first_at last_at",
)
def sources(*, source: Source = None) -> None:
    """List what each source posted, by the hour."""
