"""The LISTEN connection of a node: channels, each with the callback for its notifications.

A notification only wakes. It may be lost, repeated or late, so every feature that listens also
polls, or reads again when the connection was re-established (``on_connect``).
"""

from __future__ import annotations

import asyncio
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
            try:
                await self._connect_and_receive()
            except Exception as error:
                if classify(error) is Failure.DEFECT:
                    raise
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect_and_receive(self) -> None:
        connection = await self._database.connect()
        try:
            await self._receive(connection)
        finally:
            await close_quietly(connection)

    async def _receive(self, connection: asyncpg.Connection) -> None:
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        for channel in self._callbacks:
            await connection.add_listener(channel, self._notified)
        for callback in self._on_connect:
            callback()
        await ended.wait()
        log.warning("the LISTEN connection was lost")

    def _notified(self, _connection: asyncpg.Connection, _pid: int, channel: str, payload: str) -> None:
        self._callbacks[channel](payload)
