"""Locks: who serialises what, on all nodes of one database.

A lock is an empty table of the schema ``locks``, locked in EXCLUSIVE mode. Only its owner can do
that: a role that may read, such as ``tocsin_auditor``, cannot even name the table, whereas every
role can take an advisory lock. EXCLUSIVE conflicts with itself and, of what others do to a table,
with VACUUM and ANALYZE; not with the ACCESS SHARE of ``pg_dump``. A lock ends with its transaction,
so it works behind a pooler that gives each transaction another session; what is held for longer is
held by a transaction of its own (``lock_holder.py``).

**Order.** A transaction takes locks in the order of this list, and only then locks rows in it; the
ledger's comes last of all. So no two transactions wait for one another.

The functions in ``alembic/sql/`` take the locks of the log, of its partitions and of the ledger
themselves; a test compares them with these.
"""

from __future__ import annotations

from enum import StrEnum


class TableLock(StrEnum):
    """A lock; the value is the name of its table. The properties are the statements that take it."""

    MIGRATION = "migration"
    """One migration at a time."""
    RETENTION = "retention"
    """One retention run at a time."""
    HOUSEKEEPING = "housekeeping"
    """One node at a time cleans up; a second one skips its turn."""
    PARTITIONS = "partitions"
    """One node at a time creates partitions of the log."""
    REVOCATIONS = "revocations"
    """One revocation at a time, held to its commit, so that a higher id is never visible before a lower one."""
    SEARCH_INDEX = "search_index"
    """One node at a time fills the search index; retention holds it while it deletes alerts."""
    LOG = "log"
    """One append to the log at a time, held to its commit, so that seqs become visible in order and without a hole."""
    LEDGER = "ledger"
    """One flush of the ledger at a time writes what is final, so that the links of its chain have an order."""

    @property
    def lock(self) -> str:
        """The statement that waits for the lock and holds it to the end of the transaction, which has begun."""
        return f"LOCK TABLE locks.{self.value} IN EXCLUSIVE MODE"

    @property
    def try_lock(self) -> str:
        """The query that takes the lock to the end of the transaction, or returns false."""
        return f"SELECT try_lock('{self.value}')"


# Two migrations of an empty database: the second one waits at the name of the schema until the first
# one has committed, and then finds its table.
CREATE_MIGRATION_LOCK = f"""
DO $$
BEGIN
    IF to_regclass('locks.{TableLock.MIGRATION.value}') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS locks;
        CREATE TABLE IF NOT EXISTS locks.{TableLock.MIGRATION.value} ();
    END IF;
EXCEPTION
    WHEN unique_violation OR duplicate_schema OR duplicate_table THEN NULL;
END $$
"""
"""The statement that makes the first of the locks; ``alembic/sql/locks.sql`` makes the others."""
