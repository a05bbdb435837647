from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from service.database.ids import uuid7
from service.ledger.flusher import LeaseLost
from service.ledger.records import Rejection, _connection_row
from service.settings import LedgerSettings, Settings, StreamSettings
from tests.alerts.examples import bearer
from tests.fixtures.audit_verify import assert_untampered
from tests.harness import PATIENCE, eventually, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger
    from tests.harness import Node


# How it grows.


async def test_dispatches_grow_with_the_passes_and_not_with_the_connections(node: Node) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await node.live(f"admin {number}")) for number in range(12)]
        for number in range(5):
            await node.post(f"alert {number}")
            for stream in streams:
                await stream.events(1)
        await node.flushed(5)
        rows = await node.sql("SELECT count(*), count(connection_id) FROM dispatches")
        assert tuple(rows[0]) == (5, 0)
        rows = await node.sql("SELECT count(*), count(sent_at) FROM audit.deliveries")
        assert tuple(rows[0]) == (60, 60)
        assert await node.sql("SELECT FROM connections WHERE sent_seq IS NOT NULL") == []


async def test_alerts_that_nobody_may_see_leave_no_dispatch(node: Node) -> None:
    async with await node.live(topic="search"):
        seq = (await node.post(topic="payments.eu"))["seq"]
        await node.flushed(seq)
        assert await node.sql("SELECT FROM dispatches") == []
        assert await node.sql("SELECT FROM audit.deliveries") == []


async def test_a_replay_leaves_a_dispatch_for_each_chunk(database_url: str) -> None:
    with serving(database_url, Settings(stream=StreamSettings(replay_chunk_events=2))) as node:
        async with await node.live("bob") as bob:
            await node.post_all([{}] * 5)
            await bob.events(5)
        async with await node.live(after=0) as stream:
            assert [frame["seq"] for frame in stream.seen if frame["type"] == "event"] == [1, 2, 3, 4, 5]
            query = "SELECT after_seq, up_to_seq FROM dispatches WHERE connection_id IS NOT NULL ORDER BY 1"
            rows = await eventually(lambda: node.sql(query))
            assert [tuple(row) for row in rows] == [(0, 2), (2, 4), (4, 5)]


async def test_acks_that_follow_closely_are_few_receipts(database_url: str) -> None:
    count = 60
    with serving(database_url, Settings(ledger=LedgerSettings(ack_coalesce_seconds=5))) as node:
        async with await node.live() as stream:
            await node.post_all([{}] * count)
            await stream.events(count)
            for seq in range(1, count + 1):
                await stream.ack(seq)
            await eventually(lambda: node.sql("SELECT FROM receipts WHERE seq = $1", count))
            rows = await node.sql("SELECT count(*), max(seq) FROM receipts")
            assert 1 <= rows[0][0] < count / 4
            rows = await node.sql("SELECT count(*), count(received_at) FROM audit.deliveries")
            assert tuple(rows[0]) == (count, count)


async def test_acks_that_do_not_follow_closely_are_receipts_of_their_own(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger(ack_coalesce_seconds=1e-9)
    connection = opened.connection()
    for seq in (3, 5, 9):
        opened.ledger.record_receipt(connection, seq)
    await opened.flusher.flush()
    assert await opened.rows("SELECT seq FROM receipts ORDER BY 1") == [(3,), (5,), (9,)]
    assert await opened.rows("SELECT seq FROM resume_points WHERE recipient = 'alice'") == [(9,)]


async def test_an_ack_for_a_connection_that_has_just_ended_counts_up_to_what_it_was_sent(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    connection = opened.connection(sent_seq=5)
    opened.ledger.record_closing(connection, 1006, "connection_lost")
    narrow = bearer("alice", topics=("payments",))
    assert await opened.ledger.record_late_receipt(connection.id, bearer("bob"), 9) is None
    assert await opened.ledger.record_late_receipt(connection.id, narrow, 9) is None
    assert await opened.ledger.record_late_receipt(connection.id, bearer("alice"), 3) == 3
    assert await opened.ledger.record_late_receipt(connection.id, bearer("alice"), 9) == 5
    await opened.flusher.flush()
    assert await opened.rows("SELECT max(seq) FROM receipts") == [(5,)]
    assert await opened.ledger.record_late_receipt(connection.id, narrow, 9) is None
    assert await opened.ledger.record_late_receipt(connection.id, bearer("alice"), 9) == 5
    assert await opened.rows("SELECT max(seq) FROM receipts") == [(5,)]
    assert await opened.rows("SELECT seq FROM resume_points") == [(5,)]


# When it is full.


async def test_a_full_ledger_takes_on_no_stream_until_it_is_flushed(database_url: str) -> None:
    with serving(database_url, Settings(ledger=LedgerSettings(ledger_pending_max=1, ledger_flush_seconds=0.5))) as node:
        async with await node.live() as taken_on:
            refused = await node.stream("bob")
            assert await refused.closed() == (1013, "overloaded")
            assert refused.seen == []
            later = await eventually(lambda: next_stream(node))
            assert {frame["type"] for frame in taken_on.seen} <= {"welcome", "caught_up", "presence"}
            await later.close()


async def next_stream(node: Node) -> Any:
    stream = await node.stream("bob")
    try:
        await stream.next()
    except ConnectionClosed:
        return None
    return stream


async def test_a_full_ledger_merges_passes_into_later_ones_and_keeps_as_many_rejections(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger(ledger_pending_max=3)
    opened.connection()
    for seq in range(6):
        await opened.dispatch(seq, seq + 1)
    assert opened.ledger.is_full
    for _ in range(5):
        opened.ledger.record_rejection(Rejection(None, "/v1/ws", "token_missing", None, None, None))
    await opened.flusher.flush()
    rows = await opened.rows("SELECT after_seq, up_to_seq FROM dispatches ORDER BY 1")
    assert rows == [(0, 1), (1, 2), (2, 6)]
    assert await opened.rows("SELECT count(*) FROM handshake_rejections") == [(3,)]
    assert not opened.ledger.is_full
    opened.ledger.record_rejection(Rejection(None, "/v1/ws", "token_missing", None, None, None))
    await opened.flusher.flush()
    assert await opened.rows("SELECT count(*) FROM handshake_rejections") == [(4,)]


# When the database is away.


async def test_a_flush_that_failed_is_repeated_and_loses_nothing(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger(ack_coalesce_seconds=1e-9)
    connection = opened.connection()
    await opened.dispatch(0, 1)
    opened.ledger.record_receipt(connection, 1)
    async with opened.locked():
        await opened.time_out(opened.flusher.flush())
        assert opened.flusher.punctual_since is None
        await opened.dispatch(1, 2)
        opened.ledger.record_receipt(connection, 2)
    assert await opened.rows("SELECT id FROM connections") == []
    await opened.flusher.flush()
    assert await opened.rows("SELECT id, sent_seq FROM connections") == [(connection.id, None)]
    assert await opened.rows("SELECT sent_seq FROM nodes") == [(2,)]
    assert await opened.rows("SELECT up_to_seq FROM dispatches ORDER BY 1") == [(1,), (2,)]
    assert await opened.rows("SELECT seq FROM receipts ORDER BY 1") == [(1,), (2,)]


async def test_a_flush_that_was_committed_unheard_of_is_repeated_and_doubles_nothing(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    connection = opened.connection()
    await opened.dispatch(0, 1)
    opened.ledger.record_dispatch_to(connection, 0, 1)
    opened.ledger.record_receipt(connection, 1)
    opened.ledger.record_rejection(Rejection(None, "/v1/ws", "token_missing", None, None, None))
    facts = opened.ledger.pending
    await opened.flusher.flush()
    opened.ledger.pending.put_back(facts)
    await opened.flusher.flush()
    counts = await opened.rows(
        "SELECT (SELECT count(*) FROM connections), (SELECT count(*) FROM dispatches),"
        " (SELECT count(*) FROM receipts), (SELECT count(*) FROM handshake_rejections)"
    )
    assert counts == [(1, 2, 1, 1)]


async def test_a_connection_that_was_closed_stays_as_it_was(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    opened = await open_ledger()
    connection = opened.connection()
    await opened.dispatch(0, 3)
    opened.ledger.record_closing(connection, 1001, "going away")
    await opened.flusher.flush()
    opened.ledger.record_position(connection, 9)
    await opened.flusher.flush()
    assert await opened.rows("SELECT sent_seq, close_code FROM connections") == [(3, 1001)]


async def test_a_cursor_counts_acks_that_are_not_yet_written_or_being_written(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    connection = opened.connection()
    opened.ledger.record_receipt(connection, 5)
    assert await opened.resumes("alice", await opened.position(9)) == 5
    opened.ledger.record_receipt(connection, 7)
    async with opened.locked():
        flush = asyncio.create_task(opened.flusher.flush())
        await eventually(lambda: len(opened.ledger.pending) == 0)
        assert await opened.resumes("alice", await opened.position(9)) == 7
        assert not flush.done()
    await flush
    assert await opened.resumes("alice", await opened.position(9)) == 7


async def test_an_admin_who_never_acknowledged_goes_on_where_they_began(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    here, there = await open_ledger(), await open_ledger()
    assert await here.resumes("bob", await here.position(4)) == 4
    assert await there.resumes("bob", await there.position(9)) == 4


# When the node was declared lost.


async def test_a_node_that_was_declared_lost_drops_its_streams_and_goes_on_under_a_new_id(node: Node) -> None:
    stream = await node.live()
    before = (await node.sql("UPDATE nodes SET ended_at = now() RETURNING id"))[0]["id"]
    assert await stream.closed() == (1012, "shutting_down")
    await eventually(lambda: node.sql("SELECT FROM nodes WHERE ended_at IS NULL"))
    async with await node.live("alice", after=0) as again:
        await node.post()
        await again.events(1)
        await node.flushed(1)
        rows = await node.sql("SELECT node FROM audit.deliveries")
        assert len(rows) == 1
        assert rows[0]["node"] != before


async def test_a_ledger_that_was_declared_lost_writes_nothing_more_under_its_old_id(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    connection = opened.connection()
    await opened.flusher.flush()
    lost = opened.ledger.node_id
    await opened.database.execute("UPDATE nodes SET ended_at = now(), sent_seq = 0")
    await opened.dispatch(0, 4)
    with pytest.raises(LeaseLost):
        await opened.flusher.flush()
    await opened.flusher.register(opened.ledger.position)
    opened.ledger.record_closing(connection, 1012, "shutting_down")
    opened.ledger.record_receipt(connection, 4)
    await opened.flusher.flush()
    assert opened.ledger.node_id != lost
    assert await opened.rows("SELECT sent_seq FROM nodes WHERE id = $1", lost) == [(0,)]
    assert await opened.rows("SELECT * FROM dispatches") == []
    assert await opened.rows("SELECT * FROM receipts") == []


async def test_a_fact_that_postgres_refuses_makes_the_ledger_start_over_and_claim_no_more_for_who_has_left(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger(ledger_flush_seconds=0.02)
    connection = opened.connection()
    await opened.flusher.flush()
    first = opened.ledger.node_id
    dropped = asyncio.Event()
    running = asyncio.create_task(opened.flusher.task(dropped.set, opened.refuse).run())
    try:
        opened.ledger.record_closing(connection, 1001, "going away")
        opened.connection("poison", user_agent="\0")
        await asyncio.wait_for(dropped.wait(), PATIENCE)
        await eventually(lambda: opened.rows("SELECT FROM nodes WHERE id = $1", opened.ledger.node_id))
        opened.connection("later")
        await opened.dispatch(0, 4)
        await eventually(lambda: opened.rows("SELECT FROM dispatches"))
        assert opened.ledger.node_id != first
        rows = await opened.rows("SELECT n.sent_seq, c.sent_seq FROM nodes n JOIN connections c ON n.id = node_id")
        assert sorted(rows) == [(0, None), (4, None)]
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_node_that_ends_signs_off_and_flushes(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    opened = await open_ledger()
    connection = opened.connection()
    await opened.dispatch(0, 2)
    opened.ledger.record_closing(connection, 1012, "shutting_down")
    await opened.flusher.sign_off()
    assert await opened.rows("SELECT sent_seq, ended_at IS NOT NULL FROM nodes") == [(2, True)]
    assert await opened.rows("SELECT sent_seq, close_code FROM connections") == [(2, 1012)]


async def test_a_stream_says_in_the_ledger_who_opened_it_and_how_it_ended(node: Node) -> None:
    stream = await node.live(claims={"jti": "token 1"}, min_severity="error", topic="payments.*,search")
    welcome = stream.seen[0]
    await stream.close()
    rows = await eventually(lambda: node.sql("SELECT * FROM connections WHERE closed_at IS NOT NULL"))
    found = dict(rows[0])
    assert str(found["id"]) == welcome["connection"]
    assert (found["recipient"], found["transport"], found["remote_addr"]) == ("alice", "websocket", "127.0.0.1")
    assert (found["topics"], found["min_severity"]) == (["payments.*", "search"], "error")
    assert (found["jti"], found["close_code"], found["close_reason"]) == ("token 1", 1000, "client")
    assert found["opened_at"] <= found["closed_at"] < found["token_expires_at"]
    assert "bearer" not in json.dumps(found, default=str).lower()


# What no clock and no caller may spoil.


async def test_the_last_token_of_an_admin_counts_on_nodes_whose_clocks_disagree(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    ahead, behind = await open_ledger(), await open_ledger()
    first = ahead.connection(topics=("a",), opened_at=datetime.now(UTC) + timedelta(hours=1))
    await ahead.flusher.flush()
    behind.connection(topics=("b",), opened_at=datetime.now(UTC) - timedelta(hours=1))
    await behind.flusher.flush()
    topics = "SELECT topics FROM recipients WHERE id = 'alice'"
    assert await ahead.rows(topics) == [(["b"],)]
    ahead.ledger.record_receipt(first, 3)  # an older token is not newer because its connection is still there
    ahead.ledger.record_closing(first, 1000, "client")
    await ahead.flusher.flush()
    assert await ahead.rows(topics) == [(["b"],)]


@pytest.mark.parametrize("given", [None, 0, 7])
async def test_what_is_said_of_the_link_of_a_row_is_ignored(
    open_ledger: Callable[..., Awaitable[OpenLedger]], given: int | None
) -> None:
    opened = await open_ledger()
    connection = opened.connection(sent_seq=3)
    await opened.flusher.flush()
    at = datetime.now(UTC).isoformat()
    closed, new = [
        {
            **_connection_row(connection),
            "id": str(id_),
            "closed_at": at,
            "close_code": 1000,
            "ledger_link_id": given,
        }
        for id_ in (connection.id, uuid7())
    ]
    dispatch = {
        "node_id": str(opened.ledger.node_id),
        "after_seq": 0,
        "up_to_seq": 3,
        "at": at,
        "ledger_link_id": given,
    }
    receipt = {"connection_id": str(connection.id), "seq": 3, "received_at": at, "ledger_link_id": given}
    await opened.database.execute(
        "SELECT write_ledger($1, $2, $3)",
        *(orjson.dumps(rows).decode() for rows in ([closed, new], [dispatch], [receipt])),
    )
    links = "SELECT ledger_link_id FROM connections UNION SELECT ledger_link_id FROM dispatches"
    assert await opened.rows(f"{links} UNION SELECT ledger_link_id FROM receipts") == [(1,)]
    await assert_untampered(opened.url)


@pytest.mark.parametrize("lacks", ["closed_at", "sent_seq"])
async def test_a_closing_that_lacks_its_end_is_refused(
    open_ledger: Callable[..., Awaitable[OpenLedger]], lacks: str
) -> None:
    opened = await open_ledger()
    connection = opened.connection(sent_seq=3)
    row = {**_connection_row(connection), "closed_at": datetime.now(UTC).isoformat(), lacks: None}
    with pytest.raises(asyncpg.CheckViolationError):
        await opened.database.execute("SELECT write_ledger($1, '[]', '[]')", orjson.dumps([row]).decode())


async def test_a_node_that_signs_off_leaves_no_connection_open(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    opened.connection()
    await opened.dispatch(0, 2)
    await opened.flusher.sign_off()
    assert await opened.rows("SELECT sent_seq, close_reason FROM connections") == [(2, "shutting_down")]
    await assert_untampered(opened.url)
