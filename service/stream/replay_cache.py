"""The replay cache: recent events as frames, for connections that resume or lag.

It keeps a reconnect storm away from the database. Bounded by count and by bytes, and without a
hole, like the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from service.stream.frames import PreparedEvent


class ReplayCache:
    """The last events of the log, ``(start, end]``."""

    def __init__(self, position: int, max_events: int, max_bytes: int) -> None:
        self.start = position
        self.end = position
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._by_seq: dict[int, PreparedEvent] = {}

    def extend(self, events: Sequence[PreparedEvent]) -> None:
        """Add the next events of the log, and drop the oldest beyond the bounds."""
        for event in events:
            self._by_seq[event.seq] = event
            self._bytes += len(event.payload)
            self.end = event.seq
        while len(self._by_seq) > self._max_events or self._bytes > self._max_bytes:
            self.drop(self.start + 1)

    def drop(self, up_to: int) -> None:
        """Drop the events up to ``up_to``."""
        while self.start < min(up_to, self.end):
            self.start += 1
            self._bytes -= len(self._by_seq.pop(self.start).payload)

    def covers(self, cursor: int) -> bool:
        """Return whether every event after ``cursor`` is in the cache."""
        return self.start <= cursor

    def after(self, cursor: int) -> Iterator[PreparedEvent]:
        """Yield the events after ``cursor``, which the cache must cover."""
        for seq in range(cursor + 1, self.end + 1):
            yield self._by_seq[seq]
