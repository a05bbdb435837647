"""Counters of the last hour, minute by minute, for the dashboard.

The ledger holds ranges, not deliveries: counting those of an hour would match every event with
every connection. So the hub counts them as it sends. The counters begin with the node.
"""

from __future__ import annotations

from collections import deque

MINUTES = 61
"""The last hour, and the minute that is not over."""


class MinuteCounters:
    """Deliveries, and the most connections at a time, of each minute that was recorded."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, int, int]] = deque(maxlen=MINUTES)
        self._delivered = 0

    def record(self, wall: float, delivered: int, connections: int) -> None:
        """Record the deliveries so far, and the open connections, at ``wall`` (since the epoch)."""
        minute, new = int(wall // 60), delivered - self._delivered
        self._delivered = delivered
        if self._minutes and self._minutes[-1][0] == minute:
            _, before, most = self._minutes.pop()
            self._minutes.append((minute, before + new, max(most, connections)))
        else:
            self._minutes.append((minute, new, connections))

    def last_hour(self) -> list[tuple[int, int, int]]:
        """Return (minute since the epoch, deliveries, most connections), oldest first."""
        return list(self._minutes)
