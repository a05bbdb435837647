"""The ledger of a node whose log has another history than it sent: it claims nothing that the log does not hold."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from service.events.position import ORIGIN, HistoryChanged, Position
from service.ledger.flusher import LeaseLost
from tests.fixtures.audit_verify import assert_untampered
from tests.fixtures.small_log import fill
from tests.harness import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.ledger.records import ConnectionEntry
    from tests.fixtures.open_ledger import OpenLedger

HEAD, COMMON = 9, 6
CLOSED = "SELECT recipient, after_seq, sent_seq, close_reason FROM connections ORDER BY recipient"
DISPATCHES = "SELECT after_seq, up_to_seq FROM dispatches ORDER BY 1"
RECEIPTS = "SELECT seq FROM receipts ORDER BY 1"


@pytest.fixture
async def opened(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> OpenLedger:
    """A node that has flushed at 5, with a connection that keeps up; the head is at 9, each event with a link."""
    opened = await open_ledger(ack_coalesce_seconds=1e-9)
    await fill(opened.database, HEAD, at_once=1)
    opened.connection("alice")
    await opened.dispatch(0, 5)
    await opened.flusher.flush()
    return opened


def alice(opened: OpenLedger) -> ConnectionEntry:
    return next(iter(opened.entries))


async def send_more(opened: OpenLedger) -> None:
    """Send up to the head, which is not flushed yet."""
    await opened.dispatch(5, 8)
    opened.connection("bob", after_seq=8, sent_seq=8)
    await opened.dispatch(8, HEAD)
    opened.ledger.record_receipt(alice(opened), 8)


async def fail_over(opened: OpenLedger, kept: int = COMMON) -> Position:
    """Lose the events after ``kept``, append others, and return the last position in common."""
    for table, column in (("events", "seq"), ("log_chain", "last_seq"), ("alerts", "seq")):
        await opened.database.execute(f"DELETE FROM {table} WHERE {column} > $1", kept)
    await fill(opened.database, HEAD + 2, at_once=1)
    return Position(kept, await opened.database.fetchval("SELECT event_id_at($1)", kept))


async def head(opened: OpenLedger) -> Position:
    return Position(*await opened.database.fetchrow("SELECT seq, id FROM log_head"))


async def start_over(opened: OpenLedger, common: Position | None) -> None:
    """Close all streams and start over, as the fan-out does."""
    position = await head(opened)
    for entry in opened.entries:
        opened.ledger.record_closing(entry, 1012, "history_changed")
    opened.flusher.start_over(position, common)


async def test_a_flush_writes_nothing_of_another_history(opened: OpenLedger) -> None:
    await send_more(opened)
    await fail_over(opened)
    before = await opened.rows("SELECT * FROM ledger_chain")
    for _ in range(2):
        with pytest.raises(HistoryChanged):
            await opened.flusher.flush()
    assert await opened.rows("SELECT * FROM ledger_chain") == before
    assert await opened.rows("SELECT sent_seq FROM nodes") == [(5,)]
    assert await opened.rows("SELECT recipient FROM connections") == [("alice",)]


async def test_what_waits_is_cut_at_the_last_position_in_common_and_the_node_goes_on_as_another(
    opened: OpenLedger,
) -> None:
    await send_more(opened)
    common = await fail_over(opened)
    old = opened.ledger.node_id
    await start_over(opened, common)
    assert not opened.ledger.may_send
    await opened.flusher.flush()
    assert opened.ledger.may_send
    assert await opened.rows(CLOSED) == [
        ("alice", 0, COMMON, "history_changed"),
        ("bob", COMMON, COMMON, "history_changed"),
    ]
    assert await opened.rows(DISPATCHES) == [(0, 5), (5, COMMON)]
    assert await opened.rows(RECEIPTS) == [(COMMON,)]
    assert await opened.rows("SELECT seq FROM resume_points WHERE recipient = 'alice'") == [(COMMON,)]
    nodes = "SELECT id = $1, sent_seq, ended_at IS NULL FROM nodes ORDER BY started_at"
    assert await opened.rows(nodes, old) == [(True, COMMON, False), (False, HEAD + 2, True)]
    await assert_untampered(opened.url)


@pytest.mark.parametrize("known", [None, Position(COMMON, 1)])
async def test_what_waits_is_dropped_where_no_position_is_in_common(opened: OpenLedger, known: Position | None) -> None:
    """None is known, or the one that was known is gone after a second failover."""
    await send_more(opened)
    await fail_over(opened)
    await start_over(opened, known)
    await opened.flusher.flush()
    assert await opened.rows(CLOSED) == [("alice", 0, 5, "history_changed")]
    assert await opened.rows(DISPATCHES) == [(0, 5)]
    assert await opened.rows(RECEIPTS) == []
    await assert_untampered(opened.url)


async def test_a_flush_that_is_under_way_and_fails_is_cut_too(opened: OpenLedger) -> None:
    await send_more(opened)
    async with opened.locked():
        flush = asyncio.create_task(opened.flusher.flush())
        await eventually(lambda: len(opened.ledger.pending) == 0)
        common = await opened.position(COMMON)
        await start_over(opened, common)
        await opened.time_out(flush)
    await opened.flusher.flush()
    assert await opened.rows(DISPATCHES) == [(0, 5), (5, COMMON)]
    assert await opened.rows(RECEIPTS) == [(COMMON,)]
    await assert_untampered(opened.url)


async def test_the_history_may_change_again_before_the_new_node_is_registered(opened: OpenLedger) -> None:
    await send_more(opened)
    await start_over(opened, await fail_over(opened, 8))
    common = await fail_over(opened, 7)
    with pytest.raises(HistoryChanged):
        await opened.flusher.flush()
    await start_over(opened, common)
    await start_over(opened, await opened.position(HEAD))  # of the new node's own history, not of what was left behind
    await opened.flusher.flush()
    assert await opened.rows(DISPATCHES) == [(0, 5), (5, 7)]
    assert [row[2] for row in await opened.rows(CLOSED)] == [7, 7]
    await assert_untampered(opened.url)


async def test_what_was_dropped_stays_dropped_when_the_history_changes_again(opened: OpenLedger) -> None:
    await send_more(opened)
    await fail_over(opened)
    await start_over(opened, None)
    await start_over(opened, await opened.position(HEAD))
    await opened.flusher.flush()
    assert await opened.rows(DISPATCHES) == [(0, 5)]


async def test_a_restored_backup_that_does_not_know_the_node_makes_it_start_over(opened: OpenLedger) -> None:
    await send_more(opened)
    await fail_over(opened)
    for table in ("connections", "dispatches", "ledger_chain", "nodes"):
        await opened.database.execute(f"DELETE FROM {table}")
    for write in (opened.flusher.flush(), opened.flusher.register(opened.ledger.position)):
        with pytest.raises(HistoryChanged):
            await write
    await start_over(opened, await opened.position(COMMON))
    await opened.flusher.flush()
    assert await opened.rows("SELECT sent_seq FROM nodes") == [(HEAD + 2,)]
    await assert_untampered(opened.url)


async def test_a_failover_that_lost_a_flush_and_no_event_lets_no_closed_connection_claim_more(
    opened: OpenLedger,
) -> None:
    tables = ("nodes", "connections", "dispatches", "ledger_chain")
    for table in tables:
        await opened.database.execute(f"CREATE TEMPORARY TABLE standby_{table} AS SELECT * FROM {table}")
    opened.ledger.record_closing(alice(opened), 1000, "client")
    await opened.flusher.flush()
    for table in reversed(tables):
        await opened.database.execute(f"DELETE FROM {table}")
    for table in tables:
        await opened.database.execute(f"INSERT INTO {table} SELECT * FROM standby_{table}")
    await opened.dispatch(5, HEAD)
    with pytest.raises(LeaseLost):
        await opened.flusher.flush()
    await opened.flusher.register(opened.ledger.position)
    claimed = "SELECT coalesce(c.sent_seq, n.sent_seq) FROM connections c JOIN nodes n ON n.id = node_id"
    assert await opened.rows(claimed) == [(5,)]
    await assert_untampered(opened.url)


async def test_a_recipient_begins_at_no_position_of_another_history(opened: OpenLedger) -> None:
    void = await opened.position(HEAD)
    await fail_over(opened)
    for recipient in ("alice", "carol"):
        with pytest.raises(HistoryChanged):
            await opened.resumes(recipient, void)
    assert await opened.rows("SELECT id FROM recipients") == [("alice",)]
    assert await opened.resumes("carol", await head(opened)) == HEAD + 2


async def test_a_new_node_registers_at_no_position_of_another_history(opened: OpenLedger) -> None:
    void = await opened.position(HEAD)
    await fail_over(opened)
    with pytest.raises(HistoryChanged):
        await opened.flusher.register(void)
    assert len(await opened.rows("SELECT id FROM nodes")) == 1
    await opened.flusher.register(ORIGIN)


async def test_the_task_reports_a_change_of_the_history_and_keeps_what_waits(opened: OpenLedger) -> None:
    await send_more(opened)
    common = await fail_over(opened)
    dropped: list[Any] = []
    changed = asyncio.Event()
    running = asyncio.create_task(opened.flusher.task(lambda: dropped.append(None), changed.set).run())
    try:
        async with asyncio.timeout(PATIENCE):
            await changed.wait()
        await start_over(opened, common)
        await eventually(lambda: opened.ledger.may_send)
        assert dropped == []
        assert await opened.rows(DISPATCHES) == [(0, 5), (5, COMMON)]
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])
