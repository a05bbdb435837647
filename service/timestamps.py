"""Formats of times: on the wire, and in hashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def rfc3339(at: datetime) -> str:
    """Format a time as RFC 3339 in UTC, with microseconds and ``Z``.

    Cached, because the same time is formatted several times: in an alert, in its event, and for a
    whole batch.
    """
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def microseconds(at: datetime) -> int:
    """Return the microseconds since 1970-01-01 UTC, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)
