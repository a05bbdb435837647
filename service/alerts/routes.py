"""``POST /v1/alerts`` and the reading of alerts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from service.alerts import schemas
from service.alerts.committer import Committer, NewAlert
from service.alerts.queries import AlertQuery, decode_cursor, find_alert, list_alerts
from service.auth.principal import Principal, Scope, is_subject, is_topic_pattern
from service.database.ids import uuid7
from service.errors import IdempotencyMismatch, InvalidRequest, NotFound, TopicForbidden
from service.events.filter import Severity
from service.web.bearer import Bearer
from service.web.bounds import read_json_body
from service.web.problems import invalid

if TYPE_CHECKING:
    from service.database.engine import Database

router = APIRouter(prefix="/v1", tags=["alerts"])

Writer = Annotated[Principal, Depends(Bearer(Scope.ALERTS_WRITE, limit="write"))]
Reader = Annotated[Principal, Depends(Bearer(Scope.ALERTS_READ, limit="read"))]

# The body is read by hand; its schema stands among the components, where those of the answers stand.
_SCHEMA = schemas.AlertIn.model_json_schema(ref_template="#/components/schemas/{model}")
_SCHEMA.pop("$defs")
_BODY_IN_OPENAPI = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


@router.post("/alerts", status_code=201, response_model=schemas.AlertOut, openapi_extra=_BODY_IN_OPENAPI)
async def post_alert(
    request: Request,
    principal: Writer,
    idempotency_key: Annotated[str | None, Header(description="makes a retry safe, for 24 hours")] = None,
) -> Response:
    """Store an alert and push it to every admin who may see it.

    The answer means that it is committed. With an ``Idempotency-Key`` a retry is answered as the first request was,
    with ``Idempotency-Replayed: true``, and stores nothing.
    """
    # Validated here, from bytes: FastAPI would decode the JSON to Python first and validate that.
    body = await read_json_body(request)
    try:
        alert = schemas.AlertIn.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False, include_input=False)) from None
    if not principal.covers(alert.topic):
        raise TopicForbidden(f"The token's topics do not cover {alert.topic}.")
    if idempotency_key is not None and not is_subject(idempotency_key):
        raise InvalidRequest("Idempotency-Key must be 1 to 200 printable characters.")
    now = datetime.now(UTC)
    alert_id = uuid7()
    wire = schemas.wire_alert(alert, alert_id, principal.subject, now)
    key_hash = schemas.content_hash(alert) if idempotency_key is not None else None
    committer: Committer = request.app.state.committer
    result = await committer.store(NewAlert(alert_id, principal.subject, now, alert, wire, idempotency_key, key_hash))
    if result.mismatch:
        raise IdempotencyMismatch("The first request with this key held another alert. Use a new key for a new alert.")
    if result.body is not None:
        wire = result.body
        alert_id = UUID(orjson.loads(wire)["id"])
    headers = {"Location": f"/v1/alerts/{alert_id}"}
    if result.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(schemas.with_seq(wire, result.seq), 201, headers, "application/json")


def _patterns(values: list[str]) -> list[str]:
    for value in values:
        if not is_topic_pattern(value):
            raise InvalidRequest(f"/topic: {value!r} is no topic and no pattern such as payments.* or *.")
    return values


@router.get("/alerts", response_model=schemas.AlertPage)
async def get_alerts(  # noqa: PLR0913, PLR0917 - the filters of the query string
    request: Request,
    principal: Reader,
    topic: Annotated[list[str], Query(description="topics or patterns; repeat for several")] = [],  # noqa: B006
    severity: Annotated[list[Severity], Query(description="repeat for several")] = [],  # noqa: B006 - FastAPI copies
    min_severity: Severity | None = None,
    status: Annotated[list[schemas.Status], Query(description="repeat for several")] = [],  # noqa: B006
    cursor: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """List the alerts that the bearer may see, newest first."""
    query = AlertQuery(
        topics=_patterns(topic),
        severities=severity,
        min_severity=min_severity,
        statuses=status,
        before=decode_cursor(cursor) if cursor is not None else None,
        limit=limit,
    )
    database: Database = request.app.state.database
    async with database.transaction(snapshot=True) as tx:
        page, more, head = await list_alerts(tx, principal, query)
    return Response(orjson.dumps({"alerts": page, "next": more, "head": head}), media_type="application/json")


@router.get("/alerts/{alert_id}", response_model=schemas.AlertOut)
async def get_alert(request: Request, principal: Reader, alert_id: UUID) -> Response:
    """Return one alert."""
    database: Database = request.app.state.database
    async with database.transaction() as tx:
        alert = await find_alert(tx, principal, alert_id)
    if alert is None:
        raise NotFound(f"There is no alert {alert_id}, or none that this token may see.")
    return Response(orjson.dumps(alert), media_type="application/json")
