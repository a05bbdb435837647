"""The routes of ``/v1/events``: parameters, and the documents of the answers."""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of an instance's annotations.

from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.alerts.fields import INTEGER_MAX, LISTED_MAX, TOPICS_MAX_LENGTH, WHOLE, documented
from service.auth.principal import Principal, Scope
from service.errors import (
    ConnectionLimit,
    ConsumerLimit,
    InvalidRequest,
    NotFound,
    Overloaded,
    TopicForbidden,
)
from service.events.position import CURSOR_MAX, CURSOR_PATTERN
from service.http.authentication import Bearer, MayRead
from service.http.charges import charge
from service.http.edge import is_head
from service.http.openapi import json_operation, refusals
from service.http.provided import provided
from service.http.request_body import json_body
from service.ledger.resume_points import CONSUMER_MAX, CONSUMER_PATTERN
from service.severity import SEVERITIES
from service.stream.admission import StreamRequest
from service.stream.frame_schemas import (
    AlertCreatedFrame,
    EventOut,
    GapFrame,
    ResetFrame,
    WelcomeFrame,
    example_of,
)
from service.stream.protocol import SEEN_MAX
from service.stream.transports.http_endpoint import HttpEndpoint, StreamQuery
from service.stream.transports.sse import EVENT_ID_MAX, MEDIA_TYPE, read_event_id

WAIT_SECONDS = 25
WAIT_MAX_SECONDS = 60

router = APIRouter(prefix="/v1", tags=["stream"])


Recipient = Annotated[Principal, Depends(Bearer(Scope.ALERTS_READ, limit="read", charges=False))]
ProvidedEndpoint = Annotated[HttpEndpoint, Depends(provided(HttpEndpoint))]

_FRAME = "A frame of the stream, as on the WebSocket: a JSON object with `type` first."
_SSE_EXAMPLE = """\
data: {"type":"welcome","connection":"019aa…","recipient":"alice","head":4711,"after":4710,…}

id: 4711-9f3a2c1d.019aa…
data: {"type":"event","seq":4711,"cursor":"4711-9f3a2c1d","id":"9f3a2c1d00112233","kind":"alert.created",…}

id: 4711-9f3a2c1d.019aa…
data: {"type":"caught_up","seq":4711,"cursor":"4711-9f3a2c1d"}

data: {"type":"close","code":1008,"reason":"token_expired"}
"""


_CONNECTION = "01a1fd87-65c3-71a6-ba06-3929d3197295"
_CURSOR = "4711-9f3a2c1d"


class CloseOut(BaseModel):
    """The reason why the connection of the polls was closed."""

    type: Literal["close"]
    code: int
    reason: str


class PollOut(BaseModel):
    """The answer to a long poll."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "connection": _CONNECTION,
                    "welcome": example_of(WelcomeFrame),
                    "events": [example_of(AlertCreatedFrame)],
                    "next": _CURSOR,
                    "caught_up": True,
                    "gap": {"type": "gap", "from": 1, "to": 4000, "reason": "purged"},
                    "reset": {"type": "reset", "after": 4700, "cursor": "4700-5d1e88a0"},
                    "closed": {"type": "close", "code": 1008, "reason": "token_expired"},
                }
            ]
        }
    )

    connection: UUID = Field(description="send it as `connection` with the next poll")
    welcome: WelcomeFrame | None = Field(
        description="the `welcome` frame, with the first answer of a connection, and to a poll that names none"
    )
    events: list[EventOut] = Field(description="`event` frames, in the order of the log")
    next: str = Field(description="send it as `after` with the next poll, which acknowledges these events")
    caught_up: bool = Field(description="false: there may be more, so ask again at once")
    gap: GapFrame | None
    reset: ResetFrame | None = Field(description="the history of the log has changed under this client")
    closed: CloseOut | None = Field(description="why this connection has ended; the next poll begins another")


class AckIn(BaseModel):
    """An acknowledgement."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"connection": _CONNECTION, "seq": 4711}]}
    )

    connection: UUID = Field(description="that of the `welcome` frame, or of the answer to a poll")
    seq: Annotated[int, Field(ge=0, le=INTEGER_MAX), WHOLE] = Field(
        description="cumulative: this event and all before it"
    )


class AckOut(BaseModel):
    """How far the acknowledgement counts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"connection": _CONNECTION, "seq": 4711}]})

    connection: UUID
    seq: int = Field(description="less than was sent where the node that was asked does not know yet: send it again")


class SeenIn(BaseModel):
    """Alerts that somebody saw."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"alerts": ["01a1fd87-65c3-71a6-ba06-3929d3197295"]}]}
    )

    alerts: list[UUID] = Field(max_length=SEEN_MAX, description="their ids")


@router.get(
    "/events",
    response_class=Response,
    responses={
        200: {
            "description": "The stream, or the answer to a poll.",
            "model": PollOut,
            "content": {MEDIA_TYPE: {"schema": {"type": "string", "description": _FRAME}, "example": _SSE_EXAMPLE}},
        },
        **refusals(TopicForbidden, ConnectionLimit, ConsumerLimit, Overloaded),
    },
)
async def get_events(  # noqa: PLR0913 - its parameters
    request: Request,
    endpoint: ProvidedEndpoint,
    principal: Recipient,
    *,
    after: Annotated[
        Annotated[str, documented(maxLength=CURSOR_MAX, pattern=f"^(latest|{CURSOR_PATTERN})$")] | None,
        Query(description="a cursor, a seq, or `latest`; absent: where this filter, or this consumer, resumes"),
    ] = None,
    topic: Annotated[
        list[Annotated[str, documented(maxLength=TOPICS_MAX_LENGTH, format="topics")]],
        Query(
            description="a topic or a pattern; repeat for several, or put commas between them",
            json_schema_extra={"maxItems": LISTED_MAX},
        ),
    ] = [],  # noqa: B006 - FastAPI copies
    consumer: Annotated[
        Annotated[str, documented(maxLength=CONSUMER_MAX, pattern=f"^{CONSUMER_PATTERN}$")] | None,
        Query(description="a name of this client's own, by which it resumes; absent: it resumes by its filter"),
    ] = None,
    min_severity: Annotated[
        str, Query(description="this severity or a more severe one", json_schema_extra={"enum": list(SEVERITIES)})
    ] = "info",
    wait: Annotated[
        float | None,
        Query(ge=0, le=WAIT_MAX_SECONDS, description=f"long poll: the most seconds to wait; {WAIT_SECONDS} by default"),
    ] = None,
    connection: Annotated[
        UUID | None, Query(description="the connection that this goes on from; acknowledges up to `after` on it")
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            max_length=EVENT_ID_MAX,
            description="where to go on; it goes before `after`",
            json_schema_extra={"pattern": f"^({CURSOR_PATTERN})?$"},
        ),
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Stream the events as server-sent events, or answer one long poll.

    A long poll is asked for with ``Accept: application/json`` or ``wait``.
    """
    # The types say what the parameters take; `StreamRequest` checks them, with the same words for each transport.
    query: StreamQuery = {"after": after, "topics": topic, "min_severity": min_severity, "consumer": consumer}
    if last_event_id:
        if (resumed := read_event_id(last_event_id)) is None:
            raise InvalidRequest("Last-Event-ID is none of this stream's ids.")
        query["after"], connection = resumed[0], resumed[1] or connection
    if is_head(request.scope):
        StreamRequest.of(principal, **query)  # refuses what it would refuse of a GET
    if wait is not None or ("application/json" in accept and MEDIA_TYPE not in accept):
        if is_head(request.scope):  # nothing may count as sent
            return Response(media_type="application/json")
        return await endpoint.poll(request, principal, query, connection, WAIT_SECONDS if wait is None else wait)
    return endpoint.stream(request, principal, query, connection)


@router.post(
    "/events/ack",
    responses=refusals(NotFound),
    openapi_extra=json_operation(AckIn),
)
async def post_ack(
    request: Request,
    endpoint: ProvidedEndpoint,
    principal: Recipient,
    ack: Annotated[AckIn, Depends(json_body(AckIn, charges=False))],
) -> AckOut:
    """Acknowledge what came by server-sent events, while they go on.

    It counts for the connection that it names, and never beyond what that was sent. One that
    acknowledges more than the last counts against no rate limit.
    """
    count = partial(charge, request)
    return AckOut(connection=ack.connection, seq=await endpoint.acknowledge(principal, ack.connection, ack.seq, count))


@router.post(
    "/events/seen",
    status_code=204,
    response_class=Response,
    openapi_extra=json_operation(SeenIn),
)
async def post_seen(
    endpoint: ProvidedEndpoint, principal: MayRead, seen: Annotated[SeenIn, Depends(json_body(SeenIn))]
) -> Response:
    """Report that the bearer saw these alerts: each was in view on their screen for a second.

    It acknowledges nothing. An alert that does not exist, or that the bearer may not see, is ignored.
    """
    endpoint.record_seen(principal, seen.alerts)
    return Response(status_code=204)
