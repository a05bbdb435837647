"""The webhook of Prometheus Alertmanager, version 4 of its payload, read leniently.

A POST tells of a whole group of alerts, firing and resolved mixed, and again every ``group_interval`` in which the
group changed and every ``repeat_interval`` in which it did not. It carries no idempotency key: the fingerprint, a hash
of the labels, is the ``dedup_key``, so that what is told again repeats the open alert.

============== ===============================================================================================
of an alert     becomes
============== ===============================================================================================
fingerprint     ``dedup_key``; where there is none, a hash of the labels
status          ``firing`` posts, ``resolved`` resolves
a label         ``topic`` and ``severity``: which labels, and what their values mean, is in the settings
annotations     ``summary`` (or ``title``, or the label ``alertname``) is the title, ``description`` (or ``message``)
                the body; ``runbook_url`` and ``dashboard_url`` are links
generatorURL    the link "Source"
all of them     ``attributes``: ``labels``, ``annotations``, ``starts_at``, ``receiver``
============== ===============================================================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from service.alerts.schemas import KEY_MAX, AlertIn
from service.errors import InvalidRequest
from service.integrations import sanitize

if TYPE_CHECKING:
    from service.settings import IntegrationSettings
    from service.severity import Severity

_LINKS = (("Runbook", "runbook_url"), ("Dashboard", "dashboard_url"))


@dataclass(frozen=True, slots=True)
class Told:
    """What Alertmanager says of one alert."""

    alert: AlertIn
    dedup_key: str
    firing: bool


def read(payload: Any, settings: IntegrationSettings) -> list[Told]:
    """Return what a POST tells. Entries that are no alerts at all are passed over.

    Raises:
        InvalidRequest: it has no list of alerts.

    """
    if not isinstance(payload, dict) or not isinstance(alerts := payload.get("alerts"), list):
        raise InvalidRequest("The body must be an Alertmanager notification: an object with a list of alerts.")
    receiver = payload.get("receiver")
    return [_told(alert, receiver, settings) for alert in alerts if isinstance(alert, dict)]


def _told(alert: dict[str, Any], receiver: Any, settings: IntegrationSettings) -> Told:
    labels, annotations = _texts(alert.get("labels")), _texts(alert.get("annotations"))
    links = [sanitize.link("Source", alert.get("generatorURL"))]
    links += [sanitize.link(name, annotations.get(annotation)) for name, annotation in _LINKS]
    described = {
        "labels": labels,
        "annotations": annotations,
        "starts_at": alert.get("startsAt"),
        "receiver": receiver,
    }
    key = _dedup_key(alert.get("fingerprint"), labels)
    return Told(
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
    )


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}


def _severity(value: str | None, settings: IntegrationSettings) -> Severity:
    return settings.alertmanager_severity_map.get((value or "").strip().lower(), settings.alertmanager_default_severity)


def _dedup_key(fingerprint: Any, labels: dict[str, str]) -> str:
    if isinstance(fingerprint, str) and 0 < len(fingerprint) <= KEY_MAX and sanitize.line(fingerprint) == fingerprint:
        return fingerprint
    return hashlib.sha256(orjson.dumps(labels, option=orjson.OPT_SORT_KEYS)).hexdigest()
