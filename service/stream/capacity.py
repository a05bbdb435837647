"""Room for streams: how many a node may hold, and how many of them one recipient."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.errors import ConnectionLimit, Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_SECONDS = 5


class Capacity:
    """The streams that are open or being opened, in total and of each recipient."""

    def __init__(self, *, streams_max: int, per_recipient: int) -> None:
        self._streams_max = streams_max
        self._per_recipient = per_recipient
        self._streams = 0
        self._streams_of: Counter[str] = Counter()

    @contextmanager
    def reserve(self, recipient: str) -> Iterator[None]:
        """Keep room for one more stream of ``recipient`` within the block.

        A stream that is opened there is counted with ``add`` as well.

        Raises:
            ConnectionLimit: the recipient has as many streams as one may have. Overloaded: there
            are as many streams as there may be.

        """
        if self._streams_of[recipient] >= self._per_recipient:
            raise ConnectionLimit("This subject holds as many streams as it may.", retry_after=RETRY_SECONDS)
        if self._streams >= self._streams_max:
            raise overloaded()
        self.add(recipient)
        try:
            yield
        finally:
            self.remove(recipient)

    def add(self, recipient: str) -> None:
        """Count a stream of ``recipient``."""
        self._streams += 1
        self._streams_of[recipient] += 1

    def remove(self, recipient: str) -> None:
        """Count a stream of ``recipient`` no longer."""
        self._streams -= 1
        self._streams_of[recipient] -= 1
        if not self._streams_of[recipient]:
            del self._streams_of[recipient]


def overloaded() -> Overloaded:
    """Make the refusal of a stream for which the node has no room."""
    return Overloaded("This node cannot take another stream now.", retry_after=RETRY_SECONDS)
