"""The node's memory of the last hour, minute by minute, for what no table can tell at once.

The ledger holds ranges, not deliveries: to count those of an hour would mean to match every event with every
connection. So the hub notes them in its own sweep. The memory begins with the node: of earlier minutes it says nothing.
"""

from __future__ import annotations

from collections import deque


class MinuteCounters:
    """Deliveries and the most connections of each minute of the last hour; it holds no minute that nobody noted."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, int, int]] = deque(maxlen=61)
        self._delivered = 0

    def note(self, wall: float, delivered: int, connections: int) -> None:
        """Note how many were ``delivered`` since the node began, and how many connections are open."""
        minute, new = int(wall // 60), delivered - self._delivered
        self._delivered = delivered
        if self._minutes and self._minutes[-1][0] == minute:
            _, before, most = self._minutes.pop()
            self._minutes.append((minute, before + new, max(most, connections)))
        else:
            self._minutes.append((minute, new, connections))

    def last_hour(self) -> list[tuple[int, int, int]]:
        """Return them, oldest first."""
        return list(self._minutes)
