"""The fan-out loop with a log in memory: order, holes, wake-ups, polls, and the chunks of a replay."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.errors import CloseReason, DatabaseUnavailable
from service.events.position import ORIGIN, Cursor
from service.metrics import HISTORY_CHANGES
from service.settings import StreamSettings
from service.stream import fanout as fanout_module
from service.stream.fanout import HINT_REST_SECONDS, PASS_BYTES, Fanout
from tests.fixtures.revocations import KnownRevocations
from tests.harness import PATIENCE, eventually
from tests.stream.fakes import FakeFlusher, FakeLedger, FakeLog, FakeTransport, at, event, fake_hub, live

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.events.log import Event
    from service.events.position import Position
    from service.ledger.flusher import LedgerFlusher
    from service.stream.hub import Hub

pytestmark = pytest.mark.unit

NEVER = 3600


@pytest.fixture(autouse=True)
def _log_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLog.install(monkeypatch, fanout_module)


def settings_of(**changes: object) -> StreamSettings:
    return StreamSettings.model_validate({"log_poll_interval_seconds": NEVER, **changes})


class Node:
    """A fan-out over a log, with one live connection that is sent everything."""

    def __init__(self, log: FakeLog, options: StreamSettings, head: int = 0) -> None:
        self.ledger = FakeLedger()
        self.flusher = FakeFlusher()
        self.hub: Hub = fake_hub(options, self.ledger)
        self.fanout = Fanout(log.database, self.hub, cast("LedgerFlusher", self.flusher), options, KnownRevocations())
        self.fanout.start_at(at(head))
        self.transport: FakeTransport = live(self.hub, ledger=self.ledger)
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
        async with asyncio.timeout(PATIENCE):
            while self.hub.position.seq < seq:
                await self.fanout._advanced.wait()
        return self.transport.seqs


async def test_committed_events_that_follow_on_are_fanned_out_without_the_database() -> None:
    node = Node(FakeLog(), settings_of(), head=10)
    async with node.running():
        node.fanout.enqueue_committed(at(10), [event(11), event(12)])
        assert await node.sent(12) == [11, 12]
        node.fanout.enqueue_committed(at(12), [event(13)])
        assert await node.sent(13) == [11, 12, 13]
    assert node.log.read_count == 0


async def test_a_hole_before_committed_events_is_filled_from_the_log() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.enqueue_committed(at(3), [event(4), event(5)])
        assert await node.sent(5) == [1, 2, 3, 4, 5]
    assert log.read_count == 1


async def test_a_wake_up_reads_the_tail_and_one_that_is_not_news_reads_nothing() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 4)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(3)
        assert await node.sent(3) == [1, 2, 3]
        reads = log.read_count
        for seq in (1, 3, 2):
            node.fanout.wake(seq)
            await asyncio.sleep(0.01)
        assert log.read_count == reads


async def test_a_wake_up_for_more_than_the_log_has_is_asked_for_once() -> None:
    log = FakeLog(event(1))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(50)
        assert await node.sent(1) == [1]
        await eventually(lambda: log.read_count == 2)  # the event, and that there are no more
        node.fanout.wake(1)
        await asyncio.sleep(0.01)
        assert log.read_count == 2
        log.events.append(event(2))
        node.fanout.wake(2)
        assert await node.sent(2) == [1, 2]


async def test_a_notification_that_the_log_goes_on_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "HINT_REST_SECONDS", NEVER)
    log = FakeLog(*(event(seq) for seq in range(1, 4)))
    node = Node(log, settings_of())
    async with node.running():
        for head in (1, 2, 3):  # each is news when it comes; the first read finds them all
            node.fanout.hint(str(head))
        assert await node.sent(3) == [1, 2, 3]
        reads = log.read_count
        log.events.append(event(4))
        node.fanout.hint("4")
        assert await node.sent(4) == [1, 2, 3, 4]
        assert reads <= 2


@pytest.mark.parametrize(
    "payload", ["", "x", "-1", "1.5", "0x10", "٣", "9" * 20, "9" * 8000, " 7", "7\n", "\0", "0", "5"]
)
async def test_a_notification_that_is_no_news_reads_nothing(payload: str) -> None:
    node = Node(FakeLog(), settings_of(), head=5)
    async with node.running():
        node.fanout.hint(payload)
        await asyncio.sleep(0.01)
    assert node.log.read_count == 0


async def test_what_this_node_has_committed_is_not_read_because_of_its_own_notification() -> None:
    node = Node(FakeLog(event(1), event(2)), settings_of())
    async with node.running():
        for seq in (1, 2):
            node.fanout.enqueue_committed(at(seq - 1) if seq > 1 else ORIGIN, [event(seq)])
            node.fanout.hint(str(seq))
            assert await node.sent(seq) == list(range(1, seq + 1))
            await asyncio.sleep(0.01)
    assert node.log.read_count == 0


async def test_forged_notifications_cost_a_limited_number_of_reads_and_no_event() -> None:
    log = FakeLog()
    node = Node(log, settings_of())
    async with node.running():
        began = time.monotonic()
        for number in range(10_000):
            node.fanout.hint(str(number % 7 * 10**17 + 1))
            await asyncio.sleep(0)
        elapsed = time.monotonic() - began
        assert 1 <= log.read_count <= 2 + elapsed / HINT_REST_SECONDS
        log.events.append(event(1))
        node.fanout.hint("1")
        assert await node.sent(1) == [1]
        node.fanout.enqueue_committed(at(1), [event(2)])
        assert await node.sent(2) == [1, 2]


async def test_a_node_without_its_lease_writes_no_event_until_it_holds_it_again() -> None:
    log = FakeLog(event(1))
    node = Node(log, settings_of(log_poll_interval_seconds=0.01))
    node.ledger.may_send = False
    async with node.running():
        node.fanout.enqueue_committed(ORIGIN, [event(1)])
        await asyncio.sleep(0.05)
        assert (node.transport.seqs, node.hub.position) == ([], ORIGIN)
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
        await eventually(lambda: node.log.read_count == 1)
        await asyncio.sleep(0.01)
    assert (node.log.read_count, node.transport.seqs, node.hub.position) == (1, [], ORIGIN)


async def test_a_node_without_its_lease_notices_another_history() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 4)))
    node = Node(log, settings_of(log_poll_interval_seconds=0.01))
    async with node.running():
        await node.sent(3)
        node.ledger.may_send = False
        log.rewrite(1, event(2, history=1))
        await node.fanout.leave(at(3))
        assert node.hub.position == at(1)
        node.ledger.may_send = True
        await settled(node)
    assert node.fanout.replays.cache.end == at(2, history=1)


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
        node.fanout.enqueue_committed(at(8), [event(9, size=2 * PASS_BYTES), event(10)])
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
                    node.fanout.enqueue_committed(at(head), new)
            elif step == "a wake-up":
                node.fanout.wake(head)
            elif step == "an old wake-up":
                node.fanout.wake(max(0, head - count))
            for _ in range(count):
                await asyncio.sleep(0)
        node.fanout.wake(len(log.events))
        assert await node.sent(len(log.events)) == list(range(1, len(log.events) + 1))


# A log whose history changed.


async def settled(node: Node) -> None:
    """Wait until the node is at the head of its log."""
    async with asyncio.timeout(PATIENCE):
        while node.hub.position != node.log.position:
            await node.fanout._advanced.wait()


async def test_a_node_that_meets_another_history_closes_its_streams_and_follows_the_log() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of(log_poll_interval_seconds=0.01))
    changes = HISTORY_CHANGES._value.get()
    with capture_logs() as lines:
        async with node.running():
            await node.sent(5)
            log.rewrite(3, event(4, history=1))
            await settled(node)
            await asyncio.sleep(0.05)  # it is noticed once
    assert node.transport.seqs == [1, 2, 3, 4, 5]
    assert node.transport.closed is CloseReason.HISTORY_CHANGED
    assert node.ledger.of("record_closing")[0][1:] == (1012, "history_changed")
    assert node.flusher.calls == [(at(3), at(3))]
    assert HISTORY_CHANGES._value.get() == changes + 1
    [line] = lines
    assert line == {
        "log_level": "error",
        "event": "the history of the log changed",
        "position": at(5).cursor,
        "head": at(4, history=1).cursor,
        "common": 3,
        "streams": 1,
    }
    assert node.fanout.replays.cache.positions == [at(0), at(1), at(2), at(3), at(4, history=1)]
    assert node.fanout.void_branches.common_with(Cursor(5, at(5).mark)) == at(3)


async def test_a_node_that_holds_nothing_in_common_with_the_log_starts_at_its_head() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 11)))
    node = Node(log, settings_of(replay_cache_events=2, log_poll_interval_seconds=0.01))
    async with node.running():
        await node.sent(10)
        log.rewrite(3, event(4, history=1), event(5, history=1))
        await settled(node)
    assert node.flusher.calls == [(at(5, history=1), None)]
    assert node.fanout.replays.cache.positions == [at(5, history=1)]
    assert node.fanout.void_branches.common_with(Cursor(10, at(10).mark)) is None


async def test_a_failover_that_lost_nothing_closes_nothing() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of(log_poll_interval_seconds=0.01))
    async with node.running():
        await node.sent(5)
        log.is_reachable = False
        await asyncio.sleep(0.02)
        log.is_reachable = True
        log.rewrite(5, event(6, history=1))
        assert await node.sent(6) == [1, 2, 3, 4, 5, 6]
    assert node.transport.closed is None
    assert node.flusher.calls == []


async def test_while_the_log_cannot_be_read_nothing_is_given_up() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(5)
        await node.sent(5)
        log.rewrite(3)
        log.is_reachable = False
        node.fanout.check_history()
        await asyncio.sleep(0.01)
        assert node.transport.closed is None


@pytest.mark.parametrize("seq", [4, 6])
async def test_what_was_committed_to_another_history_is_read_from_the_log_before_it_is_sent(seq: int) -> None:
    """The log was taken back to 3 or to 5; the node is at 5, and was woken by nothing but its own commit."""
    log = FakeLog(*(event(number) for number in range(1, 6)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(5)
        await node.sent(5)
        new = event(seq, history=1)
        log.rewrite(seq - 2, event(seq - 1, history=1), new)
        node.fanout.enqueue_committed(at(seq - 1, history=1), [new])
        await settled(node)
    assert node.transport.seqs == [1, 2, 3, 4, 5]
    assert node.transport.closed is CloseReason.HISTORY_CHANGED


async def test_what_was_committed_to_the_history_that_was_lost_is_never_sent_after_it() -> None:
    """A commit of the old primary is queued while the node already follows the new one, or comes even later."""
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of())
    async with node.running():
        node.fanout.wake(5)
        await node.sent(5)
        log.rewrite(4, *(event(seq, history=1) for seq in range(5, 8)))
        node.fanout.enqueue_committed(at(6), [event(7)])  # behind a hole, so it waits
        node.fanout.check_history()
        await settled(node)
        later = live(node.hub)
        for before, lost in ((at(7), event(8)), (at(6), event(7)), (at(5), event(6))):
            node.fanout.enqueue_committed(before, [lost])
            await asyncio.sleep(0.01)
        log.events.append(event(8, history=1))
        node.fanout.wake(8)
        await settled(node)
    assert [frame["cursor"] for frame in later.frames if frame["type"] == "event"] == [at(8, history=1).cursor]
    assert later.closed is None


# Streams that start.


async def test_a_stream_waits_until_this_node_has_reached_where_it_starts() -> None:
    node = Node(FakeLog(*(event(seq) for seq in range(1, 6))), settings_of(), head=1)
    async with node.running():
        await node.fanout.reach(4)
        assert node.hub.position.seq >= 4


async def test_a_node_that_does_not_come_so_far_in_time_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "WAIT_SECONDS", 0.01)
    node = Node(FakeLog(event(1)), settings_of())  # nothing fans out
    with pytest.raises(DatabaseUnavailable):
        await node.fanout.reach(1)
    with pytest.raises(DatabaseUnavailable):
        await node.fanout.leave(at(0))


async def test_a_stream_waits_until_this_node_has_left_a_history() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 6)))
    node = Node(log, settings_of())
    async with node.running():
        await node.fanout.reach(5)
        log.rewrite(3)
        await node.fanout.leave(at(5))
        assert node.hub.position == at(3)
