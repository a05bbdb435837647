"""A node whose ledger records nothing, to see what the ledger costs.

``python -m benchmarks.peers.without_ledger serve``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.cli import main
from service.ledger.recorder import LedgerRecorder

if TYPE_CHECKING:
    from service.events.position import Position

RECORDING = ("record_opening", "record_live", "record_position", "record_dispatch_to", "record_receipt")


def _nothing(*_: Any, **__: Any) -> None:
    """Record nothing."""


def _record_dispatch(ledger: LedgerRecorder, _after: Position, up_to: Position, **_: Any) -> None:
    """Advance the node's position, which the stream needs."""
    ledger.position = up_to


for name, replacement in {**dict.fromkeys(RECORDING, _nothing), "record_dispatch": _record_dispatch}.items():
    if not hasattr(LedgerRecorder, name):
        raise AttributeError(f"LedgerRecorder.{name} was renamed: its successor goes on recording")
    setattr(LedgerRecorder, name, replacement)

if __name__ == "__main__":
    main()
