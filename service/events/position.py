"""Positions in the log: a seq, and the id of the event there.

Ids are random and made before the commit. So two logs that have the same id at the same seq are the
same up to there, and whoever holds a position can tell whether the log is still the one that it was
read from: a failover that lost commits, or a restored backup, puts another event at the same seq.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from service.errors import TocsinError

CURSOR_PATTERN = "[0-9]{1,19}(-[0-9a-f]{8})?"
"""A regular expression for the text of a cursor."""
CURSOR_MAX = 28
"""Characters of a cursor."""
_SEQ_MAX = 2**63 - 1
_UNSIGNED = 2**64 - 1


def event_id_hex(event_id: int) -> str:
    """Return an event's id as it is on the wire: 16 hexadecimal digits of the unsigned value."""
    return f"{event_id & _UNSIGNED:016x}"


def event_id_from_hex(text: str) -> int:
    """Return the id that ``event_id_hex`` wrote."""
    return int.from_bytes(bytes.fromhex(text), signed=True)


class Position(NamedTuple):
    """A seq and the id of the event there: 64 random bits, signed as PostgreSQL's bigint.

    The id is 0 where there is no event (the origin), or where it is not known because the event was
    purged.
    """

    seq: int
    id: int

    @property
    def mark(self) -> str:
        """The first eight hexadecimal digits of the id."""
        return event_id_hex(self.id)[:8]

    @property
    def cursor(self) -> str:
        """The position as a client holds it, such as ``4711-9f3a2c1d``; a bare seq where the id is 0."""
        return f"{self.seq}-{self.mark}" if self.id else str(self.seq)


ORIGIN = Position(0, 0)
"""The position before the first event."""


class Cursor(NamedTuple):
    """A position as a client states it; without a ``mark`` it is a bare seq, which cannot be checked."""

    seq: int
    mark: str | None

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Return the cursor that ``text`` is, None if it is not one."""
        seq, _, mark = text.partition("-")
        if re.fullmatch(CURSOR_PATTERN, text) is None or int(seq) > _SEQ_MAX:
            return None
        return cls(int(seq), mark or None)

    def matches(self, position: Position) -> bool:
        """Say whether it is a cursor of ``position``; a bare seq is one of any position there."""
        return self.seq == position.seq and self.mark in (None, position.mark)


class HistoryChanged(TocsinError):
    """The log does not hold a position that somebody holds."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"the log does not hold {position.cursor}")
        self.position = position
