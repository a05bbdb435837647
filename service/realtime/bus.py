"""The bus: what wakes this node when another one commits, over PostgreSQL's LISTEN/NOTIFY.

It only wakes. A notification may be lost, repeated or late; the poll of the fan-out bounds the delay. So the bus does
no more than pass on what it hears; what it may have missed in a break, the polls bring.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.auth.revocations import NOTIFY_CHANNEL as REVOCATIONS_CHANNEL
from service.database.engine import CONNECTION_LOST, close_quietly
from service.deliveries.statements import PRESENCE_CHANNEL
from service.events.log import NOTIFY_CHANNEL
from service.logs import get_logger
from service.realtime.figures import ASK_CHANNEL

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from service.database.engine import Database

log = get_logger(__name__)

RECONNECT_SECONDS = 0.5


class PostgresBus:
    """Listens for the commits, revocations, comings and goings of all nodes, and for who asks for figures."""

    def __init__(
        self,
        database: Database,
        on_events: Callable[[int], None],
        on_revocations: Callable[[], None],
        on_presence: Callable[[], None],
        on_asked: Callable[[str], None],
    ) -> None:
        self._database = database
        self._on_events = on_events
        self._on_revocations = on_revocations
        self._on_presence = on_presence
        self._on_asked = on_asked

    async def run(self) -> None:
        """Listen until cancelled, reconnecting as often as needed."""
        while True:
            try:
                connection = await self._database.connect()
            except CONNECTION_LOST:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                await self._listen(connection)
            except CONNECTION_LOST:
                log.warning("bus lost its connection")
            finally:
                await close_quietly(connection)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, connection: asyncpg.Connection) -> None:
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        await connection.add_listener(NOTIFY_CHANNEL, lambda _c, _pid, _channel, seq: self._on_events(int(seq)))
        await connection.add_listener(REVOCATIONS_CHANNEL, lambda *_: self._on_revocations())
        await connection.add_listener(ASK_CHANNEL, lambda _c, _pid, _channel, question: self._on_asked(question))
        await connection.add_listener(PRESENCE_CHANNEL, lambda *_: self._on_presence())
        self._on_revocations()
        self._on_presence()
        await ended.wait()
        log.warning("bus lost its connection")
