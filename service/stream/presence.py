"""Presence: who is connected to any node, announced to every stream when it changes.

The ledger's flush notifies when a connection opened or closed. Then, at most once a second, the
list is read and compared with the previous one, and the difference is sent. A lost notification
costs one poll interval. Nothing is read while no stream is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.ledger.queries import PresenceEntry, present_recipients
from service.periodic import PeriodicTask
from service.stream import frames
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.database.engine import Database
    from service.settings import Settings
    from service.stream.frames import Frame
    from service.stream.hub import Hub

PAUSE_SECONDS = 1
POLL_SECONDS = 5
NAMES_MAX = 100


class PresenceAnnouncer:
    """Announces who joins, who leaves, whose number of connections or name changes, or who came back meanwhile."""

    def __init__(self, database: Database, hub: Hub, settings: Settings) -> None:
        self._database = database
        self._hub = hub
        self._max = settings.stream.presence_max
        self._known: dict[str, PresenceEntry] = {}
        self.task = PeriodicTask("presence", self._announce, POLL_SECONDS, rest_seconds=PAUSE_SECONDS)

    def wake(self) -> None:
        """Compare soon: a connection may have opened or closed."""
        self.task.wake()

    async def _announce(self) -> None:
        if not self._hub.has_listeners and not self._known:
            return
        async with self._database.transaction() as tx:
            now = {one.recipient: one for one in await present_recipients(tx, self._max)}
        change, self._known = change_of(self._known, now, is_complete=len(now) < self._max), now
        if change is not None:
            self._hub.send_to_all(change)


def change_of(
    before: Mapping[str, PresenceEntry], now: Mapping[str, PresenceEntry], *, is_complete: bool
) -> Frame | None:
    """Return the frame of what changed, None where nothing did; ``is_complete``: ``now`` lists everybody.

    Who left and came back in between has changed, too: a client may have loaded the list meanwhile.
    """
    joined = [one for name, one in now.items() if name not in before]
    left = [name for name in before if name not in now]
    changed = [one for name, one in now.items() if name in before and one != before[name]]
    if not (joined or left or changed):
        return None
    longest = max(len(joined), len(left), len(changed))
    return frames.presence(
        [_entry(one) for one in joined[:NAMES_MAX]],
        left[:NAMES_MAX],
        changed=[_entry(one) for one in changed[:NAMES_MAX]],
        present=len(now),
        truncated=longest > NAMES_MAX or not is_complete,
    )


def _entry(one: PresenceEntry) -> dict[str, Any]:
    entry = {"recipient": one.recipient, "since": rfc3339(one.since), "connections": one.connections}
    return entry if one.name is None else {**entry, "name": one.name}
