"""Token buckets of rate limits in this process, as a storage of the moving-window strategy of ``limits``.

A limit of 600 a minute is a bucket that holds 600 tokens and gains 10 a second. What is admitted
takes its cost out of the bucket; what is refused takes nothing. The library has no such strategy.
Its moving window asks a storage to take a cost, or to refuse it, so the buckets are a storage. Of a
bucket only the time is kept at which it will be full (GCRA, ITU-T I.371), however large it is.

A bucket of which nine tenths are left admits any cost, and is then in debt: so a request that is
larger than the limit can succeed, and small ones that arrive beside it do not keep it out.

The library's own memory storage starts a thread every 10 ms while it is used, which looks at every
key. Here all full buckets are dropped every ``CLEANUP_SECONDS``. The storage serves one event loop,
so it needs no lock. It uses the monotonic clock: on the wall clock a step back by an hour would
make a wait an hour longer.
"""

from __future__ import annotations

import math
import time
from typing import Any

from limits.storage import MovingWindowSupport, Storage

SCHEME = "token-bucket"
"""Of the address under which slowapi finds the storage."""
CLEANUP_SECONDS = 10
KEYS_MAX = 200_000
"""Beyond this the oldest key is dropped, and its bucket is full."""
_ROUNDING_SECONDS = 1e-6


def admitting(limit: int, cost: int) -> int:
    """Return how many of ``limit`` tokens must be left to admit ``cost``."""
    return min(cost, max(1, limit * 9 // 10))


class TokenBucketStorage(Storage, MovingWindowSupport):
    """Buckets of ``limit`` tokens, each of which an empty one gains within ``expiry`` seconds."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - the library declares it so

    def __init__(self, uri: str | None = None, **options: Any) -> None:
        super().__init__(uri, **options)
        self._full_at: dict[str, float] = {}
        self._cleaned_up_at = 0.0

    def acquire_entry(self, key: str, limit: int, expiry: float, amount: int = 1) -> bool:
        """Take ``amount`` tokens, or refuse and take none."""
        now = time.monotonic()
        full_at = self._full_at.get(key)
        if full_at is None:
            self._make_room(now)
        elif full_at > now:
            needed = amount if amount == 1 else admitting(limit, amount)
            if full_at - now + needed * expiry / limit > expiry + _ROUNDING_SECONDS:
                return False
            now = full_at
        self._full_at[key] = now + amount * expiry / limit
        return True

    def give_back(self, key: str, limit: int, expiry: float, amount: int) -> None:
        """Put tokens back that were taken for what was refused afterwards."""
        if key in self._full_at:
            self._full_at[key] -= amount * expiry / limit

    def _make_room(self, now: float) -> None:
        """Make room for another key."""
        if now - self._cleaned_up_at >= CLEANUP_SECONDS:
            self._cleaned_up_at = now
            self._full_at = {key: full_at for key, full_at in self._full_at.items() if now < full_at}
        if len(self._full_at) >= KEYS_MAX:
            del self._full_at[next(iter(self._full_at))]

    def seconds_until(self, key: str, limit: int, expiry: float, amount: int) -> float:
        """Return in how many seconds ``amount`` tokens are admitted, if nothing else is until then."""
        return max(0.0, self._missing_seconds(key) + admitting(limit, amount) * expiry / limit - expiry)

    def get_moving_window(self, key: str, limit: int, expiry: float) -> tuple[float, int]:
        """Return ``expiry`` seconds before the bucket is full, and how many tokens it lacks."""
        missing = self._missing_seconds(key)
        return time.monotonic() + missing - expiry, math.ceil((missing - _ROUNDING_SECONDS) * limit / expiry)

    def _missing_seconds(self, key: str) -> float:
        now = time.monotonic()
        return max(0.0, self._full_at.get(key, now) - now)

    def clear(self, key: str) -> None:
        """Fill the bucket."""
        self._full_at.pop(key, None)

    def reset(self) -> int:
        """Fill all buckets, and return how many were kept."""
        count = len(self._full_at)
        self._full_at = {}
        return count

    def check(self) -> bool:
        """Return whether the storage works."""
        return True

    @property
    def base_exceptions(self) -> type[Exception]:
        """The base of the errors that the storage raises; it has none of its own."""
        return ValueError

    # Of fixed windows, which the library requires of every storage.

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Refuse to count in a window."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Refuse to count in a window."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Refuse to count in a window."""
        raise NotImplementedError
