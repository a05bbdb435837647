"""The schemas of the frames, from which ``openapi/asyncapi.yaml`` is made.

The hot path writes bytes and never uses these classes. Every test that reads a frame validates it
against them, so a frame that changes there without changing here fails a test.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.alerts.lifecycle import EventKind
from service.alerts.schemas import AlertShown, CommentText
from service.events.position import CURSOR_PATTERN
from service.stream.frames import FrameErrorCode
from service.stream.protocol import SEEN_MAX, SEQ_MAX

_AT = "2026-11-21T09:41:07.123456Z"
_SERVICE = "tocsin"
_ALERT: dict[str, Any] = AlertShown.model_json_schema()["examples"][0]


def _closed_by(status: str, by: str) -> dict[str, Any]:
    return {**_ALERT, "status": status, "status_by": by, "status_at": _AT, "escalate_at": None}


def _at(seq: int, event_id: str) -> dict[str, Any]:
    return {"seq": seq, "cursor": f"{seq}-{event_id[:8]}", "id": event_id}


class FrameSchema(BaseModel):
    """One JSON object, in one text message. ``example`` holds its members except ``type``."""

    example: ClassVar[dict[str, Any]]


class ServerFrame(FrameSchema):
    """A frame that the service sends."""

    model_config = ConfigDict(extra="forbid")


class ClientFrame(FrameSchema):
    """A frame that a client sends; members besides are ignored."""


class StreamLimits(BaseModel):
    """What the client may send, not what it is sent."""

    model_config = ConfigDict(extra="forbid")

    message_bytes: int = Field(description="the largest message from the client, in bytes")
    messages: str = Field(description="messages from the client: a burst, and a sustained rate")


_Cursor = Annotated[
    str, Field(pattern=f"^{CURSOR_PATTERN}$", description="where to resume: send it as `after`, as it is")
]


class WelcomeFrame(ServerFrame):
    """The first frame: the connection, the head of the log, its start, and what either side may send."""

    example = {
        "connection": "01a1fd7d-0b7c-7e1a-9d43-5d8f1f1c2b3a",
        "recipient": "alice",
        "head": 4711,
        "after": 4700,
        "cursor": "4700-5d1e88a0",
        "heartbeat_seconds": 15.0,
        "token_expires_at": "2026-11-21T10:43:48.166565Z",
        "event_bytes": 32768,
        "limits": {"message_bytes": 16384, "messages": "200/second; 3000/minute"},
    }

    type: Literal["welcome"]
    connection: UUID
    recipient: str
    head: int = Field(ge=0, description="the last event of the log")
    after: int = Field(ge=0, description="what was asked for is sent from the event after this one")
    cursor: _Cursor
    heartbeat_seconds: float = Field(gt=0, description="reconnect after 2.5 heartbeats that did not come")
    token_expires_at: AwareDatetime
    event_bytes: int = Field(
        ge=1,
        description=(
            "the largest `event` frame that the service makes, in bytes: let your library read messages of this size."
            " Events from a time when `TOCSIN_EVENT_MAX_BYTES` was higher may be larger"
        ),
    )
    limits: StreamLimits


class CaughtUpFrame(ServerFrame):
    """The replay is over: what follows is live. Sent again whenever the connection fell behind."""

    example = {"seq": 4711, "cursor": "4711-9f3a2c1d"}

    type: Literal["caught_up"]
    seq: int = Field(ge=0)
    cursor: _Cursor


class HeartbeatFrame(ServerFrame):
    """The service lives. The cursor may advance: nothing up to ``seq`` was for the client."""

    example = {"seq": 4720, "cursor": "4720-0b6f4ad2", "at": _AT}

    type: Literal["heartbeat"]
    seq: int = Field(ge=0)
    cursor: _Cursor
    at: AwareDatetime


class GapFrame(ServerFrame):
    """``from`` to ``to``, both included, cannot be sent: they were purged from the log."""

    example = {"from": 1, "to": 90, "reason": "purged"}

    type: Literal["gap"]
    from_: int = Field(ge=0, alias="from")
    to: int = Field(ge=0)
    reason: Literal["purged"]


class ResetFrame(ServerFrame):
    """What the client holds is not in the log any more: its history has changed.

    A failover lost commits, or a backup was restored. Sent right after the welcome; the stream goes
    on after ``cursor``.
    """

    example = {"after": 4690, "cursor": "4690-77c0de12"}

    type: Literal["reset"]
    after: int | None = Field(
        ge=0, description="what the client holds with a higher seq is void; null: all of it, load the list anew"
    )
    cursor: _Cursor


class PresentRecipient(BaseModel):
    """A recipient who is connected."""

    model_config = ConfigDict(extra="forbid")

    recipient: str
    since: AwareDatetime
    connections: int = Field(ge=1, description="the number of connections")
    name: str | None = Field(None, description="what the recipient is shown by; absent: no token of theirs says it")


class PresenceFrame(ServerFrame):
    """Who joined and who left. If the lists are ``truncated``, ask ``GET /v1/presence``."""

    example = {
        "joined": [{"recipient": "bob", "name": "Bob Cratchit", "since": _AT, "connections": 1}],
        "left": ["carol"],
        "changed": [{"recipient": "dave", "since": _AT, "connections": 2}],
        "present": 3,
        "truncated": False,
    }

    type: Literal["presence"]
    joined: list[PresentRecipient]
    left: list[str]
    changed: list[PresentRecipient] = Field(
        description="those who stay, on more connections than before or on fewer, or with another name"
    )
    present: int = Field(ge=0, description="how many admins are connected now")
    truncated: bool


class AuthenticatedFrame(ServerFrame):
    """The fresh token counts from here on."""

    example = {"token_expires_at": "2026-11-21T11:43:48.000000Z"}

    type: Literal["authenticated"]
    token_expires_at: AwareDatetime


class PongFrame(ServerFrame):
    """The data of a ping, as it came."""

    example = {"data": "whatever was sent"}

    type: Literal["pong"]
    data: Any


class ErrorFrame(ServerFrame):
    """A message was refused, and the stream goes on."""

    example = {"code": "rate_limited", "detail": "Too many messages; this one was dropped.", "retry_after": 1}

    type: Literal["error"]
    code: FrameErrorCode
    detail: str
    retry_after: int | None = Field(description="in how many seconds to try again")


class AlertInFrame(AlertShown):
    """The alert as it is after the event."""

    model_config = ConfigDict(extra="forbid")


class _EventFields(BaseModel):
    type: Literal["event"]
    seq: int = Field(ge=1, description="its number in the log")
    cursor: _Cursor
    id: str = Field(pattern="^[0-9a-f]{16}$", description="made before the commit, and never used again")
    kind: EventKind
    at: AwareDatetime
    actor: str = Field(description="who caused it: a subject, or `tocsin` for what became due")
    alert: AlertInFrame


class EventFrame(_EventFields, ServerFrame):
    """An event of the log."""


class EventOut(_EventFields):
    """An event of the log, of any kind, as a long poll is answered with it."""

    comment: CommentText | None = Field(None, description="of `alert.commented`")


class AlertCreatedFrame(EventFrame):
    """An alert was posted."""

    example = {**_at(4711, "9f3a2c1d00112233"), "kind": "alert.created", "at": _AT, "actor": "billing", "alert": _ALERT}

    kind: Literal["alert.created"]


class AlertRepeatedFrame(EventFrame):
    """The alert was posted again with its ``dedup_key``: ``occurrences`` holds the whole count.

    Its title, body, attributes and links are those of the newest post. Sent once a second at most,
    and at once where the severity rose, which reopens an acknowledged alert.
    """

    example = {
        **_at(4712, "3c5be87100112233"),
        "kind": "alert.repeated",
        "at": _AT,
        "actor": "billing",
        "alert": {**_ALERT, "occurrences": 17},
    }

    kind: Literal["alert.repeated"]


class AlertAcknowledgedFrame(EventFrame):
    """Somebody acknowledged the alert: ``status_by``."""

    example = {
        **_at(4713, "e2914fd000112233"),
        "kind": "alert.acknowledged",
        "at": _AT,
        "actor": "alice",
        "alert": _closed_by("acknowledged", "alice"),
    }

    kind: Literal["alert.acknowledged"]


class AlertResolvedFrame(EventFrame):
    """The alert was resolved."""

    example = {
        **_at(4714, "71a0c3b600112233"),
        "kind": "alert.resolved",
        "at": _AT,
        "actor": "alice",
        "alert": _closed_by("resolved", "alice"),
    }

    kind: Literal["alert.resolved"]


class AlertReopenedFrame(EventFrame):
    """The alert was reopened."""

    example = {
        **_at(4715, "08d7f2e400112233"),
        "kind": "alert.reopened",
        "at": _AT,
        "actor": "bob",
        "alert": {**_ALERT, "status_by": "bob"},
    }

    kind: Literal["alert.reopened"]


class AlertCommentedFrame(EventFrame):
    """Somebody commented on the alert. The frame adds ``comment``."""

    example = {
        **_at(4716, "b6427a1900112233"),
        "kind": "alert.commented",
        "at": _AT,
        "actor": "alice",
        "alert": _ALERT,
        "comment": {"id": "01a1fd88-1f0e-7d0c-8d0c-2f3f5a6b7c8d", "text": "Acquirer X is aware."},
    }

    kind: Literal["alert.commented"]
    comment: CommentText


class AlertExpiredFrame(EventFrame):
    """The alert expired."""

    example = {
        **_at(4717, "5f90e3cc00112233"),
        "kind": "alert.expired",
        "at": _AT,
        "actor": _SERVICE,
        "alert": {**_closed_by("expired", _SERVICE), "expires_at": _AT},
    }

    kind: Literal["alert.expired"]


class AlertEscalatedFrame(EventFrame):
    """Nobody acknowledged the alert in time: it is now for all who may see its topic."""

    example = {
        **_at(4718, "c81d06ab00112233"),
        "kind": "alert.escalated",
        "at": _AT,
        "actor": _SERVICE,
        "alert": {**_ALERT, "recipients": None, "escalate_at": None},
    }

    kind: Literal["alert.escalated"]


class AckFrame(ClientFrame):
    """This event and everything before it was received.

    Never beyond what was sent; a few a second are enough.
    """

    example = {"seq": 4711}

    type: Literal["ack"]
    seq: int = Field(ge=0, le=SEQ_MAX)


class SeenFrame(ClientFrame):
    """The recipient saw these alerts: each was in view on their screen for a second.

    Once an alert and session is enough. It moves no cursor and acknowledges nothing. An alert that
    does not exist, or that the recipient may not see, is ignored.
    """

    example = {"alerts": [_ALERT["id"]]}

    type: Literal["seen"]
    alerts: list[UUID] = Field(max_length=SEEN_MAX, description="the ids of the alerts")


class AuthenticateFrame(ClientFrame):
    """A fresh token of the same subject, which covers the stream's topics.

    The stream goes on beyond the old one.
    """

    example = {"token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"}

    type: Literal["authenticate"]
    token: str


class PingFrame(ClientFrame):
    """Asks for a ``pong`` with the same data."""

    example = {"data": "anything"}

    type: Literal["ping"]
    data: Any = None


def frames_of(base: type[FrameSchema]) -> list[type[FrameSchema]]:
    """Return the frames beneath ``base``: one per ``type``, and one per ``kind`` of event."""
    found: list[type[FrameSchema]] = []
    for frame in base.__subclasses__():
        found += frames_of(frame) if frame.__subclasses__() else [frame]
    return found


def type_of(frame: type[FrameSchema]) -> str:
    """Return the ``type`` of a frame."""
    return _constant(frame, "type")


def example_of(frame: type[FrameSchema]) -> dict[str, Any]:
    """Return the example of a frame, ``type`` first."""
    return {"type": type_of(frame), **frame.example}


def kind_of(frame: type[FrameSchema]) -> str | None:
    """Return the ``kind`` of an event."""
    return _constant(frame, "kind") if issubclass(frame, EventFrame) else None


def _constant(frame: type[FrameSchema], name: str) -> str:
    constant: str = frame.model_json_schema()["properties"][name]["const"]
    return constant
