"""A model of who may do what on alerts: the rules of the design in plain Python, which shares nothing with the service.

It predicts the status of each request, and what the answer may show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SUMMARY = {"id", "seq", "status", "occurrences"}
"""What a token that may not read an alert learns of it."""
NEXT = {
    "acknowledge": ("acknowledged", ("open",)),
    "resolve": ("resolved", ("open", "acknowledged")),
    "reopen": ("open", ("acknowledged", "resolved")),
}


@dataclass(frozen=True)
class Token:
    """A token; ``topics`` of None are all."""

    subject: str
    scopes: frozenset[str]
    topics: tuple[str, ...] | None

    def has(self, *scopes: str) -> bool:
        return not self.scopes.isdisjoint(scopes)

    def covers(self, topic: str) -> bool:
        return self.topics is None or any(
            pattern in ("*", topic) or (pattern[-2:] == ".*" and topic.startswith(pattern[:-1]))
            for pattern in self.topics
        )


@dataclass
class ModelAlert:
    """An alert as the model knows it."""

    id: str
    source: str
    topic: str
    recipients: list[str] | None
    title: str
    key: str | None
    status: str = "open"
    status_by: str = ""
    occurrences: int = 1

    @property
    def is_unresolved(self) -> bool:
        return self.status in ("open", "acknowledged")


@dataclass
class Model:
    """All alerts, and the rules. ``groups`` are sets of sources that share their keys."""

    groups: list[set[str]]
    alerts: list[ModelAlert] = field(default_factory=list)

    def sees(self, token: Token, alert: ModelAlert) -> bool:
        return token.covers(alert.topic) and (alert.recipients is None or token.subject in alert.recipients)

    def reads(self, token: Token, alert: ModelAlert) -> bool:
        return token.has("alerts:read") and self.sees(token, alert)

    def looks_up(self, token: Token, alert: ModelAlert) -> bool:
        """Say whether a token shows an alert to its bearer, who may be its source."""
        is_own = token.has("alerts:write") and alert.source == token.subject and token.covers(alert.topic)
        return is_own or self.reads(token, alert)

    def lists(self, token: Token, alert: ModelAlert) -> bool:
        return self.reads(token, alert) if token.has("alerts:read") else self.looks_up(token, alert)

    def share(self, source: str, other: str) -> bool:
        return source == other or any({source, other} <= group for group in self.groups)

    def repeated_by(self, source: str, posted: dict[str, Any]) -> ModelAlert | None:
        """Return the unresolved alert that a post of ``source`` repeats."""
        return next(
            (
                alert
                for alert in self.alerts
                if alert.is_unresolved
                and alert.key is not None
                and (alert.key, alert.topic) == (posted.get("dedup_key"), posted["topic"])
                and self.share(alert.source, source)
                and _same_people(alert.recipients, posted.get("recipients"))
            ),
            None,
        )

    # The status of a request. An alert of None does not exist.

    def post(self, token: Token, topic: str) -> str | None:
        """Return the code of the refusal of a post."""
        if not token.has("alerts:write"):
            return "scope_missing"
        if topic.startswith(("tocsin.", "drill.")):
            return "topic_reserved"
        return None if token.covers(topic) else "topic_forbidden"

    def read(self, token: Token, alert: ModelAlert | None) -> int:
        if not token.has("alerts:read"):
            return 403
        return 200 if alert is not None and self.sees(token, alert) else 404

    def look_up(self, token: Token, alert: ModelAlert | None) -> int:
        if alert is not None and self.looks_up(token, alert):
            return 200
        return 404 if token.has("alerts:read") else 403

    def receipts(self, token: Token, alert: ModelAlert | None) -> int:
        if not token.has("alerts:manage", "audit:read"):
            return 403
        if alert is None or not token.covers(alert.topic):
            return 404
        return 200 if token.has("audit:read") or self.sees(token, alert) else 404

    def audit(self, token: Token, alert: ModelAlert | None) -> int:
        if not token.has("audit:read"):
            return 403
        return 200 if alert is not None and token.covers(alert.topic) else 404

    def manage(self, token: Token, alert: ModelAlert | None) -> int:
        if not token.has("alerts:manage"):
            return 403
        return 200 if alert is not None and self.sees(token, alert) else 404

    def resolve(self, token: Token, alert: ModelAlert | None) -> int:
        if not token.has("alerts:manage", "alerts:write"):
            return 403
        if alert is not None and token.covers(alert.topic):
            if token.has("alerts:write") and alert.source == token.subject:
                return 200
            if token.has("alerts:manage") and self.sees(token, alert):
                return 200
        if token.has("alerts:manage"):
            return 404
        reads = alert is not None and self.reads(token, alert)
        return 403 if reads or not token.has("alerts:read") else 404

    def act(self, token: Token, action: str, alert: ModelAlert | None) -> int:
        """Return the status of an action, and carry it out."""
        status = self.resolve(token, alert) if action == "resolve" else self.manage(token, alert)
        if status != 200 or alert is None:
            return status
        target, sources = NEXT[action]
        if (alert.status, alert.status_by) == (target, token.subject):
            return 200
        if alert.status not in sources:
            return 409
        if not alert.is_unresolved and self._place_is_taken(alert):
            return 409
        alert.status, alert.status_by = target, token.subject
        return 200

    def _place_is_taken(self, alert: ModelAlert) -> bool:
        if alert.key is None:
            return False
        posted = {"dedup_key": alert.key, "topic": alert.topic, "recipients": alert.recipients}
        return self.repeated_by(alert.source, posted) is not None

    def resolve_key(self, token: Token, topic: str | None, key: str) -> int:
        """Resolve the alerts that the source, or its group, knows by a key, and return how many."""
        found = [
            alert
            for alert in self.alerts
            if alert.is_unresolved
            and alert.key == key
            and topic in (None, alert.topic)
            and token.covers(alert.topic)
            and self.share(alert.source, token.subject)
        ]
        for alert in found:
            alert.status, alert.status_by = "resolved", token.subject
        return len(found)


def _same_people(some: list[str] | None, others: list[str] | None) -> bool:
    if some is None or others is None:
        return some is others
    return set(some) == set(others)
