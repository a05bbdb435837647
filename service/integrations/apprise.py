"""The ``json://`` notification of Apprise.

``title`` and ``message`` become title and body; without a title, the first line of the message is
the title. ``type`` is the severity: ``info`` and ``success`` are ``info``, ``warning`` is
``warning``, ``failure`` is ``error``. Of attachments the name, type and size are kept, not the
content. A member that an Apprise URL adds with ``:name=value`` sets ``topic``, ``severity`` or
``dedup_key`` where it has that name, and is an attribute otherwise.
"""

from __future__ import annotations

from typing import Any, cast, get_args

from service.alerts.schemas import AlertIn
from service.errors import InvalidRequest
from service.integrations import sanitize
from service.severity import Severity

_SEVERITY_OF_TYPE: dict[str, Severity] = {"info": "info", "success": "info", "warning": "warning", "failure": "error"}
TYPE_MAX = 20
"""Characters of a type that are looked at."""
_MEMBERS = {"title", "message", "type", "version", "attachments", "topic", "severity", "dedup_key"}


def read(payload: Any) -> AlertIn:
    """Return a notification as an alert.

    Raises:
        InvalidRequest: the body is not a notification.

    """
    if not isinstance(payload, dict):
        raise InvalidRequest("The body must be an Apprise notification: an object with a title and a message.")
    message, key = payload.get("message"), payload.get("dedup_key")
    title = payload.get("title")
    if not (_visible(title) or _visible(message)):
        raise InvalidRequest("The notification has neither a title nor a message.")
    first = message.strip().partition("\n")[0] if isinstance(message, str) else None
    extras = {name: value for name, value in payload.items() if name not in _MEMBERS}
    files = _files(payload.get("attachments"))
    return AlertIn(
        topic=sanitize.topic(payload.get("topic"), "default"),
        severity=_severity(payload),
        title=sanitize.title(title, first),
        body=sanitize.body(message),
        attributes=sanitize.attributes({**extras, **({"attachments": files} if files else {})}),
        dedup_key=sanitize.key(key) if isinstance(key, str) else None,
    )


def _visible(value: Any) -> str:
    return sanitize.line(value) if isinstance(value, str) else ""


def _severity(payload: dict[str, Any]) -> Severity:
    if (severity := payload.get("severity")) in get_args(Severity):
        return cast("Severity", severity)
    kind = payload.get("type")
    return _SEVERITY_OF_TYPE.get(kind[:TYPE_MAX].lower(), "info") if isinstance(kind, str) else "info"


def _files(attachments: Any) -> list[dict[str, Any]]:
    """Return the names, types and sizes of attachments; their content comes in base64."""
    return [
        {"filename": file.get("filename"), "mimetype": file.get("mimetype"), "bytes": _size(file.get("base64"))}
        for file in (attachments if isinstance(attachments, list) else ())
        if isinstance(file, dict)
    ]


def _size(base64: Any) -> int:
    return len(base64.rstrip("=")) * 3 // 4 if isinstance(base64, str) else 0
