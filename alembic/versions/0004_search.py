"""Search: an index of words and attributes that is filled behind the log, and an index of time."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "alert_search",
        sa.Column("seq", sa.BigInteger, autoincrement=False, nullable=False, comment="the alert's"),
        sa.Column("words", postgresql.TSVECTOR, nullable=False, comment="of the title and the body"),
        sa.Column("attributes", postgresql.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_alert_search"),
        comment="What alerts are searched by, up to its last seq; the service fills it behind the log.",
    )
    op.create_index("ix_alert_search_words", "alert_search", ["words"], postgresql_using="gin")
    op.create_index(
        "ix_alert_search_attributes",
        "alert_search",
        ["attributes"],
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
    )
    op.create_index(
        "ix_alerts_created_at",
        "alerts",
        ["created_at"],
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    )


def downgrade() -> None:
    op.drop_index("ix_alerts_created_at", "alerts")
    op.drop_table("alert_search")
