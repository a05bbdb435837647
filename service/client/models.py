"""The values on the wire, typed: the alert to post, and the alerts and events that come back.

Reading is lenient: a newer service may send fields and kinds that this client does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Required, TypedDict

Severity = Literal["info", "warning", "error", "critical"]


class Link(TypedDict):
    """A link shown under an alert."""

    title: str
    url: str


class AlertFields(TypedDict, total=False):
    """The optional fields of an alert.

    ``expires_at`` is a time with a zone, ``escalate_after`` is in seconds. ``idempotency_key``
    identifies this post: the client generates one unless it is given, for example the id of a
    failed job, which survives restarts of the source.
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
    """The current state of an alert."""

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
class Activation:
    """Whether a recipient is deactivated: since when, by whom and why.

    ``unconfirmed`` are the nodes that have not confirmed the change, and refuse every token until
    they have read it; None where that is not known.
    """

    id: str
    deactivated_at: datetime | None
    deactivated_by: str | None
    reason: str | None
    unconfirmed: list[str] | None

    @classmethod
    def of(cls, wire: dict[str, Any]) -> Activation:
        """Read the answer to a deactivation or a reactivation."""
        at = wire["deactivated_at"]
        return cls(
            id=wire["id"],
            deactivated_at=datetime.fromisoformat(at) if at else None,
            deactivated_by=wire["deactivated_by"],
            reason=wire["reason"],
            unconfirmed=wire.get("unconfirmed", []),
        )


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """An event of the log.

    ``id`` is never used again, while a ``seq`` is, by a log that lost its last events. ``cursor``
    is where a stream resumes after this event. ``raw`` is the whole frame, with the fields of its
    ``kind``.
    """

    seq: int
    id: str
    cursor: str
    kind: str
    at: datetime
    actor: str
    alert: Alert
    raw: dict[str, Any]

    @classmethod
    def of(cls, frame: dict[str, Any]) -> AlertEvent:
        """Read an ``event`` frame."""
        return cls(
            seq=frame["seq"],
            id=frame["id"],
            cursor=frame["cursor"],
            kind=frame["kind"],
            at=datetime.fromisoformat(frame["at"]),
            actor=frame["actor"],
            alert=Alert.of(frame["alert"]),
            raw=frame,
        )
