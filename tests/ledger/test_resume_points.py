"""Resume points, as the ledger writes them: what moves them, and what does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from service.errors import ConsumerLimit
from service.events.filter import EventFilter
from service.events.position import Position
from service.ledger.resume_points import ResumeKey, ResumePoint
from tests.alerts.examples import bearer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger

    OpenOne = Callable[..., Awaitable[OpenLedger]]

POINTS = """
SELECT coalesce(consumer, ''), array_to_string(topics, ','), min_severity::text, seq FROM audit.resume_points
WHERE recipient = 'alice' ORDER BY 1, 2, 3
"""
CRITICAL = EventFilter(("*",), "critical")


async def point(opened: OpenLedger) -> int:
    """Return where the only point is, after everything was written."""
    await opened.flusher.flush()
    [(seq,)] = await opened.rows("SELECT seq FROM resume_points")
    return int(seq)


async def test_a_filter_moves_its_own_point_only(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    head = await opened.position(5)
    assert await opened.resumes("alice", head) == 5
    narrow = opened.connection(filter=CRITICAL, after_seq=5, sent_seq=9)
    opened.ledger.record_receipt(narrow, 9)
    assert await opened.resumes("alice", await opened.position(10)) == 5
    await opened.flusher.flush()
    assert await opened.rows(POINTS) == [("", "*", "critical", 9), ("", "*", "info", 5)]
    assert await opened.resumes("alice", await opened.position(10), min_severity="critical") == 9
    assert await opened.resumes("bob", await opened.position(10), min_severity="critical") == 10


async def test_a_consumer_has_a_point_whatever_others_with_its_filter_do(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    for consumer in ("", "a", "b"):
        assert await opened.resumes("alice", await opened.position(2), consumer) == 2
    opened.ledger.record_receipt(opened.connection(consumer="a", after_seq=2, sent_seq=9), 7)
    assert await opened.resumes("alice", await opened.position(9), "a") == 7
    await opened.flusher.flush()
    assert await opened.rows(POINTS) == [("", "*", "info", 2), ("a", "*", "info", 7), ("b", "*", "info", 2)]


async def test_another_filter_of_a_consumer_begins_at_the_earliest_of_its_points(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    narrow, wide = EventFilter(("a",), "error"), EventFilter(("a", "b"), "info")
    assert await opened.resumes("alice", await opened.position(3), "job", topics=("a",), min_severity="error") == 3
    opened.ledger.record_receipt(opened.connection(consumer="job", filter=narrow, after_seq=3, sent_seq=6), 6)
    await opened.flusher.flush()
    assert await opened.resumes("alice", await opened.position(9), "job", topics=("c",), min_severity="info") == 6
    assert await opened.resumes("alice", await opened.position(9), "other", topics=("c",), min_severity="info") == 9
    opened.ledger.record_receipt(opened.connection(consumer="job", filter=narrow, after_seq=6, sent_seq=8), 8)
    opened.connection(consumer="job", filter=wide, after_seq=9, sent_seq=9)  # with a cursor of its own: a hole remains
    await opened.flusher.flush()
    assert await opened.rows(POINTS) == [
        ("job", "a", "error", 8),
        ("job", "a,b", "info", 6),
        ("job", "c", "info", 6),
        ("other", "c", "info", 9),
    ]


CURSOR = True
STREAMS: dict[str, tuple[list[tuple[int, int, int, bool]], int]] = {
    # What each stream began after, was sent and acknowledged, and whether its client gave the cursor that it began at;
    # then where the point is, which begins at 2.
    "in one go": ([(2, 9, 7, False)], 7),
    "nothing acknowledged": ([(2, 9, 0, False)], 2),
    "a hole before it": ([(5, 9, 9, CURSOR)], 2),
    "latest, one event after": ([(3, 9, 9, False)], 2),
    "latest, at the point": ([(2, 9, 9, False)], 9),
    "latest, within what was sent and not acknowledged": ([(2, 6, 3, False), (6, 9, 8, False)], 3),
    "resumed by its cursor within what was sent": ([(2, 6, 3, False), (6, 9, 8, CURSOR)], 8),
    "resumed by its cursor, nothing acknowledged since": ([(2, 6, 3, False), (5, 9, 0, CURSOR)], 3),
    "resumed by its cursor beyond what was sent": ([(2, 5, 3, False), (6, 9, 8, CURSOR)], 3),
    "a hole that another stream was sent": ([(6, 9, 9, CURSOR), (2, 6, 4, False)], 9),
    "a hole that another stream has acknowledged": ([(6, 9, 9, False), (2, 6, 6, False)], 9),
    "a hole that another stream was sent, after latest": ([(6, 9, 9, False), (2, 6, 4, False)], 4),
    "resumed by its cursor after latest": ([(2, 6, 3, False), (6, 8, 7, False), (7, 9, 9, CURSOR)], 3),
    "twice at once": ([(2, 9, 4, False), (2, 9, 6, False)], 6),
    "from before": ([(0, 9, 1, CURSOR)], 2),
    "from before, and beyond": ([(0, 9, 8, CURSOR)], 8),
}


@pytest.mark.parametrize("flushes", ["one", "many", "two nodes"])
@pytest.mark.parametrize("case", STREAMS)
async def test_a_point_follows_what_was_acknowledged_but_never_over_a_hole(
    open_ledger: OpenOne, case: str, flushes: str
) -> None:
    streams, expected = STREAMS[case]
    opened = await open_ledger()
    nodes = [opened, await open_ledger()] if flushes == "two nodes" else [opened]
    assert await opened.resumes("alice", await opened.position(2)) == 2
    for number, (after, sent, received, has_cursor) in enumerate(streams):
        node = nodes[number % len(nodes)]
        stream = node.connection(after_seq=after, sent_seq=sent, has_cursor=has_cursor)
        if received:
            node.ledger.record_receipt(stream, received)
        if flushes != "one":
            await node.flusher.flush()
    for node in nodes:
        for stream in node.entries:  # the order of two nodes is theirs: what comes last settles it
            node.ledger.record_closing(stream, 1000, "client")
        await node.flusher.flush()
    assert await point(opened) == expected
    assert await opened.resumes("alice", await opened.position(9)) == expected
    [(event_id,)] = await opened.rows("SELECT event_id FROM resume_points")
    assert event_id == (await opened.position(expected)).id


async def test_a_point_never_goes_back(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    await opened.resumes("alice", await opened.position(2))
    opened.ledger.record_receipt(opened.connection(after_seq=2, sent_seq=9), 8)
    assert await point(opened) == 8
    opened.ledger.record_receipt(opened.connection(after_seq=2, sent_seq=9), 5)
    assert await point(opened) == 8


async def test_what_was_written_to_a_full_socket_may_have_arrived(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    await opened.resumes("alice", await opened.position(0))
    stuck = opened.connection()
    opened.ledger.record_position(stuck, 3, 8)
    opened.ledger.record_closing(stuck, 1013, "slow_consumer")
    opened.ledger.record_receipt(
        opened.connection(after_seq=7, sent_seq=9, has_cursor=True), 9
    )  # its cursor is of what it received
    assert await point(opened) == 9


async def test_a_late_receipt_moves_the_point_of_its_consumer(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    for consumer in ("", "job"):
        await opened.resumes("alice", await opened.position(0), consumer)
    stream = opened.connection(consumer="job", sent_seq=5)
    opened.ledger.record_closing(stream, 1006, "connection_lost")
    await opened.flusher.flush()
    elsewhere = await open_ledger()
    assert await elsewhere.ledger.record_late_receipt(stream.id, bearer("alice"), 9) == 5
    assert await opened.rows(POINTS) == [("", "*", "info", 0), ("job", "*", "info", 5)]


async def test_a_point_knows_whether_another_node_sent_the_last_answer_to_a_poll(open_ledger: OpenOne) -> None:
    here, there = await open_ledger(), await open_ledger()
    key, head = ResumeKey("alice", "", EventFilter()), await here.position(2)
    assert await here.ledger.resume_point(key, ("*",), head) == ResumePoint(*head)
    answered = here.connection(after_seq=2, sent_seq=9)
    here.ledger.record_polled(answered, 9)
    await here.flusher.flush()
    for opened, is_elsewhere in ((here, False), (there, True)):
        point = await opened.ledger.resume_point(key, ("*",), head)
        assert (point.polled_on, point.polled_seq, point.polled_elsewhere) == (answered.id, 9, is_elsewhere)


async def test_the_streams_of_a_lost_node_were_sent_what_it_last_wrote(open_ledger: OpenOne) -> None:
    lost, opened = await open_ledger(), await open_ledger()
    await lost.resumes("alice", await lost.position(0))
    lost.connection()
    await lost.dispatch(0, 6)
    await lost.flusher.flush()
    await opened.database.execute("SELECT end_nodes(ARRAY[$1::uuid], 'node_lost')", lost.ledger.node_id)
    opened.ledger.record_receipt(opened.connection(after_seq=6, sent_seq=9, has_cursor=True), 9)
    assert await point(opened) == 9


async def test_a_point_has_the_id_of_its_event_and_moves_where_that_is_void(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    key = ResumeKey("alice", "", EventFilter())
    head = await opened.position(7)
    assert await opened.ledger.resume_point(key, ("*",), head) == ResumePoint(*head)
    assert ResumePoint(*head).cursor.matches(head)
    start = await opened.position(4)
    await opened.ledger.move_resume_point(key, ResumePoint(7, head.id + 1), start)  # another has moved it already
    assert await opened.ledger.resume_point(key, ("*",), head) == ResumePoint(*head)
    await opened.ledger.move_resume_point(key, ResumePoint(*head), start)
    assert await opened.ledger.resume_point(key, ("*",), head) == ResumePoint(*start)


async def test_a_recipient_has_a_bounded_number_of_points(open_ledger: OpenOne) -> None:
    opened = await open_ledger(resume_points_per_recipient=2)
    head = await opened.position(5)
    await opened.resumes("alice", head, "a")
    await opened.resumes("alice", head)
    for consumer in ("b", "c"):
        with pytest.raises(ConsumerLimit) as refusal:
            await opened.resumes("alice", head, consumer)
        assert "2" in refusal.value.detail
    opened.connection(consumer="d", after_seq=3, sent_seq=5)  # with a cursor it needs none
    await opened.flusher.flush()
    assert await opened.resumes("alice", head, "a") == 5
    assert await opened.resumes("bob", head, "b") == 5
    assert len(await opened.rows(POINTS)) == 2
    await opened.database.execute("UPDATE resume_points SET used_at = used_at - interval '25 hours'")
    assert await opened.resumes("alice", head, "b") == 5  # in the place of the one without a name
    with pytest.raises(ConsumerLimit):
        await opened.resumes("alice", head)
    assert [row[0] for row in await opened.rows(POINTS)] == ["a", "b"]


async def test_unused_points_are_deleted_unless_a_stream_of_theirs_is_open(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    for consumer in ("idle", "open", "recent"):
        await opened.resumes("alice", await opened.position(5), consumer)
    opened.connection(consumer="open", after_seq=5)
    await opened.flusher.flush()
    unused = "UPDATE resume_points SET used_at = used_at - interval '91 days' WHERE consumer <> 'recent'"
    await opened.database.execute(unused)
    await opened.housekeeping.run_once()
    assert [row[0] for row in await opened.rows(POINTS)] == ["open", "recent"]


async def test_the_order_of_topics_makes_no_other_filter_and_long_lists_have_points(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    topics = tuple(sorted(f"{number:02d}" + "x" * 98 for number in range(100)))
    await opened.resumes("alice", await opened.position(5), topics=topics)
    opened.ledger.record_receipt(opened.connection(filter=EventFilter(topics), after_seq=5, sent_seq=9), 9)
    assert await point(opened) == 9


async def test_the_view_says_how_far_behind_a_point_is(open_ledger: OpenOne) -> None:
    opened = await open_ledger()
    await opened.resumes("alice", await opened.position(6))
    await opened.resumes("alice", await opened.position(6), "job", min_severity="critical")
    rows = await opened.rows("SELECT consumer, seq, behind FROM audit.resume_points ORDER BY 1")
    assert rows == [("job", 6, 0), (None, 6, 4)]


async def test_streams_that_open_at_once_on_two_nodes_have_one_point(open_ledger: OpenOne) -> None:
    here, there = await open_ledger(), await open_ledger()
    early, late = await here.position(4), await here.position(9)

    for name in ("alice", "bob", "carol"):
        first, second = await asyncio.gather(here.resumes(name, early), there.resumes(name, late))
        assert first == second
        assert first in {4, 9}


def test_a_point_counts_what_is_not_written_yet() -> None:
    stored = ResumePoint(5, 77)
    assert stored.advanced(5, []) is stored
    assert stored.advanced(5, [(6, 9, True)]) is stored
    assert stored.advanced(6, [(6, 9, False)]) is stored
    assert stored.advanced(6, [(6, 9, True)]) == ResumePoint(9, 0)
    assert stored.advanced(5, [(8, 12, False), (5, 8, False)]) == ResumePoint(12, 0)
    assert stored.cursor.mark == Position(5, 77).mark
    assert ResumePoint(9, 0).cursor.mark is None
