"""The columns of an event that repeat its body, which alone is covered by the hash chain."""

from __future__ import annotations

import orjson


def differing_column(
    body: bytes, alert_id: str | None, topic: str | None, severity: str | None, recipients: list[str] | None
) -> str | None:
    """Return a column that disagrees with the body; ``body`` if that is no alert."""
    try:
        alert = orjson.loads(body)
        columns = {"alert_id": (alert["id"], alert_id), "topic": (alert["topic"], topic)}
        columns["severity"] = (alert["severity"], severity)
        posted = alert["recipients"]
        by_name = sorted(posted) if posted is not None else None
    except (ValueError, TypeError, KeyError):
        return "body"
    for name, (in_body, stored) in columns.items():
        if in_body != stored:
            return name
    # The event that created the alert stores the recipients as they were posted, the others by
    # name.
    return None if recipients in (posted, by_name) else "recipients"
