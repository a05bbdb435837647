"""Who posts alerts: what became of them, counted by source and hour, and the view that shows it."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0008"
down_revision = "0007"

TIME = sa.DateTime(timezone=True)

AUDIT_CALLERS = """
CREATE VIEW audit.callers AS
SELECT source, hour, alerts, repeated, replayed, refused, first_at, last_at FROM callers
"""

AUDIT_COMMENTS = {
    "source": "who posted: the subject of the token; empty: all those together that a node did not count apart",
    "hour": "when the hour began, in UTC",
    "alerts": "alerts that were stored",
    "repeated": "alerts that repeated an unresolved one with the same dedup_key, and were counted there",
    "replayed": "retries that were answered from their idempotency key, and stored nothing",
    "refused": "requests, and items of batches, that brought a valid token and were answered with an error",
    "first_at": "when the first of these was answered",
    "last_at": "when the last of these was answered",
}


def upgrade() -> None:
    op.create_table(
        "callers",
        sa.Column("source", sa.Text, nullable=False, comment="the subject of the token; empty: those beyond the limit"),
        sa.Column("hour", TIME, nullable=False, comment="when the hour began, in UTC"),
        sa.Column("alerts", sa.BigInteger, nullable=False),
        sa.Column("repeated", sa.BigInteger, nullable=False),
        sa.Column("replayed", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("source", "hour", name="pk_callers"),
        comment="One row a source of alerts and hour: what became of what it posted.",
    )
    op.create_index("ix_callers_hour", "callers", ["hour"])
    op.execute(AUDIT_CALLERS)
    op.execute(
        "COMMENT ON VIEW audit.callers IS"
        " 'One row for each source of alerts and each hour. It may say less than happened, never more.'"
    )
    for column, comment in AUDIT_COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN audit.callers.{column} IS '{comment}'")


def downgrade() -> None:
    op.execute("DROP VIEW audit.callers")
    op.drop_table("callers")
