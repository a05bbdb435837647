"""From a validated request to an item of the committer's queue."""

from __future__ import annotations

from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from service.alerts.alert_record import WIRE_FIELDS, AlertRecord, encode
from service.alerts.commands import PostAlert
from service.alerts.dedup import audience_of
from service.alerts.queue_items import PendingAlert
from service.alerts.schemas import AlertIn
from service.auth.authorization import AlertFacts, Operation, authorize
from service.database.ids import uuid7
from service.events.idempotency import IdempotencyKey

if TYPE_CHECKING:
    from datetime import datetime

    from service.auth.principal import Principal

_INITIAL: dict[str, Any] = {**dict.fromkeys(WIRE_FIELDS), "status": "open", "occurrences": 1}
_POSTED = tuple(name for name in WIRE_FIELDS if name in AlertIn.model_fields)
_posted_values = attrgetter(*_POSTED)


def accept(
    alert: AlertIn, principal: Principal, at: datetime, key: IdempotencyKey | None = None
) -> PendingAlert | PostAlert:
    """Return an alert that ``principal`` posted, with an id, as an item of the queue.

    Raises:
        RequestRefused: the token may not post it: its topic is reserved, or the token does not cover
            it.

    """
    source = principal.subject
    authorize(principal, Operation.POST, AlertFacts(alert.topic, source, alert.recipients))
    fields = _INITIAL.copy()  # in the order of the wire form, and so made once: this is the hot path
    fields.update(zip(_POSTED, _posted_values(alert), strict=True))
    fields["id"] = uuid7()
    fields["source"] = fields["status_by"] = source
    fields["status_at"] = fields["created_at"] = fields["updated_at"] = at
    fields["links"] = [vars(link) for link in alert.links]
    if alert.dedup_key is None and alert.escalate_after is None:
        return PendingAlert(fields["id"], source, at, alert, encode(fields), key, bearer=principal)
    if (seconds := alert.escalate_after) is not None:
        fields["escalate_at"] = at + timedelta(seconds=seconds)
    audience = audience_of(alert.recipients) if alert.dedup_key is not None else None
    record = AlertRecord(seq=0, escalate_after=seconds, dedup_audience=audience, **fields)
    return PostAlert(principal, at, record, key, bearer=principal)


def idempotency_key(key: str | None, alert: AlertIn) -> IdempotencyKey | None:
    """Return the key that an alert was posted with, if any, beside the hash of its content."""
    return (
        IdempotencyKey.of(key, alert.model_dump(mode="json", exclude={"idempotency_key"})) if key is not None else None
    )
