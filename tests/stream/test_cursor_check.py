"""Where a stream starts: the cursors of clients against a log in memory that fails over."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import orjson
import pytest

from service.events.position import ORIGIN, Cursor, Position
from service.settings import StreamSettings
from service.stream import cursor_check, fanout, replay_reader
from service.stream.cursor_check import CursorCheck, Start
from service.stream.fanout import Fanout
from tests.fixtures.revocations import KnownRevocations
from tests.stream.fakes import FakeFlusher, FakeLog, at, event, fake_hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.ledger.flusher import LedgerFlusher

pytestmark = pytest.mark.unit

SETTINGS = StreamSettings(log_poll_interval_seconds=3600, replay_cache_events=4)


@pytest.fixture(autouse=True)
def _log_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLog.install(monkeypatch, cursor_check, fanout, replay_reader)


class Node:
    """A node that is at the head of its log, whose last four events it has in memory."""

    def __init__(self, log: FakeLog) -> None:
        self.hub = fake_hub(SETTINGS)
        self.fanout = Fanout(log.database, self.hub, cast("LedgerFlusher", FakeFlusher()), SETTINGS, KnownRevocations())
        self.check = CursorCheck(log.database, self.hub, self.fanout)
        self.log = log

    async def start(self, position: Position) -> Start:
        return await self.check.start_after(Cursor(position.seq, position.mark), "alice")


@asynccontextmanager
async def node_at(events: int) -> AsyncIterator[Node]:
    log = FakeLog(*(event(seq) for seq in range(1, events + 1)))
    node = Node(log)
    task = asyncio.create_task(node.fanout.task.run())
    try:
        await node.fanout.reach(events)
        log.read_count = 0
        yield node
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


def reset_after(start: Start) -> int | None:
    """Return up to where the client may keep what it holds."""
    assert start.reset is not None
    assert start.reset.position == start.position
    after: int | None = orjson.loads(start.reset.payload)["after"]
    return after


@pytest.mark.parametrize(("seq", "reads"), [(10, 0), (6, 0), (5, 1), (1, 1), (0, 0)])
async def test_a_cursor_of_this_log_starts_there_and_is_looked_up_in_memory_first(seq: int, reads: int) -> None:
    async with node_at(10) as node:
        assert await node.start(at(seq)) == Start(at(seq), received=seq)
        assert await node.check.start_after(Cursor(seq, None), "alice") == Start(at(seq), received=seq)
        assert node.log.read_count == 2 * reads


async def test_a_cursor_ahead_of_this_node_is_waited_for() -> None:
    async with node_at(10) as node:
        node.log.events += [event(11), event(12)]
        assert await node.start(at(12)) == Start(at(12), received=12)
        assert node.hub.position == at(12)


@pytest.mark.parametrize("cursor", [Cursor(11, None), Cursor(2**62, None), Cursor(11, "9f3a2c1d")])
async def test_a_cursor_above_the_head_is_void_once_the_log_was_asked(cursor: Cursor) -> None:
    async with node_at(10) as node:
        start = await node.check.start_after(cursor, "alice")
        assert (start.position, start.received, reset_after(start)) == (at(10), None, None)
        assert node.log.read_count == 1


@pytest.mark.parametrize("seq", [10, 7, 3])
async def test_a_cursor_of_a_history_that_this_node_never_had_is_void(seq: int) -> None:
    async with node_at(10) as node:
        start = await node.start(at(seq, history=1))
        assert (start.position, start.received, reset_after(start)) == (at(10), None, None)


async def test_a_cursor_whose_event_was_purged_is_believed() -> None:
    async with node_at(10) as node:
        del node.log.events[:5]
        assert await node.start(at(3)) == Start(Position(3, 0), received=3)
        assert await node.check.start_after(Cursor(3, None), "alice") == Start(Position(3, 0), received=3)


@pytest.mark.parametrize("seq", [9, 10])
async def test_a_void_cursor_goes_on_where_its_history_parts_from_the_log(seq: int) -> None:
    async with node_at(10) as node:
        node.log.rewrite(8, *(event(seq, history=1) for seq in range(9, 13)))
        node.fanout.check_history()
        await node.fanout.leave(at(10))
        start = await node.start(at(seq))
        assert (start.position, start.received, reset_after(start)) == (at(8), 8, 8)
        for kept in (at(8), at(7), at(3), at(9, history=1), at(12, history=1)):
            assert (await node.start(kept)).reset is None


async def test_a_void_cursor_is_void_altogether_where_the_log_lost_the_common_event_too() -> None:
    async with node_at(10) as node:
        node.log.rewrite(8)
        await node.fanout.leave(at(10))
        node.log.rewrite(2, *(event(seq, history=1) for seq in range(3, 6)))  # before all that is in memory
        await node.fanout.leave(at(8))
        start = await node.start(at(10))
        assert (start.position, start.received, reset_after(start)) == (at(5, history=1), None, None)


@pytest.mark.parametrize("seq", [7, 9, 12])
async def test_nobody_is_reset_for_a_history_that_this_node_has_not_noticed(seq: int) -> None:
    """The client comes from another node, which follows the log already."""
    async with node_at(10) as node:
        node.log.rewrite(6, *(event(number, history=1) for number in range(7, 13)))
        assert await node.start(at(seq, history=1)) == Start(at(seq, history=1), received=seq)
        assert node.hub.position.seq >= seq


async def test_the_origin_is_in_every_log() -> None:
    async with node_at(0) as node:
        for mark in (None, "00000000", "9f3a2c1d"):
            assert await node.check.start_after(Cursor(0, mark), "alice") == Start(ORIGIN, received=0)
