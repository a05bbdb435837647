"""Revocations: of a token, of a subject's tokens, of a stream."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"

TIME = sa.DateTime(timezone=True)

AUDIT_REVOCATIONS = """
CREATE VIEW audit.revocations AS
SELECT id AS revocation, token_id, subject, issued_before, connection_id AS connection, reason, revoked_by, revoked_at,
       expires_at
FROM revocations
"""

AUDIT_COMMENTS = {
    "revocation": "its number, in the order of the commits",
    "token_id": "the jti of the token that was revoked",
    "subject": "the subject whose tokens were revoked",
    "issued_before": "of a subject: the tokens that were issued before this",
    "connection": "the stream that was closed",
    "reason": "why, as it was given",
    "revoked_by": "the subject of the token that asked for it",
    "revoked_at": "when",
    "expires_at": "until when it is kept: what it covers has expired by itself by then",
}


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column(
            "id",
            sa.BigInteger,
            sa.Identity(always=True),
            nullable=False,
            comment="grows in the order of the commits",
        ),
        sa.Column("token_id", sa.Text, comment="the jti of a token"),
        sa.Column("subject", sa.Text, comment="the sub of tokens"),
        sa.Column("issued_before", TIME, comment="of a subject: tokens whose iat is before it"),
        sa.Column("connection_id", sa.Uuid, comment="a stream to close; its token stays good"),
        sa.Column("reason", sa.Text),
        sa.Column("revoked_by", sa.Text, nullable=False, comment="the subject of the token that asked for it"),
        sa.Column("revoked_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False, comment="what it covers is over by then"),
        sa.CheckConstraint("num_nonnulls(token_id, subject, connection_id) = 1", name="ck_revocations_one_target"),
        sa.CheckConstraint("(subject IS NULL) = (issued_before IS NULL)", name="ck_revocations_subject_before"),
        sa.PrimaryKeyConstraint("id", name="pk_revocations"),
        comment="What was taken back before its time, until it would have ended by itself.",
    )
    op.create_index("ix_revocations_expires_at", "revocations", ["expires_at"])
    op.execute(AUDIT_REVOCATIONS)
    op.execute(
        "COMMENT ON VIEW audit.revocations IS"
        " 'One row for each revocation of a token, of a subject, or of a stream, until what it covers has expired.'"
    )
    for column, comment in AUDIT_COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN audit.revocations.{column} IS '{comment}'")


def downgrade() -> None:
    op.execute("DROP VIEW audit.revocations")
    op.drop_table("revocations")
