"""Where the limits are counted: in this process, for the fixed-window strategy of the ``limits`` library.

The library's own memory storage starts a thread every 10 ms while it is used, and that looks at every key: with the
messages of 5,000 streams to count, a third of a core, and a wait for the thread on each start. Here a key is forgotten
when it is next asked for, and all that have expired every ``SWEEP_SECONDS``. It serves one event loop, so it needs no
lock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from limits.storage import Storage

SWEEP_SECONDS = 10
KEYS_MAX = 200_000
"""Beyond this the oldest key is forgotten, and its limit begins anew."""


@dataclass(slots=True)
class _Window:
    count: int
    expires_at: float


class FixedWindowStorage(Storage):
    """Counters that expire; ``windows://`` is their address for slowapi."""

    STORAGE_SCHEME = ["windows"]  # noqa: RUF012 - the library declares it so

    def __init__(self, uri: str | None = None, **options: Any) -> None:
        super().__init__(uri, **options)
        self._windows: dict[str, _Window] = {}
        self._next_sweep = 0.0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count ``amount`` in a window of ``expiry`` seconds that its first count begins, and return the sum."""
        now = time.time()
        window = self._windows.get(key)
        if window is not None and window.expires_at > now:
            window.count += amount
            return window.count
        if now >= self._next_sweep:
            self._sweep(now)
        self._windows.pop(key, None)
        if len(self._windows) >= KEYS_MAX:
            del self._windows[next(iter(self._windows))]
        self._windows[key] = _Window(amount, now + expiry)
        return amount

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + SWEEP_SECONDS
        self._windows = {key: window for key, window in self._windows.items() if window.expires_at > now}

    def get(self, key: str) -> int:
        """Return the sum of a window that is open, else 0."""
        window = self._windows.get(key)
        return window.count if window is not None and window.expires_at > time.time() else 0

    def get_expiry(self, key: str) -> float:
        """Return when a window ends, in seconds since the epoch; now, where there is none."""
        window = self._windows.get(key)
        return window.expires_at if window is not None else time.time()

    def clear(self, key: str) -> None:
        """Forget a key."""
        self._windows.pop(key, None)

    def reset(self) -> int:
        """Forget all keys, and return how many there were."""
        count = len(self._windows)
        self._windows = {}
        return count

    def check(self) -> bool:
        """Say that the storage works."""
        return True

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the storage may raise: nothing of its own."""
        return ValueError
