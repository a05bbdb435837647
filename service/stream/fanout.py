"""Fan-out: carries the next events of the log, each encoded once, to the hub.

Events come in two ways. The committer of this node hands over the events that it has just
committed; where they follow on the position, they are fanned out without touching the database. A
notification, or the poll, shows that the log may be longer; then its tail is read. Because the log
is gapless, "follows on" is one comparison, and a lost, repeated or reordered notification costs at
most the poll interval. A notification that leads to nothing was forged, since every role of the
database may send one: after it, others wait for a moment.

The position is the seq and the id of the last event, and the log is read from there on. Where it
holds another event at that seq, its history has changed: a failover lost commits, or a backup was
restored. Then the node closes its streams, rewinds to the last position in common with the log, and
follows the new history::

                          ┌──────── the tail follows on the position ◄────────┐
                          ▼                                                   │
    start_at(head) ──► following ──► the log does not hold the position ──► rewound (streams closed,
                                                                            the ledger corrected)
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from typing import TYPE_CHECKING

from service.database.failures import unavailable
from service.errors import CloseReason
from service.events.log import find_common, read_head, read_tail
from service.events.position import HistoryChanged
from service.logs import get_logger
from service.metrics import FANOUT_SEQ, HISTORY_CHANGES, LOG_READS
from service.periodic import PeriodicTask
from service.stream import frames
from service.stream.replay_reader import ReplayReader
from service.stream.void_branches import VoidBranches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.auth.tokens import Revocations
    from service.database.engine import Database
    from service.events.log import Event
    from service.events.position import Position
    from service.ledger.flusher import LedgerFlusher
    from service.settings import StreamSettings
    from service.stream.frames import PreparedEvent
    from service.stream.hub import Hub

log = get_logger(__name__)

PASS_EVENTS = 500
PASS_BYTES = 256 * 1024
"""The most of one pass. It leaves in one write, so a full socket holds no more than this."""

HINT_REST_SECONDS = 0.1
"""How long notifications wait after one that led to nothing."""
_SEQ = re.compile(r"[0-9]{1,19}")

WAIT_SECONDS = 5
"""How long a stream that resumes waits for this node to reach its cursor."""


class Fanout:
    """Carries the log to the hub, and to connections that replay."""

    def __init__(
        self,
        database: Database,
        hub: Hub,
        flusher: LedgerFlusher,
        settings: StreamSettings,
        revocations: Revocations,
    ) -> None:
        self._database = database
        self._hub = hub
        self._flusher = flusher
        self._settings = settings
        self._revocations = revocations
        self._committed: deque[tuple[Position, Event]] = deque()
        """Events to fan out, each with the position before it."""
        self._committed_bytes = 0
        poll = settings.log_poll_interval_seconds
        self.task = PeriodicTask("fanout", self._run, poll, failure_rest_seconds=poll)
        self._advanced = asyncio.Event()
        self._known_head = 0
        self._hinted_seq = 0
        self._hints_rest_until = 0.0
        self._must_read = False
        self.replays = ReplayReader(database, hub, settings, self.check_history)
        self.void_branches = VoidBranches(settings.replay_cache_events)

    def start_at(self, position: Position) -> None:
        """Begin with the events after ``position``."""
        self._move_to(position)
        self.replays.restart(position)

    def _move_to(self, position: Position) -> None:
        self._hub.position = position
        FANOUT_SEQ.set(position.seq)

    def enqueue_committed(self, before: Position, events: Sequence[Event]) -> None:
        """Queue events that this node has committed after ``before``; what does not fit is read from the log."""
        for event in events:
            if (
                len(self._committed) >= self._settings.replay_cache_events
                or self._committed_bytes >= self._settings.replay_cache_bytes
            ):
                break
            self._committed.append((before, event))
            self._committed_bytes += len(event.body)
            before = event.position
        self.wake(events[-1].seq)

    def wake(self, seq: int) -> None:
        """Fan out soon: the log reaches at least to ``seq``."""
        self._known_head = max(self._known_head, seq)
        self.task.wake()

    def hint(self, payload: str) -> None:
        """Read the log soon: a notification says how far it reaches. It may be forged, or garbage."""
        if _SEQ.fullmatch(payload) and int(payload) > self._hub.position.seq:
            self._hinted_seq = max(self._hinted_seq, int(payload))
            if time.monotonic() >= self._hints_rest_until:
                self.task.wake()

    def check_history(self) -> None:
        """Read the log soon: somebody holds a position that is not of this node's history."""
        self._must_read = True
        self.task.wake()

    async def _run(self) -> float | None:
        """Fan out what there is. The log is read if it is known, or was said, to go on, or to poll it."""
        self._must_read |= not self.task.was_woken
        hinted = 0
        if time.monotonic() >= self._hints_rest_until:
            hinted, self._hinted_seq = self._hinted_seq, 0
            self._known_head = max(self._known_head, hinted)  # until a read has shown otherwise
        found = await self._advance()
        if hinted > self._hub.position.seq and not found:
            self._hints_rest_until = time.monotonic() + HINT_REST_SECONDS
        rest = self._hints_rest_until - time.monotonic()
        return rest if rest > 0 else None

    async def _advance(self) -> bool:
        """Fan out everything that is known; return whether the log was read and had more.

        While the node holds no lease, events wait for the next poll; the history is checked all the
        same.
        """
        await self._revocations.ensure_current()
        found = False
        while True:
            while self._hub.may_send and (events := self._next_committed()):
                self._pass(events)
                await asyncio.sleep(0)  # one pass per turn of the loop: others may read, write and commit in between
            if not self._must_read and self._known_head <= self._hub.position.seq:
                return found
            try:
                events = await self._read_tail()
            except HistoryChanged:
                await self._follow_new_history()
                continue
            if not events:
                self._known_head = min(self._known_head, self._hub.position.seq)
                return found
            found = True
            if not self._hub.may_send:
                return found
            self._pass(events)

    async def _read_tail(self) -> list[Event]:
        self._must_read = False
        LOG_READS.inc()
        async with self._database.transaction() as tx:
            return await read_tail(tx, self._hub.position, PASS_EVENTS)

    def _next_committed(self) -> list[Event]:
        """Return the queued events that follow on the position.

        One that differs from what this node knows at its seq is of another history than the
        position: it is dropped, and the log is read.
        """
        events: list[Event] = []
        position = self._hub.position
        while self._committed and self._committed[0][0].seq <= position.seq and len(events) < PASS_EVENTS:
            before, event = self._committed.popleft()
            self._committed_bytes -= len(event.body)
            if before == position:
                events.append(event)
                position = event.position
            elif before.seq == position.seq or self.replays.cache.at(event.seq) not in (None, event.position):
                self._must_read = True
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
        self._broadcast(following)

    def _broadcast(self, events: Sequence[PreparedEvent]) -> None:
        self.replays.cache.extend(events)
        self._hub.broadcast(events)
        self._notify_waiting()

    def _notify_waiting(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()

    async def _follow_new_history(self) -> None:
        """Leave the history that the log no longer holds: the node's whole reaction."""
        async with self._database.transaction(snapshot=True) as tx:
            head = await read_head(tx)
            common = await find_common(tx, self.replays.cache.positions)
        position = self._hub.position
        HISTORY_CHANGES.inc()
        log.error(
            "the history of the log changed",
            position=position.cursor,
            head=head.cursor,
            common=common.seq if common is not None else None,
            streams=self._hub.open,
        )
        self._hub.close_all(CloseReason.HISTORY_CHANGED)
        self._committed.clear()
        self._committed_bytes = 0
        self._known_head = head.seq
        if common is None:
            self.start_at(head)
        else:
            self.void_branches.add(common, self.replays.rewind(common))
            self._move_to(common)
        self._flusher.start_over(self._hub.position, common)
        self._notify_waiting()

    # For streams that start.

    async def reach(self, seq: int) -> None:
        """Wait until this node has fanned out up to ``seq``, to which the log reaches.

        Raises:
            DatabaseUnavailable: it does not within ``WAIT_SECONDS``.

        """
        if seq > self._hub.position.seq:
            self.wake(seq)
            await self._wait_until(lambda: self._hub.position.seq >= seq)

    async def leave(self, position: Position) -> None:
        """Check the history, and wait until this node has left ``position``, which the log does not hold.

        Raises:
            DatabaseUnavailable: it does not within ``WAIT_SECONDS``.

        """
        self.check_history()
        await self._wait_until(lambda: self._hub.position != position)

    async def _wait_until(self, is_reached: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not is_reached():
                    await self._advanced.wait()
        except TimeoutError:
            raise unavailable() from None
