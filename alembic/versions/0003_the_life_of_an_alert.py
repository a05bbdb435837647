"""The life of an alert: who brought it where it stands, what repeats it, and what becomes due.

Alerts that were posted with one ``dedup_key`` before keys meant anything stay as they are; all but the newest give up
the key, so that from here on no two unresolved alerts of a topic hold the same one.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0003"
down_revision = "0002"

TIME = sa.DateTime(timezone=True)
UNRESOLVED = "status IN ('open', 'acknowledged')"

KEEP_NEWEST_KEY = f"""
UPDATE alerts SET dedup_key = NULL
WHERE {UNRESOLVED} AND dedup_key IS NOT NULL AND seq < (
    SELECT max(newer.seq) FROM alerts newer
    WHERE newer.topic = alerts.topic AND newer.dedup_key = alerts.dedup_key AND newer.{UNRESOLVED}
)
"""  # noqa: S608 - constant

# As in 0002; an alert is now born with who brought it where it stands. Alerts with a dedup key or an escalation come
# another way: what becomes of them depends on what is there, and is decided in service/alerts/lifecycle.py.
APPEND_ALERTS = """
CREATE OR REPLACE FUNCTION append_alerts(alerts json, keys text[], hashes text[])
RETURNS TABLE (ordinal bigint, seq bigint, replayed boolean, mismatch boolean, body json)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head bigint;
    repeats bigint[] := '{}';
    stored bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7405002);
    SELECT coalesce(max(e.seq), 0) INTO head FROM events e;
    IF keys IS NOT NULL THEN
        SELECT array_agg(i.ordinal) INTO repeats
        FROM (
            SELECT *, row_number() OVER (PARTITION BY source, keys[ordinal] ORDER BY ordinal) AS turn
            FROM ROWS FROM (json_to_recordset(alerts) AS (source text)) WITH ORDINALITY AS a (source, ordinal)
            WHERE keys[ordinal] IS NOT NULL
        ) AS i LEFT JOIN idempotency_keys k ON k.source = i.source AND k.key = keys[i.ordinal]
        WHERE i.turn > 1 OR k.seq IS NOT NULL;
    END IF;
    RETURN QUERY
    WITH fresh AS MATERIALIZED (
        SELECT i.ordinal, head + row_number() OVER (ORDER BY i.ordinal) AS seq, i.alert, a.*
        FROM json_array_elements(alerts) WITH ORDINALITY AS i (alert, ordinal),
             json_to_record(i.alert) AS a (
                id uuid, source text, topic text, severity severity, title text, body text, attributes jsonb,
                links jsonb, recipients text[], created_at timestamptz, expires_at timestamptz)
        WHERE repeats IS NULL OR i.ordinal <> ALL (repeats)
    ), stored_alerts AS (
        INSERT INTO alerts (id, seq, source, topic, severity, title, body, attributes, links, recipients,
                            status_by, status_at, created_at, updated_at, expires_at)
        SELECT id, seq, source, topic, severity, title, body, attributes, links, recipients,
               source, created_at, created_at, created_at, expires_at
        FROM fresh
    ), stored_events AS (
        INSERT INTO events (seq, alert_id, kind, topic, severity, recipients, actor, occurred_at, body)
        SELECT seq, id, 'alert.created', topic, severity, recipients, source, created_at, alert FROM fresh
    ), stored_keys AS (
        INSERT INTO idempotency_keys (source, key, body_hash, seq, created_at)
        SELECT source, keys[ordinal], decode(hashes[ordinal], 'hex'), seq, created_at FROM fresh
        WHERE keys[ordinal] IS NOT NULL
    )
    SELECT ordinal, seq, false, false, NULL::json FROM fresh;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF repeats <> '{}' THEN
        RETURN QUERY
        SELECT i.ordinal, k.seq, true, k.body_hash <> decode(hashes[i.ordinal], 'hex'), e.body
        FROM ROWS FROM (json_to_recordset(alerts) AS (source text)) WITH ORDINALITY AS i (source, ordinal)
        JOIN idempotency_keys k ON k.source = i.source AND k.key = keys[i.ordinal]
        LEFT JOIN events e ON e.seq = k.seq
        WHERE i.ordinal = ANY (repeats);
    END IF;
    IF stored > 0 THEN
        PERFORM pg_notify('tocsin_events', (head + stored)::text);
    END IF;
END $$
"""


def upgrade() -> None:
    op.execute(KEEP_NEWEST_KEY)
    op.add_column("alerts", sa.Column("status_by", sa.Text))
    op.add_column("alerts", sa.Column("status_at", TIME))
    op.execute(
        "UPDATE alerts SET status_by = coalesce(resolved_by, acknowledged_by, source),"
        " status_at = coalesce(resolved_at, acknowledged_at, created_at)"
    )
    op.alter_column(
        "alerts",
        "status_by",
        nullable=False,
        comment="who brought it where it stands: the source while it was never touched",
    )
    op.alter_column("alerts", "status_at", nullable=False)
    for name in ("acknowledged_at", "acknowledged_by", "resolved_at", "resolved_by"):
        op.drop_column("alerts", name)
    for column in (
        sa.Column("escalate_after", sa.Integer, comment="seconds without an acknowledgement"),
        sa.Column("escalate_at", TIME, comment="when it goes to all who may see its topic; null: not, or no longer"),
        sa.Column("repeated_at", TIME, comment="of the last alert.repeated in the log"),
        sa.Column("repeat_at", TIME, comment="when repetitions that are only counted so far go to the log"),
        sa.Column(
            "due_at",
            TIME,
            sa.Computed("least(expires_at, escalate_at, repeat_at)", persisted=True),
            comment="when the service has to look at it next",
        ),
    ):
        op.add_column("alerts", column)
    op.create_index(
        "uq_alerts_dedup_key",
        "alerts",
        ["topic", "dedup_key"],
        unique=True,
        postgresql_where=sa.text(f"{UNRESOLVED} AND dedup_key IS NOT NULL"),
    )
    op.create_index(
        "ix_alerts_due_at", "alerts", ["due_at"], postgresql_where=sa.text(f"{UNRESOLVED} AND due_at IS NOT NULL")
    )
    op.add_column(
        "events", sa.Column("extra", postgresql.JSON, comment="what the kind adds to the frame, such as a comment")
    )
    op.add_column(
        "idempotency_keys",
        sa.Column("answer", postgresql.JSON, comment="the first answer where it is not the body of that event"),
    )
    op.execute(APPEND_ALERTS)


def downgrade() -> None:
    op.execute(
        runpy.run_path(str(Path(__file__).with_name("0002_append_without_keys.py")))["APPEND_ALERTS"].replace(
            "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
        )
    )
    op.drop_column("idempotency_keys", "answer")
    op.drop_column("events", "extra")
    op.drop_index("ix_alerts_due_at", "alerts")
    op.drop_index("uq_alerts_dedup_key", "alerts")
    for column in ("acknowledged_at", "resolved_at"):
        op.add_column("alerts", sa.Column(column, TIME))
    for column in ("acknowledged_by", "resolved_by"):
        op.add_column("alerts", sa.Column(column, sa.Text))
    for status in ("acknowledged", "resolved"):
        op.execute(f"UPDATE alerts SET {status}_by = status_by, {status}_at = status_at WHERE status = '{status}'")  # noqa: S608
    for column in ("due_at", "repeat_at", "repeated_at", "escalate_at", "escalate_after", "status_at", "status_by"):
        op.drop_column("alerts", column)
