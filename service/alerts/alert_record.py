"""The state of an alert: its fields, once.

The fields of ``AlertRecord`` generate the columns that are read and written (``statements.py``) and
the wire form: the JSON in the log, in every frame and in every answer. Tests hold the schemas, the
SQL and the client to them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import orjson

from service.alerts.dedup import DedupIdentity, KeyOfSource
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from service.severity import Severity

Status = Literal["open", "acknowledged", "resolved", "expired"]

UNRESOLVED: tuple[Status, ...] = ("open", "acknowledged")


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert, as a row of the table ``alerts`` holds it.

    ``escalate_after`` is in seconds; ``occurred_at`` is the latest time at which what was posted
    occurred, or began, by the source's clock, where the source said so; ``dedup_audience`` stands for
    the recipients with which it was posted, where it has a dedup key (``dedup.py``).
    """

    id: UUID
    seq: int
    source: str
    topic: str
    severity: Severity
    title: str
    body: str | None
    attributes: dict[str, Any]
    links: list[dict[str, Any]]
    recipients: list[str] | None
    dedup_key: str | None
    status: Status
    status_by: str
    status_at: datetime
    occurrences: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    escalate_after: int | None = None
    escalate_at: datetime | None = None
    last_repeat_event_at: datetime | None = None
    repeat_event_due_at: datetime | None = None
    dedup_audience: str | None = None
    occurred_at: datetime | None = None

    @property
    def dedup_identity(self) -> DedupIdentity | None:
        """What it has in common with the alerts that repeat it, None where none does."""
        if self.dedup_key is None or self.dedup_audience is None:
            return None
        return DedupIdentity(KeyOfSource(self.source, self.topic, self.dedup_key), self.dedup_audience)

    @property
    def is_unresolved(self) -> bool:
        """Say whether somebody still has to see to it."""
        return self.status in UNRESOLVED

    def is_due(self, at: datetime) -> bool:
        """Say whether the passing of time changes it by ``at``."""
        of_unresolved = (self.expires_at, self.escalate_at) if self.is_unresolved else ()
        return any(time is not None and time <= at for time in (self.repeat_event_due_at, *of_unresolved))

    def wire(self) -> bytes:
        """Return the alert as JSON, without its ``seq``, which stands beside it in a frame."""
        return encode(dict(zip(WIRE_FIELDS, _wire_values(self), strict=True)))

    def wire_with_seq(self) -> bytes:
        """Return the alert as JSON, with its ``seq``."""
        return with_seq(self.wire(), self.seq)


FIELDS = tuple(field.name for field in fields(AlertRecord))
IMMUTABLE = frozenset(
    {
        "id",
        "seq",
        "source",
        "topic",
        "dedup_key",
        "created_at",
        "escalate_after",
        "dedup_audience",
    }
)
"""The fields that no command changes."""
CONTENT = ("title", "body", "attributes", "links")
"""The fields that say what happened: the newest post of a dedup key replaces them."""
_INTERNAL = frozenset(
    {"seq", "escalate_after", "last_repeat_event_at", "repeat_event_due_at", "dedup_audience", "occurred_at"}
)
WIRE_FIELDS = tuple(name for name in FIELDS if name not in _INTERNAL)
_wire_values = attrgetter(*WIRE_FIELDS)


def encode(alert: Mapping[str, Any]) -> bytes:
    """Return the JSON of the fields of an alert, its times in RFC 3339."""
    return orjson.dumps(alert, default=rfc3339, option=orjson.OPT_PASSTHROUGH_DATETIME)


def with_seq(alert: bytes, seq: int) -> bytes:
    """Return the JSON of an alert with its position in the log as a member."""
    return b'%b,"seq":%d}' % (alert[:-1], seq)
