"""The tables of alerts: their current state, their search index, resolutions, and idempotency keys."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from service.database.base import metadata, severity_type, status_type

_UNRESOLVED = "status IN ('open', 'acknowledged')"

alerts = Table(
    "alerts",
    metadata,
    Column("id", Uuid, primary_key=True, comment="UUIDv7, made before the commit"),
    Column("seq", BigInteger, nullable=False, unique=True, comment="the event that created it"),
    Column("source", Text, nullable=False, comment="the subject of the token that posted it"),
    Column("topic", Text, nullable=False),
    Column("severity", severity_type, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text),
    Column("attributes", JSONB, nullable=False),
    Column("links", JSONB, nullable=False),
    Column("recipients", ARRAY(Text), comment="these admins only; null: all who may see the topic"),
    Column("dedup_key", Text),
    Column("dedup_audience", Text, comment="of the recipients it was posted with: see service/alerts/dedup.py"),
    Column(
        "occurred_at",
        DateTime(timezone=True),
        comment="the latest occurrence, by the source's clock; null: the source does not say",
    ),
    Column("status", status_type, nullable=False, server_default=text("'open'::alert_status")),
    Column(
        "status_by",
        Text,
        nullable=False,
        comment="who set the status: the source until somebody acts",
    ),
    Column("status_at", DateTime(timezone=True), nullable=False),
    Column("occurrences", Integer, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("escalate_after", Integer, comment="seconds without an acknowledgement"),
    Column(
        "escalate_at",
        DateTime(timezone=True),
        comment="when it is sent to all who may see its topic; null: never, or done",
    ),
    Column("last_repeat_event_at", DateTime(timezone=True), comment="when the last alert.repeated event was appended"),
    Column(
        "repeat_event_due_at",
        DateTime(timezone=True),
        comment="when repeats that are only counted so far become an event",
    ),
    Column(
        "due_at",
        DateTime(timezone=True),
        Computed(
            "CASE WHEN status = ANY (ARRAY['open'::alert_status, 'acknowledged'::alert_status])"
            " THEN least(expires_at, escalate_at, repeat_event_due_at) ELSE repeat_event_due_at END",
            persisted=True,
        ),
        comment="when the service must process it next",
    ),
    Index("ix_alerts_topic_seq", "topic", "seq"),
    Index("ix_alerts_unresolved", "seq", postgresql_where=text(_UNRESOLVED)),
    Index("ix_alerts_dedup_key", "dedup_key", "seq", postgresql_where=text("dedup_key IS NOT NULL")),
    Index(
        "uq_alerts_dedup_key",
        "source",
        "topic",
        "dedup_key",
        "dedup_audience",
        unique=True,
        postgresql_where=text(f"{_UNRESOLVED} AND dedup_key IS NOT NULL"),
    ),
    Index(
        "ix_alerts_created_at",
        "created_at",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    Index("ix_alerts_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    comment="The current state of each alert.",
)

alert_search = Table(
    "alert_search",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False, comment="of the alert"),
    Column("words", Text, nullable=False, comment="of what people search it by: see alembic/sql/search_words.sql"),
    Column("attributes", JSONB, nullable=False),
    Column("recipients", ARRAY(Text), comment="with which it was posted"),
    Index("ix_alert_search_words", text("array_to_tsvector(word_lexemes(words))"), postgresql_using="gin"),
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

search_changes = Table(
    "search_changes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("seq", BigInteger, nullable=False, comment="of the alert"),
    comment="Indexed alerts whose words or attributes have changed since, until they are indexed again.",
)

resolutions = Table(
    "resolutions",
    metadata,
    Column("source", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("dedup_key", Text, primary_key=True),
    Column("dedup_audience", Text, primary_key=True),
    Column("alert_id", Uuid, comment="the alert that was resolved; null: there was none"),
    Column("resolved_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True), comment="by the source's clock; null: only people resolved it"),
    Index("ix_resolutions_resolved_at", "resolved_at"),
    comment="The last resolution of a dedup key, kept for a day: see service/alerts/late_posts.py.",
)

commit_attempts = Table(
    "commit_attempts",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="random, made before the commit"),
    Column(
        "committed",
        Boolean,
        nullable=False,
        comment="written by a transaction of commands itself; false: recovery gave the attempt up",
    ),
    Column("at", DateTime(timezone=True), nullable=False),
    comment="Attempts to commit, kept for an hour: those that have no other trace, and those that were given up.",
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("source", Text, primary_key=True, comment="keys of different sources are separate"),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False, comment="SHA-256 of the canonical request"),
    Column("seq", BigInteger, comment="the event whose body is the first answer; null: of a batch"),
    Column("answer", JSON, comment="the first answer where it is not the body of that event; null: not yet answered"),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
    comment="Requests with an Idempotency-Key, kept for a day.",
)
