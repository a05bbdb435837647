"""Alerts for tests: as they are posted, and as they are stored."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from service.alerts.alert_record import AlertRecord
from service.alerts.dedup import audience_of
from service.alerts.schemas import AlertIn
from service.auth.principal import Principal, Scope
from service.database.ids import uuid7
from service.topics import EVERY_TOPIC

NOW = datetime(2026, 11, 21, 9, 41, 7, 123456, UTC)
BILLING = Principal("billing", frozenset({Scope.ALERTS_WRITE}), EVERY_TOPIC, expires_at=2e9)


def bearer(subject: str, *scopes: Scope, topics: tuple[str, ...] = EVERY_TOPIC) -> Principal:
    """Return the bearer of a token with ``scopes``; without any, an admin who reads and manages."""
    return Principal(subject, frozenset(scopes or (Scope.ALERTS_READ, Scope.ALERTS_MANAGE)), topics, expires_at=2e9)


EVERY_FIELD: dict[str, Any] = {
    "topic": "payments.eu",
    "severity": "critical",
    "title": "Card acceptance below 80 %",
    "body": "Acquirer X times out since 09:41 UTC.\nRetries are on.",
    "attributes": {"acquirer": "X", "rate": 0.78, "codes": [91, None, True], "größe": {"ü": "🔔"}},
    "links": [{"title": "Runbook", "url": "https://runbooks.example/acquirer"}],
    "recipients": ["billing", "Zoë"],
    "dedup_key": "acceptance/X",
    "expires_at": "2999-01-01T01:00:00+01:00",
    "escalate_after": 900,
}


def posted(**fields: Any) -> AlertIn:
    """Return an alert as a source posts it."""
    return AlertIn.model_validate({"title": "It happened", **fields})


def stored(**fields: Any) -> AlertRecord:
    """Return an open alert as it is stored."""
    defaults: dict[str, Any] = {
        "id": uuid7(),
        "seq": 1,
        "source": "billing",
        "topic": "default",
        "severity": "warning",
        "title": "It happened",
        "body": None,
        "attributes": {},
        "links": [],
        "recipients": None,
        "dedup_key": None,
        "status": "open",
        "status_by": "billing",
        "status_at": NOW,
        "occurrences": 1,
        "created_at": NOW,
        "updated_at": NOW,
        "expires_at": None,
    }
    merged = defaults | fields
    if merged["dedup_key"] is not None:
        merged.setdefault("dedup_audience", audience_of(merged["recipients"]))
    return AlertRecord(**merged)
