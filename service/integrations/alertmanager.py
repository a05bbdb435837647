"""The webhook of Prometheus Alertmanager, version 4 of its payload, read leniently.

A POST holds a whole group of alerts, firing and resolved mixed. It is sent again every
``group_interval`` in which the group changed and every ``repeat_interval`` in which it did not. It
carries no idempotency key: the fingerprint, a hash of the labels, is the ``dedup_key``, so that an
alert that is sent again repeats the open one.

=============  ====================================================================================
of an alert    becomes
=============  ====================================================================================
fingerprint    ``dedup_key``; where there is none, a hash of the labels
status         ``firing`` posts, ``resolved`` resolves
startsAt,      whether a ``firing`` or a ``resolved`` is late: about what was resolved before, or
endsAt         what began later (``alerts/late_posts.py``)
labels         ``topic`` and ``severity``; the settings name the labels and map their values
annotations    ``summary`` (or ``title``, or the label ``alertname``) is the title, ``description``
               (or ``message``) the body; ``runbook_url`` and ``dashboard_url`` are links
generatorURL   the link "Source"; where it cannot be one, ``attributes.generator_url``
all of them    ``attributes``: ``labels``, ``annotations``, ``starts_at``, ``receiver``
=============  ====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from service.alerts.batch_request import require_items
from service.alerts.fields import KEY_MAX
from service.alerts.schemas import AlertIn
from service.errors import InvalidRequest
from service.events.idempotency import content_hash
from service.integrations import sanitize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from service.alerts.ingest import RoomForAlert
    from service.settings import IntegrationSettings
    from service.severity import Severity

LABELS_MAX = 1_000
"""Of one alert, and annotations; further ones are not kept."""
_LINKS = (("Runbook", "runbook_url"), ("Dashboard", "dashboard_url"))


@dataclass(frozen=True, slots=True)
class AlertmanagerAlert:
    """One alert of a notification. The times are those of its source, None where it gives none."""

    alert: AlertIn
    dedup_key: str
    firing: bool
    started_at: datetime | None
    ended_at: datetime | None

    def fit(self, room: RoomForAlert) -> AlertmanagerAlert:
        """Return it cut to what the service stores."""
        shorter = partial(sanitize.attributes, self.alert.attributes)
        return replace(self, alert=sanitize.fit(self.alert, room, shorter))


class Notification:
    """The alerts of a notification; each is read when it is asked for, which may take a millisecond."""

    def __init__(self, entries: Sequence[dict[str, Any]], receiver: Any, settings: IntegrationSettings) -> None:
        self._entries = entries
        self._receiver = receiver
        self._settings = settings

    def __len__(self) -> int:
        """Return how many there are, read or not."""
        return len(self._entries)

    def __getitem__(self, index: int) -> AlertmanagerAlert:
        """Read one.

        Raises:
            InvalidRequest: its topic cannot be one.

        """
        return _read_alert(self._entries[index], self._receiver, self._settings)


def read(payload: Any, settings: IntegrationSettings) -> Notification:
    """Return the alerts of a notification. Entries that are not objects are skipped.

    Raises:
        InvalidRequest: the body has no list of alerts, or one with too many.

    """
    if not isinstance(payload, dict) or not isinstance(alerts := payload.get("alerts"), list):
        raise InvalidRequest("The body must be an Alertmanager notification: an object with a list of alerts.")
    entries = [alert for alert in alerts if isinstance(alert, dict)]
    require_items(len(entries))
    return Notification(entries, payload.get("receiver"), settings)


def _read_alert(alert: dict[str, Any], receiver: Any, settings: IntegrationSettings) -> AlertmanagerAlert:
    labels, annotations = _texts(alert.get("labels")), _texts(alert.get("annotations"))
    source = sanitize.link("Source", alert.get("generatorURL"))
    links = [source]
    links += [sanitize.link(name, annotations.get(annotation)) for name, annotation in _LINKS]
    described = {
        "labels": dict(islice(labels.items(), LABELS_MAX)),
        "annotations": dict(islice(annotations.items(), LABELS_MAX)),
        "starts_at": alert.get("startsAt"),
        "receiver": receiver,
        "generator_url": alert.get("generatorURL") if source is None else None,
        "truncated": max(len(labels), len(annotations)) > LABELS_MAX,
    }
    key = _dedup_key(alert.get("fingerprint"), labels)
    started_at = sanitize.time(alert.get("startsAt"))
    return AlertmanagerAlert(
        AlertIn(
            topic=sanitize.topic(labels.get(settings.alertmanager_topic_label), settings.alertmanager_default_topic),
            severity=_severity(labels.get(settings.alertmanager_severity_label), settings),
            title=sanitize.title(annotations.get("summary"), annotations.get("title"), labels.get("alertname")),
            body=sanitize.body(annotations.get("description"), annotations.get("message")),
            attributes=sanitize.attributes({name: value for name, value in described.items() if value}),
            links=[link for link in links if link is not None],
            dedup_key=key,
        ),
        key,
        firing=alert.get("status") != "resolved",
        started_at=started_at,
        ended_at=_end(started_at, sanitize.time(alert.get("endsAt"))),
    )


def _end(started_at: datetime | None, ended_at: datetime | None) -> datetime | None:
    """Return when an alert ended, None where that is not given, or is not after its start."""
    return None if ended_at is not None and started_at is not None and ended_at <= started_at else ended_at


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: _text(text) for name, text in value.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else sanitize.encoded(value).decode()


def _severity(value: str | None, settings: IntegrationSettings) -> Severity:
    return settings.alertmanager_severity_map.get((value or "").strip().lower(), settings.alertmanager_default_severity)


def _dedup_key(fingerprint: Any, labels: dict[str, str]) -> str:
    if isinstance(fingerprint, str) and 0 < len(fingerprint) <= KEY_MAX and sanitize.line(fingerprint) == fingerprint:
        return fingerprint
    return content_hash(labels)
