"""A node whose ledger records nothing, to see what the ledger costs.

``python -m benchmarks.peers.without_ledger serve``
"""

from __future__ import annotations

from typing import Any

from service.cli import main
from service.ledger.recorder import Ledger

RECORDING = ("opened", "keeps_up", "stands_at", "dispatched_to", "received")


def _nothing(*_: Any, **__: Any) -> None:
    """Record nothing."""


def _dispatched(ledger: Ledger, _after_seq: int, up_to_seq: int, **_: Any) -> None:
    """Move the node's position, which is no fact of the ledger's."""
    ledger.sent_seq = up_to_seq


for name, replacement in {**dict.fromkeys(RECORDING, _nothing), "dispatched": _dispatched}.items():
    if not hasattr(Ledger, name):
        raise AttributeError(f"Ledger.{name} was renamed: its successor goes on recording")
    setattr(Ledger, name, replacement)

if __name__ == "__main__":
    main()
