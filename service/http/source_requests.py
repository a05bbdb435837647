"""What is counted of those who post alerts, by the subject of their token.

The parts before the ledger only report: ``app.state.called`` takes what they count, and
``ledger/source_stats.py`` keeps it. Counting is a dict update, never an ``await``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

Call: TypeAlias = Literal["alerts", "repeated", "replayed", "refused"]
"""What became of an alert that was posted, or of the whole request."""

Called: TypeAlias = "Callable[[str, Call, int], None]"
"""Takes a source, what became of its alerts, and of how many."""


def count_refused(request: Request, number: int = 1) -> None:
    """Count what was refused, a request or items of a batch; without a valid token it is nobody's."""
    principal = getattr(request.state, "principal", None)
    if principal is not None and number:
        called: Called = request.app.state.called
        called(principal.subject, "refused", number)
