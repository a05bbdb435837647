"""What an answer shows of an alert: all of it only to a token that may read it.

Whoever may not is shown the ``id``, ``seq``, ``status`` and ``occurrences`` of an alert that it posted
or acted on, beside what it sent itself. A source that looks up what it posted is shown all but who
changed the status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from service.alerts.alert_record import WIRE_FIELDS, encode, with_seq
from service.auth.authorization import AlertFacts, may_read

if TYPE_CHECKING:
    from service.alerts.alert_record import AlertRecord
    from service.alerts.queue_items import Stored
    from service.alerts.schemas import AlertIn
    from service.auth.principal import Principal

_SUMMARY = ("id", "status", "occurrences")


def summary(alert: AlertRecord) -> dict[str, Any]:
    """Return what a token that may not read an alert learns of it."""
    return {"seq": alert.seq, **{name: getattr(alert, name) for name in _SUMMARY}}


def posted(principal: Principal, stored: Stored, sent: AlertIn) -> bytes:
    """Return the JSON that answers a post: of a new alert all, because the source sent it."""
    if not (stored.repeated or stored.replayed):
        return with_seq(stored.wire, stored.seq)
    alert = orjson.loads(stored.wire)
    # The first answer again, as far as this token goes.
    was_created = not stored.repeated and alert["source"] == principal.subject and principal.covers(alert["topic"])
    if was_created or may_read(principal, _facts(alert)):
        return with_seq(stored.wire, stored.seq)
    own = {name: getattr(sent, name) for name in WIRE_FIELDS if name in sent.model_fields_set}
    if "links" in own:
        own["links"] = [vars(link) for link in sent.links]
    return encode({**own, **_summary_of(alert), "seq": stored.seq})


def looked_up(principal: Principal, alert: AlertRecord) -> bytes:
    """Return the JSON of an alert that ``principal`` may look up."""
    if may_read(principal, alert) or alert.status_by == principal.subject:
        return alert.wire_with_seq()
    return encode({**orjson.loads(alert.wire_with_seq()), "status_by": None})


def acted_on(principal: Principal, stored: Stored) -> bytes:
    """Return the JSON that answers an action."""
    alert = orjson.loads(stored.wire)
    if may_read(principal, _facts(alert)):
        return with_seq(stored.wire, stored.seq)
    return encode({**_summary_of(alert), "seq": stored.seq})


def _facts(alert: dict[str, Any]) -> AlertFacts:
    return AlertFacts(alert["topic"], alert["source"], alert["recipients"])


def _summary_of(alert: dict[str, Any]) -> dict[str, Any]:
    return {name: alert[name] for name in _SUMMARY}
