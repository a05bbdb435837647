"""The hub: every connection of this node, and the groups of those that are live.

Connections whose filter is the same share a group: an event is matched once a group, not once a connection, and the
events that arrive together leave in one write to each socket. A pass is synchronous, so a connection is in exactly one
of two places when it starts: in its group, and then it is sent the pass, or out of it, and then it reads its own
range.

A socket that does not take everything at once leaves its group in the same pass (``Connection.stalled``); the others
are not delayed by it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from service.errors import CloseReason
from service.events.filter import is_for
from service.metrics import CONNECTIONS, CONNECTIONS_LAGGING, DELIVERIES, FANOUT_PASSES, FANOUT_SEQ
from service.periodic import PeriodicTask
from service.stream.minute_counters import MinuteCounters

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from uuid import UUID

    from service.auth.revocations import RevokedTokens
    from service.events.filter import EventFilter
    from service.ledger.recorder import Ledger
    from service.settings import StreamSettings
    from service.stream.connection import Connection
    from service.stream.frames import PreparedEvent

SWEEP_SECONDS = 0.25


class Hub:
    """The connections of a node.

    ``position`` is the last seq that went to every live one, ``delivered`` how many events were written to sockets.
    """

    def __init__(self, ledger: Ledger, settings: StreamSettings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._connections: dict[UUID, Connection] = {}
        self._groups: dict[EventFilter, set[Connection]] = defaultdict(set)
        self._streams_of: Counter[str] = Counter()
        self.position = 0
        self.delivered = 0
        self.minutes = MinuteCounters()
        self.task = PeriodicTask("connection_ticks", self._tick, SWEEP_SECONDS)

    # Coming and going.

    def refuses(self, recipient: str) -> CloseReason | None:
        """Say why one more stream of ``recipient`` cannot be taken, or None."""
        if self._streams_of[recipient] >= self._settings.connections_per_recipient:
            return CloseReason.CONNECTION_LIMIT
        if len(self._connections) >= self._settings.connections_max or self._ledger.is_full:
            return CloseReason.OVERLOADED
        return None

    def add(self, connection: Connection) -> None:
        """Take on a connection; it is not live yet."""
        self._connections[connection.id] = connection
        self._streams_of[connection.recipient] += 1

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self.leave(connection)
        self._connections.pop(connection.id, None)
        self._streams_of[connection.recipient] -= 1
        if not self._streams_of[connection.recipient]:
            del self._streams_of[connection.recipient]

    def find(self, connection: UUID, recipient: str) -> Connection | None:
        """Return an open connection of ``recipient``, if there is such a one here."""
        found = self._connections.get(connection)
        return found if found is not None and found.recipient == recipient else None

    def join(self, connection: Connection) -> None:
        """Make a connection live that was sent everything up to ``position``."""
        self._groups[connection.filter].add(connection)

    def leave(self, connection: Connection) -> None:
        """Take a connection out of its group, if it is in it."""
        group = self._groups.get(connection.filter)
        if group is not None:
            group.discard(connection)
            if not group:
                del self._groups[connection.filter]

    # Sending.

    def broadcast(self, events: Sequence[PreparedEvent]) -> None:
        """Write the next events of the log to every live connection that may see them."""
        after, self.position = self.position, events[-1].seq
        written = 0
        for event_filter, group in list(self._groups.items()):
            matching = [event for event in events if event_filter.matches(event)]
            if matching:
                written += self._write(group, matching, after)
        self._ledger.dispatched(after, self.position, to_anybody=written > 0)
        self.count(written)
        FANOUT_PASSES.inc()
        FANOUT_SEQ.set(self.position)

    def count(self, written: int) -> None:
        """Count events that were written to sockets."""
        self.delivered += written
        DELIVERIES.inc(written)

    def _write(self, group: set[Connection], events: Sequence[PreparedEvent], after: int) -> int:
        """Write events to a group, those for a connection joined into one write, and return how many were written."""
        written = 0
        stalled: list[Connection] = []
        for connections, theirs in _addressed(group, events):
            data = b"".join(event.frame for event in theirs)
            stalled += [connection for connection in connections if not connection.write(data)]
            written += len(connections) * len(theirs)
        for connection in stalled:
            connection.stalled(after, self.position)
        return written

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def lagging(self) -> int:
        """How many of them replay, or have a socket that is full."""
        return len(self._connections) - sum(map(len, self._groups.values()))

    @property
    def has_listeners(self) -> bool:
        """Say whether any connection is open."""
        return bool(self._connections)

    def announce(self, frame: bytes) -> None:
        """Write a frame that is no event to every live connection."""
        for connection in [connection for group in self._groups.values() for connection in group]:
            connection.send(frame)

    # Time.

    async def _tick(self) -> None:
        """Tick all connections."""
        now, wall = time.monotonic(), time.time()
        for connection in list(self._connections.values()):
            connection.tick(now, wall)
        CONNECTIONS.set(self.open)
        CONNECTIONS_LAGGING.set(self.lagging)
        self.minutes.note(wall, self.delivered, self.open)

    def close_revoked(self, revoked: RevokedTokens, kicked: Collection[UUID]) -> None:
        """Close the connections whose token is revoked, and those that are named."""
        for connection in list(self._connections.values()):
            if connection.id in kicked:
                connection.close(CloseReason.KICKED)
            elif revoked.covers(connection.principal):
                connection.close(CloseReason.TOKEN_REVOKED)

    def holds(self, connection_id: UUID) -> bool:
        """Say whether the connection of this id is open here."""
        return connection_id in self._connections

    def close_all(self, reason: CloseReason) -> None:
        """Close every connection."""
        for connection in list(self._connections.values()):
            connection.close(reason)


def _addressed(
    group: set[Connection], events: Sequence[PreparedEvent]
) -> Iterator[tuple[Collection[Connection], Sequence[PreparedEvent]]]:
    """Yield connections and the events for them: those of an admin whom an event names alone, all others together."""
    named = frozenset[str]().union(*(event.recipients for event in events if event.recipients is not None))
    if not named:
        yield group, events
        return
    if for_all := [event for event in events if event.recipients is None]:
        yield [connection for connection in group if connection.recipient not in named], for_all
    for connection in group:
        if connection.recipient in named:
            yield [connection], [event for event in events if is_for(connection.recipient, event)]
