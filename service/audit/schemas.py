"""The answers of the audit. Times are UTC, durations are seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.alerts.alert_record import Status
from service.severity import Severity

if TYPE_CHECKING:
    from pydantic import JsonValue

_ALERT_ID = "01a1fd87-65c3-71a6-ba06-3929d3197295"
_CONNECTION = "01a1fd7d-0b7c-7e1a-9d43-5d8f1f1c2b3a"
_NODE = "01a1fd70-9a6e-7c55-8f0e-0a1b2c3d4e5f"
_CREATED, _SENT, _RECEIVED = (f"2026-11-21T09:41:07.{micros}Z" for micros in ("123456", "125012", "142345"))
_SEEN = "2026-11-21T09:43:12.004711Z"
_NEXT = "W1s0NzExLCJhbGljZSJdXQ"
_COUNTS: JsonValue = {"recipients": 2, "sent_to": 1, "received_by": 1, "seen_by": 1}
_RECIPIENTS: JsonValue = [
    {
        "recipient": "alice",
        "sent": 1,
        "received": 1,
        "first_sent_at": _SENT,
        "first_received_at": _RECEIVED,
        "seen_at": _SEEN,
        "waiting": 0.0,
    }
]


def _example(**fields: JsonValue) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


def _more() -> Any:
    return Field(description="send it as `cursor` for the next page; null: this was the last")


class AuditedAlert(BaseModel):
    """An alert, without its body."""

    id: UUID
    seq: int = Field(description="its place in the log: the event that created it")
    source: str
    topic: str
    severity: Severity
    title: str
    status: Status
    status_by: str
    status_at: AwareDatetime
    occurrences: int
    recipients: list[str] | None = Field(description="for these admins only; null: for all who may see its topic")
    created_at: AwareDatetime
    updated_at: AwareDatetime


class RecipientCounts(BaseModel):
    """How many recipients an alert has, and how many it was sent to, received by and seen by."""

    recipients: int
    sent_to: int
    received_by: int
    seen_by: int = Field(description="whatever showed it to them: the stream or a list")


class AlertRecipient(BaseModel):
    """A recipient of an alert."""

    recipient: str
    sent: int = Field(description="how many events of the alert they were sent")
    received: int = Field(description="how many of these they confirmed")
    first_sent_at: AwareDatetime | None
    first_received_at: AwareDatetime | None = Field(description="null: they received nothing of it")
    seen_at: AwareDatetime | None = Field(
        description="when their client first reported that they saw the alert, on the stream or in a list; null: never"
    )
    waiting: float | None = Field(description="seconds since the alert was created; null: they received it")


class TimelineEntry(BaseModel):
    """An event of an alert, its dispatch to one connection, its receipt, or that somebody saw it."""

    at: AwareDatetime
    seq: int
    action: str = Field(description="the kind of the event, such as alert.created; or sent, received, or seen")
    actor: str = Field(description="who caused the event, was sent it, received it, or saw the alert")
    connection: UUID | None = Field(description="null: it is the event itself, or a sighting")
    details: dict[str, Any] | None


class AlertAudit(BaseModel):
    """An alert, its recipients and its timeline. A list that ended on an earlier page is empty."""

    model_config = _example(
        alert={
            "id": _ALERT_ID,
            "seq": 4711,
            "source": "billing",
            "topic": "payments.eu",
            "severity": "critical",
            "title": "Card acceptance below 80 %",
            "status": "open",
            "status_by": "billing",
            "status_at": _CREATED,
            "occurrences": 1,
            "recipients": ["alice", "bob"],
            "created_at": _CREATED,
            "updated_at": _CREATED,
        },
        counts=_COUNTS,
        recipients=_RECIPIENTS,
        timeline=[
            {
                "at": _SENT,
                "seq": 4711,
                "action": "sent",
                "actor": "alice",
                "connection": _CONNECTION,
                "details": {"node": _NODE},
            }
        ],
        next=_NEXT,
    )

    alert: AuditedAlert
    counts: RecipientCounts
    recipients: list[AlertRecipient] = Field(description="by name")
    timeline: list[TimelineEntry] = Field(description="oldest first")
    next: str | None = _more()


class AlertReceipts(BaseModel):
    """Who was sent an alert, who received it, who saw it, and who is still to."""

    model_config = _example(counts=_COUNTS, recipients=_RECIPIENTS, next=_NEXT)

    counts: RecipientCounts
    recipients: list[AlertRecipient] = Field(description="by name")
    next: str | None = _more()


class RecipientDelivery(BaseModel):
    """An event, sent to one connection of a recipient."""

    seq: int
    alert_id: UUID
    kind: str
    topic: str
    severity: Severity
    connection: UUID
    node: UUID
    occurred_at: AwareDatetime
    sent_at: AwareDatetime | None
    received_at: AwareDatetime | None = Field(description="null: not yet, or never")
    latency: float | None = Field(description="seconds from sent to received")
    seen_at: AwareDatetime | None = Field(
        description="when they first saw the alert, if the event had happened by then; null: not as far as is known"
    )
    replayed: bool = Field(description="sent while the connection caught up: the recipient was away when it happened")


class RecipientAudit(BaseModel):
    """What a recipient was sent of the events of a period, the newest first."""

    model_config = _example(
        recipient="alice",
        since="2026-11-20T10:00:00Z",
        until="2026-11-21T10:00:00Z",
        deliveries=[
            {
                "seq": 4711,
                "alert_id": _ALERT_ID,
                "kind": "alert.created",
                "topic": "payments.eu",
                "severity": "critical",
                "connection": _CONNECTION,
                "node": _NODE,
                "occurred_at": _CREATED,
                "sent_at": _SENT,
                "received_at": _RECEIVED,
                "latency": 0.017333,
                "seen_at": _SEEN,
                "replayed": False,
            }
        ],
        next=_NEXT,
    )

    recipient: str
    since: AwareDatetime
    until: AwareDatetime
    deliveries: list[RecipientDelivery]
    next: str | None = _more()


class UnreceivedAlert(BaseModel):
    """An alert, and a recipient who may see it and has confirmed the receipt of no event of it."""

    alert_id: UUID
    seq: int
    topic: str
    severity: Severity
    title: str
    status: Status
    recipient: str
    occurred_at: AwareDatetime
    waiting: float = Field(description="seconds since the alert was created")
    sent_at: AwareDatetime | None = Field(description="when it was first sent to them; null: never")
    seen_at: AwareDatetime | None = Field(
        description="when their client first reported that they saw it, for example in a list; null: never"
    )


class UnreceivedPage(BaseModel):
    """A page of who has not received what, the newest alert first."""

    model_config = _example(
        unreceived=[
            {
                "alert_id": _ALERT_ID,
                "seq": 4711,
                "topic": "payments.eu",
                "severity": "critical",
                "title": "Card acceptance below 80 %",
                "status": "open",
                "recipient": "bob",
                "occurred_at": _CREATED,
                "waiting": 93.25,
                "sent_at": _SENT,
                "seen_at": _SEEN,
            }
        ],
        next=_NEXT,
    )

    unreceived: list[UnreceivedAlert]
    next: str | None = _more()


class AuditedConnection(BaseModel):
    """A connection of a recipient."""

    connection: UUID
    node: UUID
    host: str
    recipient: str
    transport: str
    topics: list[str]
    min_severity: Severity
    remote_addr: str | None
    user_agent: str | None
    jti: str | None
    token_expires_at: AwareDatetime
    opened_at: AwareDatetime
    closed_at: AwareDatetime | None = Field(description="null: it is open")
    duration: float = Field(description="seconds; of one that is open, until now")
    close_code: int | None
    close_reason: str | None
    after_seq: int = Field(description="the cursor that it started from")
    sent_seq: int = Field(description="the log position up to which it was sent what it may see")
    received_seq: int | None = Field(description="the position up to which the client acknowledged")


class ConnectionPage(BaseModel):
    """A page of connections, the newest first."""

    model_config = _example(
        connections=[
            {
                "connection": _CONNECTION,
                "node": _NODE,
                "host": "tocsin-1",
                "recipient": "alice",
                "transport": "websocket",
                "topics": ["payments.*"],
                "min_severity": "info",
                "remote_addr": "192.0.2.7",
                "user_agent": "Mozilla/5.0",
                "jti": "4f6d0c52",
                "token_expires_at": "2026-11-21T17:00:00Z",
                "opened_at": "2026-11-21T08:58:01.000123Z",
                "closed_at": "2026-11-21T09:58:01.000123Z",
                "duration": 3600.0,
                "close_code": 1008,
                "close_reason": "token_expired",
                "after_seq": 4700,
                "sent_seq": 4711,
                "received_seq": 4711,
            }
        ],
        next=_NEXT,
    )

    connections: list[AuditedConnection]
    next: str | None = _more()


class AuditedRejection(BaseModel):
    """A stream that was rejected at the handshake."""

    at: AwareDatetime
    node: UUID
    remote_addr: str | None
    path: str
    reason: str
    subject: str | None = Field(description="of a verified token")
    origin: str | None
    user_agent: str | None


class RejectionCount(BaseModel):
    """How many streams were rejected at the handshake for a reason."""

    reason: str
    rejections: int


class RejectionHourCount(RejectionCount):
    """How many streams were rejected at the handshake in one hour for a reason."""

    hour: AwareDatetime = Field(description="when the hour began")


class RejectionCountPage(BaseModel):
    """A page of counts, the newest hour first."""

    rejection_counts: list[RejectionHourCount]
    next: str | None = _more()


class RejectionPage(BaseModel):
    """A page of rejected streams, the newest first, and how many were rejected."""

    model_config = _example(
        counts=[{"reason": "scope_missing", "rejections": 3006}],
        rejections=[
            {
                "at": "2026-11-21T09:40:00.000123Z",
                "node": _NODE,
                "remote_addr": "192.0.2.7",
                "path": "/v1/ws",
                "reason": "scope_missing",
                "subject": "carol",
                "origin": "https://console.example",
                "user_agent": "Mozilla/5.0",
            }
        ],
        next=_NEXT,
    )

    counts: list[RejectionCount] = Field(description="of all that were rejected, in all hours that the period touches")
    rejections: list[AuditedRejection] = Field(
        description="a sample: of one address, as many as its limit of failed requests"
    )
    next: str | None = _more()


class SourceCounts(BaseModel):
    """What one source posted, by outcome."""

    source: str = Field(description="the subject of the token; empty: all sources that a node did not count apart")
    alerts: int = Field(description="stored")
    repeated: int = Field(description="counted as repetitions of an unresolved alert")
    replayed: int = Field(description="answered from their idempotency key")
    refused: int = Field(description="requests, and items of batches, that were answered with an error")


class SourceHourCounts(SourceCounts):
    """What one source posted in one hour, by outcome."""

    hour: AwareDatetime = Field(description="when the hour began")
    first_at: AwareDatetime
    last_at: AwareDatetime


class SourcePage(BaseModel):
    """A page of sources, the newest hour first."""

    model_config = _example(
        sources=[
            {
                "source": "billing",
                "hour": "2026-11-21T09:00:00Z",
                "alerts": 512,
                "repeated": 31,
                "replayed": 2,
                "refused": 1,
                "first_at": "2026-11-21T09:00:03.000123Z",
                "last_at": _CREATED,
            }
        ],
        next=_NEXT,
    )

    sources: list[SourceHourCounts]
    next: str | None = _more()
