"""Void branches: the events that the log lost, as far as this node had them.

::

    log:          1 ── 2 ── 3 ── 4' ── 5' ── …
                            │
    void branch:            └── 4 ── 5            what a failover to an earlier state of the log lost

A client whose cursor is 5 goes on after 3, where its history and that of the log part.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.events.position import Cursor, Position


class _Lost(NamedTuple):
    """A void event, and the last position before its branch."""

    position: Position
    common: Position


class VoidBranches:
    """The last ``max_events`` void events."""

    def __init__(self, max_events: int) -> None:
        self._lost: deque[_Lost] = deque(maxlen=max_events)

    def add(self, common: Position, lost: Iterable[Position]) -> None:
        """Add a branch: the positions that the log lost after ``common``."""
        self._lost.extend(_Lost(position, common) for position in lost)

    def common_with(self, cursor: Cursor) -> Position | None:
        """Return where the branch of ``cursor`` parts from the log, None where it is not known.

        The log may have lost that position later, too: then the answer is where it parted before.
        """
        if cursor.mark is None:
            return None
        common: Position | None = None
        for lost in self._lost:  # the oldest branch first
            if lost.position == common or cursor.matches(lost.position):
                common = lost.common
        return common
