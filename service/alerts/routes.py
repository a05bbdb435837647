"""``POST /v1/alerts``, one or many, and the reading of alerts.

The POSTs are the hot path: their routes are ``FastRoute``, and their bodies are validated here,
from bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field, ValidationError

from service.alerts import batch_request, schemas, shown
from service.alerts.alert_record import Status
from service.alerts.batch_key import BatchKey
from service.alerts.committer import Committer
from service.alerts.fields import (
    SEARCHED_ATTRIBUTES,
    AlertId,
    Key,
    Name,
    Time,
    TopicPattern,
    Words,
    listed,
    topic_patterns,
)
from service.alerts.ingest import accept, idempotency_key
from service.alerts.post_warnings import RecipientDirectory, warnings_of
from service.alerts.queries import AlertQuery, find_alert, list_alerts
from service.alerts.queue_items import QueueItem, Stored
from service.auth.authorization import Operation, authorize, scope_missing
from service.auth.principal import Principal, Scope, is_subject
from service.database.engine import Database
from service.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RequestRefused,
    TopicForbidden,
    TopicReserved,
    UnsupportedMedia,
)
from service.http.authentication import Bearer
from service.http.charges import charge, require_any, settle
from service.http.fast_route import FastRoute
from service.http.header_text import header_text
from service.http.openapi import fast_operation, headers, refusals, schema_of
from service.http.pagination import Cursor, decode_cursor
from service.http.provided import part
from service.http.queries import Reads
from service.http.query import invalid_parameter
from service.http.repeated_members import first_repetition
from service.http.request_body import is_json, media_type, read_body, read_model, require_utf_8
from service.http.source_requests import count_refused
from service.settings import ServerSettings
from service.severity import Severity

router = APIRouter(prefix="/v1", tags=["alerts"])

_writer = Bearer(Scope.ALERTS_WRITE, limit="write")
MayLookUp = Annotated[Principal, Depends(Bearer(Scope.ALERTS_READ, Scope.ALERTS_WRITE, limit="read"))]
_REPLAYED = {"Idempotency-Replayed": "true"}


async def post_alert(request: Request) -> Response:
    """Store an alert and push it to every admin who may see it.

    The answer means that it is committed. With an ``Idempotency-Key`` a retry is answered as the
    first request was, with ``Idempotency-Replayed: true``, and stores nothing. An alert with the
    topic, the recipients and the ``dedup_key`` of an unresolved one of the same source, or of a
    source in its group, repeats that one: it is counted there, replaces its title, body, attributes
    and links, and the answer is 200. An alert is refused with 413 if an event of it could be larger
    than `TOCSIN_EVENT_MAX_BYTES`. A token that may not read the alert is answered with its ``id``,
    ``seq``, ``status`` and ``occurrences``, beside what was sent. Recipients who have never connected
    are named in ``warnings``.
    """
    principal = await _writer(request)
    alert = await read_model(request, schemas.AlertIn)
    item = accept(alert, principal, datetime.now(UTC), idempotency_key(key_of(request), alert))
    charge(request)
    stored = await part(request, Committer).store(item)
    if alert.recipients is None:
        return created(principal, stored, alert)
    unknown = await part(request, RecipientDirectory).unknown(alert.recipients)
    return created(principal, stored, alert, warnings_of(alert.recipients, unknown))


def key_of(request: Request) -> str | None:
    """Return the ``Idempotency-Key`` of a request, if it has one.

    Raises:
        InvalidRequest, MalformedRequest: it cannot be one.

    """
    key = request.headers.get("idempotency-key")
    if key is not None and not is_subject(key := header_text("idempotency-key", key)):
        raise InvalidRequest("Idempotency-Key must be 1 to 200 printable characters.")
    return key


def created(
    principal: Principal, stored: Stored, sent: schemas.AlertIn, warnings: Sequence[dict[str, Any]] = ()
) -> Response:
    """Answer that an alert is stored, with as much of it as the token may read."""
    headers = {"Location": f"/v1/alerts/{stored.id}"}
    if stored.replayed:
        headers |= _REPLAYED
    status = 200 if stored.repeated else 201
    answer = shown.posted(principal, stored, sent)
    if warnings:
        answer = b'%b,"warnings":%b}' % (answer[:-1], orjson.dumps(warnings))
    return Response(answer, status, headers, "application/json")


async def post_batch(request: Request) -> Response:
    """Store up to 1,000 alerts, each answered by itself, in order. A refused one fails alone.

    The body is a JSON array, or NDJSON. One that cannot be read is refused whole. A batch of which
    no alert is stored is refused with what all of them were refused with, or else 422, with the
    `results`. With an ``Idempotency-Key`` a retry is answered as the first request was, with
    ``Idempotency-Replayed: true``, and stores nothing. An item may carry an ``idempotency_key``,
    which does what the header of a single POST does. Each alert counts against the write limit,
    except those that are refused.
    """
    principal = await _writer(request)
    lines = _is_ndjson(request)
    key = key_of(request)
    body = await read_body(request, max_bytes=part(request, ServerSettings).batch_max_bytes)
    items = batch_request.split(body, lines=lines)
    require_any(request, len(items))
    batch_key = BatchKey.of(principal.subject, key, body) if key is not None else None
    keys = map(batch_key.of_item, range(len(items))) if batch_key is not None else repeat(None)
    now = datetime.now(UTC)
    checked = await batch_request.read_all(
        items, lambda item: batch_request.read_item(item, principal, now, next(keys))
    )
    charge(request, len(batch_request.valid_of(checked)))
    if batch_key is not None:
        return await _post_once(request, batch_key, checked)
    return batch_response(request, await _store(request, checked))


async def _store(request: Request, checked: Sequence[QueueItem | RequestRefused]) -> batch_request.BatchResponse:
    store_all, directory = part(request, Committer).store_all, part(request, RecipientDirectory)
    return await batch_request.store(checked, store_all, directory)


def _is_ndjson(request: Request) -> bool:
    """Say whether a batch is NDJSON, or else a JSON array.

    Raises:
        UnsupportedMedia: it is announced as neither.

    """
    if media_type(request) in batch_request.NDJSON_TYPES:
        require_utf_8(request)
        return True
    if not is_json(request):
        raise UnsupportedMedia(
            "Send a JSON array with the header Content-Type: application/json, or one object a line with"
            f" {batch_request.NDJSON_TYPES[0]} (curl: --data-binary @FILE, as -d removes the line breaks)."
        )
    require_utf_8(request)
    return False


async def _post_once(request: Request, key: BatchKey, checked: Sequence[QueueItem | RequestRefused]) -> Response:
    """Store a batch with a key, or answer as it was answered before."""
    database = part(request, Database)
    claim = await key.claim(database)
    if claim.answer is not None:
        before = batch_request.replay(checked, claim.answer)
        return Response(before, headers=_REPLAYED, media_type="application/json")
    answer = await _store(request, checked)
    if answer.refusal is not None:
        await key.release(database, claim)
    elif answer.is_final:
        await key.keep(database, answer.body)
    return batch_response(request, answer, _REPLAYED if answer.is_replayed else None)


def batch_response(
    request: Request, answer: batch_request.BatchResponse, headers: dict[str, str] | None = None
) -> Response:
    """Answer a batch, count what was refused of it, and give back what that cost.

    Raises:
        RequestRefused: no alert of it is stored.

    """
    settle(request, answer.given_back)
    if answer.refusal is not None:
        count_refused(request, answer.refused - 1)  # the request itself counts as one
        raise answer.refusal
    count_refused(request, answer.refused)
    return Response(answer.body, headers=headers, media_type="application/json")


_BATCH = Annotated[list[schemas.BatchItem], Field(min_length=1, max_length=batch_request.ITEMS_MAX)]
_BATCH_LINES = """\
{"title": "Card acceptance below 80 %", "topic": "payments.eu", "idempotency_key": "acceptance-1"}
{"title": "Disk is full", "severity": "error"}
"""
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": schema_of(Name),
    "description": "makes a retry safe, for 24 hours",
}
_STORING = (TopicForbidden, TopicReserved, IdempotencyMismatch, Overloaded, OutcomeUnknown)
_STORED = headers("Location", "Idempotency-Replayed")

fast_routes = [
    FastRoute(
        "/v1/alerts",
        post_alert,
        methods=["POST"],
        tags=["alerts"],
        status_code=201,
        response_model=schemas.AlertAnswer,
        responses={
            201: {"description": "It is stored.", "headers": _STORED},
            200: {"description": "It repeated an alert.", "model": schemas.AlertAnswer, "headers": _STORED},
            **refusals(*_STORING),
        },
        openapi_extra=fast_operation(
            {"application/json": {"schema": schema_of(schemas.AlertIn)}}, parameters=[IDEMPOTENCY_KEY]
        ),
    ),
    FastRoute(
        "/v1/alerts/batch",
        post_batch,
        methods=["POST"],
        tags=["alerts"],
        response_model=schemas.BatchAnswer,
        responses={
            200: {"description": "The result of each alert.", "headers": headers("Idempotency-Replayed")},
            **refusals(*_STORING),
        },
        openapi_extra=fast_operation(
            {
                "application/json": {"schema": schema_of(_BATCH)},
                batch_request.NDJSON_TYPES[0]: {
                    "schema": {"type": "string", "format": "alerts"},
                    "example": _BATCH_LINES,
                },
            },
            parameters=[IDEMPOTENCY_KEY],
        ),
    ),
]


def _attributes(value: str) -> dict[str, Any]:
    try:
        attributes = SEARCHED_ATTRIBUTES.validate_json(value)
    except ValidationError as error:
        detail = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise invalid_parameter("attributes", f'{detail}; it takes a JSON object such as {{"rate": 1}}') from None
    if (place := first_repetition(value.encode())) is not None:
        raise invalid_parameter("attributes", f"the object has {place[-1]!r:.100} twice")
    return attributes


@router.get("/alerts", response_model=schemas.AlertPage)
async def get_alerts(  # noqa: PLR0913, PLR0917 - the filters of the query string
    database: Reads,
    principal: MayLookUp,
    topic: Annotated[list[TopicPattern], listed("topics or patterns; repeat for several, or put commas between")] = [],  # noqa: B006
    severity: Annotated[list[Severity], listed("repeat for several")] = [],  # noqa: B006 - FastAPI copies
    min_severity: Annotated[Severity | None, Query(description="this severity or a more severe one")] = None,
    status: Annotated[list[Status], listed("repeat for several")] = [],  # noqa: B006
    source: Annotated[list[Name], listed("who posted it; repeat for several")] = [],  # noqa: B006
    dedup_key: Annotated[list[Key], listed("with this dedup_key; repeat for several")] = [],  # noqa: B006
    alert_id: Annotated[list[UUID], listed("with this id; repeat for several")] = [],  # noqa: B006
    q: Annotated[
        Words | None,
        Query(
            description="words, beginnings of words, and parts of names, in title, body, source, topic, id and the"
            ' values of attributes: a b, "a b", a or b, -a (at most 20 times)',
        ),
    ] = None,
    attributes: Annotated[
        str | None,
        Query(
            max_length=2000,
            description='a JSON object that the attributes hold, such as {"rate": 1}',
            json_schema_extra={"format": "json-object", "contentMediaType": "application/json"},
        ),
    ] = None,
    since: Annotated[Time | None, Query(description="created at this time or later")] = None,
    until: Annotated[Time | None, Query(description="created before this time")] = None,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=200, description="how many at most")] = 50,
) -> Response:
    """List the alerts that the bearer may see and that match all filters, newest first.

    A token with `alerts:write` and without `alerts:read` lists the alerts that its subject posted, and
    says so: with its subject as the only `source`.
    `severity` is exact, `min_severity` a lower bound. Of several values of one filter, one must match.
    """
    if not principal.may(Scope.ALERTS_READ) and source != [principal.subject]:
        instead = f", or source={principal.subject} in the query, for what its subject posted"
        raise scope_missing(principal, [Scope.ALERTS_READ], instead)
    [before] = decode_cursor(cursor, (int,))
    query = AlertQuery(
        topics=topic_patterns(topic),
        severities=severity,
        min_severity=min_severity,
        statuses=status,
        sources=source,
        dedup_keys=dedup_key,
        ids=alert_id,
        words=q,
        attributes=_attributes(attributes) if attributes is not None else None,
        since=since,
        until=until,
        before=before,
        limit=limit,
    )
    async with database.transaction(snapshot=True) as tx:
        page, more, head = await list_alerts(tx, principal, query)
    alerts = [orjson.Fragment(shown.looked_up(principal, alert)) for alert in page]
    return Response(
        orjson.dumps({"alerts": alerts, "next": more, "head": head.seq, "cursor": head.cursor}),
        media_type="application/json",
    )


@router.get("/alerts/{alert_id:uuid}", response_model=schemas.AlertOut, responses=refusals(NotFound))
async def get_alert(database: Reads, principal: MayLookUp, alert_id: AlertId) -> Response:
    """Return one alert that the bearer may see; or, with `alerts:write`, one that its subject posted.

    A token that may not read the alert does not learn who changed its status.
    """
    async with database.transaction() as tx:
        alert = authorize(principal, Operation.LOOK_UP, await find_alert(tx, alert_id))
    return Response(shown.looked_up(principal, alert), media_type="application/json")
