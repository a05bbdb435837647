"""The metadata of all tables, and the types that they share."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlalchemy.dialects.postgresql import ENUM

from service.severity import SEVERITIES

STATUSES = ("open", "acknowledged", "resolved", "expired")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Enumerations, so that PostgreSQL compares severities by their order.
severity_type = ENUM(*SEVERITIES, name="severity", metadata=metadata)
status_type = ENUM(*STATUSES, name="alert_status", metadata=metadata)
