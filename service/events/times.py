"""Times on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=64)
def rfc3339(at: datetime) -> str:
    """Format a time as RFC 3339 in UTC, with microseconds and ``Z``.

    Remembered, because one time is written several times: in an alert and in its event, and for a whole batch.
    """
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
