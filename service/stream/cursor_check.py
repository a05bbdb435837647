"""The cursor of a client, checked against the log before its stream starts.

::

    in the replay cache, with the same mark ───────────────► start there
    otherwise the log is asked, and where this node's own position is in it, too,
      the log holds the cursor, or has purged it ──────────► start there
      on a void branch that this node knows ───────────────► start where it parts from the log: reset
      anywhere else, or above the head ────────────────────► start at the head, all is void: reset
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from service.events.log import read_first, read_position
from service.events.position import ORIGIN, Position
from service.stream import frames

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.database.engine import Database
    from service.events.position import Cursor
    from service.stream.fanout import Fanout
    from service.stream.frames import Frame
    from service.stream.hub import Hub


class Start(NamedTuple):
    """Where a stream starts.

    ``received`` is up to where the client has shown that it received everything, None where it has
    not; ``reset`` is for a client that holds void events.
    """

    position: Position
    received: int | None = None
    reset: Frame | None = None


class CursorCheck:
    """Finds where the streams of a node start."""

    def __init__(self, database: Database, hub: Hub, fanout: Fanout) -> None:
        self._database = database
        self._hub = hub
        self._fanout = fanout

    async def start_after(self, cursor: Cursor, recipient: str) -> Start:
        """Return where a client of ``recipient`` goes on that has received everything up to ``cursor``.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached, or this node does not catch up in time.

        """
        while True:
            known = ORIGIN if cursor.seq == 0 else self._fanout.replays.cache.at(cursor.seq)
            if known is not None and (known is ORIGIN or cursor.matches(known)):
                return Start(known, received=known.seq)
            node = self._hub.position
            async with self._database.reads.transaction(snapshot=True, subject=recipient) as tx:
                node_is_held = await read_position(tx, node.seq) == node
                start = await self._look_up(tx, cursor, node)
            if node_is_held:
                await self._fanout.reach(start.position.seq)
                return start
            await self._fanout.leave(node)

    async def _look_up(self, tx: AsyncConnection, cursor: Cursor, node: Position) -> Start:
        held = await read_position(tx, cursor.seq)
        if held is None and cursor.seq < await read_first(tx):
            held = Position(cursor.seq, 0)  # purged: nothing is left to check the mark against
        elif held is None or not cursor.matches(held):
            common = self._fanout.void_branches.common_with(cursor)
            if common is not None and await read_position(tx, common.seq) == common:
                return Start(common, received=common.seq, reset=frames.reset(common, is_common=True))
            return Start(node, reset=frames.reset(node, is_common=False))
        return Start(held, received=held.seq)
