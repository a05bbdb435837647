"""The check behind ``/readyz``: whether PostgreSQL stores what this node writes.

The last outcome of the committer counts. Where there is none of the last second, a trial is made::

    unknown ──► trial ──► stores ◄──── a commit, or a trial
                  │         │
                  └──► fails, with the reason ◄── a commit that failed, or a trial
                            │
                            └── after a second: a thorough trial

A trial takes the locks of an append and gives them back at once, and then commits a record of the
write-ahead log, which a read-only server refuses and a synchronous standby confirms. After a
failure it also makes a temporary table, because a full disk shows only where a file grows.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from service.database.failures import IN_RECOVERY, UNREACHABLE, condition_of, driver_error, unavailable
from service.database.locks import TableLock
from service.errors import DatabaseUnavailable
from service.logs import get_logger

if TYPE_CHECKING:
    from service.database.engine import Database
    from service.database.failures import Condition

log = get_logger(__name__)

FRESH_SECONDS = 1
"""How long a result counts."""
TRIAL_SECONDS = 2
"""How long a trial may take; a quarter of it for a lock."""

_LOCK_TIMEOUT = text(f"SET LOCAL lock_timeout = '{TRIAL_SECONDS * 250}ms'")
_IS_IN_RECOVERY = text("SELECT pg_is_in_recovery()")
_MAY_GROW = text("SELECT has_database_privilege(current_database(), 'TEMPORARY')")
_GROW = text("CREATE TEMPORARY TABLE trial ON COMMIT DROP AS SELECT repeat('x', 2000) FROM generate_series(1, 64)")
_LOCK_LOG = text(TableLock.LOG.lock)
_LOCK_TABLES = text(
    "LOCK TABLE ONLY events, ONLY alerts, log_chain, idempotency_keys, commit_attempts, resolutions, search_changes"
    " IN ROW EXCLUSIVE MODE"
)
# A function may write in a read-only transaction; a DELETE may not, though it finds nothing.
_WRITE = text("WITH nothing AS (DELETE FROM nodes WHERE false) SELECT pg_logical_emit_message(true, 'tocsin', '')")


class WriteCheck:
    """The last known outcome of a write of this node."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._failure: Condition | None = None
        self._known_at = -float(FRESH_SECONDS)
        self._trying = asyncio.Lock()

    def succeeded(self) -> None:
        """Note that a transaction was committed."""
        if self._failure is not None:
            log.info("PostgreSQL stores again")
        self._failure, self._known_at = None, time.monotonic()

    def failed(self, error: Exception) -> None:
        """Note that a transaction failed, for a reason that passes."""
        condition = condition_of(error) or UNREACHABLE
        if condition is not self._failure:
            log.warning("PostgreSQL stores nothing", reason=condition.reason, error=str(driver_error(error)))
        self._failure, self._known_at = condition, time.monotonic()

    async def check(self) -> None:
        """Return if PostgreSQL stores.

        Raises:
            DatabaseUnavailable: it does not; the ``reason`` says why.

        """
        async with self._trying:
            if time.monotonic() - self._known_at >= FRESH_SECONDS:
                await self._try()
        if self._failure is not None:
            raise unavailable(self._failure)

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                await self._write()
        except (DatabaseUnavailable, TimeoutError) as error:
            self.failed(error)
        else:
            self.succeeded()

    async def _write(self) -> None:
        async with self._database.transaction() as tx:
            if await tx.scalar(_IS_IN_RECOVERY):
                raise unavailable(IN_RECOVERY)
            await tx.execute(_LOCK_TIMEOUT)
            if self._failure is not None and await tx.scalar(_MAY_GROW):
                await tx.execute(_GROW)
            await tx.execute(_LOCK_LOG)
            await tx.execute(_LOCK_TABLES)
        async with self._database.transaction() as tx:
            await tx.execute(_WRITE)
