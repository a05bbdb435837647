"""The values that go over the wire, typed: the alert that is posted, and the alert and event that come back.

What comes back is read leniently: a newer service may send fields and kinds that this client does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Required, TypedDict

Severity = Literal["info", "warning", "error", "critical"]


class Link(TypedDict):
    """A link that is shown under an alert."""

    title: str
    url: str


class AlertFields(TypedDict, total=False):
    """What an alert may have beside its title.

    ``expires_at`` is a time with a zone, ``escalate_after`` is in seconds. ``idempotency_key`` names this very post:
    the client makes one up unless the caller has a better one, such as the id of the job that failed, which holds
    across restarts of the caller too.
    """

    topic: str
    severity: Severity
    body: str | None
    attributes: dict[str, Any]
    links: list[Link]
    recipients: list[str] | None
    dedup_key: str | None
    expires_at: datetime | str | None
    escalate_after: int | None
    idempotency_key: str


class NewAlert(AlertFields, total=False):
    """An alert to post."""

    title: Required[str]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as everybody is shown it."""

    id: str
    source: str
    topic: str
    severity: Severity
    title: str
    body: str | None
    attributes: dict[str, Any]
    links: list[Link]
    recipients: list[str] | None
    dedup_key: str | None
    status: str
    occurrences: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None

    @classmethod
    def of(cls, wire: dict[str, Any]) -> Alert:
        """Read the JSON of an alert."""
        expires_at = wire.get("expires_at")
        return cls(
            id=wire["id"],
            source=wire["source"],
            topic=wire["topic"],
            severity=wire["severity"],
            title=wire["title"],
            body=wire.get("body"),
            attributes=wire.get("attributes") or {},
            links=wire.get("links") or [],
            recipients=wire.get("recipients"),
            dedup_key=wire.get("dedup_key"),
            status=wire["status"],
            occurrences=wire.get("occurrences", 1),
            created_at=datetime.fromisoformat(wire["created_at"]),
            updated_at=datetime.fromisoformat(wire["updated_at"]),
            expires_at=datetime.fromisoformat(expires_at) if expires_at else None,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an alert. ``raw`` is the whole frame, with what ``kind`` adds."""

    seq: int
    kind: str
    at: datetime
    actor: str
    alert: Alert
    raw: dict[str, Any]

    @classmethod
    def of(cls, frame: dict[str, Any]) -> Event:
        """Read an ``event`` frame."""
        return cls(
            seq=frame["seq"],
            kind=frame["kind"],
            at=datetime.fromisoformat(frame["at"]),
            actor=frame["actor"],
            alert=Alert.of(frame["alert"]),
            raw=frame,
        )
