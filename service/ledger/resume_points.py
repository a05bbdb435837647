"""Resume points: where a stream without a cursor goes on, one for each filter of a recipient or name of a client.

What moves them is written in ``alembic/sql/resume_points.sql``. ``ResumePoint.advanced`` does the same with what this
node has not written yet, so that a client that comes back at once is not sent again what it acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from service.events.position import Cursor, Position

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from service.events.filter import EventFilter


CONSUMER_MAX = 100
CONSUMER_PATTERN = "[A-Za-z0-9._-]+"
"""A regular expression for the name of a consumer, of up to ``CONSUMER_MAX`` characters."""


class ResumeKey(NamedTuple):
    """Whose point: of the streams of ``recipient`` with this filter, and this name or (empty) none."""

    recipient: str
    consumer: str
    filter: EventFilter

    def columns(self) -> dict[str, Any]:
        """Return its columns in the table."""
        return {
            "recipient": self.recipient,
            "consumer": self.consumer,
            "topics": list(self.filter.topics),
            "min_severity": self.filter.min_severity,
        }


class ResumePoint(NamedTuple):
    """Where a stream resumes; ``event_id`` is 0 where the id of the event there is not known.

    ``polled_on`` is the connection of the last answer to a poll without a cursor, None where there is none that is not
    acknowledged, ``polled_seq`` the cursor of that answer, and ``polled_elsewhere`` whether another node sent it.
    """

    seq: int
    event_id: int
    polled_on: UUID | None = None
    polled_seq: int | None = None
    polled_elsewhere: bool = False

    @property
    def is_polled(self) -> bool:
        """Whether there is an answer to a poll without a cursor that is not acknowledged."""
        return self.polled_on is not None and (self.polled_seq or 0) > self.seq

    @property
    def cursor(self) -> Cursor:
        """The point as a cursor."""
        return Cursor(self.seq, Position(self.seq, self.event_id).mark if self.event_id else None)

    def advanced(self, sent_seq: int, confirmed: Iterable[tuple[int, int, bool]]) -> ResumePoint:
        """Return the point once streams count that began after the first, and were acknowledged up to the second seq.

        The third says whether the client stated the first. ``sent_seq`` is up to where streams of it were sent
        everything.
        """
        seq = self.seq
        for after, received, has_cursor in sorted(confirmed):
            if after <= (sent_seq if has_cursor else seq):
                seq, sent_seq = max(seq, received), max(sent_seq, received)
        return self if seq == self.seq else self._replace(seq=seq, event_id=0)
