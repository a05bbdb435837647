"""How much a client is sent beyond what its program has read. No I/O, and no clock.

The kernels of both ends take megabytes. A client that reads slowly would find behind them the
answer to a ping of its own, and many libraries close a connection whose ping is not answered within
20 seconds. A WebSocket library answers a ping once it has read everything before it (RFC 6455,
section 5.5.3), so our pings tell what has been read. One is in flight at a time:

::

    written so far ─────────────────────────────────────────►
    ├── read ──┤── three quarters of a window ──┤ ping ├── a quarter ──┤ held

A window grows to what the client reads within half of ``ahead`` seconds, as far as it was lately
written to at that pace: after a lull it starts again. If an answer takes longer than ``ahead``, the
window shrinks to the same. A client that pings often wants its answers soon: ``ahead`` is an eighth
of the time between its pings. A client that has never answered a ping, against the RFC, has no
window.
"""

from __future__ import annotations

START_BYTES = 64 * 1024
"""Eight seconds of work for a client that works 50 ms on each event. A ping costs as much as some ten deliveries."""

SMALLEST_BYTES = 4 * 1024

FIRST_PING_BYTES = 1024
"""What is written before the first ping: the welcome, and little more."""

MOST_AHEAD_SECONDS = 2.5
LEAST_AHEAD_SECONDS = 0.25
"""Of ``ahead``; the most is right for clients that ping every 20 seconds."""

PINGS_SHARE = 8
"""Which part of the time between two pings of the client ``ahead`` is; many wait for an answer for half of it."""

STEADY_SHARE = 3
"""How many times ``ahead`` seconds a client needs for its window, if it goes on to read as it is written to."""

GROWTH = 4
"""By how much a window grows at most with an answer."""

_SHORTEST_SECONDS = 0.001
_UNBOUNDED = 1 << 62


class ReadWindow:
    """The window of one connection. Positions are bytes since it was opened; ``now`` is in seconds.

    ``room`` is how much may be written before the next ping, or until the one in flight is
    answered; a writer takes from it what it writes, which may leave less than nothing.
    """

    __slots__ = (
        "_client_pinged_at",
        "_end",
        "_fastest",
        "_interval",
        "_pinged",
        "_pinged_at",
        "ahead",
        "has_answered",
        "read",
        "room",
        "size",
    )

    def __init__(self, now: float) -> None:
        self.size = START_BYTES
        self.room = self._end = FIRST_PING_BYTES
        self.ahead = MOST_AHEAD_SECONDS
        self.read = 0
        """What was written before the last ping that was answered."""
        self.has_answered = False
        self._pinged = 0
        self._pinged_at = float("-inf")
        self._interval = self._fastest = float("inf")
        self._client_pinged_at = now

    @property
    def unread(self) -> int:
        """What the client has to read before it finds the last ping."""
        return self._pinged - self.read

    @property
    def quarter(self) -> int:
        """What may be written after a ping, and before its answer."""
        return self.size // 4

    def client_pinged(self, now: float) -> None:
        """Note a ping of the client."""
        seconds = (now - self._client_pinged_at) / PINGS_SHARE
        self.ahead = min(max(seconds, LEAST_AHEAD_SECONDS), MOST_AHEAD_SECONDS)
        self._client_pinged_at = now

    def ping_sent(self, now: float) -> None:
        """Note a ping, behind everything that was written."""
        self._interval = max(now - self._pinged_at, _SHORTEST_SECONDS)
        self._pinged_at = now
        self._pinged = self._end - self.room
        if self._end != _UNBOUNDED:
            self._end_at(self.read + self.size)

    def ping_answered(self, now: float) -> None:
        """Note the answer to the last ping. The fastest one took a round trip, and others the time to read besides."""
        took = now - self._pinged_at
        self._fastest = min(self._fastest, took)
        self.size = self._next_size(max(took - self._fastest, _SHORTEST_SECONDS))
        self.has_answered = True
        self.read = self._pinged
        self._end_at(self.read + self.size - self.quarter)

    def _next_size(self, reading: float) -> int:
        aim = int(self.unread / reading * self.ahead / 2)
        if reading > self.ahead:
            return max(min(aim, self.size), SMALLEST_BYTES)
        steady = max(START_BYTES, int(self.unread / self._interval * self.ahead * STEADY_SHARE))
        return min(max(self.size, min(aim, self.size * GROWTH)), steady)

    def unbound(self) -> None:
        """Let everything be written until a ping is answered."""
        self._end_at(_UNBOUNDED)

    def _end_at(self, end: int) -> None:
        self.room += end - self._end
        self._end = end
