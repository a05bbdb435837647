"""The recent events, prepared: what connections that resume or lag are served from.

A reconnect storm never reaches the database. Bounded by count and by bytes; without a hole, like the log.
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
        """Take the next events of the log, and forget the oldest beyond the bounds."""
        for event in events:
            self._by_seq[event.seq] = event
            self._bytes += len(event.frame)
            self.end = event.seq
        while len(self._by_seq) > self._max_events or self._bytes > self._max_bytes:
            self.forget(self.start + 1)

    def forget(self, up_to: int) -> None:
        """Forget the events up to ``up_to``: the log has let them go."""
        while self.start < min(up_to, self.end):
            self.start += 1
            self._bytes -= len(self._by_seq.pop(self.start).frame)

    def reach_back_to(self, cursor: int) -> bool:
        """Say whether every event after ``cursor`` is here."""
        return self.start <= cursor

    def after(self, cursor: int) -> Iterator[PreparedEvent]:
        """Yield the events after ``cursor``, which must be reached."""
        for seq in range(cursor + 1, self.end + 1):
            yield self._by_seq[seq]
