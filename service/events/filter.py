"""Which events a connection may see: the Python twin of the SQL function ``event_matches``.

The live path asks this one, the replay and the audit views ask the SQL; a property test holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from service.auth.authorization import is_addressed
from service.severity import RANK, Severity
from service.topics import EVERY_TOPIC, any_covers


class Visible(Protocol):
    """What the filter asks of an event, as the log or a frame holds it."""

    @property
    def topic(self) -> str:
        """Its topic."""

    @property
    def severity(self) -> Severity:
        """Its severity."""

    @property
    def recipients(self) -> frozenset[str] | None:
        """The admins that it is for; None: all who may see the topic."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a group of connections may see: topic patterns and the least severity.

    It never changes while a connection lives, so connections with equal filters share one group of the hub. The event's
    own ``recipients`` narrow further, admin by admin.
    """

    topics: tuple[str, ...] = EVERY_TOPIC
    min_severity: Severity = "info"

    def matches(self, event: Visible) -> bool:
        """Say whether ``event`` passes, its recipients aside."""
        return RANK[event.severity] >= RANK[self.min_severity] and any_covers(self.topics, event.topic)


def is_for(recipient: str, event: Visible) -> bool:
    """Say whether ``event`` is for ``recipient``: for all, or for these admins and this one among them."""
    return is_addressed(event.recipients, recipient)
