"""Retention: the books of what was let go, and partitions of any size."""

from __future__ import annotations

import runpy
from pathlib import Path

import sqlalchemy as sa

from alembic import op

revision = "0009"
down_revision = "0008"

TIME = sa.DateTime(timezone=True)

# `ends` is the first seq after it; `detaching` says that nobody sees it any more, and that it is not off yet.
EVENT_PARTITIONS = r"""
CREATE FUNCTION event_partitions() RETURNS TABLE (name text, begins bigint, ends bigint, detaching boolean)
LANGUAGE sql STABLE AS $$
SELECT c.relname, bounds[1]::bigint, bounds[2]::bigint, i.inhdetachpending
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
     regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(\d+)''\) TO \(''(\d+)''\)') AS bounds
WHERE i.inhparent = 'events'::regclass
$$
"""

# Makes partitions of `size` events until there is room for so many after the head, but no more than `most` ahead of it.
# They begin where the last one ends, whatever its size was. They are made as tables of their own and then attached,
# which blocks neither appends nor reads.
ENSURE_EVENT_PARTITIONS = """
CREATE FUNCTION ensure_event_partitions(size bigint, room bigint, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    next bigint;
    ahead bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7405003);
    SELECT coalesce(max(last_seq), 0) INTO head FROM log_chain;
    SELECT coalesce(max(ends), head / size * size), count(*) FILTER (WHERE begins > head) INTO next, ahead
    FROM event_partitions();
    WHILE next <= head + room AND (next <= head OR ahead < most) LOOP
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING COMMENTS)', 'events_p' || next);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                       'events_p' || next, next, next + size);
        ahead := ahead + (next > head)::integer;
        next := next + size;
    END LOOP;
END $$
"""

AUDIT_PURGES = """
CREATE VIEW audit.purges AS
SELECT id AS purge, at, first_seq, last_seq, older_than, events, alerts, unresolved_alerts, connections, dispatches,
       receipts, rejections, idempotency_keys, callers, log_hash, ledger_number, ledger_hash, archive, dropped_at
FROM purges
"""

AUDIT_COMMENTS = {
    "purge": "its number, in order",
    "at": "when it began",
    "first_seq": "the first event of the part of the log that went; null: none did",
    "last_seq": "the last event of the part of the log that went; the log begins after the highest one",
    "older_than": "what was older than this was let go",
    "events": "how many events went",
    "alerts": "how many alerts went",
    "unresolved_alerts": "how many of them were open or acknowledged",
    "connections": "how many closed connections went",
    "dispatches": "how many dispatches went: fan-out passes and replayed chunks",
    "receipts": "how many acknowledgements went",
    "rejections": "how many refused handshakes went",
    "idempotency_keys": "how many idempotency keys went, because the event that they answered with did",
    "callers": "how many hours of callers went",
    "log_hash": "the hash of the link of the log that ended at last_seq; what is left of the chain follows it",
    "ledger_number": "the last link of the chain of the ledger that went; null: none did",
    "ledger_hash": "its hash; what is left of the chain of the ledger follows it",
    "archive": "the file that keeps the events; null: they are kept nowhere",
    "dropped_at": "when the part of the log was gone; null: it is under way, or none went",
}


def upgrade() -> None:
    counts = (
        "events",
        "alerts",
        "unresolved_alerts",
        "connections",
        "dispatches",
        "receipts",
        "rejections",
        "idempotency_keys",
        "callers",
    )
    op.create_table(
        "purges",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("older_than", TIME, nullable=False),
        sa.Column("partition", sa.Text, comment="the partition of the log that goes; null: none"),
        sa.Column("first_seq", sa.BigInteger),
        sa.Column("last_seq", sa.BigInteger),
        sa.Column("log_hash", sa.LargeBinary, comment="of the link that ended at last_seq"),
        sa.Column("archive", sa.Text, comment="the file that keeps its events"),
        sa.Column("dropped_at", TIME, comment="when the partition was gone; null: it is to go yet, or there is none"),
        sa.Column("ledger_number", sa.BigInteger, comment="the last link of the ledger's chain that went"),
        sa.Column("ledger_hash", sa.LargeBinary, comment="of that link"),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")) for name in counts),
        sa.PrimaryKeyConstraint("id", name="pk_purges"),
        sa.UniqueConstraint("last_seq", name="uq_purges_last_seq"),
        comment="What retention let go: one row a partition, and one a run that let go something else.",
    )
    op.execute("DROP FUNCTION ensure_event_partitions(bigint, integer)")
    op.execute(EVENT_PARTITIONS)
    op.execute(ENSURE_EVENT_PARTITIONS)
    op.execute(AUDIT_PURGES)
    op.execute("COMMENT ON VIEW audit.purges IS 'One row for each time that something old was let go.'")
    for column, comment in AUDIT_COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN audit.purges.{column} IS '{comment}'")
    op.execute("SELECT grant_audit()")


def downgrade() -> None:
    op.execute("DROP VIEW audit.purges")
    op.drop_table("purges")
    op.execute("DROP FUNCTION ensure_event_partitions(bigint, bigint, integer)")
    op.execute("DROP FUNCTION event_partitions()")
    before = runpy.run_path(str(Path(__file__).with_name("0001_the_main_path.py")))
    op.execute(before["ENSURE_EVENT_PARTITIONS"])
