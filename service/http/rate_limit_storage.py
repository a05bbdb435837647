"""Counters of rate limits in this process, for the fixed-window strategy of ``limits``.

The library's own memory storage starts a thread every 10 ms while it is used, which looks at every
key: with the messages of 5,000 streams to count, a third of a core, and a wait for the thread on
each start. Here an expired key is replaced when it is next counted, and all expired keys are
dropped every ``CLEANUP_SECONDS``. The storage serves one event loop, so it needs no lock.

Windows begin and end on the monotonic clock, which the strategy takes as it is: on the wall clock a
step back by an hour would make a window an hour longer, and a step forward would end it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from limits.storage import Storage

SCHEME = "fixed-window"
"""Of the address under which slowapi finds the storage."""
CLEANUP_SECONDS = 10
KEYS_MAX = 200_000
"""Beyond this the oldest key is dropped, and its window starts over."""


@dataclass(slots=True)
class _Window:
    count: int
    expires_at: float


class FixedWindowStorage(Storage):
    """Counters that expire."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - the library declares it so

    def __init__(self, uri: str | None = None, **options: Any) -> None:
        super().__init__(uri, **options)
        self._windows: dict[str, _Window] = {}
        self._cleaned_up_at = 0.0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add ``amount`` to the window, which lasts ``expiry`` seconds if it is new. Return the sum."""
        now = time.monotonic()
        window = self._windows.get(key)
        if window is not None and now < window.expires_at:
            window.count += amount
            return window.count
        if now - self._cleaned_up_at >= CLEANUP_SECONDS:
            self._drop_expired(now)
        self._windows.pop(key, None)
        if len(self._windows) >= KEYS_MAX:
            del self._windows[next(iter(self._windows))]
        self._windows[key] = _Window(amount, now + expiry)
        return amount

    def extend(self, key: str, seconds: float) -> None:
        """Let the current window last longer."""
        self._windows[key].expires_at += seconds

    def _drop_expired(self, now: float) -> None:
        self._cleaned_up_at = now
        self._windows = {key: window for key, window in self._windows.items() if now < window.expires_at}

    def get(self, key: str) -> int:
        """Return the sum of the current window, 0 if there is none."""
        window = self._windows.get(key)
        return window.count if window is not None and time.monotonic() < window.expires_at else 0

    def get_expiry(self, key: str) -> float:
        """Return when the current window ends, on the monotonic clock; now if there is none."""
        window = self._windows.get(key)
        return window.expires_at if window is not None else time.monotonic()

    def clear(self, key: str) -> None:
        """Drop a key."""
        self._windows.pop(key, None)

    def reset(self) -> int:
        """Drop all keys, and return how many there were."""
        count = len(self._windows)
        self._windows = {}
        return count

    def check(self) -> bool:
        """Return whether the storage works."""
        return True

    @property
    def base_exceptions(self) -> type[Exception]:
        """The base of the errors that the storage raises; it has none of its own."""
        return ValueError
