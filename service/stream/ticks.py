"""The clock of the streams: all connections are ticked every 250 ms.

At a tick the protocol of a connection (``protocol.py``) decides what is due: a heartbeat frame, or
the close of a stream whose token has expired or whose socket is stuck.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from service.stream.hub import Hub

TICK_SECONDS = 0.25


class ConnectionTicks:
    """Ticks all connections of a node."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.task = PeriodicTask("connection_ticks", self._tick, TICK_SECONDS)

    async def _tick(self) -> None:
        self._hub.tick(time.monotonic(), time.time())
