"""The table of revocations. Operators read the view ``audit.revocations``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, DateTime, Identity, Index, Table, Text, Uuid, text

from service.database.base import metadata

revocations = Table(
    "revocations",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="grows in the order of the commits"),
    Column("jti", Text, comment="the jti of a token"),
    Column("subject", Text, comment="the sub of tokens"),
    Column("issued_before", DateTime(timezone=True), comment="of a subject: tokens whose iat is before it"),
    Column("connection_id", Uuid, comment="a connection to close; its token stays valid"),
    Column(
        "deactivated", Boolean, comment="of a subject: no token of it is accepted from then on; false: one may be again"
    ),
    Column("reason", Text),
    Column("revoked_by", Text, nullable=False, comment="the subject of the token that requested it"),
    Column("revoked_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False, comment="what it covers has expired by then"),
    CheckConstraint("num_nonnulls(jti, subject, connection_id) = 1", name="one_target"),
    CheckConstraint("(subject IS NULL) = (issued_before IS NULL)", name="subject_before"),
    CheckConstraint("deactivated IS NULL OR subject IS NOT NULL", name="deactivated_subject"),
    Index("ix_revocations_expires_at", "expires_at"),
    Index("ix_revocations_deactivated", "subject", postgresql_where=text("deactivated IS NOT NULL")),
    comment="Revoked tokens, subjects and connections, kept until what they cover has expired.",
)
