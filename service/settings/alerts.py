"""Settings of alerts, and of those that an Alertmanager posts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.settings.group import SettingsGroup
from service.settings.parsing import DEFAULT_SEVERITY_MAP, Seconds, SeverityMap, SourceGroups
from service.severity import Severity
from service.topics import TOPIC_MAX, TOPIC_REGEX


class AlertSettings(SettingsGroup):
    """How alerts repeat one another, and what their sources learn."""

    dedup_groups: SourceGroups = Field({})
    """Groups of sources that share their dedup keys, such as ``payments=billing,checkout;
    infra=prometheus,blackbox``: a group is a name and the ``sub`` of each source, which is in one group
    at most. Any other source repeats, and resolves by key, its own alerts only."""
    warn_of_unknown_recipients: bool = True
    """Whether the answer to a post names those of its recipients who have never connected. So a token with
    ``alerts:write`` alone learns whether a name that it sends exists here."""


class IntegrationSettings(SettingsGroup):
    """How alerts of a Prometheus Alertmanager are read."""

    alertmanager_topic_label: str = "topic"
    """The label with the topic; characters that a topic cannot hold become ``-``."""
    alertmanager_default_topic: Annotated[str, Field(pattern=TOPIC_REGEX, max_length=TOPIC_MAX)] = "default"
    """The topic of alerts without that label."""
    alertmanager_severity_label: str = "severity"
    """The label with the severity."""
    alertmanager_severity_map: SeverityMap = DEFAULT_SEVERITY_MAP
    """Severities of its values, such as ``ticket=warning, p1=critical``, in addition to the
    defaults."""
    alertmanager_default_severity: Severity = "warning"
    """The severity of alerts without that label, or with any other value."""
    alertmanager_late_seconds: Seconds = 30
    """For how long after a ``resolved`` a ``firing`` that began before its end counts as late, and opens no
    alert; and by how much its replicas may differ in their times. Longer than an Alertmanager waits for its
    peers, 15 seconds each. An alert that it sends again within this time, though it goes on, is not
    opened."""
