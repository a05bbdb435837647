"""The schema: tables from here; functions and views from the files of ``alembic/sql/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ENUM, JSON, JSONB

from alembic import op
from service.logs import get_logger

revision = "0001"
down_revision = None

SQL = Path(__file__).parent.parent / "sql"
FILES = (  # in the order of their dependencies
    *("times", "locks", "durability", "notify_nodes"),
    *("event_filter", "log_blocks", "event_partitions", "positions", "commit_attempts", "link_log"),
    *("append_alerts", "search_words", "resume_points", "write_ledger", "serving_nodes", "revocations"),
    *("audit_schema", "audit_sightings", "audit_deliveries", "audit_unreceived", "audit_timeline", "audit_latency"),
    *("audit_connections", "audit_resume_points", "audit_presence", "audit_rejections", "audit_tokens"),
    *("audit_revocations", "audit_sources"),
    *("audit_alerts", "audit_names", "audit_deactivations", "audit_log_gaps", "audit_retention_runs", "grant_audit"),
)

SEVERITY = ENUM("info", "warning", "error", "critical", name="severity", create_type=False)
STATUS = ENUM("open", "acknowledged", "resolved", "expired", name="alert_status", create_type=False)
TIME = DateTime(timezone=True)
UNRESOLVED = "status IN ('open', 'acknowledged')"
BRIN: Any = {"postgresql_using": "brin", "postgresql_with": {"pages_per_range": 32, "autosummarize": "on"}}
HOW_TO_CREATE_THE_ROLE = (
    "CREATE ROLE tocsin_auditor, as a user who may; then, as the owner of the schema, SELECT grant_audit()"
)

log = get_logger(__name__)


def upgrade() -> None:
    bind = op.get_bind()
    SEVERITY.create(bind)
    STATUS.create(bind)
    create_log()
    create_alerts()
    create_search_attempts_and_keys()
    create_connections()
    create_dispatches()
    create_recipients()
    create_ledger_chain()
    create_revocations()
    create_retention()
    create_message_key()
    for name in FILES:
        execute_file(name)
    op.create_index(
        "ix_alert_search_words",
        "alert_search",
        [text("array_to_tsvector(word_lexemes(words))")],
        postgresql_using="gin",
    )
    op.execute("SELECT ensure_event_partitions(1000000, 3000000, 3)")
    if not bind.scalar(text("SELECT grant_audit()")):
        log.warning("the role tocsin_auditor is missing, and this user may not create it", mend=HOW_TO_CREATE_THE_ROLE)


def execute_file(name: str) -> None:
    """Run the statements of a file of ``alembic/sql/`` in the transaction of the migration."""
    script = (SQL / f"{name}.sql").read_text()
    # Through asyncpg itself: SQLAlchemy prepares what it executes, and a prepared statement is a single one.
    op.get_bind().connection.run_async(lambda connection: connection.execute(script))


def create_log() -> None:
    op.create_table(
        "events",
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("id", BigInteger, nullable=False, comment="random, made before the commit: with the seq, a position"),
        Column("alert_id", Uuid, nullable=False),
        Column("kind", Text, nullable=False),
        Column("topic", Text, nullable=False),
        Column("severity", SEVERITY, nullable=False),
        Column("recipients", ARRAY(Text), comment="these admins only; null: all who may see the topic"),
        Column("actor", Text, nullable=False, comment="the subject of the token that caused the event"),
        Column("occurred_at", TIME, nullable=False),
        Column("body", JSON, nullable=False, comment="the alert as it is on the wire"),
        Column("details", JSON, comment="what the kind adds to the frame, such as a comment"),
        Index("ix_events_alert_id", "alert_id"),
        Index(
            "ix_events_occurred_at",
            "occurred_at",
            text("(date_bin('00:01:00'::interval, occurred_at, '2000-01-01 00:00:00+00'::timestamptz))"),
            **BRIN,
        ),
        postgresql_partition_by="RANGE (seq)",
        comment="The log: gapless, in commit order.",
    )
    op.create_table(
        "log_chain",
        Column("last_seq", BigInteger, primary_key=True, autoincrement=False),
        Column("first_seq", BigInteger, nullable=False),
        Column("last_id", BigInteger, nullable=False, comment="the id of the event at last_seq"),
        Column("linked_at", TIME, nullable=False),
        Column("hash", LargeBinary, nullable=False, comment="SHA-256; see service/events/hash_chain.py"),
        comment="One row per batch that was appended to the log, linked to the previous one; the last is the head.",
    )


def create_alerts() -> None:
    op.create_table(
        "alerts",
        Column("id", Uuid, primary_key=True, comment="UUIDv7, made before the commit"),
        Column("seq", BigInteger, nullable=False, unique=True, comment="the event that created it"),
        Column("source", Text, nullable=False, comment="the subject of the token that posted it"),
        Column("topic", Text, nullable=False),
        Column("severity", SEVERITY, nullable=False),
        Column("title", Text, nullable=False),
        Column("body", Text),
        Column("attributes", JSONB, nullable=False),
        Column("links", JSONB, nullable=False),
        Column("recipients", ARRAY(Text), comment="these admins only; null: all who may see the topic"),
        Column("dedup_key", Text),
        Column("dedup_audience", Text, comment="of the recipients it was posted with: see service/alerts/dedup.py"),
        Column(
            "occurred_at",
            TIME,
            comment="the latest occurrence, by the source's clock; null: the source does not say",
        ),
        Column("status", STATUS, nullable=False, server_default=text("'open'::alert_status")),
        Column(
            "status_by",
            Text,
            nullable=False,
            comment="who set the status: the source until somebody acts",
        ),
        Column("status_at", TIME, nullable=False),
        Column("occurrences", Integer, nullable=False, server_default=text("1")),
        Column("created_at", TIME, nullable=False),
        Column("updated_at", TIME, nullable=False),
        Column("expires_at", TIME),
        Column("escalate_after", Integer, comment="seconds without an acknowledgement"),
        Column(
            "escalate_at",
            TIME,
            comment="when it is sent to all who may see its topic; null: never, or done",
        ),
        Column("last_repeat_event_at", TIME, comment="when the last alert.repeated event was appended"),
        Column("repeat_event_due_at", TIME, comment="when repeats that are only counted so far become an event"),
        Column(
            "due_at",
            TIME,
            Computed(
                "CASE WHEN status = ANY (ARRAY['open'::alert_status, 'acknowledged'::alert_status])"
                " THEN least(expires_at, escalate_at, repeat_event_due_at) ELSE repeat_event_due_at END",
                persisted=True,
            ),
            comment="when the service must process it next",
        ),
        Index("ix_alerts_topic_seq", "topic", "seq"),
        Index("ix_alerts_unresolved", "seq", postgresql_where=text(UNRESOLVED)),
        Index("ix_alerts_dedup_key", "dedup_key", "seq", postgresql_where=text("dedup_key IS NOT NULL")),
        Index(
            "uq_alerts_dedup_key",
            "source",
            "topic",
            "dedup_key",
            "dedup_audience",
            unique=True,
            postgresql_where=text(f"{UNRESOLVED} AND dedup_key IS NOT NULL"),
        ),
        Index("ix_alerts_created_at", "created_at", **BRIN),
        Index("ix_alerts_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        comment="The current state of each alert.",
    )


def create_search_attempts_and_keys() -> None:
    op.create_table(
        "alert_search",
        Column("seq", BigInteger, primary_key=True, autoincrement=False, comment="of the alert"),
        Column("words", Text, nullable=False, comment="of what people search it by: see alembic/sql/search_words.sql"),
        Column("attributes", JSONB, nullable=False),
        Column("recipients", ARRAY(Text), comment="with which it was posted"),
        Index(
            "ix_alert_search_recipients",
            "recipients",
            postgresql_using="gin",
            postgresql_where=text("recipients IS NOT NULL"),
        ),
        Index(
            "ix_alert_search_attributes",
            "attributes",
            postgresql_using="gin",
            postgresql_ops={"attributes": "jsonb_path_ops"},
        ),
        comment="The search index of the alerts up to its last seq; filled after they are stored.",
    )
    op.create_table(
        "search_changes",
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("seq", BigInteger, nullable=False, comment="of the alert"),
        comment="Indexed alerts whose words or attributes have changed since, until they are indexed again.",
    )
    op.create_table(
        "commit_attempts",
        Column("id", BigInteger, primary_key=True, autoincrement=False, comment="random, made before the commit"),
        Column(
            "committed",
            Boolean,
            nullable=False,
            comment="written by a transaction of commands itself; false: recovery gave the attempt up",
        ),
        Column("at", TIME, nullable=False),
        comment="Attempts to commit, kept for an hour: those that have no other trace, and those that were given up.",
    )
    op.create_table(
        "resolutions",
        Column("source", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("dedup_key", Text, primary_key=True),
        Column("dedup_audience", Text, primary_key=True),
        Column("alert_id", Uuid, comment="the alert that was resolved; null: there was none"),
        Column("resolved_at", TIME, nullable=False),
        Column("ended_at", TIME, comment="by the source's clock; null: only people resolved it"),
        Index("ix_resolutions_resolved_at", "resolved_at"),
        comment="The last resolution of a dedup key, kept for a day: see service/alerts/late_posts.py.",
    )
    op.create_table(
        "idempotency_keys",
        Column("source", Text, primary_key=True, comment="keys of different sources are separate"),
        Column("key", Text, primary_key=True),
        Column("request_hash", LargeBinary, nullable=False, comment="SHA-256 of the canonical request"),
        Column("seq", BigInteger, comment="the event whose body is the first answer; null: of a batch"),
        Column(
            "answer", JSON, comment="the first answer where it is not the body of that event; null: not yet answered"
        ),
        Column("created_at", TIME, nullable=False),
        Index("ix_idempotency_keys_created_at", "created_at"),
        comment="Requests with an Idempotency-Key, kept for a day.",
    )


def create_connections() -> None:
    op.create_table(
        "nodes",
        Column("id", Uuid, primary_key=True),
        Column("host", Text, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("started_at", TIME, nullable=False),
        Column("seen_at", TIME, nullable=False, comment="the lease: renewed with each flush"),
        Column(
            "sent_seq",
            BigInteger,
            nullable=False,
            comment="up to here every connection that keeps up was sent its events",
        ),
        Column(
            "flush",
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="the number of its last flush; a failover that lost flushes sets it back",
        ),
        Column("ended_at", TIME, comment="null while it serves"),
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
    op.create_table(
        "connections",
        Column("id", Uuid, primary_key=True),
        Column("node_id", Uuid, ForeignKey("nodes.id"), nullable=False),
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
        Column("min_severity", SEVERITY, nullable=False),
        Column("remote_addr", Text),
        Column("user_agent", Text),
        Column("jti", Text),
        Column("token_expires_at", TIME, nullable=False),
        Column("opened_at", TIME, nullable=False),
        Column("after_seq", BigInteger, nullable=False, comment="the position after which it began"),
        Column(
            "has_cursor",
            Boolean,
            nullable=False,
            server_default=text("false"),
            comment="its client stated that position, and so had everything up to there",
        ),
        Column("sent_seq", BigInteger, comment="null while it keeps up with its node: the node's counts"),
        Column(
            "live_seq", BigInteger, comment="where it had caught up first: what it was sent up to there was replayed"
        ),
        Column("closed_at", TIME),
        Column("close_code", Integer),
        Column("close_reason", Text),
        Column("ledger_link_id", BigInteger, comment="the link of the ledger's chain that covers its end"),
        Index("ix_connections_recipient_opened_at", "recipient", "opened_at"),
        Index("ix_connections_open", "node_id", "recipient", postgresql_where=text("closed_at IS NULL")),
        Index("ix_connections_ledger_link_id", "ledger_link_id", postgresql_where=text("ledger_link_id IS NOT NULL")),
        comment="One row per connection: it was sent what its filter passes of (after_seq, sent_seq].",
    )


def create_dispatches() -> None:
    op.create_table(
        "dispatches",
        Column("node_id", Uuid, nullable=False),
        Column("connection_id", Uuid, comment="null: every connection of the node that kept up"),
        Column("after_seq", BigInteger, nullable=False),
        Column("up_to_seq", BigInteger, nullable=False),
        Column("at", TIME, nullable=False, comment="when the last byte was at the sockets"),
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
        Index("ix_dispatches_ledger_link_id", "ledger_link_id", **BRIN),
        comment="When (after_seq, up_to_seq] was sent: one row per fan-out pass or replayed chunk.",
    )
    # It has no primary key, and a publication for all tables would refuse to let retention delete rows.
    op.execute("ALTER TABLE dispatches REPLICA IDENTITY FULL")
    op.create_table(
        "receipts",
        Column("connection_id", Uuid, primary_key=True),
        Column("seq", BigInteger, primary_key=True, comment="cumulative: this and all before it"),
        Column("received_at", TIME, nullable=False),
        Column("ledger_link_id", BigInteger, nullable=False, comment="the link of the ledger's chain that covers it"),
        Index("ix_receipts_ledger_link_id", "ledger_link_id", **BRIN),
        comment="Receipts that clients confirmed.",
    )
    op.create_table(
        "sightings",
        Column("alert_id", Uuid, primary_key=True),
        Column("recipient", Text, primary_key=True),
        Column("seq", BigInteger, nullable=False, comment="of the last event of the alert by then"),
        Column("seen_at", TIME, nullable=False),
        Column("ledger_link_id", BigInteger, nullable=False, comment="the link of the ledger's chain that covers it"),
        Index("ix_sightings_recipient_seen_at", "recipient", "seen_at"),
        Index("ix_sightings_ledger_link_id", "ledger_link_id", **BRIN),
        comment="When a client first reported that a recipient saw an alert.",
    )


def create_recipients() -> None:
    op.create_table(
        "recipients",
        Column("id", Text, primary_key=True),
        Column("topics", ARRAY(Text), nullable=False, comment="what the last token covered"),
        Column("first_seen_at", TIME, nullable=False),
        Column("last_seen_at", TIME, nullable=False),
        Column("topics_at", TIME, comment="when the connection with that token was opened"),
        Column(
            "first_seen_seq",
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="where the log ended when they were first seen; they wait for what was created after it",
        ),
        comment="Every admin who ever connected.",
    )
    op.create_table(
        "resume_points",
        Column("recipient", Text, primary_key=True),
        Column("consumer", Text, primary_key=True, comment="the name that the client gave; empty: none"),
        Column("filter_key", LargeBinary, primary_key=True, comment="SHA-256 of topics and min_severity"),
        Column("topics", ARRAY(Text), nullable=False),
        Column("min_severity", SEVERITY, nullable=False),
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
        Column("created_at", TIME, nullable=False),
        Column("used_at", TIME, nullable=False, comment="when a stream of it last opened, ended or acknowledged"),
        comment="Where each filter of a recipient, or each consumer, resumes: see alembic/sql/resume_points.sql.",
    )
    op.create_table(
        "subject_names",
        Column("subject", Text, primary_key=True, comment="the sub of the token"),
        Column("name", Text, nullable=False, comment="what the newest token says"),
        Column("issued_at", TIME, nullable=False, comment="when the token was issued that says so"),
        Column("named_at", TIME, nullable=False, comment="when a node last verified a token that says so"),
        Index("ix_subject_names_named_at", "named_at"),
        comment="What subjects are shown by.",
    )
    op.create_table(
        "handshake_rejections",
        Column("id", Uuid, primary_key=True, comment="UUIDv7, made by the node, so that a flush can be repeated"),
        Column("at", TIME, nullable=False),
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
    op.create_table(
        "rejection_hours",
        Column("node_id", Uuid, primary_key=True),
        Column("hour", TIME, primary_key=True, comment="the start of the hour, in UTC"),
        Column("reason", Text, primary_key=True),
        Column("rejections", BigInteger, nullable=False),
        Index("ix_rejection_hours_hour", "hour"),
        comment="How many streams a node rejected at the handshake, by hour and reason;"
        " only some have a row of their own.",
    )
    op.create_table(
        "source_hours",
        Column(
            "source", Text, primary_key=True, comment="the subject of the token; empty: all sources beyond the limit"
        ),
        Column("hour", TIME, primary_key=True, comment="the start of the hour, in UTC"),
        Column("alerts", BigInteger, nullable=False),
        Column("repeated", BigInteger, nullable=False),
        Column("replayed", BigInteger, nullable=False),
        Column("refused", BigInteger, nullable=False),
        Column("first_at", TIME, nullable=False),
        Column("last_at", TIME, nullable=False),
        Index("ix_source_hours_hour", "hour"),
        comment="One row per source and hour: the outcomes of what it posted.",
    )


def create_ledger_chain() -> None:
    op.create_table(
        "ledger_chain",
        Column(
            "ledger_link_id", BigInteger, primary_key=True, autoincrement=False, comment="1, 2, 3, … without a hole"
        ),
        Column("linked_at", TIME, nullable=False),
        Column("hash", LargeBinary, nullable=False, comment="SHA-256; see service/ledger/hash_chain.py"),
        comment="One row per flush that wrote closings, dispatches, receipts or sightings, linked to the previous one.",
    )


def create_revocations() -> None:
    op.create_table(
        "revocations",
        Column("id", BigInteger, Identity(always=True), primary_key=True, comment="grows in the order of the commits"),
        Column("jti", Text, comment="the jti of a token"),
        Column("subject", Text, comment="the sub of tokens"),
        Column("issued_before", TIME, comment="of a subject: tokens whose iat is before it"),
        Column("connection_id", Uuid, comment="a connection to close; its token stays valid"),
        Column(
            "deactivated",
            Boolean,
            comment="of a subject: no token of it is accepted from then on; false: one may be again",
        ),
        Column("reason", Text),
        Column("revoked_by", Text, nullable=False, comment="the subject of the token that requested it"),
        Column("revoked_at", TIME, nullable=False),
        Column("expires_at", TIME, nullable=False, comment="what it covers has expired by then"),
        CheckConstraint("num_nonnulls(jti, subject, connection_id) = 1", name="one_target"),
        CheckConstraint("(subject IS NULL) = (issued_before IS NULL)", name="subject_before"),
        CheckConstraint("deactivated IS NULL OR subject IS NOT NULL", name="deactivated_subject"),
        Index("ix_revocations_expires_at", "expires_at"),
        Index("ix_revocations_deactivated", "subject", postgresql_where=text("deactivated IS NOT NULL")),
        comment="Revoked tokens, subjects and connections, kept until what they cover has expired.",
    )


def create_retention() -> None:
    op.create_table(
        "retention_runs",
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("at", TIME, nullable=False),
        Column("older_than", TIME, nullable=False),
        Column("partition", Text, comment="the deleted partition of the log; null: none"),
        Column("first_seq", BigInteger),
        Column("last_seq", BigInteger, unique=True),
        Column("last_id", BigInteger, comment="the id of the event at last_seq"),
        Column("log_hash", LargeBinary, comment="of the link that ended at last_seq"),
        Column("archive", Text, comment="the file that holds its events"),
        Column(
            "dropped_at",
            TIME,
            comment="when the partition was dropped; null: not yet, or there is none",
        ),
        Column("ledger_link_id", BigInteger, comment="the last deleted link of the ledger's chain"),
        Column("ledger_hash", LargeBinary, comment="of that link"),
        count_of("events"),
        count_of("alerts"),
        count_of("unresolved_alerts"),
        count_of("connections"),
        count_of("dispatches"),
        count_of("receipts"),
        count_of("sightings"),
        count_of("rejections"),
        count_of("rejection_hours"),
        count_of("idempotency_keys"),
        count_of("source_hours"),
        comment="What retention deleted: one row per partition, and one per run that deleted something else.",
    )


def create_message_key() -> None:
    op.create_table(
        "message_key",
        Column("is_one", Boolean, primary_key=True, server_default=text("true"), comment="so that there is one row"),
        Column("key", LargeBinary, nullable=False, comment="random, made by the migration"),
        CheckConstraint("is_one", name="is_one"),
        comment="The key of the HMAC over what nodes send one another by NOTIFY.",
    )
    # Made by PostgreSQL, so that no log of statements shows it: two UUIDs are 244 random bits.
    op.execute(
        "INSERT INTO message_key (key) VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))"
    )


def count_of(name: str) -> Column[int]:
    """Return the column that counts the deleted rows of a kind."""
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def downgrade() -> None:
    execute_file("drop_all")
