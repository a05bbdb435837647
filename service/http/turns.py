"""Turns of the event loop: work of many parts lets others run between two of them."""

from __future__ import annotations

import asyncio
import time

TURN_SECONDS = 0.001
"""How long the parts of one request may keep the event loop; a part that has begun is completed."""


class Turn:
    """The turn of one request. Parts are not counted but timed: the largest take a hundred times the smallest."""

    def __init__(self) -> None:
        self._ends_at = time.perf_counter() + TURN_SECONDS

    async def pause(self) -> None:
        """Let others run if the turn is over, and begin the next."""
        if time.perf_counter() >= self._ends_at:
            await asyncio.sleep(0)
            self._ends_at = time.perf_counter() + TURN_SECONDS
