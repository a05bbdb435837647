"""The JSON of alerts over REST: what a source posts, and what is answered.

Limits are those of the design: title 200 characters, body and attributes 16 KiB of UTF-8, 100
recipients. ``fields.py`` has the types of the fields, ``event_size.py`` the limit on the whole alert.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.alerts.alert_record import Status
from service.alerts.fields import (
    ESCALATE_MAX,
    LINKS_MAX,
    RECIPIENTS_MAX,
    WHOLE,
    Attributes,
    CommentBody,
    Key,
    Name,
    Recipients,
    Text,
    Time,
    Title,
    Topic,
    Url,
)
from service.alerts.lifecycle import EventKind
from service.severity import Severity


class AlertLink(BaseModel):
    """A link that the console shows under the alert."""

    model_config = ConfigDict(extra="forbid")

    title: Title
    url: Url


class AlertIn(BaseModel):
    """An alert to post. Only ``title`` is required. As a whole it may have 26 KiB (see 413)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "topic": "payments.eu",
                    "severity": "critical",
                    "title": "Card acceptance below 80 %",
                    "body": "Acquirer X times out since 09:41 UTC.",
                    "attributes": {"acquirer": "X", "rate": 0.78},
                    "links": [{"title": "Runbook", "url": "https://runbooks.example/acquirer"}],
                }
            ]
        },
    )

    topic: Topic = "default"
    severity: Severity = "info"
    title: Title
    body: Text | None = Field(None, description="at most 16 KiB of UTF-8")
    attributes: Attributes = Field(
        default_factory=dict,
        description=(
            "any JSON object of at most 16 KiB and 8 levels; integers within ±(2^53 - 1),"
            " other numbers between 1e-30 and 1e30, text without control characters but tab and line breaks"
        ),
    )
    links: list[AlertLink] = Field(default_factory=list, max_length=LINKS_MAX)
    recipients: Recipients | None = Field(
        None, min_length=1, max_length=RECIPIENTS_MAX, description="these admins only; null: all who may see the topic"
    )
    dedup_key: Key | None = Field(
        None,
        description=(
            "while an alert with this key, the same topic and the same recipients is unresolved, of this source or its"
            " group, this one repeats it: it is counted there, and replaces its title, body, attributes and links"
        ),
    )
    expires_at: Time | None = Field(None, description="when the alert expires; in the future")
    escalate_after: Annotated[int, Field(ge=1, le=ESCALATE_MAX), WHOLE] | None = Field(
        None, description="seconds without an acknowledgement until the alert is sent to all who may see its topic"
    )


class BatchItem(AlertIn):
    """One alert of a batch, with the idempotency key that a single POST has in its header."""

    idempotency_key: Name | None = None


# FastAPI drops what is null in an example, so nothing is.
_ALERT: dict[str, Any] = {
    "id": "01a1fd87-65c3-71a6-ba06-3929d3197295",
    "source": "billing",
    "topic": "payments.eu",
    "severity": "critical",
    "title": "Card acceptance below 80 %",
    "body": "Acquirer X times out since 09:41 UTC.",
    "attributes": {"acquirer": "X", "rate": 0.78},
    "links": [{"title": "Runbook", "url": "https://runbooks.example/acquirer"}],
    "recipients": ["alice", "bob"],
    "dedup_key": "acceptance/X",
    "status": "open",
    "status_by": "billing",
    "status_at": "2026-11-21T09:41:07.123456Z",
    "occurrences": 1,
    "created_at": "2026-11-21T09:41:07.123456Z",
    "updated_at": "2026-11-21T09:41:07.123456Z",
    "expires_at": "2026-11-22T09:41:07.123456Z",
    "escalate_at": "2026-11-21T09:56:07.123456Z",
}


class AlertShown(BaseModel):
    """An alert."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ALERT]})

    id: UUID
    source: str
    topic: str
    severity: Severity
    title: str
    body: str | None
    attributes: dict[str, Any]
    links: list[AlertLink]
    recipients: list[str] | None
    dedup_key: str | None
    status: Status
    status_by: str = Field(description="who changed the status last")
    status_at: AwareDatetime
    occurrences: int
    created_at: AwareDatetime
    updated_at: AwareDatetime
    expires_at: AwareDatetime | None
    escalate_at: AwareDatetime | None = Field(description="when it is sent to all who may see its topic")


Seq = Annotated[int, Field(description="its position in the log: the event that created it")]


class AlertOut(AlertShown):
    """An alert as REST shows it. In a frame, ``seq`` stands beside ``alert`` instead."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_ALERT, "seq": 4711}]})

    status_by: str | None = Field(  # type: ignore[assignment] # null here only
        description="who changed the status last; null: not for a source that may not read the alert"
    )
    seq: Seq


class PostWarning(BaseModel):
    """Something about an alert that was stored, and may not be what its source meant."""

    pointer: str = Field(description="the JSON pointer of what it is about, such as `/recipients/0`")
    detail: str = Field(description="what it is, for people")


_WARNINGS = "of a post: what may not be as it was meant, such as a recipient whom nobody knows; absent: nothing"


def _requiring(*names: str, example: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a schema that requires no other fields."""

    def extra(schema: dict[str, Any]) -> None:
        schema.pop("required")
        schema.update({"required": list(names)} if names else {}, examples=[example])

    return ConfigDict(json_schema_extra=extra)


class AlertAnswer(AlertShown):
    """An alert.

    A token that may not read it learns its `id`, `seq`, `status` and `occurrences`, beside what it
    sent itself.
    """

    model_config = _requiring("id", "seq", "status", "occurrences", example={**_ALERT, "seq": 4711})

    seq: Seq
    warnings: list[PostWarning] = Field(default_factory=list, description=_WARNINGS)


class ResolveIn(BaseModel):
    """The alerts to resolve: those that the source, or its group, posted with this key."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"dedup_key": "acceptance/X", "topic": "payments.eu"}]}
    )

    dedup_key: Key
    topic: Topic | None = Field(None, description="those of this topic; null: of every topic that the token covers")


class ResolveOut(BaseModel):
    """How many alerts were resolved."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"resolved": 1}]})

    resolved: int = Field(description="0: none was unresolved")


class CommentIn(BaseModel):
    """A comment on an alert."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "Acquirer X is aware."}]})

    text: CommentBody


class CommentOut(BaseModel):
    """A comment as it was stored; in the stream it comes with its alert, as ``alert.commented``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "01a1fd88-1f0e-7d0c-8d0c-2f3f5a6b7c8d",
                    "text": "Acquirer X is aware.",
                    "alert_id": _ALERT["id"],
                    "actor": "alice",
                    "at": "2026-11-21T09:44:12.000345Z",
                }
            ]
        }
    )

    id: UUID
    text: str
    alert_id: UUID
    actor: str
    at: AwareDatetime


class CommentText(BaseModel):
    """A comment in a timeline, and in its event."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    text: str


class TimelineEvent(BaseModel):
    """An event of an alert, and the alert's status after it, and what the alert said then."""

    seq: int
    kind: EventKind
    at: AwareDatetime
    actor: str
    status: Status
    severity: Severity
    occurrences: int
    title: str
    body: str | None
    comment: CommentText | None = Field(None, description="of alert.commented")


class Timeline(BaseModel):
    """A page of the events of an alert, oldest first, or with `order=desc` newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "seq": 4712,
                            "kind": "alert.acknowledged",
                            "at": "2026-11-21T09:43:50.120000Z",
                            "actor": "alice",
                            "status": "acknowledged",
                            "severity": "critical",
                            "occurrences": 1,
                            "title": _ALERT["title"],
                            "body": _ALERT["body"],
                        }
                    ],
                    "next": "W1s0NzEyXV0",
                }
            ]
        }
    )

    events: list[TimelineEvent]
    next: str | None = Field(description="send it as `cursor` for the next page; null: this was the last")


class AlertPage(BaseModel):
    """A page of alerts, newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"alerts": [{**_ALERT, "seq": 4711}], "next": "W1s0NzExXV0", "head": 4713, "cursor": "4713-e2914fd0"}
            ]
        }
    )

    alerts: list[AlertOut]
    next: str | None = Field(description="send it as `cursor` for the next page; null: this was the last")
    head: int = Field(description="the seq at which the list was true")
    cursor: str = Field(description="the position at which the list was true: start the stream after it")


class BatchResult(BaseModel):
    """The result of one alert of a batch: its position in the log, or a problem document."""

    model_config = ConfigDict(extra="allow")

    status: int = Field(
        description="the status that a single POST of this alert would have had: 201, 200 for a repetition, or an error"
    )
    id: UUID | None = None
    seq: int | None = None
    replayed: bool = Field(default=False, description="the idempotency key was known: nothing new was stored")
    code: str | None = Field(None, description="why it is refused: the `code` of a problem")
    warnings: list[PostWarning] = Field(default_factory=list, description=_WARNINGS)


_BATCH_ANSWER: dict[str, Any] = {"results": [{"status": 201, "id": _ALERT["id"], "seq": 4711}]}


class BatchAnswer(BaseModel):
    """One result per alert, in the order of the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BATCH_ANSWER]})

    results: list[BatchResult]


class EventAnswer(AlertAnswer):
    """The answer to one event, the alert; or to a batch of events, their `results`."""

    model_config = _requiring(example=_BATCH_ANSWER)

    results: list[BatchResult] = Field(description="of a batch: one result per event, in the order of the request")
