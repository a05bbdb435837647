"""The table of revocations. Operators read the view ``audit.revocations``."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Identity, Index, Table, Text, Uuid

from service.database.base import metadata

revocations = Table(
    "revocations",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="grows in the order of the commits"),
    Column("jti", Text, comment="the jti of a token"),
    Column("subject", Text, comment="the sub of tokens"),
    Column("issued_before", DateTime(timezone=True), comment="of a subject: tokens whose iat is before it"),
    Column("connection_id", Uuid, comment="a connection to close; its token stays valid"),
    Column("reason", Text),
    Column("revoked_by", Text, nullable=False, comment="the subject of the token that requested it"),
    Column("revoked_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False, comment="what it covers has expired by then"),
    CheckConstraint("num_nonnulls(jti, subject, connection_id) = 1", name="one_target"),
    CheckConstraint("(subject IS NULL) = (issued_before IS NULL)", name="subject_before"),
    Index("ix_revocations_expires_at", "expires_at"),
    comment="Revoked tokens, subjects and connections, kept until what they cover has expired.",
)
