"""Late posts: those about something that was over before they arrived.

Webhooks overtake one another: an Alertmanager tries again, its peer waits for its turn, a broker
delivers again. A late post must not leave an alert open that nobody will resolve. Far worse would be
to take a new post for a late one, because nobody would see it. So only a post whose source gives a
time can be late (``Occurrence``); that time is compared with others of the same source only, never
with the clock of the service; and where the source may have gone on, only for a short while.

The last resolution of a dedup key is kept for as long as idempotency keys are, also where there was
no alert to resolve.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from service.alerts.alert_record import AlertRecord
    from service.alerts.dedup import DedupIdentity


INSTANT = timedelta(microseconds=1)
"""The shortest time for which anything goes on."""


class Occurrence(NamedTuple):
    """When what a post is about occurred, by the clock of its source.

    ``ongoing_within``: it began then, and goes on by the time of the post, which is late only so
    soon after the resolution. An Alertmanager that lost sight of an alert, and resolved it, sends it
    again with its old start, and not once more for hours. None: it occurred then, and is over.
    """

    at: datetime
    ongoing_within: timedelta | None = None


class Resolution(NamedTuple):
    """The last resolution of the alerts that repeat one another.

    ``alert_id`` is None where none was open. ``ended_at`` is when it ended, by the clock of the source,
    and ``resolved_at`` when the source said so, by the clock of the service. Where only people resolved
    it, ``ended_at`` is None.
    """

    identity: DedupIdentity
    alert_id: UUID | None
    resolved_at: datetime
    ended_at: datetime | None

    def after(self, known: Resolution | None) -> Resolution:
        """Return what to keep of it and the one ``known`` before: a person does not say when it ended."""
        if self.ended_at is None and known is not None and known.ended_at is not None:
            return known._replace(alert_id=self.alert_id)
        return self


def is_outdated(occurrence: Occurrence | None, alert: AlertRecord) -> bool:
    """Say whether a post is about what was over before something newer that is known of ``alert`` occurred."""
    if occurrence is None or occurrence.ongoing_within is not None or alert.occurred_at is None:
        return False
    return occurrence.at < alert.occurred_at


def is_late(occurrence: Occurrence, resolution: Resolution, alert: AlertRecord | None, at: datetime) -> bool:
    """Say whether a post that arrives at ``at`` is about what was resolved; ``alert`` is the one that was."""
    if occurrence.ongoing_within is None or resolution.ended_at is None:
        return alert is not None and is_outdated(occurrence, alert)
    has_ended = occurrence.at < resolution.ended_at
    is_known = alert is not None and alert.occurred_at is not None and occurrence.at <= alert.occurred_at
    return (has_ended or is_known) and at < resolution.resolved_at + occurrence.ongoing_within


def precedes(ended_at: datetime, alert: AlertRecord, known_end: datetime | None, replica_skew: timedelta) -> bool:
    """Say whether what ended at ``ended_at`` is not what ``alert`` is about, but something before it.

    The sources of an Alertmanager differ in when an alert began and ended, by up to
    ``replica_skew``; unless its end is known already.
    """
    began_at = alert.occurred_at
    if began_at is None or ended_at > began_at:
        return False
    return began_at - ended_at > replica_skew or (known_end is not None and ended_at <= known_end)
