"""The tables of the ledger. Operators read the views of the schema ``audit`` instead."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
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
    Column("sent_seq", BigInteger, nullable=False, comment="how far every connection that keeps up was sent"),
    Column("ended_at", DateTime(timezone=True), comment="null while it serves"),
    Column(
        "lease_seconds",
        Double,
        nullable=False,
        server_default=text("10"),
        comment="without a flush for so long it is lost",
    ),
    Index("ix_nodes_serving", "seen_at", postgresql_where=text("ended_at IS NULL")),
    comment="One row a serving process.",
)

connections = Table(
    "connections",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("node_id", ForeignKey(nodes.c.id), nullable=False),
    Column("recipient", Text, nullable=False),
    Column("transport", Text, nullable=False),
    Column("topics", ARRAY(Text), nullable=False),
    Column("min_severity", severity_type, nullable=False),
    Column("remote_addr", Text),
    Column("user_agent", Text),
    Column("token_jti", Text),
    Column("token_expires_at", DateTime(timezone=True), nullable=False),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    Column("after_seq", BigInteger, nullable=False, comment="the cursor that it started from"),
    Column("sent_seq", BigInteger, comment="null while it keeps up with its node: read the node's"),
    Column("closed_at", DateTime(timezone=True)),
    Column("close_code", Integer),
    Column("close_reason", Text),
    Column("link", BigInteger, comment="the link of the ledger's chain that covers its end"),
    Index("ix_connections_recipient_opened_at", "recipient", "opened_at"),
    Index("ix_connections_open", "node_id", "recipient", postgresql_where=text("closed_at IS NULL")),
    Index("ix_connections_link", "link", postgresql_where=text("link IS NOT NULL")),
    comment="One row a connection: it was sent (after_seq, sent_seq], seen through its filter.",
)

dispatches = Table(
    "dispatches",
    metadata,
    Column("node_id", Uuid, nullable=False),
    Column("connection_id", Uuid, comment="null: every connection of the node that kept up"),
    Column("after_seq", BigInteger, nullable=False),
    Column("up_to_seq", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, comment="when the last byte had gone to the sockets"),
    Column("link", BigInteger, nullable=False, comment="the link of the ledger's chain that covers it"),
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
        "ix_dispatches_link",
        "link",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    comment="When (after_seq, up_to_seq] had gone to the sockets: one row a fan-out pass or replayed chunk.",
)

receipts = Table(
    "receipts",
    metadata,
    Column("connection_id", Uuid, primary_key=True),
    Column("seq", BigInteger, primary_key=True, comment="cumulative: this and all before it"),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("link", BigInteger, nullable=False, comment="the link of the ledger's chain that covers it"),
    Index(
        "ix_receipts_link",
        "link",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    comment="What clients acknowledged.",
)

recipients = Table(
    "recipients",
    metadata,
    Column("id", Text, primary_key=True),
    Column("topics", ARRAY(Text), nullable=False, comment="what the last token covered"),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
    Column("last_seen_at", DateTime(timezone=True), nullable=False),
    Column("received_seq", BigInteger, comment="acknowledged on any connection, or where they began"),
    Column(
        "topics_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="when the connection with that token was opened",
    ),
    comment="Every admin ever seen, and their cursor.",
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
    comment="Streams that were refused at the handshake.",
)

callers = Table(
    "callers",
    metadata,
    Column("source", Text, primary_key=True, comment="the subject of the token; empty: those beyond the limit"),
    Column("hour", DateTime(timezone=True), primary_key=True, comment="when the hour began, in UTC"),
    Column("alerts", BigInteger, nullable=False),
    Column("repeated", BigInteger, nullable=False),
    Column("replayed", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Index("ix_callers_hour", "hour"),
    comment="One row a source of alerts and hour: what became of what it posted.",
)

ledger_chain = Table(
    "ledger_chain",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False, comment="1, 2, 3, … without a hole"),
    Column("linked_at", DateTime(timezone=True), nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256; see service/audit/chain.py"),
    comment="One row a flush of the ledger that wrote closings, dispatches or receipts, linked to the one before.",
)
