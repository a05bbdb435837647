"""Actions of admins on an alert: acknowledge, resolve, reopen, comment; and its timeline."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID  # noqa: TC003 - as below

import orjson
from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response
from pydantic import BeforeValidator

from service.alerts import schemas, shown
from service.alerts.commands import AddComment, ChangeStatus
from service.alerts.committer import Committer
from service.alerts.fields import AlertId, Name  # noqa: TC001 - FastAPI reads the annotations
from service.alerts.lifecycle import Action
from service.alerts.queries import find_alert, find_timeline
from service.auth.authorization import Operation, authorize
from service.auth.principal import Principal, Scope
from service.database.ids import uuid7
from service.errors import (
    ActionConflict,
    IdempotencyMismatch,
    MalformedRequest,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RequestTooLarge,
    UnsupportedMedia,
)
from service.events.idempotency import IdempotencyKey
from service.http.authentication import Bearer, MayRead
from service.http.header_text import header_text
from service.http.openapi import headers, json_operation, refusals
from service.http.pagination import Cursor, decode_cursor
from service.http.provided import provided
from service.http.queries import Reads  # noqa: TC001 - as above
from service.http.request_body import json_body, require_no_fields

router = APIRouter(prefix="/v1/alerts/{alert_id:uuid}", tags=["alerts"])

Manager = Annotated[Principal, Depends(Bearer(Scope.ALERTS_MANAGE, limit="write"))]
Resolver = Annotated[Principal, Depends(Bearer(Scope.ALERTS_MANAGE, Scope.ALERTS_WRITE, limit="write"))]
ProvidedCommitter = Annotated[Committer, Depends(provided(Committer))]
NoFields = Annotated[None, Depends(require_no_fields)]
"""Stands after the principal: no body is read for whoever may not act."""

_key_text = partial(header_text, "idempotency-key")
_ACTING: dict[str, Any] = {
    "response_model": schemas.AlertAnswer,
    "responses": refusals(
        NotFound, ActionConflict, Overloaded, OutcomeUnknown, MalformedRequest, RequestTooLarge, UnsupportedMedia
    ),
}


@router.post("/acknowledge", **_ACTING)
async def acknowledge_alert(
    committer: ProvidedCommitter, principal: Manager, _body: NoFields, alert_id: AlertId
) -> Response:
    """Acknowledge an open alert. Only the first request succeeds; others get 409 with who was first.

    An admin who repeats an action, here and below, gets the alert as it is, and changes nothing. A
    token that may act on an alert, and not read it, gets no more than a summary.
    """
    return await _act(committer, principal, alert_id, Action.ACKNOWLEDGE)


@router.post("/resolve", **_ACTING)
async def resolve_alert(
    committer: ProvidedCommitter, principal: Resolver, _body: NoFields, alert_id: AlertId
) -> Response:
    """Resolve an alert. Its source may do so, too."""
    return await _act(committer, principal, alert_id, Action.RESOLVE)


@router.post("/reopen", **_ACTING)
async def reopen_alert(
    committer: ProvidedCommitter, principal: Manager, _body: NoFields, alert_id: AlertId
) -> Response:
    """Reopen an alert that was resolved or has expired, or give up one that was acknowledged."""
    return await _act(committer, principal, alert_id, Action.REOPEN)


@router.post(
    "/comments",
    status_code=201,
    response_model=schemas.CommentOut,
    responses={
        201: {"description": "It is stored.", "headers": headers("Idempotency-Replayed")},
        **refusals(NotFound, IdempotencyMismatch, Overloaded, OutcomeUnknown),
    },
    openapi_extra=json_operation(schemas.CommentIn),
)
async def post_comment(
    committer: ProvidedCommitter,
    principal: Manager,
    alert_id: AlertId,
    body: Annotated[schemas.CommentIn, Depends(json_body(schemas.CommentIn))],
    idempotency_key: Annotated[
        Name | None, BeforeValidator(_key_text), Header(description="makes a retry safe, for 24 hours")
    ] = None,
) -> Response:
    """Comment on an alert, whatever its status; 413 where the alert leaves too little room in an event."""
    key = IdempotencyKey.of(idempotency_key, [str(alert_id), body.text]) if idempotency_key is not None else None
    command = AddComment(principal, datetime.now(UTC), alert_id, uuid7(), body.text, key, bearer=principal)
    stored = await committer.store(command)
    headers = {"Idempotency-Replayed": "true"} if stored.replayed else {}
    return Response(stored.wire, 201, headers, "application/json")


@router.get("/timeline", response_model=schemas.Timeline, responses=refusals(NotFound))
async def get_timeline(  # noqa: PLR0913, PLR0917 - the parameters of the query string
    database: Reads,
    principal: MayRead,
    alert_id: AlertId,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=500, description="how many at most")] = 100,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: newest first; the same for each page")] = "asc",
) -> Response:
    """List the events of an alert, by default oldest first: what happened, by whom and when."""
    [after] = decode_cursor(cursor, (int,))
    async with database.transaction() as tx:
        authorize(principal, Operation.READ, await find_alert(tx, alert_id))
        events, more = await find_timeline(tx, alert_id, after, limit, newest_first=order == "desc")
    return Response(orjson.dumps({"events": events, "next": more}), media_type="application/json")


async def _act(committer: Committer, principal: Principal, alert_id: UUID, action: Action) -> Response:
    command = ChangeStatus(principal, datetime.now(UTC), alert_id, action, bearer=principal)
    return Response(shown.acted_on(principal, await committer.store(command)), media_type="application/json")
