"""The route of ``/v1/dashboard``, and the documents of its answers.

The scope ``alerts:read`` is enough, whatever the token's topics: the stats are totals of the
service, of no topic and no recipient, and most of them are at ``/metrics``, which needs no token.
"""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of an instance's annotations.

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.auth.principal import Principal, Scope
from service.dashboard.subscribers import Dashboard
from service.errors import ConnectionLimit, Overloaded
from service.http.authentication import Bearer
from service.http.openapi import refusals
from service.http.provided import provided
from service.stream.transports.sse import MEDIA_TYPE

router = APIRouter(prefix="/v1", tags=["stream"])

Recipient = Annotated[Principal, Depends(Bearer(Scope.ALERTS_READ, limit="read"))]


class SeveritiesOut(BaseModel):
    """Alerts by severity."""

    info: int
    warning: int
    error: int
    critical: int


class LatencyOut(BaseModel):
    """Seconds, of a sample of the deliveries that the ledger holds; null: there were none."""

    deliveries: int = Field(description="how many the sample holds")
    sent_p50: float | None = Field(description="from the event, just before its commit, to the socket: the median")
    sent_p99: float | None
    received_p50: float | None = Field(description="from the socket to the acknowledgement: the median")
    received_p99: float | None


class MinuteOut(BaseModel):
    """A minute of the service."""

    at: AwareDatetime = Field(description="its beginning")
    alerts: SeveritiesOut = Field(description="how many were posted")
    deliveries: int | None = Field(description="events written to sockets; null: no node that serves now served then")
    connections: int | None = Field(description="the most that were open at a time")
    latency: LatencyOut


class HistoryOut(BaseModel):
    """The last hour, minute by minute, oldest first; the last minute is not over."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "history",
                    "at": "2026-11-21T09:41:07.123456Z",
                    "every": 1,
                    "minutes": [
                        {
                            "at": "2026-11-21T09:41:00.000000Z",
                            "alerts": {"info": 12, "warning": 3, "error": 0, "critical": 1},
                            "deliveries": 160,
                            "connections": 10,
                            "latency": {
                                "deliveries": 80,
                                "sent_p50": 0.004,
                                "sent_p99": 0.011,
                                "received_p50": 0.03,
                                "received_p99": 0.2,
                            },
                        }
                    ],
                }
            ]
        }
    )

    type: Literal["history"]
    at: AwareDatetime
    every: int = Field(description="alerts were counted from every so many-th event of the log; 1: from all")
    minutes: list[MinuteOut]


_EXAMPLE = """\
data: {"type":"history","at":"2026-11-21T09:41:07.123456Z","every":1,"minutes":[…]}

data: {"type":"figures","at":"…","measured_at":"…","seconds":2.0,"every":1,"alerts":{"info":6.0,…},"deliveries":80.0,…}

data: {"type":"close","code":1008,"reason":"token_expired"}
"""


@router.get(
    "/dashboard",
    response_class=Response,
    responses={
        200: {
            "description": "The last hour, or the stream of stats that begins with it.",
            "model": HistoryOut,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"type": "string", "description": "A JSON object with `type` first."},
                    "example": _EXAMPLE,
                }
            },
        },
        **refusals(ConnectionLimit, Overloaded),
    },
)
async def get_dashboard(
    dashboard: Annotated[Dashboard, Depends(provided(Dashboard))],
    principal: Recipient,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Return the stats of the last hour, or stream the stats of the service every 2 s.

    They are streamed with ``Accept: text/event-stream``, beginning with the last hour.

    They are of all nodes together, and measured only while there are subscribers.
    """
    if MEDIA_TYPE in accept:
        return dashboard.stream(principal)
    history = await dashboard.history(principal)
    return Response(history, media_type="application/json")
