"""``/v1/integrations/…``: the webhooks of other systems."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import Request
from fastapi.responses import Response

from service.alerts import batch_request, schemas
from service.alerts.commands import PostAlert, ResolveByDedupKey
from service.alerts.committer import Committer
from service.alerts.fields import VISIBLE_PATTERN
from service.alerts.ingest import RoomForAlert, accept, idempotency_key
from service.alerts.late_posts import Occurrence
from service.alerts.queue_items import KeyResolved, Outcome, PendingAlert, Stored
from service.alerts.routes import IDEMPOTENCY_KEY, batch_response, created, key_of
from service.auth.authorization import AlertFacts, Operation, refusal
from service.auth.principal import Principal, Scope
from service.errors import (
    IdempotencyMismatch,
    InternalError,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    RateLimited,
    RequestRefused,
    TopicForbidden,
    TopicReserved,
    UnsupportedMedia,
)
from service.http.authentication import Bearer, client_address
from service.http.charges import charge, require_any, settle
from service.http.fast_route import FastRoute
from service.http.openapi import fast_operation, headers, named, refusals
from service.http.provided import part
from service.http.rate_limits import RestLimits
from service.http.request_body import BATCH_VALUES_MAX, media_type, parse_json, read_body, read_json, require_utf_8
from service.http.source_requests import count_refused
from service.http.turns import Turn
from service.integrations import alertmanager, apprise, cloudevents, sanitize
from service.settings import IntegrationSettings, ServerSettings, StorageSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.integrations.alertmanager import AlertmanagerAlert

ALERTS_AT_ONCE = 100
_OUTCOMES = ("stored", "repeated", "resolved", "refused")
"""What may become of an alert of Alertmanager."""
_writer = Bearer(Scope.ALERTS_WRITE, limit="write", of_senders=True)


def _room(request: Request, principal: Principal) -> RoomForAlert:
    return RoomForAlert(principal.subject, part(request, StorageSettings).event_max_bytes)


def _max_bytes(request: Request) -> int:
    return part(request, ServerSettings).batch_max_bytes


# CloudEvents.


async def post_cloudevents(request: Request) -> Response:
    """Store a CloudEvent (1.0; binary, structured or batched) as an alert, and push it.

    An event with the `source` and `id` of one that was stored within 24 hours stores nothing: it is
    answered as the first was, with `Idempotency-Replayed: true`. A batch is answered like `POST
    /v1/alerts/batch`; a 5xx means that not all of it was stored, and that the same may be sent
    again.
    """
    media = media_type(request)
    principal = await _writer(request)
    if media.startswith("text/") or media.endswith("json"):
        require_utf_8(request)
    body = await read_body(request, max_bytes=_max_bytes(request))
    if media == cloudevents.BATCHED:
        return await _post_events(request, principal, parse_json(body, values_max=BATCH_VALUES_MAX))
    if media == cloudevents.STRUCTURED:
        event = parse_json(body, values_max=BATCH_VALUES_MAX)
    elif media.startswith("application/cloudevents"):
        raise UnsupportedMedia(f"Send {cloudevents.STRUCTURED} or {cloudevents.BATCHED}.")
    else:
        event = cloudevents.read_binary(request.headers, media, body)
    alert, key = cloudevents.alert_of(event)
    alert = cloudevents.fit(alert, event, _room(request, principal))
    item = accept(alert, principal, datetime.now(UTC), key, cloudevents.occurrence_of(event))
    charge(request)
    return created(principal, await part(request, Committer).store(item), alert)


async def _post_events(request: Request, principal: Principal, events: Any) -> Response:
    if not isinstance(events, list):
        raise InvalidRequest("A batch must be a JSON array of CloudEvents.")
    batch_request.require_items(len(events))
    require_any(request, len(events))
    read = partial(_accept_event, principal=principal, now=datetime.now(UTC), room=_room(request, principal))
    checked = await batch_request.read_all(events, read)
    charge(request, len(batch_request.valid_of(checked)))
    answer = await batch_request.store(checked, part(request, Committer).store_all)
    response = batch_response(request, answer)
    if answer.defect is not None:  # a sender of batches looks at the status only
        raise answer.defect
    return response


async def permit_cloudevents(request: Request) -> Response:
    """Permit whoever asks to deliver events (HTTP 1.1 Web Hooks for Event Delivery, section 4).

    That needs no token, as every event needs one.
    """
    limits = part(request, RestLimits)
    limits.hit("anonymous", client_address(request))
    headers = {"Allow": "POST, OPTIONS"}
    if origin := request.headers.get("webhook-request-origin"):
        headers["WebHook-Allowed-Origin"] = origin
        headers["WebHook-Allowed-Rate"] = str(limits.per_minute("write"))
    return Response(headers=headers)


def _accept_event(event: Any, principal: Principal, now: datetime, room: RoomForAlert) -> PendingAlert | PostAlert:
    alert, key = cloudevents.alert_of(event)
    return accept(cloudevents.fit(alert, event, room), principal, now, key, cloudevents.occurrence_of(event))


# Apprise.


async def post_apprise(request: Request) -> Response:
    """Store what Apprise's `json://` and `jsons://` post as an alert, and push it.

    An `Idempotency-Key` does what it does at `POST /v1/alerts`.
    """
    principal = await _writer(request)
    alert = apprise.read(await read_json(request, max_bytes=_max_bytes(request)))
    alert = sanitize.fit(alert, _room(request, principal), partial(sanitize.attributes, alert.attributes))
    item = accept(alert, principal, datetime.now(UTC), idempotency_key(key_of(request), alert))
    charge(request)
    return created(principal, await part(request, Committer).store(item), alert)


# Alertmanager takes any 2xx for success. It sends again at once, with growing pauses, only after a
# 5xx (its webhooks do not know 429), and after a 4xx at its next group_interval. So whatever may
# succeed later is answered 5xx; alerts of it that were stored repeat the open alerts when they are
# sent again: none is lost, and none is there twice.


async def post_alertmanager(request: Request) -> Response:
    """Store the firing alerts of an Alertmanager notification, and resolve the resolved ones.

    What is resolved are the alerts of the topic with the same `dedup_key` that the same source, or a
    source in its group, posted.

    A late `firing` is counted on the alert that its `resolved` ended, and opens none. Labels and
    annotations that are longer than alerts may be are cut, not refused. A 5xx means that
    not all of it was done, and that the same may be sent again. More than 1,000 alerts at a time are
    refused: set `max_alerts` of the receiver. Each counts against the write limit, except those that are
    refused.
    """
    try:
        return await _post_notification(request)
    except RateLimited as limited:
        raise Overloaded(limited.detail, retry_after=limited.retry_after) from None


async def _post_notification(request: Request) -> Response:
    principal = await _writer(request)
    payload = await read_json(request, max_bytes=_max_bytes(request), values_max=BATCH_VALUES_MAX)
    notification = alertmanager.read(payload, part(request, IntegrationSettings))
    require_any(request, len(notification))
    refused: dict[str, RequestRefused] = {}
    allowed: list[AlertmanagerAlert] = []
    room = _room(request, principal)
    turn = Turn()
    for index in range(len(notification)):
        if turn.is_over:
            await turn.next()
        try:
            one = notification[index]
        except InvalidRequest as invalid:
            refused[invalid.detail] = invalid
            continue
        facts = AlertFacts(one.alert.topic, principal.subject, one.alert.recipients)
        if (problem := refusal(principal, Operation.POST, facts)) is None:
            allowed.append(one.fit(room))
        else:
            refused[one.alert.topic] = problem
    charge(request, len(allowed))
    late_within = timedelta(seconds=part(request, IntegrationSettings).alertmanager_late_seconds)
    counts = await _store(allowed, principal, part(request, Committer), late_within)
    defects = counts["refused"]
    settle(request, refused=0)
    if defects:
        count_refused(request, defects)
        raise InternalError(
            f"{defects} of {len(allowed)} alerts could not be stored. The service's log has the details."
        )
    if refused:
        # Only a 4xx shows in Alertmanager's own metrics that its token may not post its labels.
        others = f"{len(notification) - len(allowed)} alerts are refused; {len(allowed)} others are stored or resolved."
        if first := next((one for one in refused.values() if isinstance(one, InvalidRequest)), None):
            raise InvalidRequest(f"{first.detail} {others}")
        topics = sorted(refused)
        raise type(refused[topics[0]])(f"The token may not post alerts of {', '.join(topics[:5])}: {others}")
    return Response(orjson.dumps(counts), media_type="application/json")


async def _store(
    alerts: Sequence[AlertmanagerAlert], principal: Principal, committer: Committer, late_within: timedelta
) -> dict[str, int]:
    """Store firing alerts, resolve the resolved ones, and return how many of each.

    One that this service cannot store because of an error of its own does not hold up the others.

    Raises:
        RequestRefused: something failed that may succeed when the same is sent again.

    """
    counts = Counter(dict.fromkeys(_OUTCOMES, 0))
    now = datetime.now(UTC)
    for start in range(0, len(alerts), ALERTS_AT_ONCE):
        some = [_item(one, principal, now, late_within) for one in alerts[start : start + ALERTS_AT_ONCE]]
        while some:
            outcomes = await committer.store_all(some)
            for outcome in outcomes:
                if isinstance(outcome, KeyResolved):
                    counts["resolved"] += outcome.alerts
                else:
                    counts[_kind(outcome)] += 1
            some = [
                item.following(outcome.read_to)
                for item, outcome in zip(some, outcomes, strict=True)
                if isinstance(item, ResolveByDedupKey) and isinstance(outcome, KeyResolved) and outcome.read_to
            ]
    return dict(counts)


def _item(
    one: AlertmanagerAlert, principal: Principal, now: datetime, late_within: timedelta
) -> PendingAlert | PostAlert | ResolveByDedupKey:
    """Return what a firing or a resolved alert asks for, as an item of the queue."""
    if one.firing:
        occurrence = Occurrence(one.started_at, late_within) if one.started_at is not None else None
        return accept(one.alert, principal, now, occurrence=occurrence)
    topic, key = one.alert.topic, one.dedup_key
    return ResolveByDedupKey(principal, now, topic, key, one.started_at, one.ended_at, late_within, bearer=principal)


def _kind(outcome: Outcome) -> str:
    """Return what became of an alert."""
    if isinstance(outcome, InternalError):
        return "refused"
    if isinstance(outcome, RequestRefused):
        raise outcome
    return "repeated" if isinstance(outcome, Stored) and outcome.repeated else "stored"


_COUNTS = {
    "schema": named(
        "AlertmanagerAnswer",
        {
            "type": "object",
            "required": list(_OUTCOMES),
            "properties": {name: {"type": "integer"} for name in _OUTCOMES},
            "description": "How many alerts were stored, repeated, resolved and refused.",
        },
    ),
    "example": {"stored": 1, "repeated": 0, "resolved": 1, "refused": 0},
}
_EVENT = named(
    "CloudEvent",
    {
        "type": "object",
        "required": ["specversion", *cloudevents.REQUIRED],
        "properties": {
            "specversion": {"type": "string", "enum": ["1.0"]},
            **{name: {"type": "string", "pattern": VISIBLE_PATTERN} for name in cloudevents.REQUIRED},
            "data": {"description": "any JSON; not together with `data_base64`"},
            "data_base64": {
                "type": "string",
                "pattern": cloudevents.BASE64_PATTERN,
                "description": "binary data, in base64",
            },
        },
        "additionalProperties": True,
        "description": (
            "A CloudEvent. Further attributes have names of a-z and 0-9, and are text, a boolean, an integer of 32"
            " bits or null. Its `topic`, or else its `type`, must make a topic."
        ),
        "examples": [
            {
                "specversion": "1.0",
                "id": "4711",
                "source": "/payments/eu",
                "type": "payments.failed",
                "data": {"title": "Settlement file is late"},
            }
        ],
    },
)
_NOTIFICATION = {
    "schema": named(
        "AppriseNotification",
        {
            "type": "object",
            "properties": {"title": {"type": "string"}, "message": {"type": "string"}, "type": {"type": "string"}},
            "additionalProperties": True,
            "description": "It has a title or a message. Further members are attributes of the alert.",
        },
    ),
    "example": {"version": "1.0", "title": "Backup failed", "message": "Disk full on db1", "type": "failure"},
}
_ALERTMANAGER = {
    "schema": named(
        "AlertmanagerNotification",
        {
            "type": "object",
            "required": ["alerts"],
            "properties": {
                "alerts": {
                    "type": "array",
                    "maxItems": batch_request.ITEMS_MAX,
                    "items": {},
                    "description": "entries that are not objects are skipped",
                }
            },
            "additionalProperties": True,
            "description": "What a webhook of Alertmanager sends, version 4.",
        },
    ),
    "example": {
        "version": "4",
        "status": "firing",
        "receiver": "tocsin",
        "alerts": [
            {
                "status": "firing",
                "fingerprint": "9e1c1f7d3b5a2c40",
                "labels": {"alertname": "DiskFull", "severity": "critical", "instance": "db1"},
                "annotations": {"summary": "The disk of db1 is full"},
                "startsAt": "2026-11-21T09:41:07Z",
                "endsAt": "0001-01-01T00:00:00Z",
            }
        ],
    },
}

fast_routes = [
    FastRoute(
        "/v1/integrations/cloudevents",
        post_cloudevents,
        methods=["POST"],
        tags=["integrations"],
        status_code=201,
        response_model=schemas.AlertAnswer,
        responses={
            201: {"description": "It is stored.", "headers": headers("Location", "Idempotency-Replayed")},
            200: {
                "description": "The answer to a batch; or it repeated an alert.",
                "model": schemas.EventAnswer,
            },
            **refusals(TopicForbidden, TopicReserved, IdempotencyMismatch, Overloaded, OutcomeUnknown),
        },
        openapi_extra=fast_operation(
            {
                cloudevents.STRUCTURED: {"schema": _EVENT},
                cloudevents.BATCHED: {
                    "schema": {"type": "array", "maxItems": batch_request.ITEMS_MAX, "items": _EVENT}
                },
            }
        ),
    ),
    FastRoute("/v1/integrations/cloudevents", permit_cloudevents, methods=["OPTIONS"], include_in_schema=False),
    FastRoute(
        "/v1/integrations/apprise",
        post_apprise,
        methods=["POST"],
        tags=["integrations"],
        status_code=201,
        response_model=schemas.AlertAnswer,
        responses={
            201: {"description": "It is stored.", "headers": headers("Location", "Idempotency-Replayed")},
            200: {"description": "It repeated an alert.", "model": schemas.AlertAnswer},
            **refusals(TopicForbidden, TopicReserved, IdempotencyMismatch, Overloaded, OutcomeUnknown),
        },
        openapi_extra=fast_operation({"application/json": _NOTIFICATION}, parameters=[IDEMPOTENCY_KEY]),
    ),
    FastRoute(
        "/v1/integrations/alertmanager",
        post_alertmanager,
        methods=["POST"],
        tags=["integrations"],
        responses={
            200: {
                "description": "How many were stored, repeated, resolved and refused.",
                "content": {"application/json": _COUNTS},
            },
            **refusals(TopicForbidden, TopicReserved, Overloaded, OutcomeUnknown),
        },
        openapi_extra=fast_operation({"application/json": _ALERTMANAGER}),
    ),
]
