"""The bytes of bodies that a node holds for requests under way, and each subject's share of them.

Without it, every connection could make a node hold a body of the largest size for as long as a body
may take to arrive. Bytes count as they arrive, not as they are announced, until the request ends.
A body that is smaller than what a connection takes anyway does not count.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.errors import Overloaded

if TYPE_CHECKING:
    from service.settings import ServerSettings

UNCOUNTED_BYTES = 4 * 1024
RETRY_SECONDS = 1


class BodyBudget:
    """Counts the bytes; one subject may hold half of them, and in any case the largest body."""

    def __init__(self, settings: ServerSettings) -> None:
        largest = max(settings.request_max_bytes, settings.batch_max_bytes)
        self._most = max(settings.bodies_max_bytes, largest)
        self._share = max(self._most // 2, largest)
        self._bytes = 0
        self._bytes_of: dict[str, int] = {}

    @property
    def held_bytes(self) -> int:
        """The bytes that all requests under way hold."""
        return self._bytes

    def begin(self, subject: str) -> HeldBody:
        """Return the body, yet empty, of the request that the current task serves."""
        body = HeldBody(self, subject)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a body is read in a coroutine
        task.add_done_callback(body.release)
        return body

    def count(self, subject: str, size: int) -> bool:
        """Count bytes of a subject, negative ones to release them, and return whether they are within the bounds."""
        self._bytes += size
        if held := self._bytes_of.get(subject, 0) + size:
            self._bytes_of[subject] = held
        else:
            self._bytes_of.pop(subject, None)
        return held <= self._share and self._bytes <= self._most


class HeldBody:
    """The bytes of one request, which are released when its task ends."""

    __slots__ = ("_budget", "_size", "_subject")

    def __init__(self, budget: BodyBudget, subject: str) -> None:
        self._budget = budget
        self._subject = subject
        self._size = 0

    def grow(self, size: int) -> None:
        """Count all bytes that have arrived, ``size`` by now.

        Raises:
            Overloaded: the requests of the subject, or all, hold too many.

        """
        more, self._size = size - self._size, size
        if not self._budget.count(self._subject, more):
            raise Overloaded(
                "The bodies of requests under way are too large together. Nothing was stored.",
                retry_after=RETRY_SECONDS,
                headers={"Connection": "close"},
            )

    def release(self, _task: asyncio.Task[None]) -> None:
        """Stop counting the bytes."""
        self._budget.count(self._subject, -self._size)
