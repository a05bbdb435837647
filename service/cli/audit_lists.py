"""``tocsin audit recipient``, ``unreceived``, …: the lists of ``/v1/audit``, from the database.

A command is declared by a function: its keyword-only parameters are the command's filters, its
docstring is the command's help. ``audit_list`` adds the period, the limit and the form, and queries
the list of that name in ``audit/queries.py``. A table ends somewhere; an export has all rows.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.admin.recipients import is_known, nearest
from service.alerts.queries import topics_of_alerts
from service.audit import schemas
from service.audit.queries import LISTS, PageRequest, TimeRange, was_rejected_for
from service.audit.queries import rejection_counts as counts_by_reason
from service.cli.database_query import ask
from service.cli.environment import database_name, say_database
from service.cli.export import export_csv, export_json, limited
from service.cli.option_checks import listed, one_of, subject, topics
from service.cli.output import TABLE_ROWS, AsCsv, AsJson, Limit, QueryResult, ResultTable, form_of, show, utc
from service.cli.time_options import Since, Until, day, period
from service.database.base import STATUSES
from service.errors import CloseReason, CommandFailed, all_refusals
from service.settings import load
from service.severity import SEVERITIES
from service.topics import covers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from pydantic import BaseModel
    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.audit.queries import Row
    from service.cli.output import Form

    _Command = Callable[[Callable[..., None]], Callable[..., None]]

_REASONS = sorted({kind.code for kind in all_refusals()} | {close.reason for close in CloseReason})
"""Why a stream may be rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """How a list is shown: its ``name`` in ``audit/queries.py``, and the ``page`` that REST answers with.

    ``of_a_day``: without ``--since`` and ``--until`` it is about the last 24 hours, and not about
    all that is kept. ``counts`` queries what the page counts beside the list.
    """

    name: str
    title: str
    page: type[BaseModel]
    fields: str
    empty: str = "nothing"
    of_a_day: bool = False
    counts: Callable[..., Awaitable[list[Row]]] | None = None

    async def answer(
        self, tx: AsyncConnection, times: TimeRange, filters: Mapping[str, Any], limit: int | None, form: Form
    ) -> QueryResult | None:
        """Return the table to show, or export the list and return None.

        Raises:
            CommandFailed: it is to be about what the database knows nothing of.

        """
        await _require_known(tx, filters)
        source = LISTS[self.name]
        exported = limited(lambda most: source.all_rows(tx, times, filters, most), limit)
        if form == "csv":
            await export_csv(source.row, exported)
            return None
        given = {**filters, "since": times.since, "until": times.until, self.name: [], "next": None}
        if self.counts is not None:
            given["counts"] = await self.counts(tx, times, **filters)
        if form == "json":
            head = self.page.model_validate(given).model_dump(mode="json", exclude={self.name, "next"})
            await export_json(head, {self.name: (source.row, exported)})
            return None
        rows, more = await source.page(tx, times, PageRequest(limit or TABLE_ROWS, max_bytes=None), filters)
        document: Any = self.page.model_validate({**given, self.name: rows})
        bounds = "".join(f" {word} {utc(at)}" for word, at in (("from", times.since), ("until", times.until)) if at)
        listed = ResultTable(
            f"{self.title.format(**filters)}{bounds} (UTC)", self.fields, getattr(document, self.name), self.empty
        )
        counted = [ResultTable("How many, by whole hours", "reason rejections", document.counts)] if self.counts else []
        return QueryResult(document, [], [*counted, listed], (), (), more=more is not None)


async def _require_known(tx: AsyncConnection, filters: Mapping[str, Any]) -> None:
    """Check that what the list is about exists: of a misspelt name there is nothing to list.

    Raises:
        CommandFailed: somebody left no trace, no alert has a topic, or there is no such reason.

    """
    for given in ("recipient", "source"):
        for name in listed(filters.get(given)):
            if not await is_known(tx, name):
                near = await nearest(tx, name)
                raise CommandFailed(f"nobody named {name} has been seen: {_hint('name', near)}")
    if patterns := listed(filters.get("topic")):
        topics = await topics_of_alerts(tx)
        for pattern in patterns:
            if pattern != "*" and not any(covers(pattern, topic) for topic in topics):
                near = _nearest(pattern, {*topics, *_patterns(topics)})
                raise CommandFailed(f"no alert has the topic {pattern}: {_hint('topic', near)}")
    for reason in listed(filters.get("reason")):
        if reason not in _REASONS and not await was_rejected_for(tx, reason):
            near = _nearest(reason, _REASONS)
            raise CommandFailed(f"there is no reason {reason}: {_hint('reason', near)}")


def _hint(kind: str, near: str | None) -> str:
    return f"did you mean {near}?" if near else f"check the {kind}, and the database"


def _nearest(given: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(given, list(names), 1)), None)


def _patterns(topics: Iterable[str]) -> set[str]:
    """Return the patterns with a star that cover these topics."""
    return {f"{topic[:dot]}.*" for topic in topics for dot, character in enumerate(topic) if character == "."}


def audit_list(name: str, title: str, page: type[BaseModel], fields: str, **others: Any) -> _Command:
    """Make a command that shows the list ``name`` as a ``_Sheet`` says."""
    sheet = _Sheet(name=name, title=title, page=page, fields=fields, **others)

    def command(declaration: Callable[..., None]) -> Callable[..., None]:
        def run(
            *,
            since: Since = None,
            until: Until = None,
            limit: Limit = None,
            as_json: AsJson = False,
            as_csv: AsCsv = False,
            **filters: Any,
        ) -> None:
            form, settings = form_of(as_json=as_json, as_csv=as_csv), load()
            times = TimeRange(*(day if sheet.of_a_day else period)(since, until))
            result = ask(lambda tx: sheet.answer(tx, times, filters, limit, form))
            if result is None:
                say_database(settings)
            else:
                show(replace(result, lines=[f"Database: {database_name(settings)}"]), form)

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
    "Rejected streams, a sample, newest first",
    schemas.RejectionPage,
    "at reason subject remote_addr path origin user_agent",
    counts=counts_by_reason,
)
def rejections(*, reason: Reason = None) -> None:
    """Count the streams that were rejected at the handshake, and list some.

    All are counted, by whole hours. The list has no more of one address than its limit of failed
    requests; --csv exports the list, and `rejection-counts` the counts.
    """


@audit_list(
    "rejection_counts",
    "Rejected streams by the hour, newest first",
    schemas.RejectionCountPage,
    "hour reason rejections",
)
def rejection_counts(*, reason: Reason = None) -> None:
    """Count the streams that were rejected at the handshake, by the hour."""


@audit_list(
    "sources",
    "Sources by the hour, newest first",
    schemas.SourcePage,
    "hour source alerts repeated replayed refused first_at last_at",
)
def sources(*, source: Source = None) -> None:
    """List what each source posted, by the hour."""
