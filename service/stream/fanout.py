"""Fan-out: the next events of the log, from memory or from the table, each encoded once, to the hub.

Two things bring events here. The committer of this node offers what it has just committed; where that follows on the
position it is fanned out without touching the database. A wake-up from the bus, or the poll, says that the log may be
longer; then the tail is read. Because the log is gapless, "follows on" is one comparison, and a lost, repeated or
reordered wake-up costs at most the poll interval.

It also answers the connections that replay: ``read_chunk`` serves a range from the recent events, or from the table
through the SQL twin of the filter, a bounded number of readers at a time. The log never changes, so what was read from
memory for one connection serves every other with the same cursor and filter: in a reconnect storm, all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from service.database.engine import unavailable
from service.events.filter import is_for
from service.events.log import read_first, read_head, read_matching, read_tail
from service.metrics import FANOUT_SEQ, LOG_READS
from service.periodic import PeriodicTask
from service.stream import frames
from service.stream.replay_cache import ReplayCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.database.engine import Database
    from service.events.filter import EventFilter
    from service.events.log import Event
    from service.settings import StreamSettings
    from service.stream.hub import Hub

PASS_EVENTS = 500
PASS_BYTES = 256 * 1024
"""The most of one pass: it leaves in one write to each socket, and a socket that is full holds no more than that."""

SCAN_IN_MEMORY = 1_000
SCAN_IN_LOG = 50_000
"""The most events that are looked at for one chunk, however few match: a millisecond, and a tenth of a second."""

REPLAYS_A_TURN = 4
"""How many chunks are made in one turn of the loop, so that a reconnect storm does not hold it."""

SCANS_MAX = 32
"""How many chunks are remembered, of at most ``replay_chunk_bytes`` each."""

REACH_SECONDS = 5
"""How long a cursor from another node may wait until this node has fanned out as far."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a replaying connection is sent next: after it, its cursor is ``up_to``. ``data`` may be empty."""

    data: bytes
    events: int
    up_to: int


@dataclass(frozen=True, slots=True)
class _Scan:
    """What a filter lets through of a range of the recent events, up to ``up_to``."""

    events: list[frames.PreparedEvent]
    up_to: int
    for_all: Chunk | None

    @classmethod
    def of(cls, events: list[frames.PreparedEvent], up_to: int) -> _Scan:
        open_to_all = all(event.recipients is None for event in events)
        return cls(events, up_to, _chunk(events, up_to) if open_to_all else None)

    def chunk(self, recipient: str) -> Chunk:
        """Return what ``recipient`` may see of it."""
        if self.for_all is not None:
            return self.for_all
        return _chunk([event for event in self.events if is_for(recipient, event)], self.up_to)


def _chunk(events: Sequence[frames.PreparedEvent], up_to: int) -> Chunk:
    return Chunk(b"".join(event.frame for event in events), len(events), up_to)


class Fanout:
    """Carries the log to the hub, and to connections that replay."""

    def __init__(self, database: Database, hub: Hub, settings: StreamSettings) -> None:
        self._database = database
        self._hub = hub
        self._settings = settings
        self._offered: deque[Event] = deque()
        self._offered_bytes = 0
        poll = settings.log_poll_interval_seconds
        self.task = PeriodicTask("fanout", self._advance, poll, failure_rest_seconds=poll)
        self._moved = asyncio.Event()
        self._announced = 0
        self._turns = asyncio.Semaphore(REPLAYS_A_TURN)
        self._readers = asyncio.Semaphore(settings.replay_readers)
        self._recent = ReplayCache(0, settings.replay_cache_events, settings.replay_cache_bytes)
        self._scans: dict[tuple[int, EventFilter], _Scan] = {}

    def start_at(self, head: int) -> None:
        """Begin with the events after ``head``."""
        self._hub.position = head
        FANOUT_SEQ.set(head)
        self._recent = ReplayCache(head, self._settings.replay_cache_events, self._settings.replay_cache_bytes)

    def offer(self, events: Sequence[Event]) -> None:
        """Take events that this node has committed. Those that would not fit are left to be read from the log."""
        for event in events:
            if (
                len(self._offered) >= self._settings.replay_cache_events
                or self._offered_bytes >= self._settings.replay_cache_bytes
            ):
                break
            self._offered.append(event)
            self._offered_bytes += len(event.body)
        self.announce(events[-1].seq)

    def announce(self, seq: int) -> None:
        """Note that the log reaches at least to ``seq``."""
        self._announced = max(self._announced, seq)
        self.task.wake()

    async def _advance(self) -> None:
        """Fan out all that there is; the log is read where it is known to go on, and when nothing woke the task."""
        polled = not self.task.was_woken
        while True:
            while events := self._next_offered():
                self._pass(events)
                await asyncio.sleep(0)  # one pass a turn of the loop: others may read, write and commit in between
            if not polled and self._announced <= self._hub.position:
                return
            LOG_READS.inc()
            async with self._database.transaction() as tx:
                events = await read_tail(tx, self._hub.position, PASS_EVENTS)
            if not events:
                self._announced = min(self._announced, self._hub.position)
                return
            self._pass(events)

    def _next_offered(self) -> list[Event]:
        """Return the offered events that follow on the position."""
        events: list[Event] = []
        position = self._hub.position
        while self._offered and self._offered[0].seq <= position + 1 and len(events) < PASS_EVENTS:
            event = self._offered.popleft()
            self._offered_bytes -= len(event.body)
            if event.seq == position + 1:
                events.append(event)
                position += 1
        return events

    def _pass(self, events: Sequence[Event]) -> None:
        """Fan out events, in as many passes as their size asks for."""
        following: list[frames.PreparedEvent] = []
        size = 0
        for event in events:
            prepared = frames.prepare(event)
            if following and size + len(prepared.frame) > PASS_BYTES:
                self._broadcast(following)
                following, size = [], 0
            following.append(prepared)
            size += len(prepared.frame)
        self._broadcast(following)

    def _broadcast(self, events: Sequence[frames.PreparedEvent]) -> None:
        self._recent.extend(events)
        self._hub.broadcast(events)
        self._moved.set()
        self._moved = asyncio.Event()

    def forget(self, up_to: int) -> None:
        """Show nobody any more what retention has let go: the events up to ``up_to``."""
        if up_to > self._recent.start:
            self._recent.forget(up_to)
            self._scans.clear()

    async def reach(self, seq: int) -> None:
        """Fan out up to ``seq`` first, where the log holds it and this node has not heard of it yet.

        Raises:
            DatabaseUnavailable: the log cannot be read.

        """
        if seq <= self._hub.position:
            return
        async with self._database.transaction() as tx:
            head = await read_head(tx)
        self.announce(head)
        try:
            async with asyncio.timeout(REACH_SECONDS):
                while self._hub.position < min(seq, head):
                    await self._moved.wait()
        except TimeoutError:
            raise unavailable() from None

    # For connections that replay.

    async def read_chunk(self, cursor: int, event_filter: EventFilter, recipient: str) -> Chunk:
        """Return what ``recipient`` is sent next after ``cursor``, which lies before the hub's position.

        It is a bounded amount of work, waits for its turn, and may be empty while more is to come.

        Raises:
            DatabaseUnavailable: the range is not in memory, and PostgreSQL cannot be reached.

        """
        async with self._turns:
            await asyncio.sleep(0)
            if self._recent.reach_back_to(cursor):
                return self._scan(cursor, event_filter).chunk(recipient)
        async with self._readers:
            return await self._chunk_from_log(cursor, event_filter, recipient)

    def _scan(self, cursor: int, event_filter: EventFilter) -> _Scan:
        scan = self._scans.get((cursor, event_filter))
        if scan is None:
            if len(self._scans) >= SCANS_MAX:
                self._scans.clear()
            scan = self._scans[cursor, event_filter] = self._scan_recent(cursor, event_filter)
        return scan

    def _scan_recent(self, cursor: int, event_filter: EventFilter) -> _Scan:
        matching: list[frames.PreparedEvent] = []
        size = 0
        for event in islice(self._recent.after(cursor), SCAN_IN_MEMORY):
            if len(matching) >= self._settings.replay_chunk_events or size >= self._settings.replay_chunk_bytes:
                break
            cursor = event.seq
            if event_filter.matches(event):
                matching.append(event)
                size += len(event.frame)
        return _Scan.of(matching, cursor)

    async def _chunk_from_log(self, cursor: int, event_filter: EventFilter, recipient: str) -> Chunk:
        limit, max_bytes = self._settings.replay_chunk_events, self._settings.replay_chunk_bytes
        parts: list[bytes] = []
        LOG_READS.inc()
        async with self._database.transaction() as tx:
            first = await read_first(tx)
            if cursor < first - 1:
                parts.append(frames.gap(cursor + 1, first - 1, "purged"))
                cursor = first - 1
            up_to = max(cursor, min(self._hub.position, cursor + SCAN_IN_LOG))
            events, complete = await read_matching(
                tx, cursor, up_to, event_filter, recipient, limit=limit, max_bytes=max_bytes
            )
        parts += [frames.prepare(event).frame for event in events]
        return Chunk(b"".join(parts), len(events), up_to if complete else events[-1].seq)
