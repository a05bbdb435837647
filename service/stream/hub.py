"""The hub: every connection of this node, and the groups of those that are live.

Connections with the same filter share a group: an event is matched and encoded once per group, not
once per connection, and the events that arrive together leave in one write to each socket. A pass
is synchronous: a connection is either in its group when it starts, and is sent the pass, or is not,
and reads its own range of the log.

A connection whose socket does not take everything at once leaves its group in the same pass
(``Connection.stalled``), so it delays no other.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from service.errors import CloseReason
from service.events.filter import is_for
from service.events.position import ORIGIN
from service.metrics import CONNECTIONS, CONNECTIONS_LAGGING, DELIVERIES, FANOUT_PASSES, FANOUT_SEQ
from service.stream.capacity import Capacity, overloaded
from service.stream.frames import FrameBatch
from service.stream.minute_counters import MinuteCounters

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from contextlib import AbstractContextManager
    from uuid import UUID

    from service.auth.principal import Principal
    from service.auth.tokens import Revocations
    from service.events.filter import EventFilter
    from service.events.position import Position
    from service.ledger.recorder import LedgerRecorder
    from service.settings import StreamSettings
    from service.stream.connection import Connection
    from service.stream.frames import Frame, PreparedEvent


class Hub:
    """The connections of a node.

    ``position`` is that of the last event that went to every live one, ``delivered`` how many
    events were written to sockets.
    """

    def __init__(self, ledger: LedgerRecorder, settings: StreamSettings, revocations: Revocations) -> None:
        self._ledger = ledger
        self._revocations = revocations
        self._capacity = Capacity(
            streams_max=settings.connections_max, per_recipient=settings.connections_per_recipient
        )
        self._connections: dict[UUID, Connection] = {}
        self._groups: dict[EventFilter, set[Connection]] = defaultdict(set)
        self.position = ORIGIN
        self.delivered = 0
        self.minutes = MinuteCounters()

    # Opening and closing.

    def reserve(self, recipient: str) -> AbstractContextManager[None]:
        """Keep room for one more stream of ``recipient`` while it is being opened.

        Raises:
            ConnectionLimit: the recipient has as many streams as one may have on this node.
            Overloaded: the node holds as many as it may, or its ledger is full.

        """
        if self._ledger.is_full:
            raise overloaded()
        return self._capacity.reserve(recipient)

    def add(self, connection: Connection) -> None:
        """Register a connection, which is not live yet."""
        self._connections[connection.id] = connection
        self._capacity.add(connection.recipient)

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is over."""
        self.leave(connection)
        del self._connections[connection.id]
        self._capacity.remove(connection.recipient)

    def holds(self, connection_id: UUID) -> bool:
        """Return whether the connection of this id is open here."""
        return connection_id in self._connections

    def find(self, connection: UUID, principal: Principal) -> Connection | None:
        """Return the open connection of this id if ``principal`` could have opened it, None otherwise."""
        found = self._connections.get(connection)
        if found is None or found.recipient != principal.subject or not principal.covers_all(found.filter.topics):
            return None
        return found

    def join(self, connection: Connection) -> None:
        """Put a connection that was sent everything up to ``position`` into its live group."""
        self._groups[connection.filter].add(connection)

    def leave(self, connection: Connection) -> None:
        """Take a connection out of its live group, if it is in it."""
        group = self._groups.get(connection.filter)
        if group is not None:
            group.discard(connection)
            if not group:
                del self._groups[connection.filter]

    # Sending.

    @property
    def may_send(self) -> bool:
        """Whether events may be written now.

        What a node sends without a lease, it may be unable to record. A stream may have been
        revoked while the node was frozen.
        """
        return self._ledger.may_send and self._revocations.is_current

    def broadcast(self, events: Sequence[PreparedEvent]) -> None:
        """Write the next events of the log to every live connection that may see them."""
        after, self.position = self.position, events[-1].position
        everything = FrameBatch(*events)
        written = 0
        for event_filter, group in list(self._groups.items()):
            matching = [event for event in events if event_filter.matches(event)]
            if matching:
                written += self._write(group, matching, everything, after)
        self._ledger.record_dispatch(after, self.position, to_anybody=written > 0)
        self.count_deliveries(written)
        FANOUT_PASSES.inc()
        FANOUT_SEQ.set(self.position.seq)

    def count_deliveries(self, written: int) -> None:
        """Count events that were written to sockets."""
        self.delivered += written
        DELIVERIES.inc(written)

    def _write(
        self, group: set[Connection], events: Sequence[PreparedEvent], everything: FrameBatch, after: Position
    ) -> int:
        """Write events to a group, in one write each, and return how many were written.

        ``everything`` is the batch of the whole pass: groups that see all of it share its encoding.
        """
        written = 0
        stalled: list[Connection] = []
        for connections, theirs in _addressed(group, events):
            batch = everything if len(theirs) == len(everything.frames) else FrameBatch(*theirs)
            stalled += [connection for connection in connections if not connection.write(batch)]
            written += len(connections) * len(theirs)
        for connection in stalled:
            connection.stalled(after.seq, self.position)
        return written

    def send_to_all(self, frame: Frame) -> None:
        """Write a frame that is no event to every live connection."""
        batch = FrameBatch(frame)
        for connection in [connection for group in self._groups.values() for connection in group]:
            connection.send_batch(batch)

    # The state of the node.

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    @property
    def lagging(self) -> int:
        """The number of connections that replay, or whose socket is full."""
        return len(self._connections) - sum(map(len, self._groups.values()))

    @property
    def has_listeners(self) -> bool:
        """Whether any connection is open."""
        return bool(self._connections)

    def tick(self, now: float, wall: float) -> None:
        """Tick every connection, and update the gauges and the counters of the minute."""
        for connection in list(self._connections.values()):
            connection.tick(now, wall)
        CONNECTIONS.set(self.open)
        CONNECTIONS_LAGGING.set(self.lagging)
        self.minutes.record(wall, self.delivered, self.open)

    # Closing many.

    def close_revoked(self, kicked: Collection[UUID]) -> None:
        """Close the connections whose token is revoked, and those in ``kicked``."""
        for connection in list(self._connections.values()):
            if connection.id in kicked:
                connection.close(CloseReason.KICKED)
            elif self._revocations.covers(connection.principal):
                connection.close(CloseReason.TOKEN_REVOKED)

    def close_all(self, reason: CloseReason) -> None:
        """Close every connection."""
        for connection in list(self._connections.values()):
            connection.close(reason)


def _addressed(
    group: set[Connection], events: Sequence[PreparedEvent]
) -> Iterator[tuple[Collection[Connection], Sequence[PreparedEvent]]]:
    """Yield connections with the events for them.

    Each connection of a recipient whom an event names comes alone, all others come together.
    """
    named = frozenset[str]().union(*(event.recipients for event in events if event.recipients is not None))
    if not named:
        yield group, events
        return
    if for_all := [event for event in events if event.recipients is None]:
        yield [connection for connection in group if connection.recipient not in named], for_all
    for connection in group:
        if connection.recipient in named:
            yield [connection], [event for event in events if is_for(connection.recipient, event)]
