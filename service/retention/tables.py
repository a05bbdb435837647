"""The table of the purge log. Operators read the view ``audit.retention_runs`` instead."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Identity, LargeBinary, Table, Text, text

from service.database.base import metadata


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


retention_runs = Table(
    "retention_runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("older_than", DateTime(timezone=True), nullable=False),
    Column("partition", Text, comment="the deleted partition of the log; null: none"),
    Column("first_seq", BigInteger),
    Column("last_seq", BigInteger, unique=True),
    Column("last_id", BigInteger, comment="the id of the event at last_seq"),
    Column("log_hash", LargeBinary, comment="of the link that ended at last_seq"),
    Column("archive", Text, comment="the file that holds its events"),
    Column(
        "dropped_at",
        DateTime(timezone=True),
        comment="when the partition was dropped; null: not yet, or there is none",
    ),
    Column("ledger_link_id", BigInteger, comment="the last deleted link of the ledger's chain"),
    Column("ledger_hash", LargeBinary, comment="of that link"),
    _count("events"),
    _count("alerts"),
    _count("unresolved_alerts"),
    _count("connections"),
    _count("dispatches"),
    _count("receipts"),
    _count("sightings"),
    _count("rejections"),
    _count("rejection_hours"),
    _count("idempotency_keys"),
    _count("source_hours"),
    comment="What retention deleted: one row per partition, and one per run that deleted something else.",
)
