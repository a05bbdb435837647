"""The tables of the log: its events, and the chain over them.

``events`` is partitioned by range of ``seq``; ``log.ensure_partitions`` makes partitions ahead of need. ``body`` is
what goes on the wire, so a replay needs no join. It is ``json``, not ``jsonb``: the text is kept as it was written, and
a replayed frame is byte for byte the frame that was sent live.
"""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Index, LargeBinary, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSON

from service.database.base import metadata, severity_type

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", BigInteger, nullable=False, comment="random, made before the commit: with the seq, a position"),
    Column("alert_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("severity", severity_type, nullable=False),
    Column("recipients", ARRAY(Text), comment="these admins only; null: all who may see the topic"),
    Column("actor", Text, nullable=False, comment="the subject of the token that caused the event"),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("body", JSON, nullable=False, comment="the alert as it is on the wire"),
    Column("details", JSON, comment="what the kind adds to the frame, such as a comment"),
    Index("ix_events_alert_id", "alert_id"),
    Index(
        "ix_events_occurred_at",
        "occurred_at",
        text("(date_bin('00:01:00'::interval, occurred_at, '2000-01-01 00:00:00+00'::timestamptz))"),
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    postgresql_partition_by="RANGE (seq)",
    comment="The log: gapless, in commit order.",
)

log_chain = Table(
    "log_chain",
    metadata,
    Column("last_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_id", BigInteger, nullable=False, comment="the id of the event at last_seq"),
    Column("linked_at", DateTime(timezone=True), nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256; see service/events/hash_chain.py"),
    comment="One row per batch that was appended to the log, linked to the previous one; the last is the head.",
)
