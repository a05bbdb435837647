"""Late posts: those about something that was resolved before they arrived.

Webhooks overtake one another: an Alertmanager tries again, its peer waits for its turn, a broker
delivers again. A late post must not leave an alert open that nobody will resolve, and a post about
something new must not be taken for a late one. So only posts whose source gives a time can be late
(``Occurrence``), and they are compared with the last resolution of what they would repeat, which is
kept for as long as idempotency keys are, also where there was no alert to resolve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from uuid import UUID

    from service.alerts.dedup import DedupIdentity


class Occurrence(NamedTuple):
    """When what a post is about occurred, by the clock of its source.

    ``ongoing_within``: it began then, and goes on by the time of the post, which is late only so
    soon after the resolution. An Alertmanager that loses sight of an alert resolves it, and sends
    it again with its old start when it is back; that takes a ``group_interval`` at least. None: it
    occurred then, and a later resolution covers it.
    """

    at: datetime
    ongoing_within: timedelta | None = None


class Resolution(NamedTuple):
    """The last resolution of the alerts that repeat one another.

    ``alert_id`` is None where none was open. ``resolved_at`` is a time of the service, ``ended_at``
    one of the source: when it ended, if the source said so.
    """

    identity: DedupIdentity
    alert_id: UUID | None
    resolved_at: datetime
    ended_at: datetime | None


def is_late(occurrence: Occurrence, resolution: Resolution, at: datetime) -> bool:
    """Say whether a post that arrives at ``at`` is about what was resolved."""
    if occurrence.ongoing_within is None:
        return occurrence.at < resolution.resolved_at
    ended_at = resolution.ended_at
    return ended_at is not None and occurrence.at < ended_at and at < resolution.resolved_at + occurrence.ongoing_within
