"""CloudEvents 1.0 over HTTP: binary, structured and batched (its HTTP protocol binding, section 3).

=====================  ============================================================================
of an event            becomes
=====================  ============================================================================
``source`` and ``id``  the idempotency key in its topic: an event is stored once, whatever else
                       changed in a redelivery
``type``               ``topic``, unless the extension ``topic`` names another; invalid characters
                       become ``-``
``data.title``         the title; else "type: subject", or the type alone
``data.body``          the body, or ``data.message``; or all of the data where it is text
extensions             ``severity`` (a severity of alerts; else ``info``) and ``dedupkey``
the event              ``attributes.cloudevent``: the whole, as its JSON format has it
=====================  ============================================================================

``time`` says whether an event with a ``dedupkey`` is late (``alerts/late_posts.py``).

Attributes hold 16 KiB, 8 levels deep. Data that is deeper, or has numbers that JSON readers differ
on, is kept as the text ``data_json``. Data that is larger, or for which an alert has no room beside
its body, is left out, and ``data_omitted`` has its length and SHA-256: the event is stored all the
same. Extensions that are too large are cut, and then what identifies the event.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pydantic import ValidationError

from service.alerts.fields import ATTRIBUTES_MAX_BYTES
from service.alerts.late_posts import Occurrence
from service.alerts.schemas import AlertIn
from service.errors import InvalidRequest, UnsupportedMedia
from service.events.idempotency import IdempotencyKey, content_hash
from service.http.header_text import header_text
from service.http.request_body import BATCH_VALUES_MAX, decoded, parse_json
from service.integrations import sanitize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.alerts.ingest import RoomForAlert

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
REQUIRED = ("id", "source", "type")
_IDENTIFYING = frozenset({"specversion", *REQUIRED, "time", "subject", "data_omitted"})
"""What is cut last of an event that does not fit."""
MEMBERS_MAX = 1_000
"""Attributes of an event, its extensions included."""
_PREFIX = "ce-"
_NAME = re.compile(r"[a-z0-9]+")
BASE64_PATTERN = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_IN_QUOTES = re.compile(r'"((?:[^"\\]|\\.)*)"')


def read_binary(headers: Mapping[str, str], media: str, body: bytes) -> dict[str, Any]:
    """Return the event of a request in binary mode, in the JSON format.

    Raises:
        UnsupportedMedia: there are no ``ce-`` headers, and it is in no other mode.
        MalformedRequest: its data is announced as JSON or text, and is not; or a header is not UTF-8.

    """
    event: dict[str, Any] = {
        name.removeprefix(_PREFIX): _header(name, value) for name, value in headers.items() if name.startswith(_PREFIX)
    }
    if not event:
        raise UnsupportedMedia(f"Send {STRUCTURED}, {BATCHED}, or the headers ce-id, ce-source, ce-type.")
    if media:
        event["datacontenttype"] = header_text("content-type", headers["content-type"])
    if not body:
        return event
    if media == "application/json" or media.endswith("+json"):
        event["data"] = parse_json(body, values_max=BATCH_VALUES_MAX)
    elif media.startswith("text/"):
        event["data"] = decoded(body)
    else:
        event["data_base64"] = base64.b64encode(body).decode()
    return event


def _header(name: str, value: str) -> str:
    """Decode a header (section 3.1.3.2): quotes first, then percent-encoded UTF-8, or UTF-8 as it is.

    Raises:
        MalformedRequest: it is neither.

    """
    if quoted := _IN_QUOTES.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    return header_text(name, unquote(value, "latin-1"))


def alert_of(event: Any) -> tuple[AlertIn, IdempotencyKey]:
    """Return an event as an alert, and the idempotency key that stands for it.

    Raises:
        InvalidRequest: it is not a CloudEvent of version 1.0.

    """
    event = _validate(event)
    data = event.get("data")
    fields = data if isinstance(data, dict) else {}
    subject = f"{event['type']}: {event['subject']}" if event.get("subject") else event["type"]
    key = event.get("dedupkey")
    alert = AlertIn(
        topic=sanitize.topic(event.get("topic"), "") or sanitize.topic(event["type"], "default"),
        severity=sanitize.severity(event.get("severity")) or "info",
        title=sanitize.title(fields.get("title"), subject),
        body=sanitize.body(fields.get("body"), fields.get("message"), data),
        attributes={"cloudevent": event} if _fits(event) else _without_data(event, ATTRIBUTES_MAX_BYTES),
        dedup_key=sanitize.key(key) if isinstance(key, str) else None,
    )
    # Source and id are the content too: an event that is delivered again is the same, though a
    # broker added to it. The topic bounds what a token may post, and so what its events stand for.
    digest = content_hash([event["source"], event["id"], alert.topic])
    return alert, IdempotencyKey(f"cloudevent:{digest}", digest)


def occurrence_of(event: Any) -> Occurrence | None:
    """Return when an event occurred, None where it does not say."""
    time = sanitize.time(event.get("time")) if isinstance(event, dict) else None
    return Occurrence(time) if time is not None else None


def fit(alert: AlertIn, event: Any, room: RoomForAlert) -> AlertIn:
    """Return the alert of an event cut to what the service stores."""
    return sanitize.fit(alert, room, lambda max_bytes: _without_data(_validate(event), max_bytes))


def _validate(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MEMBERS_MAX:
        raise InvalidRequest(f"A CloudEvent must be a JSON object of at most {MEMBERS_MAX} attributes.")
    event: dict[str, Any] = {name: member for name, member in value.items() if member is not None}
    if event.get("specversion") != "1.0":
        raise InvalidRequest("specversion must be 1.0.")
    for name in REQUIRED:
        if not isinstance(event.get(name), str) or not sanitize.line(event[name]):
            raise InvalidRequest(f"A CloudEvent needs {name}: text that is not empty.")
    for name, member in event.items():
        if name in {"data", "data_base64"}:
            continue
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{sanitize.cut(name, 100)!r} is no name of an attribute: a-z and 0-9 only.")
        if not isinstance(member, str | bool) and not _is_integer(member):
            raise InvalidRequest(
                f"The attribute {sanitize.cut(name, 100)} must be text, a boolean or an integer of 32 bits."
            )
    if "data_base64" in event:
        _require_base64(event)
    return event


def _require_base64(event: dict[str, Any]) -> None:
    if "data" in event:
        raise InvalidRequest("A CloudEvent has data or data_base64, not both.")
    try:
        base64.b64decode(event["data_base64"], validate=True)
    except (TypeError, ValueError):
        raise InvalidRequest("data_base64 must be text in base64 with its padding (RFC 4648, section 4).") from None


def _is_integer(value: Any) -> bool:
    """Say whether ``value`` is an integer of 32 bits. In JSON, 1.0 is one."""
    return isinstance(value, int | float) and -(2**31) <= value < 2**31 and value == int(value)


def _fits(event: dict[str, Any], max_bytes: int = ATTRIBUTES_MAX_BYTES) -> bool:
    """Say whether attributes of so many bytes can hold the whole event."""
    try:
        alert = AlertIn(title="-", attributes={"cloudevent": event})
    except ValidationError:
        return False
    return len(sanitize.encoded(alert.attributes)) <= max_bytes


def _without_data(event: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Return attributes for an event that does not fit: its data as text, or else as a digest."""
    context = {name: value for name, value in event.items() if name not in {"data", "data_base64"}}
    if len(context) < len(event):
        raw = sanitize.encoded(event["data"] if "data" in event else event["data_base64"])
        as_text = {**context, "data_json": raw.decode()}
        if _fits(as_text, max_bytes):
            return {"cloudevent": as_text}
        context["data_omitted"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    whole = sanitize.attributes({"cloudevent": context}, max_bytes)
    return whole if "truncated" not in whole else _without_extensions(context, max_bytes)


def _without_extensions(context: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Return attributes for a context that does not fit: what identifies the event, then what fits of the rest."""
    parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name, value in context.items():
        parts[name not in _IDENTIFYING][name] = value
    cut: dict[str, Any] = {}
    for part in parts:
        room = max_bytes - len(sanitize.encoded({"cloudevent": cut, "truncated": True}))
        cut |= sanitize.attributes(part, room)
        cut.pop("truncated", None)
    return {"cloudevent": cut, "truncated": True}
