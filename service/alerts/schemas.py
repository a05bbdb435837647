"""An alert on the wire: what a backend may POST, and the JSON that everybody is shown.

Limits are those of the design: title 200 characters, body and attributes 16 KiB of UTF-8, 100 recipients. Text that
PostgreSQL, a browser or a log line could not hold is refused here, each with a message that names the field.
"""

from __future__ import annotations

import hashlib
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from fastapi import Path
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
)

from service.alerts import documented as doc
from service.alerts.documented import documented
from service.alerts.lifecycle import EventKind, Status
from service.auth.principal import SUBJECT_MAX, is_subject
from service.severity import Severity
from service.timestamps import rfc3339
from service.topics import TOPIC_MAX, TOPIC_REGEX, is_topic

TITLE_MAX = 200
BODY_MAX_BYTES = 16 * 1024
ATTRIBUTES_MAX_BYTES = 16 * 1024
ATTRIBUTES_MAX_DEPTH = 8
RECIPIENTS_MAX = 100
LINKS_MAX = 20
KEY_MAX = 200
ESCALATE_MAX = 7 * 86_400
SMALLEST, LARGEST = 1e-30, 1e30  # PostgreSQL writes a number out in digits: 16 KiB of 1e300 would be read as megabytes
INTEGER_MAX = 2**53 - 1  # the largest that every JSON reader holds exactly (RFC 8259, section 6)

# The control characters (Unicode category Cc), and the surrogates (Cs), which UTF-8 cannot hold.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_NOT_IN_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def _text(value: str, *, multiline: bool) -> str:
    if (found := (_NOT_IN_TEXT if multiline else _NOT_IN_LINES).search(value)) is not None:
        raise ValueError(f"the character U+{ord(found.group()):04X} is not allowed")
    return value


def _line(value: str) -> str:
    """Accept one line of text that shows something."""
    if not value.strip():
        raise ValueError("must not be blank")
    return _text(value, multiline=False)


def _topic(value: str) -> str:
    if not is_topic(value):
        raise ValueError("must be dot-separated parts of a-z, 0-9, _ and -, at most 100 characters")
    return value


def _name(value: str) -> str:
    if not is_subject(value):
        raise ValueError("must be 1 to 200 printable characters")
    return value


def _rfc3339(value: object) -> object:
    """Accept a time as text; pydantic would take numbers, and guess what they count."""
    if isinstance(value, datetime) or (isinstance(value, str) and _TIME.fullmatch(value)):
        return value
    raise ValueError("must be a time such as 2026-11-21T09:41:07Z (RFC 3339)")


def _in_utc(value: datetime) -> datetime:
    """Accept a time that lies in the years 1 to 9999 in UTC, too, as PostgreSQL is asked for it."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time such as 2026-11-21T09:41:07Z (RFC 3339)") from None


def _url(value: str) -> str:
    """Accept an address that a browser could open."""
    try:
        host = urlsplit(value).hostname
    except ValueError:
        host = None
    if host is None:
        raise ValueError("must be an address with a host")
    return _line(value)


def _comment(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    if len(value.encode(errors="surrogatepass")) > BODY_MAX_BYTES:
        raise ValueError(f"must be at most {BODY_MAX_BYTES} bytes of UTF-8")
    return _text(value, multiline=True)


def _number(value: object) -> object:
    """Accept what JSON calls an integer; pydantic would read ``"5"`` and ``true``, too."""
    if isinstance(value, str | bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic makes a fault of this one
    return value


Line = Annotated[str, AfterValidator(_line), documented(pattern=doc.LINE, minLength=1)]
Topic = Annotated[
    str,
    AfterValidator(_topic),
    documented(pattern=TOPIC_REGEX, minLength=1, maxLength=TOPIC_MAX, examples=["payments.eu"]),
]
Name = Annotated[
    str,
    AfterValidator(_name),
    documented(pattern=doc.NAME, format="name", minLength=1, maxLength=SUBJECT_MAX, examples=["billing"]),
]

WHOLE = BeforeValidator(_number)
"""Stands after the bounds of a whole number, which the schema would not show otherwise."""

Time = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_in_utc)]

AlertId = Annotated[UUID, Path(description="the alert's id", examples=["01a1fd87-65c3-71a6-ba06-3929d3197295"])]


class Link(BaseModel):
    """A link that the console shows under the alert."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[Line, Field(max_length=TITLE_MAX)]
    url: Annotated[str, AfterValidator(_url), Field(max_length=2000, pattern=doc.URL), documented(format="link")]


class AlertIn(BaseModel):
    """What a backend POSTs. Only ``title`` is required."""

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
    title: Annotated[Line, Field(max_length=TITLE_MAX)]
    body: Annotated[str, documented(pattern=doc.TEXT, maxLength=BODY_MAX_BYTES)] | None = Field(
        None, description="at most 16 KiB of UTF-8"
    )
    attributes: Annotated[dict[str, Any], documented(propertyNames={"pattern": doc.KEY})] = Field(
        default_factory=dict,
        description=(
            "any JSON object of at most 16 KiB and 8 levels; integers within ±(2^53 - 1),"
            " other numbers between 1e-30 and 1e30, text without control characters but tab and line breaks"
        ),
    )
    links: list[Link] = Field(default_factory=list, max_length=LINKS_MAX)
    recipients: Annotated[list[Name], documented(uniqueItems=True)] | None = Field(
        None, min_length=1, max_length=RECIPIENTS_MAX, description="these admins only; null: all who may see the topic"
    )
    dedup_key: Annotated[Line, Field(max_length=KEY_MAX)] | None = Field(
        None, description="while an alert of the topic with this key is unresolved, this one repeats it"
    )
    expires_at: Time | None = Field(None, description="when it is over by itself; in the future")
    escalate_after: Annotated[int, Field(ge=1, le=ESCALATE_MAX), WHOLE] | None = Field(
        None, description="seconds without an acknowledgement until all who may see the topic are told"
    )

    @field_validator("body")
    @classmethod
    def _check_body(cls, value: str | None) -> str | None:
        if value is not None and len(value.encode(errors="surrogatepass")) > BODY_MAX_BYTES:
            raise ValueError(f"must be at most {BODY_MAX_BYTES} bytes of UTF-8")
        return value if value is None else _text(value, multiline=True)

    @field_validator("attributes")
    @classmethod
    def _check_attributes(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_json(value, ATTRIBUTES_MAX_DEPTH)
        if len(orjson.dumps(value)) > ATTRIBUTES_MAX_BYTES:
            raise ValueError(f"must be at most {ATTRIBUTES_MAX_BYTES} bytes as JSON")
        return value

    @field_validator("recipients")
    @classmethod
    def _check_recipients(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("must not name anybody twice")
        return value

    @field_validator("expires_at")
    @classmethod
    def _check_expires_at(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        if value <= datetime.now(UTC):
            raise ValueError("must lie in the future")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise ValueError("must not lie beyond the year 9999") from None


def _check_json(value: Any, depth: int) -> None:
    """Refuse what PostgreSQL, a browser or the encoder could not hold."""
    if isinstance(value, str):
        _text(value, multiline=True)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    elif isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
        raise ValueError("numbers must lie between 1e-30 and 1e30: send others as text")
    elif isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise ValueError("integers beyond 2^53 lose digits in browsers: send them as text")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"must not be nested deeper than {ATTRIBUTES_MAX_DEPTH} levels")
        for key in value if isinstance(value, dict) else ():
            _text(key, multiline=False)
        for item in value.values() if isinstance(value, dict) else value:
            _check_json(item, depth - 1)


def _attributes(value: dict[str, Any]) -> dict[str, Any]:
    _check_json(value, ATTRIBUTES_MAX_DEPTH)
    return value


Attributes = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_attributes)])
"""Attributes that are looked for."""


class BatchItem(AlertIn):
    """One alert of a batch, with the idempotency key that a single POST has in its header."""

    idempotency_key: Name | None = None


def wire_alert(alert: AlertIn, alert_id: UUID, source: str, created_at: datetime) -> bytes:
    """Encode a new alert as everybody will be shown it: in the answer, in the log, in every frame.

    It is what ``Alert.shown`` shows, made without the detour; a test holds them equal.
    """
    at = rfc3339(created_at)
    return orjson.dumps(
        {
            "id": alert_id,
            "source": source,
            "topic": alert.topic,
            "severity": alert.severity,
            "title": alert.title,
            "body": alert.body,
            "attributes": alert.attributes,
            "links": [{"title": link.title, "url": link.url} for link in alert.links],
            "recipients": alert.recipients,
            "dedup_key": alert.dedup_key,
            "status": "open",
            "status_by": source,
            "status_at": at,
            "occurrences": 1,
            "created_at": at,
            "updated_at": at,
            "expires_at": rfc3339(alert.expires_at) if alert.expires_at else None,
            "escalate_at": None,
        }
    )


def with_seq(alert: bytes, seq: int) -> bytes:
    """Return the JSON of an alert with its place in the log."""
    return b'%b,"seq":%d}' % (alert[:-1], seq)


def content_hash(alert: AlertIn) -> str:
    """Return the SHA-256, in hex, of what the caller asked for, whatever the spacing and order of its JSON."""
    content = alert.model_dump(mode="json", exclude={"idempotency_key"})  # the key of a batch's item is not content
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


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
    """An alert as everybody is shown it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ALERT]})

    id: UUID
    source: str
    topic: str
    severity: Severity
    title: str
    body: str | None
    attributes: dict[str, Any]
    links: list[Link]
    recipients: list[str] | None
    dedup_key: str | None
    status: Status
    status_by: str = Field(description="who brought it there: whoever acknowledged it has it")
    status_at: AwareDatetime
    occurrences: int
    created_at: AwareDatetime
    updated_at: AwareDatetime
    expires_at: AwareDatetime | None
    escalate_at: AwareDatetime | None = Field(description="when it goes to all who may see its topic")


class AlertOut(AlertShown):
    """An alert as REST shows it; a frame's ``alert`` is the same without ``seq``, which stands beside it there."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_ALERT, "seq": 4711}]})

    seq: int = Field(description="its place in the log: the event that created it")


class CommentIn(BaseModel):
    """What somebody says about an alert."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "Acquirer X is aware."}]})

    text: Annotated[str, AfterValidator(_comment), documented(pattern=doc.WORDS, minLength=1, maxLength=BODY_MAX_BYTES)]


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
    """What happened to an alert, and where it stood then."""

    seq: int
    kind: EventKind
    at: AwareDatetime
    actor: str
    status: Status
    severity: Severity
    occurrences: int
    comment: CommentText | None = Field(None, description="of alert.commented")


class Timeline(BaseModel):
    """A page of what happened to an alert, oldest first, or with `order=desc` newest first."""

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
                        }
                    ],
                    "next": "NDcxMg",
                }
            ]
        }
    )

    events: list[TimelineEvent]
    next: str | None = Field(description="send it as `cursor` for the next page; null: this was the last")


class AlertPage(BaseModel):
    """A page of alerts, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"alerts": [{**_ALERT, "seq": 4711}], "next": "NDcxMQ", "head": 4713}]}
    )

    alerts: list[AlertOut]
    next: str | None = Field(description="send it as `cursor` for the next page; null: this was the last")
    head: int = Field(description="the log position at which the list was true: start the stream after it")


class BatchResult(BaseModel):
    """What became of one alert of a batch: where it stands in the log, or, as a problem document, why it is refused."""

    model_config = ConfigDict(extra="allow")

    status: int = Field(
        description="201, or what a single POST of this alert would have been answered: 200 for a repetition"
    )
    id: UUID | None = None
    seq: int | None = None
    replayed: bool = Field(default=False, description="the idempotency key was known: nothing new was stored")
    code: str | None = Field(None, description="why it is refused")


class BatchAnswer(BaseModel):
    """One result an alert, in their order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"results": [{"status": 201, "id": _ALERT["id"], "seq": 4711}]}]}
    )

    results: list[BatchResult]
