"""The chunks of a replay over a log in memory: from the cache, from the log, and from another history."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.events.filter import EventFilter, is_for
from service.events.position import HistoryChanged, Position
from service.settings import StreamSettings
from service.stream import frames, replay_reader
from service.stream.replay_reader import ReplayReader
from tests.stream.fakes import FakeLog, at, event, fake_hub, prepared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.stream.replay_reader import Chunk

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _log_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLog.install(monkeypatch, replay_reader)


class Node:
    """A reader whose cache holds the end of a log, as it was fanned out."""

    def __init__(self, log: FakeLog, options: StreamSettings) -> None:
        self.log = log
        self.hub = fake_hub(options, position=log.position.seq)
        self.checks = 0
        self.replays = ReplayReader(log.database, self.hub, options, self.check_history)
        self.replays.cache.extend([frames.prepare(event) for event in log.events])

    def check_history(self) -> None:
        self.checks += 1

    async def chunk(self, position: Position, event_filter: EventFilter | None = None, recipient: str = "ann") -> Chunk:
        return await self.replays.read_chunk(position, event_filter or EventFilter(), recipient)


async def replayed(node: Node, position: Position, event_filter: EventFilter, recipient: str) -> list[Chunk]:
    """Return the chunks that lead a connection from ``position`` to the hub's."""
    chunks = []
    while position != node.hub.position:
        chunks.append(await node.chunk(position, event_filter, recipient))
        assert chunks[-1].up_to.seq > position.seq
        position = chunks[-1].up_to
    return chunks


def seqs(chunks: Sequence[Chunk]) -> list[int]:
    return [
        frame.position.seq
        for chunk in chunks
        for frame in chunk.batch.frames
        if frame.type == "event" and frame.position
    ]


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
    options = StreamSettings(replay_cache_events=remembered, replay_chunk_events=3, replay_chunk_bytes=1024)
    node = Node(FakeLog(*events), options)
    expected = EventFilter((topic,))
    chunks = await replayed(node, at(min(cursor, len(events))), expected, "ann")
    assert seqs(chunks) == [
        one.seq for one in events if one.seq > cursor and expected.matches(one) and is_for("ann", one)
    ]
    for chunk in chunks:
        sizes = [len(frame.payload) for frame in chunk.batch.frames]
        assert len(sizes) == chunk.events <= 3
        assert sum(sizes[:-1]) < 1024 + 3 * 200  # the log counts bodies, and memory whole frames


async def test_connections_with_the_same_cursor_and_filter_are_sent_the_same_chunk() -> None:
    node = Node(FakeLog(*(event(seq) for seq in range(1, 5))), StreamSettings())
    one, two = [await node.chunk(at(1), recipient=name) for name in ("alice", "bob")]
    assert one is two
    assert seqs([one]) == [2, 3, 4]
    assert await node.chunk(at(2)) is not one
    assert node.log.read_count == 0


async def test_a_later_replay_has_what_the_log_has_gained_since() -> None:
    node = Node(FakeLog(*(event(seq) for seq in range(1, 5))), StreamSettings())
    assert seqs([await node.chunk(at(1))]) == [2, 3, 4]
    node.replays.cache.extend([prepared(5)])
    assert seqs([await node.chunk(at(1))]) == [2, 3, 4, 5]


async def test_what_was_purged_is_named_in_a_gap_and_replayed_no_longer() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 7)))
    node = Node(log, StreamSettings())
    assert seqs(await replayed(node, at(0), EventFilter(), "alice")) == [1, 2, 3, 4, 5, 6]
    del log.events[:4]
    node.replays.drop(4)
    assert not node.replays._scans
    purged = Position(1, 0)  # a client said so, and nothing is left to check it against
    [chunk] = await replayed(node, purged, EventFilter(), "alice")
    gap = chunk.batch.frames[0]
    assert gap.payload == b'{"type":"gap","from":2,"to":4,"reason":"purged"}'
    assert gap.position is None  # the events after it move the cursor
    assert seqs([chunk]) == [5, 6]
    [chunk] = await replayed(node, purged, EventFilter(("nothing",)), "alice")
    assert [(frame.type, frame.position) for frame in chunk.batch.frames] == [("gap", at(6))]


async def test_a_range_in_which_nothing_matches_is_passed_over_in_bounded_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_reader, "SCAN_IN_MEMORY", 10)
    monkeypatch.setattr(replay_reader, "SCAN_IN_LOG", 20)
    log = FakeLog(*(event(seq, "other") for seq in range(1, 101)))
    node = Node(log, StreamSettings(replay_cache_events=40))
    chunks = await replayed(node, at(0), EventFilter(("mine",)), "alice")
    assert seqs(chunks) == []
    assert [after.up_to.seq - before.up_to.seq for before, after in pairwise(chunks)] == [20, 20] + [10] * 4


# Another history.


@pytest.mark.parametrize("position", [at(4, history=1), at(6, history=1), at(7), at(99)])
async def test_a_position_that_the_cache_does_not_hold_is_answered_with_nothing(position: Position) -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 7)))
    node = Node(log, StreamSettings())
    with pytest.raises(HistoryChanged):
        await node.chunk(position)
    assert (node.checks, log.read_count) == (1, 0)


async def test_a_position_before_the_cache_is_checked_where_the_chunk_is_read() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 7)))
    node = Node(log, StreamSettings(replay_cache_events=2))
    assert seqs([await node.chunk(at(2))]) == [3, 4, 5, 6]
    log.rewrite(1, *(event(seq, history=1) for seq in range(2, 8)))
    with pytest.raises(HistoryChanged):
        await node.chunk(at(2))
    assert node.checks == 1


async def test_a_chunk_of_another_history_ends_at_a_position_there() -> None:
    """So the connection, whose events it holds, does not go on with those of this node."""
    log = FakeLog(*(event(seq) for seq in range(1, 7)))
    node = Node(log, StreamSettings(replay_cache_events=2))
    log.rewrite(2, *(event(seq, history=1) for seq in range(3, 8)))
    chunk = await node.chunk(at(2))
    assert [frame.position for frame in chunk.batch.frames] == [at(seq, history=1) for seq in (3, 4, 5, 6)]
    assert chunk.up_to == at(6, history=1)
    with pytest.raises(HistoryChanged):
        await node.chunk(chunk.up_to)


async def test_a_log_that_ends_before_this_node_is_another_history() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 7)))
    node = Node(log, StreamSettings(replay_cache_events=2))
    log.rewrite(3)
    with pytest.raises(HistoryChanged):
        await node.chunk(at(2))


async def test_what_was_read_of_a_history_that_the_node_left_is_sent_to_nobody() -> None:
    log = FakeLog(*(event(seq) for seq in range(1, 7)))
    node = Node(log, StreamSettings())
    await node.chunk(at(2))
    assert node.replays.rewind(at(3)) == [at(4), at(5), at(6)]
    node.replays.cache.extend([frames.prepare(event(4, history=1))])
    chunk = await node.chunk(at(2))
    assert [frame.position for frame in chunk.batch.frames] == [at(3), at(4, history=1)]
    node.replays.restart(at(4, history=1))
    assert (await node.chunk(at(4, history=1))).events == 0
