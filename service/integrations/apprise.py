"""The ``json://`` notification of Apprise.

``title`` and ``message`` become title and body; without a title, the first line of the message is
the title. ``type`` is the severity: ``info`` and ``success`` are ``info``, ``warning`` is
``warning``, ``failure`` is ``error``. Of an attachment the size is kept, not the content. A member
that an Apprise URL adds with ``:name=value`` sets ``topic``, ``severity`` or ``dedup_key`` where it
has that name, and is an attribute otherwise.

A member with one of these names from which nothing can be read, such as a severity that is none or
a title that is no text, is an attribute, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.alerts.schemas import AlertIn
from service.errors import InvalidRequest
from service.integrations import sanitize

if TYPE_CHECKING:
    from service.severity import Severity

_SEVERITY_OF_TYPE: dict[str, Severity] = {"info": "info", "success": "info", "warning": "warning", "failure": "error"}
_VERSION = "1.0"
"""Of the format, and so of no interest."""


def read(payload: Any) -> AlertIn:
    """Return a notification as an alert.

    Raises:
        InvalidRequest: the body is not a notification.

    """
    if not isinstance(payload, dict):
        raise InvalidRequest("The body must be an Apprise notification: an object with a title and a message.")
    title, message, key, kind = (_text(payload.get(name)) for name in ("title", "message", "dedup_key", "type"))
    if title is None and message is None:
        raise InvalidRequest("The notification has neither a title nor a message.")
    of_type = _SEVERITY_OF_TYPE.get(sanitize.line(kind).lower()) if kind is not None else None
    severity = sanitize.severity(payload.get("severity"))
    topic = sanitize.topic(payload.get("topic"), "default")
    known = {
        "title": title,
        "message": message,
        "dedup_key": key,
        "type": of_type,
        "severity": severity,
        "topic": topic,
    }
    known |= {"version": _VERSION if payload.get("version") == _VERSION else None, "attachments": None}
    rest = {
        name: value
        for name, value in payload.items()
        if name not in known or (known[name] is None and not _is_empty(value))
    }
    if "attachments" in rest:
        rest["attachments"] = _described(rest["attachments"])
    return AlertIn(
        topic=topic,
        severity=severity or of_type or "info",
        title=sanitize.title(title, message and message.strip().partition("\n")[0]),
        body=sanitize.body(message),
        attributes=sanitize.attributes(rest),
        dedup_key=sanitize.key(key) if key is not None else None,
    )


def _text(value: Any) -> str | None:
    """Return a text that is not blank."""
    return value if isinstance(value, str) and sanitize.line(value) else None


def _is_empty(value: Any) -> bool:
    return not sanitize.line(value) if isinstance(value, str) else value in (None, [], {})


def _described(attachments: Any) -> Any:
    """Return attachments with their sizes in place of their content, which comes in base64."""
    match attachments:
        case list():
            return [_described(one) if isinstance(one, dict) else one for one in attachments]
        case {"base64": str(content)}:
            size = len(content.rstrip("=")) * 3 // 4
            return {name: value for name, value in attachments.items() if name != "base64"} | {"bytes": size}
        case _:
            return attachments
