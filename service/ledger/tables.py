"""The tables of the ledger. Operators read the views of the schema ``audit`` instead."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)

from service.database.base import metadata, severity_type

nodes = Table(
    "nodes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False, comment="the lease: renewed with each flush"),
    Column(
        "sent_seq", BigInteger, nullable=False, comment="up to here every connection that keeps up was sent its events"
    ),
    Column(
        "flush",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="the number of its last flush; a failover that lost flushes sets it back",
    ),
    Column("ended_at", DateTime(timezone=True), comment="null while it serves"),
    Column(
        "lease_seconds",
        Double,
        nullable=False,
        server_default=text("10"),
        comment="seconds without a flush after which it counts as lost",
    ),
    Column(
        "revocation_id",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="up to here it has read and applied the revocations",
    ),
    Index("ix_nodes_serving", "seen_at", postgresql_where=text("ended_at IS NULL")),
    comment="One row per node, which is a serving process.",
)

connections = Table(
    "connections",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("node_id", ForeignKey(nodes.c.id), nullable=False),
    Column("recipient", Text, nullable=False),
    Column("transport", Text, nullable=False),
    Column(
        "consumer",
        Text,
        nullable=False,
        server_default=text("''"),
        comment="the name that the client gave; empty: none",
    ),
    Column("topics", ARRAY(Text), nullable=False),
    Column("min_severity", severity_type, nullable=False),
    Column("remote_addr", Text),
    Column("user_agent", Text),
    Column("jti", Text),
    Column("token_expires_at", DateTime(timezone=True), nullable=False),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    Column("after_seq", BigInteger, nullable=False, comment="the position after which it began"),
    Column(
        "has_cursor",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="its client stated that position, and so had everything up to there",
    ),
    Column("sent_seq", BigInteger, comment="null while it keeps up with its node: the node's counts"),
    Column("live_seq", BigInteger, comment="where it had caught up first: what it was sent up to there was replayed"),
    Column("closed_at", DateTime(timezone=True)),
    Column("close_code", Integer),
    Column("close_reason", Text),
    Column("ledger_link_id", BigInteger, comment="the link of the ledger's chain that covers its end"),
    Index("ix_connections_recipient_opened_at", "recipient", "opened_at"),
    Index("ix_connections_open", "node_id", "recipient", postgresql_where=text("closed_at IS NULL")),
    Index("ix_connections_ledger_link_id", "ledger_link_id", postgresql_where=text("ledger_link_id IS NOT NULL")),
    comment="One row per connection: it was sent what its filter passes of (after_seq, sent_seq].",
)

dispatches = Table(
    "dispatches",
    metadata,
    Column("node_id", Uuid, nullable=False),
    Column("connection_id", Uuid, comment="null: every connection of the node that kept up"),
    Column("after_seq", BigInteger, nullable=False),
    Column("up_to_seq", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, comment="when the last byte was at the sockets"),
    Column("ledger_link_id", BigInteger, nullable=False, comment="the link of the ledger's chain that covers it"),
    Index(
        "uq_dispatches_node",
        "node_id",
        "up_to_seq",
        unique=True,
        postgresql_where=text("connection_id IS NULL"),
    ),
    Index(
        "uq_dispatches_connection",
        "connection_id",
        "up_to_seq",
        unique=True,
        postgresql_where=text("connection_id IS NOT NULL"),
    ),
    Index(
        "ix_dispatches_ledger_link_id",
        "ledger_link_id",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    comment="When (after_seq, up_to_seq] was sent: one row per fan-out pass or replayed chunk.",
)

receipts = Table(
    "receipts",
    metadata,
    Column("connection_id", Uuid, primary_key=True),
    Column("seq", BigInteger, primary_key=True, comment="cumulative: this and all before it"),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("ledger_link_id", BigInteger, nullable=False, comment="the link of the ledger's chain that covers it"),
    Index(
        "ix_receipts_ledger_link_id",
        "ledger_link_id",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    comment="Receipts that clients confirmed.",
)

sightings = Table(
    "sightings",
    metadata,
    Column("alert_id", Uuid, primary_key=True),
    Column("recipient", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False, comment="of the last event of the alert by then"),
    Column("seen_at", DateTime(timezone=True), nullable=False),
    Column("ledger_link_id", BigInteger, nullable=False, comment="the link of the ledger's chain that covers it"),
    Index("ix_sightings_recipient_seen_at", "recipient", "seen_at"),
    Index(
        "ix_sightings_ledger_link_id",
        "ledger_link_id",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    comment="When a client first reported that a recipient saw an alert.",
)

recipients = Table(
    "recipients",
    metadata,
    Column("id", Text, primary_key=True),
    Column("topics", ARRAY(Text), nullable=False, comment="what the last token covered"),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
    Column("last_seen_at", DateTime(timezone=True), nullable=False),
    Column("topics_at", DateTime(timezone=True), comment="when the connection with that token was opened"),
    Column(
        "first_seen_seq",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="where the log ended when they were first seen; they wait for what was created after it",
    ),
    comment="Every admin who ever connected.",
)

resume_points = Table(
    "resume_points",
    metadata,
    Column("recipient", Text, primary_key=True),
    Column("consumer", Text, primary_key=True, comment="the name that the client gave; empty: none"),
    Column("filter_key", LargeBinary, primary_key=True, comment="SHA-256 of topics and min_severity"),
    Column("topics", ARRAY(Text), nullable=False),
    Column("min_severity", severity_type, nullable=False),
    Column(
        "seq", BigInteger, nullable=False, comment="up to here everything was acknowledged, or before its beginning"
    ),
    Column("event_id", BigInteger, nullable=False, comment="the id of the event at seq; 0: not known"),
    Column(
        "sent_seq",
        BigInteger,
        nullable=False,
        comment="up to here its streams were sent everything, without a hole after seq",
    ),
    Column("polled_on", Uuid, comment="the connection of the last answer to a poll without a cursor; null: none"),
    Column("polled_seq", BigInteger, comment="the cursor of that answer, which the next such poll acknowledges"),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column(
        "used_at",
        DateTime(timezone=True),
        nullable=False,
        comment="when a stream of it last opened, ended or acknowledged",
    ),
    comment="Where each filter of a recipient, or each consumer, resumes: see alembic/sql/resume_points.sql.",
)

subject_names = Table(
    "subject_names",
    metadata,
    Column("subject", Text, primary_key=True, comment="the sub of the token"),
    Column("name", Text, nullable=False, comment="what the newest token says"),
    Column("issued_at", DateTime(timezone=True), nullable=False, comment="when the token was issued that says so"),
    Column(
        "named_at", DateTime(timezone=True), nullable=False, comment="when a node last verified a token that says so"
    ),
    Index("ix_subject_names_named_at", "named_at"),
    comment="What subjects are shown by.",
)

handshake_rejections = Table(
    "handshake_rejections",
    metadata,
    Column("id", Uuid, primary_key=True, comment="UUIDv7, made by the node, so that a flush can be repeated"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("node_id", Uuid, nullable=False),
    Column("remote_addr", Text),
    Column("path", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("subject", Text, comment="of a token that was verified; null otherwise"),
    Column("origin", Text),
    Column("user_agent", Text),
    Index("ix_handshake_rejections_at", "at"),
    comment="Streams that were rejected at the handshake: a sample, see rejection_hours.",
)

rejection_hours = Table(
    "rejection_hours",
    metadata,
    Column("node_id", Uuid, primary_key=True),
    Column("hour", DateTime(timezone=True), primary_key=True, comment="the start of the hour, in UTC"),
    Column("reason", Text, primary_key=True),
    Column("rejections", BigInteger, nullable=False),
    Index("ix_rejection_hours_hour", "hour"),
    comment="How many streams a node rejected at the handshake, by hour and reason; only some have a row of their own.",
)

source_hours = Table(
    "source_hours",
    metadata,
    Column("source", Text, primary_key=True, comment="the subject of the token; empty: all sources beyond the limit"),
    Column("hour", DateTime(timezone=True), primary_key=True, comment="the start of the hour, in UTC"),
    Column("alerts", BigInteger, nullable=False),
    Column("repeated", BigInteger, nullable=False),
    Column("replayed", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Index("ix_source_hours_hour", "hour"),
    comment="One row per source and hour: the outcomes of what it posted.",
)

ledger_chain = Table(
    "ledger_chain",
    metadata,
    Column("ledger_link_id", BigInteger, primary_key=True, autoincrement=False, comment="1, 2, 3, … without a hole"),
    Column("linked_at", DateTime(timezone=True), nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256; see service/ledger/hash_chain.py"),
    comment="One row per flush that wrote closings, dispatches, receipts or sightings, linked to the previous one.",
)
