"""Fan-out: carries the next events of the log, each encoded once, to the hub.

Events come in two ways. The committer of this node hands over the events that it has just
committed; where they follow on the position, they are fanned out without touching the database. A
notification, or the poll, shows that the log may be longer; then its tail is read. Because the log
is gapless, "follows on" is one comparison, and a lost, repeated or reordered notification costs at
most the poll interval.

``read_chunk`` serves the connections that replay: from the replay cache, or from the table through
the SQL twin of the filter, with a bounded number of readers at a time. The log never changes, so a
chunk of the cache is made once for all connections with the same cursor and filter; in a reconnect
storm that is most of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from service.database.failures import unavailable
from service.events.filter import is_for
from service.events.log import read_first, read_head, read_matching, read_tail
from service.events.position import ORIGIN
from service.metrics import FANOUT_SEQ, LOG_READS
from service.periodic import PeriodicTask
from service.stream import frames
from service.stream.frames import FrameBatch
from service.stream.replay_cache import ReplayCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.database.engine import Database
    from service.events.filter import EventFilter
    from service.events.log import Event
    from service.events.position import Position
    from service.settings import StreamSettings
    from service.stream.frames import Frame, PreparedEvent
    from service.stream.hub import Hub

PASS_EVENTS = 500
PASS_BYTES = 256 * 1024
"""The most of one pass. It leaves in one write, so a full socket holds no more than this."""

SCAN_IN_MEMORY = 1_000
SCAN_IN_LOG = 50_000
"""The most events matched for one chunk: about 1 ms in memory, and 100 ms in the log."""

REPLAYS_A_TURN = 4
"""Chunks made in one turn of the event loop, so that a reconnect storm does not block it."""

SCANS_MAX = 32
"""How many chunks of the replay cache are kept, of at most ``replay_chunk_bytes`` each."""

WAIT_SECONDS = 5
"""How long a stream that resumes waits until this node has fanned out up to its cursor."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next ``events`` of a replay, which may be none; after them the cursor is ``up_to``."""

    batch: FrameBatch
    events: int
    up_to: int


@dataclass(frozen=True, slots=True)
class _Scan:
    """The events of the replay cache, up to ``up_to``, that pass a filter."""

    events: list[PreparedEvent]
    up_to: int
    for_all: Chunk | None

    @classmethod
    def of(cls, events: list[PreparedEvent], up_to: int) -> _Scan:
        open_to_all = all(event.recipients is None for event in events)
        return cls(events, up_to, _chunk(events, up_to) if open_to_all else None)

    def chunk(self, recipient: str) -> Chunk:
        """Return the chunk of ``recipient``."""
        if self.for_all is not None:
            return self.for_all
        return _chunk([event for event in self.events if is_for(recipient, event)], self.up_to)


def _chunk(events: Sequence[PreparedEvent], up_to: int) -> Chunk:
    return Chunk(FrameBatch(*events), len(events), up_to)


class Fanout:
    """Carries the log to the hub, and to connections that replay."""

    def __init__(self, database: Database, hub: Hub, settings: StreamSettings) -> None:
        self._database = database
        self._hub = hub
        self._settings = settings
        self._committed: deque[Event] = deque()
        self._committed_bytes = 0
        poll = settings.log_poll_interval_seconds
        self.task = PeriodicTask("fanout", self._advance, poll, failure_rest_seconds=poll)
        self._advanced = asyncio.Event()
        self._position = ORIGIN
        self._known_head = 0
        self._turns = asyncio.Semaphore(REPLAYS_A_TURN)
        self._readers = asyncio.Semaphore(settings.replay_readers)
        self._cache = ReplayCache(0, settings.replay_cache_events, settings.replay_cache_bytes)
        self._scans: dict[tuple[int, EventFilter], _Scan] = {}

    def start_at(self, position: Position) -> None:
        """Begin with the events after ``position``."""
        self._position = position
        self._hub.position = position.seq
        FANOUT_SEQ.set(position.seq)
        self._cache = ReplayCache(position.seq, self._settings.replay_cache_events, self._settings.replay_cache_bytes)

    def enqueue_committed(self, before: Position, events: Sequence[Event]) -> None:  # noqa: ARG002 - not checked yet
        """Queue events that this node has committed after ``before``; what does not fit is read from the log."""
        for event in events:
            if (
                len(self._committed) >= self._settings.replay_cache_events
                or self._committed_bytes >= self._settings.replay_cache_bytes
            ):
                break
            self._committed.append(event)
            self._committed_bytes += len(event.body)
        self.wake(events[-1].seq)

    def wake(self, seq: int) -> None:
        """Fan out soon: the log reaches at least to ``seq``."""
        self._known_head = max(self._known_head, seq)
        self.task.wake()

    async def _advance(self) -> None:
        """Fan out everything that is known. The log is read if it is known to go on, or to poll it.

        While the node holds no lease, everything waits, for the next poll.
        """
        polled = not self.task.was_woken
        while self._hub.may_send:
            while self._hub.may_send and (events := self._next_committed()):
                self._pass(events)
                await asyncio.sleep(0)  # one pass per turn of the loop: others may read, write and commit in between
            if not polled and self._known_head <= self._hub.position:
                return
            LOG_READS.inc()
            async with self._database.transaction() as tx:
                events = await read_tail(tx, self._position, PASS_EVENTS)
            if not events:
                self._known_head = min(self._known_head, self._hub.position)
                return
            if self._hub.may_send:
                self._pass(events)

    def _next_committed(self) -> list[Event]:
        """Return the queued events that follow on the position."""
        events: list[Event] = []
        position = self._hub.position
        while self._committed and self._committed[0].seq <= position + 1 and len(events) < PASS_EVENTS:
            event = self._committed.popleft()
            self._committed_bytes -= len(event.body)
            if event.seq == position + 1:
                events.append(event)
                position += 1
        return events

    def _pass(self, events: Sequence[Event]) -> None:
        """Fan out events, in passes of at most ``PASS_BYTES``."""
        following: list[PreparedEvent] = []
        size = 0
        for prepared in map(frames.prepare, events):
            if following and size + len(prepared.payload) > PASS_BYTES:
                self._broadcast(following)
                following, size = [], 0
            following.append(prepared)
            size += len(prepared.payload)
        self._position = events[-1].position
        self._broadcast(following)

    def _broadcast(self, events: Sequence[PreparedEvent]) -> None:
        self._cache.extend(events)
        self._hub.broadcast(events)
        self._advanced.set()
        self._advanced = asyncio.Event()

    def drop(self, up_to: int) -> None:
        """Replay the events up to ``up_to`` no longer: retention has purged them."""
        if up_to > self._cache.start:
            self._cache.drop(up_to)
            self._scans.clear()

    async def wait_until(self, seq: int) -> None:
        """Wait until this node has fanned out up to ``seq``, or to the head if that is before it.

        Raises:
            DatabaseUnavailable: the log cannot be read, or not within ``WAIT_SECONDS``.

        """
        if seq <= self._hub.position:
            return
        async with self._database.transaction() as tx:
            head, _ = await read_head(tx)
        self.wake(head)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while self._hub.position < min(seq, head):
                    await self._advanced.wait()
        except TimeoutError:
            raise unavailable() from None

    # For connections that replay.

    async def read_chunk(self, cursor: int, event_filter: EventFilter, recipient: str) -> Chunk:
        """Return what ``recipient`` is sent after ``cursor``, which is before the hub's position.

        The work of one call is bounded, and waits for its turn. The chunk may be empty while more
        is to come.

        Raises:
            DatabaseUnavailable: the range is not in memory, and PostgreSQL cannot be reached.

        """
        async with self._turns:
            await asyncio.sleep(0)
            if self._cache.covers(cursor):
                return self._scan(cursor, event_filter).chunk(recipient)
        async with self._readers:
            return await self._chunk_from_log(cursor, event_filter, recipient)

    def _scan(self, cursor: int, event_filter: EventFilter) -> _Scan:
        scan = self._scans.get((cursor, event_filter))
        if scan is None:
            if len(self._scans) >= SCANS_MAX:
                self._scans.clear()
            scan = self._scans[cursor, event_filter] = self._scan_cache(cursor, event_filter)
        return scan

    def _scan_cache(self, cursor: int, event_filter: EventFilter) -> _Scan:
        matching: list[PreparedEvent] = []
        size = 0
        for event in islice(self._cache.after(cursor), SCAN_IN_MEMORY):
            if len(matching) >= self._settings.replay_chunk_events or size >= self._settings.replay_chunk_bytes:
                break
            cursor = event.seq
            if event_filter.matches(event):
                matching.append(event)
                size += len(event.payload)
        return _Scan.of(matching, cursor)

    async def _chunk_from_log(self, cursor: int, event_filter: EventFilter, recipient: str) -> Chunk:
        limit, max_bytes = self._settings.replay_chunk_events, self._settings.replay_chunk_bytes
        purged: list[Frame] = []
        LOG_READS.inc()
        async with self._database.transaction() as tx:
            first = await read_first(tx)
            if cursor < first - 1:
                purged.append(frames.gap(cursor + 1, first - 1, "purged"))
                cursor = first - 1
            up_to = max(cursor, min(self._hub.position, cursor + SCAN_IN_LOG))
            events, complete = await read_matching(
                tx, cursor, up_to, event_filter, recipient, limit=limit, max_bytes=max_bytes
            )
        batch = FrameBatch(*purged, *map(frames.prepare, events))
        return Chunk(batch, len(events), up_to if complete else events[-1].seq)
