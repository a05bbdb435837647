"""The committer's connection, and the recovery of a commit whose outcome is unknown.

When the connection is lost during a commit, the transaction may have been committed or not, its
backend may still be at work, and what was committed may not have reached the synchronous standbys.
So the attempt is settled over a new connection (``alembic/sql/commit_attempts.sql``): it is fenced,
so that it can no longer be committed, and what it stored is looked up by content. The answer counts
once PostgreSQL has confirmed that transaction. See docs/decisions/0004-unknown-commits.md.

No step relies on the session, so it does not matter whether a pooler is in between.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from service.alerts.statements import settle_attempt
from service.database.durability import CommitUnconfirmed
from service.database.engine import close_quietly
from service.database.failures import Failure, classify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from service.alerts.statements import SettledAttempt
    from service.database.durability import WatchedConnection
    from service.database.engine import Database

RECOVERY_PAUSE_SECONDS = 0.2


class CommitConnection:
    """One connection to PostgreSQL, which is replaced when it is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: WatchedConnection | None = None

    async def get(self) -> WatchedConnection:
        """Return the connection."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect_for_transactions()
        return self._connection

    async def settle(self, attempt: int, alert_ids: Sequence[UUID], timeout_seconds: float) -> SettledAttempt | None:
        """Settle an attempt over a new connection; return None if time ran out before it was confirmed."""
        self.terminate()
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                connection = await self.get()
                return await connection.confirmed(settle_attempt(connection, attempt, alert_ids, left))
            except CommitUnconfirmed:
                pass
            except Exception as error:
                if classify(error) is Failure.DEFECT:
                    raise
                self.terminate()
            await asyncio.sleep(RECOVERY_PAUSE_SECONDS)
        return None

    def terminate(self) -> None:
        """Cut the connection; ``get`` opens another one."""
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await close_quietly(self._connection)
