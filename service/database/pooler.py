"""Connections through a pooler that may change the server after each transaction (PgBouncer).

Nothing that a client sets or prepares outside a transaction can be relied on there. So every
statement runs in an explicit transaction, and the message that begins it also sets and verifies
what the transaction needs: that takes no round trip. Statements are not cached. What needs a
session (LISTEN, ``SET``) has a direct connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from service.database.durability import DURABLE_COMMIT, WatchedConnection
from service.database.libpq import NO_TRANSACTION_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

_BEGIN = "BEGIN"


def beginning(identity: str, idle_timeout_seconds: float) -> str:
    """Return what a transaction executes first: it raises unless it is at the server ``identity``."""
    return (
        f"SELECT {DURABLE_COMMIT.format(local='true')}, {NO_TRANSACTION_TIMEOUT.format(local='true')};"
        " SET LOCAL search_path = public;"
        " SET LOCAL TimeZone = 'UTC';"
        " SET LOCAL client_min_messages = warning;"
        " SET LOCAL standard_conforming_strings = on;"
        " SET LOCAL statement_timeout = 0;"
        f" SET LOCAL idle_in_transaction_session_timeout = {idle_timeout_seconds * 1000:.0f};"
        f" SELECT require_server('{identity}');"
    )


class PoolerConnection(WatchedConnection):
    """A connection whose statements all run in explicit, verified transactions."""

    beginning: Callable[[], str] = staticmethod(str)
    """Returns what a transaction executes first."""

    def transaction(self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False) -> Any:
        """Return a transaction, READ COMMITTED whatever the default of the server is."""
        if isolation is None and not self.is_in_transaction():
            isolation = "read_committed"
        return super().transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - asyncpg's
        """Execute statements; ``BEGIN`` is completed."""
        if query.startswith(_BEGIN):
            try:
                return await super().execute(query + self.beginning(), timeout=timeout)
            except asyncpg.PostgresError:
                self.terminate()  # its transaction has begun, and has failed
                raise
        if self.is_in_transaction():
            return await super().execute(query, *args, timeout=timeout)
        async with self.transaction():
            return await super().execute(query, *args, timeout=timeout)

    async def _execute(self, *args: Any, **options: Any) -> Any:
        """Execute a statement for ``fetch`` and the like."""
        if self.is_in_transaction():
            return await super()._execute(*args, **options)
        async with self.transaction():
            return await super()._execute(*args, **options)
