"""The limit on the frames of events, and what follows from it for an alert and for a comment.

A frame holds the whole alert, as it is after the event. So the alert is bounded when it is posted,
and room is left for all that the service adds to it, then or later::

    TOCSIN_EVENT_MAX_BYTES
    ├── the alert as JSON, as it is posted           refused with 413 beyond ``alert_max_bytes``
    └── HEADROOM
        ├── the frame around it: type, seq, cursor, id, kind, at, actor        at most 1.0 KiB
        ├── what later events change: status_by, the source of the alert that
        │   a source of its group repeats, occurrences, severity, times        at most 1.7 KiB
        └── a comment: its id and its text           COMMENT_ROOM, and more where the alert is small

An alert, or an event, that was stored while the setting was higher is delivered as it is. No action
on it is refused because of its size.
"""

from __future__ import annotations

import orjson

from service.errors import RequestTooLarge

HEADROOM = 6 * 1024
"""Bytes of a frame that are not of the alert as it was posted."""
COMMENT_ROOM = 3 * 1024
"""Bytes of the text of a comment, as JSON, that every alert leaves room for."""
_AROUND_COMMENT = HEADROOM - COMMENT_ROOM


def alert_max_bytes(event_max_bytes: int) -> int:
    """Return how many bytes of JSON an alert may have when it is posted."""
    return event_max_bytes - HEADROOM


def alert_too_large(size: int, event_max_bytes: int) -> RequestTooLarge:
    """Return the refusal of an alert with so many bytes."""
    return RequestTooLarge(
        f"The alert has {size} bytes as JSON, with what the service adds. At most {alert_max_bytes(event_max_bytes)}"
        f" are allowed, so that no event of it is larger than {event_max_bytes} bytes (TOCSIN_EVENT_MAX_BYTES)."
    )


def require_comment(text: str, alert_bytes: int, event_max_bytes: int) -> None:
    """Refuse a comment whose event would be too large; ``alert_bytes`` is the size of the alert as JSON.

    Raises:
        RequestTooLarge: there is not so much room.

    """
    room = max(COMMENT_ROOM, event_max_bytes - _AROUND_COMMENT - alert_bytes)
    if (size := len(orjson.dumps(text))) > room:
        raise RequestTooLarge(
            f"The comment has {size} bytes as JSON. This alert leaves room for {room}, so that no event of it is larger"
            f" than {event_max_bytes} bytes (TOCSIN_EVENT_MAX_BYTES)."
        )
