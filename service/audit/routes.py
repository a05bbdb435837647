"""``/v1/audit/…``: who was sent what and who received it, with the scope ``audit:read``.

A token that covers some topics sees alerts of these topics only. Connections, rejections, sources
and the report, which are not about single alerts, need a token that covers every topic.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from service.alerts.alert_record import Status
from service.alerts.fields import AlertId, Name, Time, TopicPattern, listed, topic_patterns
from service.audit import queries, schemas
from service.audit.queries import LISTS, PageRequest, TimeRange
from service.audit.report import report
from service.audit.report_schemas import AuditReport
from service.auth.authorization import AlertFacts, Operation, authorize
from service.auth.principal import Principal, Scope
from service.errors import NotFound, TopicForbidden
from service.http.authentication import Bearer
from service.http.openapi import refusals
from service.http.pagination import CURSOR_MAX, cursor_parameter, decode_cursor, encode_cursor
from service.http.queries import Audit, Report, RequestQueries
from service.severity import Severity
from service.topics import EVERY_TOPIC

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi.params import Query as QueryParameter


router = APIRouter(prefix="/v1/audit", tags=["audit"])

A_DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_bearer = Bearer(Scope.AUDIT_READ, limit="read")
Auditor = Annotated[Principal, Depends(_bearer)]


async def _for_every_topic(principal: Auditor) -> Principal:
    if not principal.covers("*"):
        raise TopicForbidden("This needs a token that covers every topic.")
    return principal


EveryTopicAuditor = Annotated[Principal, Depends(_for_every_topic)]

Since = Annotated[Time | None, Query(description="at this time or later")]
Until = Annotated[Time | None, Query(description="before this time")]
SinceDay = Annotated[Time | None, Query(description="at this time or later; default: a day before `until`")]
UntilNow = Annotated[Time | None, Query(description="before this time; default: now")]
Limit = Annotated[int, Query(ge=1, le=1000, description="how many at most")]


def _cursor(kind: str) -> QueryParameter:
    return cursor_parameter(f"{kind}-cursor", CURSOR_MAX)


def _day(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    until = until or datetime.now(UTC)
    return since or max(until, EPOCH) - A_DAY, until


async def _page(  # noqa: PLR0913, PLR0917 - the parameters of a paged list
    database: RequestQueries,
    name: str,
    times: TimeRange,
    cursor: str | None,
    limit: int,
    filters: Mapping[str, Any],
    topics: Sequence[str] = EVERY_TOPIC,
) -> dict[str, Any]:
    """Return a page of a list, as the fields of its answer."""
    [after] = decode_cursor(cursor, LISTS[name].keyset)
    async with database.transaction(snapshot=True) as tx:
        rows, more = await LISTS[name].page(tx, times, PageRequest(limit, after), filters, topics)
    return {name: rows, "next": encode_cursor(more)}


@router.get("/alerts/{alert_id:uuid}", responses=refusals(NotFound))
async def get_alert_audit(
    database: Audit,
    principal: Auditor,
    alert_id: AlertId,
    cursor: Annotated[str | None, _cursor("alert")] = None,
    limit: Limit = 200,
) -> schemas.AlertAudit:
    """Return an alert, who was sent it, who received it and who did not, and its timeline.

    Both lists are paged together: as long as there is a `next`, the page that it leads to goes on
    with either.
    """
    people, times = decode_cursor(cursor, queries.RECIPIENTS_KEYSET, queries.TIMELINE_KEYSET)
    async with database.transaction(snapshot=True) as tx:
        head = await queries.alert_head(tx, alert_id)
        facts = AlertFacts(head["topic"], head["source"], head["recipients"]) if head is not None else None
        authorize(principal, Operation.AUDIT, facts)
        counts = await queries.recipient_counts(tx, alert_id)
        recipients, people = await queries.alert_recipients(tx, alert_id, PageRequest(limit, people))
        timeline, times = await queries.timeline(tx, alert_id, PageRequest(limit, times))
    more = encode_cursor(people, times)
    return schemas.AlertAudit.model_validate(
        {"alert": head, "counts": counts, "recipients": recipients, "timeline": timeline, "next": more}
    )


@router.get("/recipients/{name:path}")
async def get_recipient_audit(  # noqa: PLR0913, PLR0917 - the parameters of the query string
    database: Audit,
    principal: Auditor,
    name: Annotated[Name, Path(description="the recipient: the subject of their tokens", examples=["alice"])],
    since: SinceDay = None,
    until: UntilNow = None,
    cursor: Annotated[str | None, _cursor("recipient")] = None,
    limit: Limit = 200,
) -> schemas.RecipientAudit:
    """List what a recipient was sent of the events of a period, and when they received it.

    The period is the last day by default; to page through it, give `until`. A token that covers
    some topics sees their alerts only.
    """
    since, until = _day(since, until)
    times = TimeRange(since, until)
    page = await _page(database, "deliveries", times, cursor, limit, {"recipient": name}, principal.topics)
    return schemas.RecipientAudit.model_validate({"recipient": name, "since": since, "until": until, **page})


@router.get("/unreceived")
async def get_unreceived(  # noqa: PLR0913, PLR0917 - the filters of the query string
    database: Audit,
    principal: Auditor,
    since: SinceDay = None,
    until: UntilNow = None,
    topic: Annotated[list[TopicPattern], listed("topics or patterns; repeat for several, or put commas between")] = [],  # noqa: B006
    severity: Annotated[list[Severity], listed("repeat for several")] = [],  # noqa: B006 - FastAPI copies
    status: Annotated[list[Status], listed("the status of the alert now; repeat for several")] = [],  # noqa: B006
    recipient: Annotated[list[Name], listed("who has not received it; repeat for several")] = [],  # noqa: B006
    cursor: Annotated[str | None, _cursor("unreceived")] = None,
    limit: Limit = 200,
) -> schemas.UnreceivedPage:
    """List who has not received which alert that they may see.

    The alerts are those of a period, by default the last day. A token that covers some topics sees
    their alerts only.
    """
    filters = {"topic": topic_patterns(topic), "severity": severity, "status": status, "recipient": recipient}
    times = TimeRange(*_day(since, until))
    page = await _page(database, "unreceived", times, cursor, limit, filters, principal.topics)
    return schemas.UnreceivedPage.model_validate(page)


@router.get("/connections", responses=refusals(TopicForbidden))
async def get_connections(  # noqa: PLR0913, PLR0917 - the filters of the query string
    database: Audit,
    principal: EveryTopicAuditor,  # noqa: ARG001 - asked for its scope
    recipient: Annotated[Name | None, Query(description="whose connections")] = None,
    is_open: Annotated[
        bool | None, Query(alias="open", description="true: those that are open; false: those that ended")
    ] = None,
    since: Since = None,
    until: Until = None,
    cursor: Annotated[str | None, _cursor("connection")] = None,
    limit: Limit = 200,
) -> schemas.ConnectionPage:
    """List connections, the newest first; the period is when they were opened."""
    filters = {"recipient": recipient, "is_open": is_open}
    page = await _page(database, "connections", TimeRange(since, until), cursor, limit, filters)
    return schemas.ConnectionPage.model_validate(page)


@router.get("/rejections", responses=refusals(TopicForbidden))
async def get_rejections(  # noqa: PLR0913, PLR0917 - the filters of the query string
    database: Audit,
    principal: EveryTopicAuditor,  # noqa: ARG001 - asked for its scope
    reason: Annotated[Name | None, Query(description="why they were rejected", examples=["scope_missing"])] = None,
    since: Since = None,
    until: Until = None,
    cursor: Annotated[str | None, _cursor("rejection")] = None,
    limit: Limit = 200,
) -> schemas.RejectionPage:
    """Count the streams that were rejected at the handshake, and list a sample, the newest first."""
    times = TimeRange(since, until)
    [after] = decode_cursor(cursor, LISTS["rejections"].keyset)
    async with database.transaction(snapshot=True) as tx:
        counts = await queries.rejection_counts(tx, times, reason)
        rows, more = await LISTS["rejections"].page(tx, times, PageRequest(limit, after), {"reason": reason})
    page = {"counts": counts, "rejections": rows, "next": encode_cursor(more)}
    return schemas.RejectionPage.model_validate(page)


@router.get("/sources", responses=refusals(TopicForbidden))
async def get_sources(  # noqa: PLR0913, PLR0917 - the filters of the query string
    database: Audit,
    principal: EveryTopicAuditor,  # noqa: ARG001 - asked for its scope
    source: Annotated[Name | None, Query(description="who posted: the subject of the token")] = None,
    since: Annotated[Time | None, Query(description="hours that end after this time")] = None,
    until: Annotated[Time | None, Query(description="hours that begin before this time")] = None,
    cursor: Annotated[str | None, _cursor("source")] = None,
    limit: Limit = 200,
) -> schemas.SourcePage:
    """List what each source posted in each hour, by outcome, the newest hour first."""
    page = await _page(database, "sources", TimeRange(since, until), cursor, limit, {"source": source})
    return schemas.SourcePage.model_validate(page)


@router.get("/report", responses=refusals(TopicForbidden))
async def get_report(
    database: Report,
    principal: EveryTopicAuditor,  # noqa: ARG001 - asked for its scope
    since: SinceDay = None,
    until: UntilNow = None,
) -> AuditReport:
    """Sum up a day, or the period that is given, on one page.

    It counts all deliveries of the period, and measures the latency of at most about 100,000. Where
    that takes longer than `TOCSIN_REPORT_TIMEOUT_SECONDS`, use `tocsin audit report`.
    """
    async with database.transaction(snapshot=True) as tx:
        return AuditReport.model_validate(await report(tx, *_day(since, until)))
