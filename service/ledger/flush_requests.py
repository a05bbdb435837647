"""How a node waits until another has written what that one knows: it asks for a flush, by NOTIFY.

An answer to a poll without a cursor is acknowledged by the next such poll, on whichever node,
unless it was lost. That is known to the node that sent it, which writes it with its next flush::

    a poll at node B, the last answer came from node A
         │
         ├──NOTIFY tocsin_ledger_flushes──► A flushes at once, and so counts its flushes up by one
         └── reads A's row until the count has changed twice: the first flush may have begun before
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from service.ledger import statements

if TYPE_CHECKING:
    from uuid import UUID

    from service.database.engine import Database

WAIT_SECONDS = 1.0
"""How long the other node is waited for. It may be frozen, or not listen."""
_INTERVAL_SECONDS = 0.01
_CHANGES = 2


async def has_flushed(database: Database, connection: UUID, *, subject: str) -> bool:
    """Wait for a flush of the other node that holds ``connection``.

    Return whether all that it knew when this was called is written: also where the node has ended.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be reached.

    """
    deadline = time.monotonic() + WAIT_SECONDS
    flushes: set[int] = set()
    while time.monotonic() < deadline:
        async with database.reads.transaction(autocommit=True, subject=subject) as tx:
            holder = (await tx.execute(statements.FIND_HOLDER, {"connection": connection})).one_or_none()
            if holder is None:
                return True
            if holder.flush not in flushes:
                flushes.add(holder.flush)
                if len(flushes) > _CHANGES:
                    return True
                await tx.execute(statements.REQUEST_FLUSH, {"node": holder.id})
        await asyncio.sleep(_INTERVAL_SECONDS)
    return False
