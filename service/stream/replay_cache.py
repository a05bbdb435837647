"""The replay cache: recent events as frames, for connections that resume or lag.

It keeps a reconnect storm away from the database. Bounded by count and by bytes, and without a
hole, like the log. It knows the position of each of its events, and so tells whether a cursor is of
the history that this node follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.events.position import ORIGIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from service.events.position import Position
    from service.stream.frames import PreparedEvent


class ReplayCache:
    """The last events of the log, ``(start, end]``."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.start = self.end = ORIGIN
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._by_seq: dict[int, PreparedEvent] = {}

    def restart(self, position: Position) -> None:
        """Drop all events; the next ones follow on ``position``."""
        self.start = self.end = position
        self._bytes = 0
        self._by_seq.clear()

    def rewind(self, position: Position) -> list[Position]:
        """Drop the events after ``position``, which is in the cache, and return their positions."""
        lost = [event.position for event in self.after(position)]
        for seq, _ in lost:
            self._bytes -= len(self._by_seq.pop(seq).payload)
        self.end = position
        return lost

    def extend(self, events: Sequence[PreparedEvent]) -> None:
        """Add the next events of the log, and drop the oldest beyond the bounds."""
        for event in events:
            self.end = event.position
            self._by_seq[self.end.seq] = event
            self._bytes += len(event.payload)
        while len(self._by_seq) > self._max_events or self._bytes > self._max_bytes:
            self.drop(self.start.seq + 1)

    def drop(self, up_to: int) -> None:
        """Drop the events up to the seq ``up_to``."""
        while self.start.seq < min(up_to, self.end.seq):
            first = self._by_seq.pop(self.start.seq + 1)
            self._bytes -= len(first.payload)
            self.start = first.position

    def at(self, seq: int) -> Position | None:
        """Return the position at ``seq``, None where the cache does not hold it."""
        if seq == self.start.seq:
            return self.start
        event = self._by_seq.get(seq)
        return event.position if event is not None else None

    def covers(self, position: Position) -> bool:
        """Return whether every event after ``position`` is in the cache."""
        return self.at(position.seq) == position

    def after(self, position: Position) -> Iterator[PreparedEvent]:
        """Yield the events after ``position``, which the cache must cover."""
        for seq in range(position.seq + 1, self.end.seq + 1):
            yield self._by_seq[seq]

    @property
    def positions(self) -> list[Position]:
        """The positions that it holds, ``start`` first."""
        return [self.start, *(event.position for event in self.after(self.start))]
