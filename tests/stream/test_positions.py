"""Random failovers, restores, faults of the bus and reconnects: no promise of the log is broken, thanks to each check.

Each check is taken out in turn, and then a trial fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from service.events.position import Cursor, Position
from service.ledger.recorder import LeftBehind
from service.stream import connection, cursor_check, fanout, replay_reader
from service.stream.connection import Connection
from service.stream.fanout import Fanout
from service.stream.hub import Hub
from service.stream.replay_cache import ReplayCache
from service.stream.replay_reader import ReplayReader
from tests.stream.fakes import FakeLog
from tests.stream.simulated_database import NodeRow, Primary, Wrong
from tests.stream.simulated_service import trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from service.events.log import Event

pytestmark = pytest.mark.unit

TRIALS = 60
TRIALS_WITHOUT_A_CHECK = 600
NEVER_LOST = 2**62


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLog.install(monkeypatch, cursor_check, fanout, replay_reader)
    # Sets of connections have an order of their own, so that a seed always makes the same trial.
    monkeypatch.setattr(Connection, "__hash__", lambda self: crc32(self.recipient.encode()))
    monkeypatch.setattr(connection, "RETRY_READ_SECONDS", 0)
    monkeypatch.setattr(fanout, "WAIT_SECONDS", 2)


async def trials(seeds: Iterable[int]) -> None:
    for seed in seeds:
        await trial(seed)


@pytest.mark.parametrize("first", range(0, TRIALS, 20))
async def test_every_client_holds_what_the_log_holds_and_the_ledger_never_overstates(first: int) -> None:
    await trials(range(first, first + 20))


def _tail_of_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node reads on after its seq, whatever event stands there."""

    async def read_tail(tx: FakeLog, position: Position, limit: int) -> list[Event]:
        return [event for event in tx.events if event.seq > position.seq][:limit]

    monkeypatch.setattr(fanout, "read_tail", read_tail)


def _commits_of_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed is fanned out where its seq follows on."""
    enqueue = Fanout.enqueue_committed

    def enqueue_committed(self: Fanout, before: Position, events: Sequence[Event]) -> None:
        if before.seq == self._hub.position.seq:
            before = self._hub.position
        enqueue(self, before, events)

    monkeypatch.setattr(Fanout, "enqueue_committed", enqueue_committed)


def _chunks_of_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk from the log begins after a seq, whatever event stands there."""
    read = ReplayReader._chunk_from_log

    async def chunk_from_log(self: ReplayReader, position: Position, *arguments: Any) -> Any:
        async def read_position(tx: FakeLog, seq: int) -> Position | None:
            return position if seq == position.seq else await FakeLog.read_position(tx, seq)

        with monkeypatch.context() as patch:
            patch.setattr(replay_reader, "read_position", read_position)
            return await read(self, position, *arguments)

    monkeypatch.setattr(ReplayReader, "_chunk_from_log", chunk_from_log)


def _cached_chunks_of_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk from the cache begins after a seq, whatever event stands there."""
    monkeypatch.setattr(ReplayCache, "covers", lambda self, position: self.start.seq <= position.seq <= self.end.seq)


def _live_in_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection goes live where its seq is that of the hub."""
    monkeypatch.setattr(
        Connection, "_has_caught_up", property(lambda self: self._protocol.written.seq >= self._hub.position.seq)
    )


def _cursors_of_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client resumes after its seq, whatever event stands there."""
    monkeypatch.setattr(Cursor, "matches", lambda self, position: self.seq == position.seq)


def _streams_that_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that meets another history closes no stream."""
    monkeypatch.setattr(Hub, "close_all", lambda *_: None)


def _scans_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was scanned for replays is kept when the history changes."""
    monkeypatch.setattr(ReplayReader, "rewind", lambda self, position: self.cache.rewind(position))


def _flushes_of_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is written though the log does not hold what was sent."""
    monkeypatch.setattr(Primary, "holds", lambda *_: True)


def _records_that_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the ledger when the history changes is written as it is."""
    monkeypatch.setattr(LeftBehind, "_cut", lambda *_: None)


def _rows_that_a_failover_took_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node goes on with its rows in the ledger though a failover lost a flush."""
    monkeypatch.setattr(NodeRow, "flush", property(lambda _: NEVER_LOST))


CHECKS = {
    _tail_of_any_history: 0,
    _commits_of_any_history: 9,
    _chunks_of_any_history: 55,
    _cached_chunks_of_any_history: 263,
    _live_in_any_history: 19,
    _cursors_of_any_history: 2,
    _streams_that_stay_open: 0,
    _scans_that_are_kept: 5,
    _flushes_of_any_history: 106,
    _records_that_are_not_cut: 7,
    _rows_that_a_failover_took_back: 38,
}
"""How to take out each check, and a seed that failed without it, which is tried first: it saves the search."""


@pytest.mark.parametrize(("take_out", "first"), CHECKS.items(), ids=[check.__name__ for check in CHECKS])
async def test_without_any_one_check_a_promise_is_broken(
    take_out: Callable[[pytest.MonkeyPatch], None], first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_out(monkeypatch)
    with pytest.raises(Wrong):
        await trials([first, *range(TRIALS_WITHOUT_A_CHECK)])
