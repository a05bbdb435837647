"""Advisory locks: who serialises what, on all nodes of one database.

The functions in ``alembic/sql/`` take the locks of the log, of its partitions and of the ledger themselves; a test
compares their numbers with these.
"""

from __future__ import annotations

from enum import IntEnum


class AdvisoryLock(IntEnum):
    """A lock of PostgreSQL; the value is its key. The properties are the statements that take it."""

    MIGRATION = 7_405_001
    """One migration at a time."""
    LOG = 7_405_002
    """One append to the log at a time, held to its commit, so that seqs become visible in order and without a hole."""
    PARTITIONS = 7_405_003
    """One node at a time creates partitions of the log."""
    HOUSEKEEPING = 7_405_004
    """One node at a time cleans up; a second one skips its turn."""
    REVOCATIONS = 7_405_005
    """One revocation at a time, held to its commit, so that a higher id is never visible before a lower one."""
    SEARCH_INDEX = 7_405_006
    """One node at a time fills the search index; retention holds it while it deletes alerts."""
    LEDGER = 7_405_007
    """One flush of the ledger at a time writes what is final, so that the links of its chain have an order."""
    RETENTION = 7_405_008
    """One retention run at a time, held by its session."""

    @property
    def lock(self) -> str:
        """The statement that waits for the lock and holds it to the end of the transaction."""
        return f"SELECT pg_advisory_xact_lock({self:d})"

    @property
    def try_lock(self) -> str:
        """The statement that takes the lock to the end of the transaction, or returns false."""
        return f"SELECT pg_try_advisory_xact_lock({self:d})"

    @property
    def try_session_lock(self) -> str:
        """The statement that takes the lock until the connection closes, or returns false."""
        return f"SELECT pg_try_advisory_lock({self:d})"
