"""Counting what became of the alerts that each source posted, by the subject of its token.

The parts before the ledger only report to a ``SourceCounter``; ``ledger/source_stats.py`` keeps the
counts. Counting is a dict update, never an ``await``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from service.http.provided import part

if TYPE_CHECKING:
    from starlette.requests import Request

PostOutcome: TypeAlias = Literal["alerts", "repeated", "replayed", "refused"]
"""What became of an alert that was posted, or of the whole request; ``alerts`` are new ones."""


class SourceCounter(Protocol):
    """Keeps the counts of each source."""

    def count(self, source: str, outcome: PostOutcome, number: int) -> None:
        """Count ``number`` alerts of ``source``."""


def count_refused(request: Request, number: int = 1) -> None:
    """Count a refused request, or refused items of a batch, if the token names the source."""
    principal = getattr(request.state, "principal", None)
    if principal is not None and number:
        part(request, SourceCounter).count(principal.subject, "refused", number)
