"""From a validated request to an item of the committer's queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from service.alerts.alert_record import WIRE_FIELDS, AlertRecord, encode
from service.alerts.commands import PostAlert, require_future
from service.alerts.dedup import audience_of
from service.alerts.event_size import alert_max_bytes
from service.alerts.queue_items import PendingAlert
from service.alerts.schemas import AlertIn
from service.auth.authorization import AlertFacts, Operation, authorize
from service.database.ids import uuid7
from service.events.idempotency import IdempotencyKey

if TYPE_CHECKING:
    from service.alerts.late_posts import Occurrence
    from service.auth.principal import Principal

_INITIAL: dict[str, Any] = {**dict.fromkeys(WIRE_FIELDS), "status": "open", "occurrences": 1}
_POSTED = tuple(name for name in WIRE_FIELDS if name in AlertIn.model_fields)
_posted_values = attrgetter(*_POSTED)


def accept(
    alert: AlertIn,
    principal: Principal,
    at: datetime,
    key: IdempotencyKey | None = None,
    occurrence: Occurrence | None = None,
) -> PendingAlert | PostAlert:
    """Return an alert that ``principal`` posted, with an id, as an item of the queue.

    ``occurrence`` matters where the alert has a dedup key.

    Raises:
        RequestRefused: the token may not post it: its topic is reserved, or the token does not cover
            it. Or it has expired, and has no key.

    """
    source = principal.subject
    authorize(principal, Operation.POST, AlertFacts(alert.topic, source, alert.recipients))
    if key is None:
        require_future(alert.expires_at, at)
    fields = _fields_of(alert, source, at)
    may_be_late = alert.expires_at is not None and alert.expires_at <= at
    if alert.dedup_key is None and alert.escalate_after is None and not may_be_late:
        return PendingAlert(fields["id"], source, at, alert, encode(fields), key, bearer=principal)
    if (seconds := alert.escalate_after) is not None:
        fields["escalate_at"] = at + timedelta(seconds=seconds)
    audience = audience_of(alert.recipients) if alert.dedup_key is not None else None
    occurred_at = occurrence.at if occurrence is not None else None
    record = AlertRecord(seq=0, escalate_after=seconds, dedup_audience=audience, occurred_at=occurred_at, **fields)
    return PostAlert(principal, at, record, key, occurrence, bearer=principal)


def _fields_of(alert: AlertIn, source: str, at: datetime) -> dict[str, Any]:
    fields = _INITIAL.copy()  # in the order of the wire form, and so made once: this is the hot path
    fields.update(zip(_POSTED, _posted_values(alert), strict=True))
    fields["id"] = uuid7()
    fields["source"] = fields["status_by"] = source
    fields["status_at"] = fields["created_at"] = fields["updated_at"] = at
    fields["links"] = [vars(link) for link in alert.links]
    return fields


class RoomForAlert(NamedTuple):
    """The room for an alert of a source, for those who would rather cut it than have it refused."""

    source: str
    event_max_bytes: int

    def excess(self, alert: AlertIn) -> int:
        """Return how many bytes of JSON are too many; negative where there is room."""
        size = len(encode(_fields_of(alert, self.source, datetime.now(UTC))))
        return size - alert_max_bytes(self.event_max_bytes)


def idempotency_key(key: str | None, alert: AlertIn) -> IdempotencyKey | None:
    """Return the key that an alert was posted with, if any, beside the hash of its content."""
    return (
        IdempotencyKey.of(key, alert.model_dump(mode="json", exclude={"idempotency_key"})) if key is not None else None
    )
