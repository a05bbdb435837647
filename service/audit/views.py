"""The views of the schema ``audit``, for the queries; ``alembic/sql/`` creates them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, JSON, BigInteger, Boolean, DateTime, Integer, Interval, Text, Uuid, table
from sqlalchemy.sql import column

from service.database.base import severity_type, status_type

if TYPE_CHECKING:
    from sqlalchemy import TableClause
    from sqlalchemy.types import TypeEngine

_TIME = DateTime(timezone=True)


def _view(name: str, **columns: type[TypeEngine[Any]] | TypeEngine[Any]) -> TableClause:
    return table(name, *(column(each, kind) for each, kind in columns.items()), schema="audit")


deliveries = _view(
    "deliveries",
    seq=BigInteger,
    alert_id=Uuid,
    kind=Text,
    topic=Text,
    severity=severity_type,
    recipient=Text,
    connection=Uuid,
    node=Uuid,
    occurred_at=_TIME,
    sent_at=_TIME,
    received_at=_TIME,
    latency=Interval,
    seen_at=_TIME,
    replayed=Boolean,
)

sightings = _view("sightings", alert_id=Uuid, seq=BigInteger, recipient=Text, seen_at=_TIME)

unreceived = _view(
    "unreceived",
    alert_id=Uuid,
    seq=BigInteger,
    topic=Text,
    severity=severity_type,
    title=Text,
    status=status_type,
    recipient=Text,
    occurred_at=_TIME,
    waiting=Interval,
    sent_at=_TIME,
    seen_at=_TIME,
)

timeline = _view(
    "timeline", alert_id=Uuid, at=_TIME, seq=BigInteger, action=Text, actor=Text, connection=Uuid, details=JSON
)

connections = _view(
    "connections",
    connection=Uuid,
    node=Uuid,
    host=Text,
    recipient=Text,
    transport=Text,
    topics=ARRAY(Text),
    min_severity=severity_type,
    remote_addr=Text,
    user_agent=Text,
    jti=Text,
    token_expires_at=_TIME,
    opened_at=_TIME,
    closed_at=_TIME,
    duration=Interval,
    close_code=Integer,
    close_reason=Text,
    after_seq=BigInteger,
    sent_seq=BigInteger,
    received_seq=BigInteger,
)

rejections = _view(
    "rejections",
    rejection=Uuid,
    at=_TIME,
    node=Uuid,
    remote_addr=Text,
    path=Text,
    reason=Text,
    subject=Text,
    origin=Text,
    user_agent=Text,
)

rejection_counts = _view("rejection_counts", hour=_TIME, reason=Text, rejections=BigInteger)

sources = _view(
    "sources",
    source=Text,
    hour=_TIME,
    alerts=BigInteger,
    repeated=BigInteger,
    replayed=BigInteger,
    refused=BigInteger,
    first_at=_TIME,
    last_at=_TIME,
)

log_gaps = _view("log_gaps", after_seq=BigInteger, before_seq=BigInteger, missing=BigInteger)
