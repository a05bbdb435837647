"""The outcomes of posted alerts, counted by source and hour until the ledger's flush writes it.

The counts never overstate: alerts are counted after their commit, and a flush whose commit has an unknown outcome is
not written again. At most ``source_stats_max`` sources are kept apart between two flushes; all others together are
the source ``''``, which no token can name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.http.source_requests import PostOutcome

THE_OTHERS = ""


@dataclass(slots=True)
class SourceHour:
    """What one source did in one hour. The fields are the columns."""

    source: str
    hour: datetime
    first_at: datetime
    last_at: datetime
    alerts: int = 0
    repeated: int = 0
    replayed: int = 0
    refused: int = 0


class SourceStats:
    """The counts of one node that wait to be written."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: dict[tuple[str, datetime], SourceHour] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def count(self, source: str, outcome: PostOutcome, number: int = 1) -> None:
        """Count what became of ``number`` alerts of ``source``."""
        calls = self._of(source, datetime.now(UTC))
        setattr(calls, outcome, getattr(calls, outcome) + number)

    def take(self) -> list[SourceHour]:
        """Return what waits, and forget it; in one order on every node, so that flushes never deadlock."""
        taken = [self._calls[key] for key in sorted(self._calls)]
        self._calls = {}
        return taken

    def put_back(self, older: Iterable[SourceHour]) -> None:
        """Take counts back that were certainly not written."""
        for old in older:
            calls = self._of(old.source, old.first_at)
            calls.last_at = max(calls.last_at, old.last_at)
            calls.alerts += old.alerts
            calls.repeated += old.repeated
            calls.replayed += old.replayed
            calls.refused += old.refused

    def _of(self, source: str, at: datetime) -> SourceHour:
        hour = at.replace(minute=0, second=0, microsecond=0)
        calls = self._calls.get((source, hour))
        if calls is None:
            if len(self._calls) >= self._most:
                source = THE_OTHERS
            calls = self._calls.setdefault((source, hour), SourceHour(source, hour, at, at))
        calls.first_at, calls.last_at = min(calls.first_at, at), max(calls.last_at, at)
        return calls
