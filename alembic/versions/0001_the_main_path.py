"""The main path: the log, the alerts, the ledger and the first audit view."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0001"
down_revision = None

SEVERITY = postgresql.ENUM("info", "warning", "error", "critical", name="severity", create_type=False)
STATUS = postgresql.ENUM("open", "acknowledged", "resolved", "expired", name="alert_status", create_type=False)
TIME = sa.DateTime(timezone=True)

EVENT_MATCHES = """
CREATE FUNCTION event_matches(
    topics text[], min_severity severity, recipient text,
    event_topic text, event_severity severity, event_recipients text[]
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN event_severity >= min_severity
   AND (event_recipients IS NULL OR recipient = ANY (event_recipients))
   AND EXISTS (
        SELECT FROM unnest(topics) AS pattern
        WHERE pattern = '*' OR pattern = event_topic
           OR (right(pattern, 2) = '.*' AND starts_with(event_topic, left(pattern, -1)))
   )
"""

# Partitions are made as tables of their own and then attached, which blocks neither appends nor reads.
ENSURE_EVENT_PARTITIONS = """
CREATE FUNCTION ensure_event_partitions(size bigint, ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    first bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7405003);
    SELECT coalesce(max(seq), 0) INTO head FROM events;
    FOR step IN 0 .. ahead LOOP
        first := (head / size + step) * size;
        IF to_regclass('events_p' || first) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING COMMENTS)', 'events_p' || first);
            EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                           'events_p' || first, first, first + size);
        END IF;
    END LOOP;
END $$
"""

# One round trip: lock, number, insert, notify; the caller's autocommit commits it and lets the lock go. The head is
# read in a statement of its own, because a statement's snapshot is taken when it starts: one taken before the lock was
# granted would not see the last commit. An item whose idempotency key is known, from before or from earlier in the
# same batch, is not stored; its result is the first one's.
APPEND_ALERTS = """
CREATE FUNCTION append_alerts(items json)
RETURNS TABLE (ordinal bigint, seq bigint, replayed boolean, mismatch boolean, body json)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head bigint;
    stored bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7405002);
    SELECT coalesce(max(e.seq), 0) INTO head FROM events e;
    RETURN QUERY
    WITH item AS MATERIALIZED (
        SELECT i.ordinal, i.key, decode(i.hash, 'hex') AS hash, i.alert, a.*
        FROM ROWS FROM (json_to_recordset(items) AS (key text, hash text, alert json))
             WITH ORDINALITY AS i (key, hash, alert, ordinal),
             json_to_record(i.alert) AS a (
                id uuid, source text, topic text, severity severity, title text, body text, attributes jsonb, links
                jsonb, recipients text[], dedup_key text, created_at timestamptz, expires_at timestamptz)
    ), known AS MATERIALIZED (
        SELECT i.ordinal, k.body_hash, k.seq,
               CASE WHEN i.key IS NULL THEN i.ordinal
                    ELSE min(i.ordinal) OVER (PARTITION BY i.source, i.key) END AS first_ordinal
        FROM item i LEFT JOIN idempotency_keys k ON k.source = i.source AND k.key = i.key
    ), fresh AS MATERIALIZED (
        SELECT i.*, head + row_number() OVER (ORDER BY i.ordinal) AS seq
        FROM item i JOIN known k ON k.ordinal = i.ordinal
        WHERE k.seq IS NULL AND k.first_ordinal = i.ordinal
    ), stored_alerts AS (
        INSERT INTO alerts (id, seq, source, topic, severity, title, body, attributes, links, recipients, dedup_key,
                            created_at, updated_at, expires_at)
        SELECT id, seq, source, topic, severity, title, body, attributes, links, recipients, dedup_key,
               created_at, created_at, expires_at
        FROM fresh
    ), stored_events AS (
        INSERT INTO events (seq, alert_id, kind, topic, severity, recipients, actor, occurred_at, body)
        SELECT seq, id, 'alert.created', topic, severity, recipients, source, created_at, alert FROM fresh
    ), stored_keys AS (
        INSERT INTO idempotency_keys (source, key, body_hash, seq, created_at)
        SELECT source, key, hash, seq, created_at FROM fresh WHERE key IS NOT NULL
    )
    SELECT i.ordinal,
           coalesce(k.seq, f.seq),
           k.seq IS NOT NULL OR k.first_ordinal <> i.ordinal,
           i.hash IS DISTINCT FROM coalesce(k.body_hash, f.hash),
           CASE WHEN k.seq IS NOT NULL THEN (SELECT e.body FROM events e WHERE e.seq = k.seq)
                WHEN k.first_ordinal <> i.ordinal THEN f.alert END
    FROM item i JOIN known k ON k.ordinal = i.ordinal LEFT JOIN fresh f ON f.ordinal = k.first_ordinal;
    SELECT max(e.seq) INTO stored FROM events e;
    IF stored > head THEN
        PERFORM pg_notify('tocsin_events', stored::text);
    END IF;
END $$
"""

AUDIT_DELIVERIES = """
CREATE VIEW audit.deliveries AS
SELECT e.seq, e.alert_id, e.kind, c.recipient, c.id AS connection, c.node_id AS node,
       d.at AS sent_at, r.received_at, r.received_at - d.at AS latency
FROM connections c
JOIN nodes n ON n.id = c.node_id
JOIN events e ON e.seq > c.after_seq AND e.seq <= coalesce(c.sent_seq, n.sent_seq)
             AND event_matches(c.topics, c.min_severity, c.recipient, e.topic, e.severity, e.recipients)
LEFT JOIN LATERAL (
    -- The connection's own dispatch where it replayed or lagged, otherwise the pass of its node.
    SELECT at FROM (
        (SELECT at, after_seq, 1 AS rank FROM dispatches
         WHERE connection_id = c.id AND up_to_seq >= e.seq ORDER BY up_to_seq LIMIT 1)
        UNION ALL
        (SELECT at, after_seq, 2 AS rank FROM dispatches
         WHERE connection_id IS NULL AND node_id = c.node_id AND up_to_seq >= e.seq ORDER BY up_to_seq LIMIT 1)
    ) AS candidate
    WHERE candidate.after_seq < e.seq ORDER BY rank LIMIT 1
) AS d ON true
LEFT JOIN LATERAL (
    SELECT received_at FROM receipts
    WHERE connection_id = c.id AND receipts.seq >= e.seq ORDER BY receipts.seq LIMIT 1
) AS r ON true
"""

AUDIT_COMMENTS = {
    "seq": "position of the event in the log",
    "alert_id": "the alert that the event is about",
    "kind": "what happened to the alert, such as alert.created",
    "recipient": "the admin: the subject of the token that opened the connection",
    "connection": "the connection that the event went to",
    "node": "the serving process that sent it",
    "sent_at": "when the last of its bytes had gone to the socket",
    "received_at": "when the client acknowledged it; null: not yet, or never",
    "latency": "from sent_at to received_at",
}


def upgrade() -> None:
    bind = op.get_bind()
    SEVERITY.create(bind)
    STATUS.create(bind)
    create_log()
    create_alerts()
    create_ledger()
    op.execute(EVENT_MATCHES)
    op.execute(ENSURE_EVENT_PARTITIONS)
    op.execute(APPEND_ALERTS)
    op.execute("SELECT ensure_event_partitions(1000000, 3)")
    create_audit()


def create_log() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("alert_id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("severity", SEVERITY, nullable=False),
        sa.Column("recipients", sa.ARRAY(sa.Text), comment="these admins only; null: all who may see the topic"),
        sa.Column("actor", sa.Text, nullable=False, comment="the subject of the token that caused the event"),
        sa.Column("occurred_at", TIME, nullable=False),
        sa.Column("body", postgresql.JSON, nullable=False, comment="the alert as the event shows it on the wire"),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        postgresql_partition_by="RANGE (seq)",
        comment="The log: gapless, in commit order.",
    )
    op.create_index("ix_events_alert_id", "events", ["alert_id"])


def create_alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.Uuid, nullable=False, comment="UUIDv7, made before the commit"),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="the event that created it"),
        sa.Column("source", sa.Text, nullable=False, comment="the subject of the token that posted it"),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("severity", SEVERITY, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("attributes", postgresql.JSONB, nullable=False),
        sa.Column("links", postgresql.JSONB, nullable=False),
        sa.Column("recipients", sa.ARRAY(sa.Text), comment="these admins only; null: all who may see the topic"),
        sa.Column("dedup_key", sa.Text),
        sa.Column("status", STATUS, nullable=False, server_default=sa.text("'open'::alert_status")),
        sa.Column("occurrences", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("acknowledged_at", TIME),
        sa.Column("acknowledged_by", sa.Text),
        sa.Column("resolved_at", TIME),
        sa.Column("resolved_by", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        sa.UniqueConstraint("seq", name="uq_alerts_seq"),
        comment="The current state of each alert.",
    )
    op.create_index("ix_alerts_topic_seq", "alerts", ["topic", "seq"])
    op.create_index(
        "ix_alerts_unresolved",
        "alerts",
        ["seq"],
        postgresql_where=sa.text("status IN ('open', 'acknowledged')"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("source", sa.Text, nullable=False, comment="keys of different callers never meet"),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False, comment="SHA-256 of the canonical request"),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="the event whose body is the first answer"),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("source", "key", name="pk_idempotency_keys"),
        comment="What was posted with an Idempotency-Key, for a day.",
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def create_ledger() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False, comment="the lease: renewed with each flush"),
        sa.Column(
            "sent_seq",
            sa.BigInteger,
            nullable=False,
            comment="how far every connection that keeps up was sent",
        ),
        sa.Column("ended_at", TIME, comment="null while it serves"),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        comment="One row a serving process.",
    )
    op.create_index("ix_nodes_serving", "nodes", ["seen_at"], postgresql_where=sa.text("ended_at IS NULL"))
    op.create_table(
        "connections",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("node_id", sa.Uuid, nullable=False),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("transport", sa.Text, nullable=False),
        sa.Column("topics", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("min_severity", SEVERITY, nullable=False),
        sa.Column("remote_addr", sa.Text),
        sa.Column("user_agent", sa.Text),
        sa.Column("token_jti", sa.Text),
        sa.Column("token_expires_at", TIME, nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("after_seq", sa.BigInteger, nullable=False, comment="the cursor that it started from"),
        sa.Column("sent_seq", sa.BigInteger, comment="null while it keeps up with its node: read the node's"),
        sa.Column("closed_at", TIME),
        sa.Column("close_code", sa.Integer),
        sa.Column("close_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_connections"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_connections_node_id"),
        comment="One row a connection: it was sent (after_seq, sent_seq], seen through its filter.",
    )
    op.create_index("ix_connections_recipient_opened_at", "connections", ["recipient", "opened_at"])
    op.create_index(
        "ix_connections_open",
        "connections",
        ["node_id", "recipient"],
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "dispatches",
        sa.Column("node_id", sa.Uuid, nullable=False),
        sa.Column("connection_id", sa.Uuid, comment="null: every connection of the node that kept up"),
        sa.Column("after_seq", sa.BigInteger, nullable=False),
        sa.Column("up_to_seq", sa.BigInteger, nullable=False),
        sa.Column("at", TIME, nullable=False, comment="when the last byte had gone to the sockets"),
        comment="When (after_seq, up_to_seq] had gone to the sockets: one row a fan-out pass or replayed chunk.",
    )
    op.create_index(
        "uq_dispatches_node",
        "dispatches",
        ["node_id", "up_to_seq"],
        unique=True,
        postgresql_where=sa.text("connection_id IS NULL"),
    )
    op.create_index(
        "uq_dispatches_connection",
        "dispatches",
        ["connection_id", "up_to_seq"],
        unique=True,
        postgresql_where=sa.text("connection_id IS NOT NULL"),
    )
    op.create_table(
        "receipts",
        sa.Column("connection_id", sa.Uuid, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="cumulative: this and all before it"),
        sa.Column("received_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("connection_id", "seq", name="pk_receipts"),
        comment="What clients acknowledged.",
    )
    op.create_table(
        "recipients",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("topics", sa.ARRAY(sa.Text), nullable=False, comment="what the last token covered"),
        sa.Column("first_seen_at", TIME, nullable=False),
        sa.Column("last_seen_at", TIME, nullable=False),
        sa.Column("received_seq", sa.BigInteger, comment="acknowledged on any connection, or where they began"),
        sa.PrimaryKeyConstraint("id", name="pk_recipients"),
        comment="Every admin ever seen, and their cursor.",
    )
    op.create_table(
        "handshake_rejections",
        sa.Column("id", sa.Uuid, nullable=False, comment="UUIDv7, made by the node, so that a flush can be repeated"),
        sa.Column("at", TIME, nullable=False),
        sa.Column("node_id", sa.Uuid, nullable=False),
        sa.Column("remote_addr", sa.Text),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, comment="of a token that was verified; null otherwise"),
        sa.Column("origin", sa.Text),
        sa.Column("user_agent", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_handshake_rejections"),
        comment="Streams that were refused at the handshake.",
    )
    op.create_index("ix_handshake_rejections_at", "handshake_rejections", ["at"])


def create_audit() -> None:
    op.execute("CREATE SCHEMA audit")
    op.execute("COMMENT ON SCHEMA audit IS 'What operators read: who was sent what, who received it, and when.'")
    op.execute(AUDIT_DELIVERIES)
    op.execute("COMMENT ON VIEW audit.deliveries IS 'One row for each event and each connection that it went to.'")
    for column, comment in AUDIT_COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN audit.deliveries.{column} IS '{comment}'")


def downgrade() -> None:
    op.execute("DROP SCHEMA audit CASCADE")
    op.execute("DROP FUNCTION append_alerts(json)")
    op.execute("DROP FUNCTION ensure_event_partitions(bigint, integer)")
    op.execute("DROP FUNCTION event_matches(text[], severity, text, text, severity, text[])")
    for table in (
        "handshake_rejections",
        "recipients",
        "receipts",
        "dispatches",
        "connections",
        "nodes",
        "idempotency_keys",
        "alerts",
        "events",
    ):
        op.drop_table(table)
    bind = op.get_bind()
    STATUS.drop(bind)
    SEVERITY.drop(bind)
