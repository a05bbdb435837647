"""Turns of the event loop: work of many parts lets others run between two of them.

Requests with such work take turns, too, so that in one iteration of the loop there is one turn, however many of them
are under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import MutableMapping

TURN_SECONDS = 0.001
"""How long the parts of one request may keep the event loop; a part that has begun is completed."""


class Turn:
    """The turns of one request. Parts are not counted but timed: the largest take a hundred times the smallest."""

    def __init__(self) -> None:
        self._ends_at = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the next part must wait for a turn."""
        return time.perf_counter() >= self._ends_at

    async def next(self) -> None:
        """Wait for the next turn."""
        await _wait()
        self._ends_at = time.perf_counter() + TURN_SECONDS


_waiting: MutableMapping[asyncio.AbstractEventLoop, deque[asyncio.Future[None]]] = WeakKeyDictionary()
"""Who waits for a turn of a loop; the first has the next."""


async def _wait() -> None:
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, deque())
    if not waiting:
        loop.call_soon(_next, loop, waiting)
    waiting.append(loop.create_future())
    await waiting[-1]


def _next(loop: asyncio.AbstractEventLoop, waiting: deque[asyncio.Future[None]]) -> None:
    """Give the first who still waits a turn, and go on with the others in the next iteration."""
    while waiting:
        turn = waiting.popleft()
        if not turn.done():  # the request may have been cancelled
            turn.set_result(None)
            break
    if waiting:
        loop.call_soon(_next, loop, waiting)
