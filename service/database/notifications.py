"""The LISTEN connection of a node: channels, each with the callback for its notifications.

A notification only wakes. It may be lost, repeated or late, so every feature that listens also
polls, or reads again when the connection was re-established (``on_connect``).

Every role of the database may notify, and each notification costs the node time, also one that
leads to nothing. When more arrive than nodes ever send, the node stops listening for a while, and
polls.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from service.database.engine import close_quietly
from service.database.failures import Failure, classify
from service.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from service.database.engine import Database

log = get_logger(__name__)

RECONNECT_SECONDS = 0.5
FLOOD_PER_SECOND = 2000
"""Nodes send fewer: each commits, and so notifies, some hundred times a second at most."""
FLOOD_REST_SECONDS = 5
"""How long a node that was flooded only polls."""


class NotificationRate:
    """Counts the notifications of each second."""

    def __init__(self) -> None:
        self._second = 0
        self._count = 0

    def is_flood(self) -> bool:
        """Count one more, and return whether they are too many by now."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count > FLOOD_PER_SECOND


class NotificationListener:
    """Passes the notifications of all nodes on to the callbacks of this one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callbacks: dict[str, Callable[[str], None]] = {}
        self._on_connect: list[Callable[[], None]] = []

    def listen(
        self, channel: str, callback: Callable[[str], None], *, on_connect: Callable[[], None] | None = None
    ) -> None:
        """Before ``run``: call ``callback`` with the payload of each notification on ``channel``.

        ``on_connect`` is called after each connect: earlier notifications may have been lost.
        """
        self._callbacks[channel] = callback
        if on_connect is not None:
            self._on_connect.append(on_connect)

    async def run(self) -> None:
        """Listen until cancelled, and reconnect whenever the connection is lost."""
        while True:
            pause: float = RECONNECT_SECONDS
            try:
                pause = await self._connect_and_receive()
            except Exception as error:
                if classify(error) is Failure.DEFECT:
                    raise
            await asyncio.sleep(pause)

    async def _connect_and_receive(self) -> float:
        """Listen until the connection ends, and return the seconds until the next one."""
        connection = await self._database.connect()
        try:
            return await self._receive(connection)
        finally:
            await close_quietly(connection)

    async def _receive(self, connection: asyncpg.Connection) -> float:
        ended = asyncio.Event()
        rate = NotificationRate()
        is_flooded = False

        def notified(_connection: asyncpg.Connection, _pid: int, channel: str, payload: str) -> None:
            nonlocal is_flooded
            if not is_flooded and rate.is_flood():
                is_flooded = True
                connection.terminate()
            if not is_flooded:  # what had arrived by then is called back all the same
                self._callbacks[channel](payload)

        connection.add_termination_listener(lambda _: ended.set())
        for channel in self._callbacks:
            await connection.add_listener(channel, notified)
        for callback in self._on_connect:
            callback()
        await ended.wait()
        if is_flooded:
            log.warning("too many notifications; polling", seconds=FLOOD_REST_SECONDS, per_second=FLOOD_PER_SECOND)
            return FLOOD_REST_SECONDS
        log.warning("the LISTEN connection was lost")
        return RECONNECT_SECONDS
