"""Presence: who is connected to any node, told to every stream when it changes.

The ledger's flush notifies when a connection opened or closed; then, at most once a second, the list is read, compared
with the last one, and the difference is sent. A wake-up that is lost costs a poll interval. Nothing is read while
nobody listens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.ledger.queries import Present, present
from service.periodic import PeriodicTask
from service.stream import frames
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from service.database.engine import Database
    from service.settings import Settings
    from service.stream.hub import Hub

PAUSE_SECONDS = 1
POLL_SECONDS = 5
NAMES_MAX = 100


class Presence:
    """Announces who joins, who leaves, and on how many connections those who stay are."""

    def __init__(self, database: Database, hub: Hub, settings: Settings) -> None:
        self._database = database
        self._hub = hub
        self._max = settings.stream.presence_max
        self._known: dict[str, Present] = {}
        self.task = PeriodicTask("presence", self._announce, POLL_SECONDS, rest_seconds=PAUSE_SECONDS)

    def changed(self) -> None:
        """Note that somebody may have come or gone."""
        self.task.wake()

    async def _announce(self) -> None:
        if not self._hub.has_listeners and not self._known:
            return
        async with self._database.transaction() as tx:
            now = {one.recipient: one for one in await present(tx, self._max)}
        joined = [one for name, one in now.items() if name not in self._known]
        left = [name for name in self._known if name not in now]
        changed = [
            one for name, one in now.items() if name in self._known and one.connections != self._known[name].connections
        ]
        self._known = now
        if joined or left or changed:
            longest = max(len(joined), len(left), len(changed))
            self._hub.announce(
                frames.presence(
                    [_shown(one) for one in joined[:NAMES_MAX]],
                    left[:NAMES_MAX],
                    changed=[_shown(one) for one in changed[:NAMES_MAX]],
                    present=len(now),
                    truncated=longest > NAMES_MAX or len(now) >= self._max,
                )
            )


def _shown(one: Present) -> dict[str, Any]:
    return {"recipient": one.recipient, "since": rfc3339(one.since), "connections": one.connections}
