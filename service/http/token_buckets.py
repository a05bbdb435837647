"""Token buckets of rate limits in this process, as a storage of the moving-window strategy of ``limits``.

A limit of 600 a minute is a bucket that holds 600 tokens and gains 10 a second. What is admitted
takes its cost out of the bucket; what is refused takes nothing. The library has no such strategy.
Its moving window asks a storage to take a cost, or to refuse it, so the buckets are a storage. Of a
bucket only the time is kept at which it will be full (GCRA, ITU-T I.371), however large it is.

A bucket of which nine tenths are left admits any cost, and is then in debt: so a request that is
larger than the limit can succeed, and small ones that arrive beside it do not keep it out.

What was taken may be given back later (``Taken``), but not what time has put back by then. Time
fills a bucket up in the order in which it was emptied. So of a cost no more is given back than is
still missing of all that was taken up to then; and what was given back of others meanwhile counts
as if time had put it back, which is at most less than could be given.

The library's own memory storage starts a thread every 10 ms while it is used, which looks at every
key. Here all full buckets are dropped every ``CLEANUP_SECONDS``. The storage serves one event loop,
so it needs no lock. It uses the monotonic clock: on the wall clock a step back by an hour would
make a wait an hour longer.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

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


class _Bucket:
    """When a bucket will be full, and how many seconds earlier that is by all that was given back."""

    __slots__ = ("full_at", "given_back")

    def __init__(self) -> None:
        self.full_at = 0.0
        self.given_back = 0.0


class Taken(NamedTuple):
    """What was taken out of a bucket: until when time puts it back, if nothing is given back."""

    bucket: _Bucket
    put_back_at: float


class TokenBucketStorage(Storage, MovingWindowSupport):
    """Buckets of ``limit`` tokens, each of which an empty one gains within ``expiry`` seconds."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - the library declares it so

    def __init__(self, uri: str | None = None, **options: Any) -> None:
        super().__init__(uri, **options)
        self._buckets: dict[str, _Bucket] = {}
        self._cleaned_up_at = 0.0

    def acquire_entry(self, key: str, limit: int, expiry: float, amount: int = 1) -> bool:
        """Take ``amount`` tokens, or refuse and take none."""
        return self.take(key, limit, expiry, amount) is not None

    def take(self, key: str, limit: int, expiry: float, amount: int = 1) -> Taken | None:
        """Take ``amount`` tokens, and return what ``give_back`` asks for; or take none, and return None."""
        now = time.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = _Bucket()
        elif bucket.full_at > now:
            needed = amount if amount == 1 else admitting(limit, amount)
            if bucket.full_at - now + needed * expiry / limit > expiry + _ROUNDING_SECONDS:
                return None
            now = bucket.full_at
        bucket.full_at = now + amount * expiry / limit
        return Taken(bucket, bucket.full_at + bucket.given_back)

    @staticmethod
    def give_back(taken: Taken, limit: int, expiry: float, amount: int) -> None:
        """Give back ``amount`` of the tokens that were taken, less what time has put back."""
        bucket = taken.bucket
        missing = taken.put_back_at - bucket.given_back - time.monotonic()
        seconds = max(0.0, min(amount * expiry / limit, missing))
        bucket.full_at -= seconds
        bucket.given_back += seconds

    def _make_room(self, now: float) -> None:
        """Make room for another key."""
        if now - self._cleaned_up_at >= CLEANUP_SECONDS:
            self._cleaned_up_at = now
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if now < bucket.full_at}
        if len(self._buckets) >= KEYS_MAX:
            del self._buckets[next(iter(self._buckets))]

    def seconds_until(self, key: str, limit: int, expiry: float, amount: int) -> float:
        """Return in how many seconds ``amount`` tokens are admitted, if nothing else is until then."""
        return max(0.0, self._missing_seconds(key) + admitting(limit, amount) * expiry / limit - expiry)

    def get_moving_window(self, key: str, limit: int, expiry: float) -> tuple[float, int]:
        """Return ``expiry`` seconds before the bucket is full, and how many tokens it lacks."""
        missing = self._missing_seconds(key)
        return time.monotonic() + missing - expiry, math.ceil((missing - _ROUNDING_SECONDS) * limit / expiry)

    def _missing_seconds(self, key: str) -> float:
        bucket = self._buckets.get(key)
        return max(0.0, bucket.full_at - time.monotonic()) if bucket is not None else 0.0

    def clear(self, key: str) -> None:
        """Fill the bucket."""
        self._buckets.pop(key, None)

    def reset(self) -> int:
        """Fill all buckets, and return how many were kept."""
        count = len(self._buckets)
        self._buckets = {}
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
