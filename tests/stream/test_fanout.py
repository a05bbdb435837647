"""The fan-out loop with a log in memory: order, holes, wake-ups, polls, and the chunks of a replay."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import DatabaseUnavailable
from service.events.filter import EventFilter, is_for
from service.events.position import ORIGIN, Position
from service.settings import StreamSettings
from service.stream import fanout as fanout_module
from service.stream.fanout import PASS_BYTES, Fanout
from tests.stream.fakes import FakeLedger, FakeLog, FakeTransport, event, fake_hub, live

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from service.events.log import Event
    from service.stream.fanout import Chunk
    from service.stream.hub import Hub

pytestmark = pytest.mark.unit

NEVER = 3600


@pytest.fixture(autouse=True)
def _log_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("read_head", "read_first", "read_tail", "read_matching"):
        monkeypatch.setattr(fanout_module, name, getattr(FakeLog, name))


def settings_of(**changes: object) -> StreamSettings:
    return StreamSettings.model_validate({"log_poll_interval_seconds": NEVER, **changes})


def before(seq: int) -> Position:
    return Position(seq - 1, seq - 1)


class Node:
    """A fan-out over a log, with one live connection that is sent everything."""

    def __init__(self, log: FakeLog, options: StreamSettings, head: int = 0) -> None:
        self.ledger = FakeLedger()
        self.hub: Hub = fake_hub(options, self.ledger)
        self.fanout = Fanout(log.database, self.hub, options)
        self.fanout.start_at(Position(head, head))
        self.transport: FakeTransport = live(self.hub)
        self.log = log

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.fanout.task.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    async def sent(self, seq: int) -> list[int]:
        """Return what the connection was sent once the position is ``seq``."""
        async with asyncio.timeout(10):
            while self.hub.position < seq:
                await self.fanout._advanced.wait()
        return self.transport.seqs


async def test_committed_events_that_follow_on_are_fanned_out_without_the_database() -> None:
    node = Node(FakeLog(), settings_of(), head=10)
    async with node.running():
        node.fanout.enqueue_committed(before(11), [event(11), event(12)])
        assert await node.sent(12) == [11, 12]
        node.fanout.enqueue_committed(before(13), [event(13)])
        assert await node.sent(13) == [11, 12, 13]
    assert node.log.reads == 0


async def test_a_hole_before_committed_events_is_filled_from_the_log() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.enqueue_committed(before(4), [event(4), event(5)])
        assert await node.sent(5) == [1, 2, 3, 4, 5]
    assert log.reads == 1


async def test_a_wake_up_reads_the_tail_and_one_that_is_not_news_reads_nothing() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 4)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(3)
        assert await node.sent(3) == [1, 2, 3]
        reads = log.reads
        for seq in (1, 3, 2):
            node.fanout.wake(seq)
            await asyncio.sleep(0.01)
        assert log.reads == reads


async def test_a_wake_up_for_more_than_the_log_has_is_asked_for_once() -> None:
    log = FakeLog(event(1))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(50)
        assert await node.sent(1) == [1]
        await asyncio.sleep(0.01)
        assert log.reads == 2  # the event, and that there are no more
        node.fanout.wake(1)
        await asyncio.sleep(0.01)
        assert log.reads == 2
        log.events.append(event(2))
        node.fanout.wake(2)
        assert await node.sent(2) == [1, 2]


async def test_a_node_without_its_lease_writes_no_event_until_it_holds_it_again() -> None:
    log = FakeLog(event(1))
    node = Node(log, settings_of(log_poll_interval_seconds=0.01))
    node.ledger.may_send = False
    async with node.running():
        node.fanout.enqueue_committed(before(1), [event(1)])
        await asyncio.sleep(0.05)
        assert (node.transport.seqs, node.hub.position, log.reads) == ([], 0, 0)
        log.events.append(event(2))
        node.ledger.may_send = True
        assert await node.sent(2) == [1, 2]


async def test_a_lease_that_ends_while_the_log_is_read_stops_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(FakeLog(event(1)), settings_of())

    async def read_tail(tx: FakeLog, position: Position, limit: int) -> list[Event]:
        node.ledger.may_send = False
        return await FakeLog.read_tail(tx, position, limit)

    monkeypatch.setattr(fanout_module, "read_tail", read_tail)
    async with node.running():
        node.fanout.wake(1)
        await asyncio.sleep(0.01)
    assert (node.log.reads, node.transport.seqs, node.hub.position) == (1, [], 0)


async def test_without_any_wake_up_the_poll_finds_what_is_new() -> None:
    log = FakeLog(event(1))
    node = Node(log, settings_of(log_poll_interval_seconds=0.01))
    async with node.running():
        assert await node.sent(1) == [1]
        log.events += [event(2), event(3)]
        assert await node.sent(3) == [1, 2, 3]


async def test_a_database_that_is_away_delays_and_loses_nothing() -> None:
    log = FakeLog(event(1))
    log.is_reachable = False
    node = Node(log, settings_of(log_poll_interval_seconds=0.01))
    async with node.running():
        node.fanout.wake(1)
        await asyncio.sleep(0.05)
        assert node.transport.seqs == []
        log.is_reachable = True
        assert await node.sent(1) == [1]


async def test_what_does_not_fit_into_the_queue_comes_from_the_log() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 11)))
    node = Node(log, settings_of(replay_cache_events=3))
    node.fanout.enqueue_committed(ORIGIN, log.events)
    assert len(node.fanout._committed) == 3
    async with node.running():
        assert await node.sent(10) == list(range(1, 11))


async def test_a_pass_is_bounded_in_bytes() -> None:
    node = Node(FakeLog(), settings_of())
    size = PASS_BYTES // 4
    async with node.running():
        node.fanout.enqueue_committed(ORIGIN, [event(seq, size=size) for seq in range(1, 9)])
        assert await node.sent(8) == list(range(1, 9))
    assert [len(batch.frames) for batch in node.transport.batches] == [3, 3, 2]
    async with node.running():
        node.fanout.enqueue_committed(before(9), [event(9, size=2 * PASS_BYTES), event(10)])
        await node.sent(10)
    assert [len(batch.frames) for batch in node.transport.batches] == [3, 3, 2, 1, 1]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["committed here", "committed elsewhere", "a wake-up", "an old wake-up", "a turn"]),
            st.integers(1, 4),
        ),
        max_size=20,
    )
)
async def test_whatever_arrives_in_whatever_order_every_event_is_sent_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    log = FakeLog()
    node = Node(log, settings_of(replay_cache_events=5))
    async with node.running():
        for step, count in steps:
            head = len(log.events)
            if step.startswith("committed"):
                new = [event(seq) for seq in range(head + 1, head + 1 + count)]
                log.events += new
                if step == "committed here":
                    node.fanout.enqueue_committed(before(head + 1), new)
            elif step == "a wake-up":
                node.fanout.wake(head)
            elif step == "an old wake-up":
                node.fanout.wake(max(0, head - count))
            for _ in range(count):
                await asyncio.sleep(0)
        node.fanout.wake(len(log.events))
        assert await node.sent(len(log.events)) == list(range(1, len(log.events) + 1))


# Waiting for a cursor of another node.


async def test_a_cursor_that_is_ahead_of_this_node_is_waited_for() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of(), head=1)
    async with node.running():
        await node.fanout.wait_until(4)
        assert node.hub.position >= 4
        await node.fanout.wait_until(2**62)  # ahead of the log: to its head, and no longer
        assert node.hub.position == 5


async def test_a_node_that_does_not_come_so_far_in_time_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "WAIT_SECONDS", 0.01)
    node = Node(FakeLog(event(1)), settings_of())  # nothing fans out
    with pytest.raises(DatabaseUnavailable):
        await node.fanout.wait_until(1)


# Chunks.


async def replayed(node: Node, cursor: int, event_filter: EventFilter, recipient: str) -> list[Chunk]:
    """Return the chunks that lead a connection from ``cursor`` to the position."""
    chunks = []
    while cursor < node.hub.position:
        chunks.append(await node.fanout.read_chunk(cursor, event_filter, recipient))
        assert chunks[-1].up_to > cursor
        cursor = chunks[-1].up_to
    return chunks


def seqs(chunks: Sequence[Chunk]) -> list[int]:
    return [frame.seq for chunk in chunks for frame in chunk.batch.frames if frame.type == "event" and frame.seq]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.none() | st.lists(st.sampled_from(["ann", "ben"]), min_size=1, max_size=2),
        st.integers(0, 400),
    ),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.integers(0, 20), st.sampled_from(["a", "*"]), st.integers(1, 20))
async def test_a_replay_is_what_the_recipient_may_see_from_memory_and_from_the_log(
    rows: list[tuple[str, list[str] | None, int]], cursor: int, topic: str, remembered: int
) -> None:
    events = [event(seq, to, recipients=names, size=size) for seq, (to, names, size) in enumerate(rows, start=1)]
    options = settings_of(replay_cache_events=remembered, replay_chunk_events=3, replay_chunk_bytes=1024)
    node = Node(FakeLog(*events), options)
    async with node.running():
        node.fanout.wake(len(events))
        await node.sent(len(events))
    expected = EventFilter((topic,))
    chunks = await replayed(node, min(cursor, len(events)), expected, "ann")
    assert seqs(chunks) == [
        one.seq for one in events if one.seq > cursor and expected.matches(one) and is_for("ann", one)
    ]
    for chunk in chunks:
        sizes = [len(frame.payload) for frame in chunk.batch.frames]
        assert len(sizes) == chunk.events <= 3
        assert sum(sizes[:-1]) < 1024 + 3 * 200  # the log counts bodies, and memory whole frames


async def test_connections_with_the_same_cursor_and_filter_are_sent_the_same_chunk() -> None:
    node = Node(FakeLog(), settings_of())
    async with node.running():
        node.fanout.enqueue_committed(ORIGIN, [event(seq) for seq in range(1, 5)])
        await node.sent(4)
    one, two = [await node.fanout.read_chunk(1, EventFilter(), name) for name in ("alice", "bob")]
    assert one is two
    assert seqs([one]) == [2, 3, 4]
    assert await node.fanout.read_chunk(2, EventFilter(), "alice") is not one
    assert node.log.reads == 0


async def test_what_was_purged_is_named_in_a_gap_and_replayed_no_longer() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 7)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(6)
        await node.sent(6)
    assert seqs(await replayed(node, 0, EventFilter(), "alice")) == [1, 2, 3, 4, 5, 6]
    del log.events[:4]
    node.fanout.drop(4)
    assert not node.fanout._scans
    chunks = await replayed(node, 1, EventFilter(), "alice")
    [gap] = [frame for chunk in chunks for frame in chunk.batch.frames if frame.type == "gap"]
    assert gap.payload == b'{"type":"gap","from":2,"to":4,"reason":"purged"}'
    assert gap.seq == 4
    assert seqs(chunks) == [5, 6]


async def test_a_range_in_which_nothing_matches_is_passed_over_in_bounded_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout_module, "SCAN_IN_MEMORY", 10)
    monkeypatch.setattr(fanout_module, "SCAN_IN_LOG", 20)
    log = FakeLog(*(event(seq, "other") for seq in range(1, 101)))
    node = Node(log, settings_of(replay_cache_events=40))
    async with node.running():
        node.fanout.wake(100)
        await node.sent(100)
    chunks = await replayed(node, 0, EventFilter(("mine",)), "alice")
    assert seqs(chunks) == []
    assert [after.up_to - before.up_to for before, after in pairwise(chunks)] == [20, 20] + [10] * 4
