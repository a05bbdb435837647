"""Counts of alerts by source and hour, kept in memory until the ledger's flush writes them.

The counts never overstate: alerts are counted after their commit, and counts whose own commit has
an unknown outcome are not written again. At most ``source_stats_max`` sources are counted apart
between two flushes; all others together are the source ``''``, which no token can name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.http.source_requests import PostOutcome

OTHER_SOURCES = ""


@dataclass(slots=True)
class SourceHour:
    """The counts of one source in one hour. The fields are the columns."""

    source: str
    hour: datetime
    first_at: datetime
    last_at: datetime
    alerts: int = 0
    repeated: int = 0
    replayed: int = 0
    refused: int = 0


class SourceStats:
    """The counts of one node that wait to be flushed, for at most ``limit`` sources and hours."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._hours: dict[tuple[str, datetime], SourceHour] = {}

    def __len__(self) -> int:
        return len(self._hours)

    def count(self, source: str, outcome: PostOutcome, number: int = 1) -> None:
        """Count ``number`` alerts of ``source`` by their outcome."""
        counts = self._hour_of(source, datetime.now(UTC))
        setattr(counts, outcome, getattr(counts, outcome) + number)

    def take(self) -> list[SourceHour]:
        """Remove and return all counts, sorted, so that flushes of two nodes cannot deadlock."""
        hours = [self._hours[key] for key in sorted(self._hours)]
        self._hours = {}
        return hours

    def put_back(self, older: Iterable[SourceHour]) -> None:
        """Add counts again that were certainly not written."""
        for old in older:
            counts = self._hour_of(old.source, old.first_at)
            counts.last_at = max(counts.last_at, old.last_at)
            counts.alerts += old.alerts
            counts.repeated += old.repeated
            counts.replayed += old.replayed
            counts.refused += old.refused

    def _hour_of(self, source: str, at: datetime) -> SourceHour:
        hour = at.replace(minute=0, second=0, microsecond=0)
        counts = self._hours.get((source, hour))
        if counts is None:
            if len(self._hours) >= self._limit:
                source = OTHER_SOURCES
            counts = self._hours.setdefault((source, hour), SourceHour(source, hour, at, at))
        counts.first_at, counts.last_at = min(counts.first_at, at), max(counts.last_at, at)
        return counts
