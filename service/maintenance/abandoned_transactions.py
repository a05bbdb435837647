"""Transactions that a frozen process has left in the middle of a statement.

A driver sends a statement in two messages, and waits for the answer to the first. A process that
freezes in between leaves a transaction that is not idle, so ``idle_in_transaction_session_timeout``
does not end it, and PostgreSQL defers ``statement_timeout`` while it reads a message. Its locks would
be held until the process goes on. So every node looks for such transactions and ends them, whichever
process left them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.database.engine import close_quietly
from service.database.libpq import APPLICATION_NAME, application_name
from service.logs import get_logger
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from service.database.durability import WatchedConnection
    from service.database.engine import Database

log = get_logger(__name__)

LOOKS = 4
"""How often to look within the time after which a transaction counts as abandoned."""

# Materialized: PostgreSQL might otherwise call the function before it has looked at the other conditions.
_END = f"""
WITH abandoned AS MATERIALIZED (
    SELECT pid, left(query, 100) AS query FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
          AND (starts_with(application_name, '{APPLICATION_NAME}') OR application_name = ANY ($2))
          AND xact_start IS NOT NULL
          AND state = 'active' AND wait_event = 'ClientRead'
          AND clock_timestamp() - state_change > make_interval(secs => $1)
)
SELECT pid, query FROM abandoned WHERE pg_terminate_backend(pid)
"""  # noqa: S608 - a constant


class AbandonedTransactions:
    """Ends transactions that have waited for the rest of a statement for ``seconds``.

    It has a connection of its own: those of the pool may all wait for the locks.
    """

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._seconds = seconds
        self._connection: WatchedConnection | None = None
        self.task = PeriodicTask("abandoned_transactions", self.end, seconds / LOOKS)

    async def end(self) -> None:
        """End those that there are."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
        names = [application_name(url) for url in (self._database.url, self._database.direct_url)]
        for ended in await self._connection.fetch(_END, self._seconds, names):
            log.warning("a transaction that its process left open was ended", pid=ended["pid"], query=ended["query"])

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await close_quietly(self._connection)
