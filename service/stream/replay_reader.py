"""Chunks of a replay: what a connection is sent until it has caught up.

A chunk comes from the replay cache, or from the table through the SQL twin of the filter, with a
bounded number of readers at a time. A history of the log never changes, so a chunk of the cache is
made once for all connections with the same position and filter; in a reconnect storm that is most
of them.

A connection states its position, and a chunk is read only where that is held: by the cache, or by
the log in the transaction that reads on from there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from service.database.budgets import FairQueue
from service.events.filter import is_for
from service.events.log import read_first, read_matching, read_position
from service.events.position import HistoryChanged
from service.metrics import LOG_READS
from service.stream import frames
from service.stream.frames import FrameBatch
from service.stream.replay_cache import ReplayCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.database.engine import Database
    from service.events.filter import EventFilter
    from service.events.position import Position
    from service.settings import StreamSettings
    from service.stream.frames import PreparedEvent
    from service.stream.hub import Hub

SCAN_IN_MEMORY = 1_000
SCAN_IN_LOG = 50_000
"""The most events matched for one chunk: about 1 ms in memory, and 100 ms in the log."""

REPLAYS_A_TURN = 4
"""Chunks made in one turn of the event loop, so that a reconnect storm does not block it."""

SCANS_MAX = 32
"""How many chunks of the replay cache are kept, of at most ``replay_chunk_bytes`` each."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next ``events`` of a replay, which may be none, and the position after them."""

    batch: FrameBatch
    events: int
    up_to: Position


@dataclass(frozen=True, slots=True)
class _Scan:
    """The events of the replay cache, up to ``up_to``, that pass a filter."""

    events: list[PreparedEvent]
    up_to: Position
    is_bounded: bool
    """Whether it ends before the cache did: it stays the same while the cache grows."""
    for_all: Chunk | None

    @classmethod
    def of(cls, events: list[PreparedEvent], up_to: Position, *, is_bounded: bool) -> _Scan:
        open_to_all = all(event.recipients is None for event in events)
        return cls(events, up_to, is_bounded, _chunk(events, up_to) if open_to_all else None)

    def chunk(self, recipient: str) -> Chunk:
        """Return the chunk of ``recipient``."""
        if self.for_all is not None:
            return self.for_all
        return _chunk([event for event in self.events if is_for(recipient, event)], self.up_to)


def _chunk(events: Sequence[PreparedEvent], up_to: Position) -> Chunk:
    return Chunk(FrameBatch(*events), len(events), up_to)


class ReplayReader:
    """Reads chunks for the connections of a node.

    ``check_history`` is called where a position is not held.
    """

    def __init__(
        self, database: Database, hub: Hub, settings: StreamSettings, check_history: Callable[[], None]
    ) -> None:
        self._database = database
        self._hub = hub
        self._settings = settings
        self._check_history = check_history
        self._turns = asyncio.Semaphore(REPLAYS_A_TURN)
        self._readers = FairQueue(
            "replays", settings.replay_readers, places=settings.connections_max, wait_seconds=None
        )
        self._scans: dict[tuple[Position, EventFilter], _Scan] = {}
        self.cache = ReplayCache(settings.replay_cache_events, settings.replay_cache_bytes)

    def restart(self, position: Position) -> None:
        """Drop all that was read; the next events follow on ``position``."""
        self.cache.restart(position)
        self._scans.clear()

    def rewind(self, position: Position) -> list[Position]:
        """Drop what was read after ``position``, and return the positions of these events."""
        self._scans.clear()
        return self.cache.rewind(position)

    def drop(self, up_to: int) -> None:
        """Replay the events up to ``up_to`` no longer: retention has purged them."""
        if up_to > self.cache.start.seq:
            self.cache.drop(up_to)
            self._scans.clear()

    async def read_chunk(self, position: Position, event_filter: EventFilter, recipient: str) -> Chunk:
        """Return what ``recipient`` is sent after ``position``, which is before the hub's.

        The work of one call is bounded, and waits for its turn. The chunk may be empty while more
        is to come.

        Raises:
            DatabaseUnavailable: the range is not in memory, and PostgreSQL cannot be reached.
            HistoryChanged: ``position`` is not of the history that this node, or the log, holds.

        """
        try:
            return await self._next_chunk(position, event_filter, recipient)
        except HistoryChanged:
            self._check_history()
            raise

    async def _next_chunk(self, position: Position, event_filter: EventFilter, recipient: str) -> Chunk:
        async with self._turns:
            await asyncio.sleep(0)
            if self.cache.covers(position):
                return self._scan(position, event_filter).chunk(recipient)
            if position.seq >= self.cache.start.seq:
                raise HistoryChanged(position)
        async with self._readers.turn(recipient):
            return await self._chunk_from_log(position, event_filter, recipient)

    def _scan(self, position: Position, event_filter: EventFilter) -> _Scan:
        scan = self._scans.get((position, event_filter))
        if scan is None or not (scan.is_bounded or scan.up_to == self.cache.end):
            if len(self._scans) >= SCANS_MAX:
                self._scans.clear()
            scan = self._scans[position, event_filter] = self._scan_cache(position, event_filter)
        return scan

    def _scan_cache(self, position: Position, event_filter: EventFilter) -> _Scan:
        matching: list[PreparedEvent] = []
        size = 0
        for event in islice(self.cache.after(position), SCAN_IN_MEMORY):
            if len(matching) >= self._settings.replay_chunk_events or size >= self._settings.replay_chunk_bytes:
                break
            position = event.position
            if event_filter.matches(event):
                matching.append(event)
                size += len(event.payload)
        return _Scan.of(matching, position, is_bounded=position != self.cache.end)

    async def _chunk_from_log(self, position: Position, event_filter: EventFilter, recipient: str) -> Chunk:
        limit, max_bytes = self._settings.replay_chunk_events, self._settings.replay_chunk_bytes
        target = self._hub.position
        LOG_READS.inc()
        async with self._database.reads.transaction(snapshot=True, subject=recipient) as tx:
            first = await read_first(tx)
            held = await read_position(tx, position.seq)
            if held != position and (held is not None or position.seq >= first):
                raise HistoryChanged(position)
            after = max(position.seq, first - 1)
            last = max(after, min(target.seq, after + SCAN_IN_LOG))
            events, complete = await read_matching(
                tx, after, last, event_filter, recipient, limit=limit, max_bytes=max_bytes
            )
            up_to = await read_position(tx, last) if complete else events[-1].position
        if up_to is None:
            raise HistoryChanged(target)
        matching = [frames.prepare(event) for event in events]
        if after == position.seq:
            return _chunk(matching, up_to)
        gap = frames.gap(position.seq + 1, after, up_to=None if matching else up_to)
        return Chunk(FrameBatch(gap, *matching), len(matching), up_to)
