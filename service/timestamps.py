"""Formats of times, on the wire and in hashes, and the clock that measures leases."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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


def boottime() -> float:
    """Return seconds on a clock that nobody sets and that goes on while the machine is suspended.

    Where the system has no such clock, it is the monotonic one, which may stop with the machine.
    """
    return time.clock_gettime(_CLOCK)
