"""``audit.deliveries``, and what all views have in common; each of the others has a file of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger
    from tests.harness import Node


async def test_every_view_of_the_audit_schema_and_each_of_its_columns_is_commented(node: Node) -> None:
    rows = await node.sql(
        """
        SELECT c.relname, a.attname, col_description(c.oid, a.attnum) AS of_column, obj_description(c.oid) AS of_view
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'audit'::regnamespace
        """
    )
    assert {
        *("deliveries", "unreceived", "timeline", "latency", "connections", "presence", "rejections", "tokens"),
        *("revocations", "log_gaps", "alerts", "rejection_counts"),
    } <= {row["relname"] for row in rows}
    assert [row for row in rows if not row["of_column"] or not row["of_view"]] == []


async def test_a_delivery_says_who_was_sent_what_when_and_when_it_was_received(node: Node) -> None:
    async with await node.live("alice") as alice, await node.live("bob") as bob:
        before = datetime.now(UTC)
        alert = await node.post("Card acceptance below 80 %", topic="payments.eu", severity="error")
        for stream in (alice, bob):
            await stream.events(1)
        await alice.ack(alert["seq"])
        await eventually(lambda: node.sql("SELECT FROM receipts"))
        await node.flushed(alert["seq"])
        rows = await node.sql("SELECT * FROM audit.deliveries ORDER BY recipient")
        after = datetime.now(UTC)
        node_id = (await node.sql("SELECT id FROM nodes"))[0]["id"]
    assert [row["recipient"] for row in rows] == ["alice", "bob"]
    for row, stream in zip(rows, (alice, bob), strict=True):
        assert str(row["connection"]) == stream.seen[0]["connection"]
        assert (row["seq"], str(row["alert_id"]), row["kind"]) == (alert["seq"], alert["id"], "alert.created")
        assert (row["topic"], row["severity"]) == ("payments.eu", "error")
        assert row["occurred_at"] == datetime.fromisoformat(alert["created_at"])
        assert row["node"] == node_id
        assert before <= row["sent_at"] <= after
    assert rows[0]["sent_at"] <= rows[0]["received_at"] <= after
    assert rows[0]["latency"] == rows[0]["received_at"] - rows[0]["sent_at"] >= timedelta()
    assert (rows[1]["received_at"], rows[1]["latency"]) == (None, None)


async def test_an_alert_for_named_admins_is_delivered_to_nobody_else(node: Node) -> None:
    async with await node.live("alice") as alice, await node.live("bob") as bob:
        await node.post("for bob", recipients=["bob"])
        await node.post("for all")
        await bob.events(2)
        await alice.events(1)
        await node.flushed(2)
        rows = await node.sql("SELECT seq, recipient FROM audit.deliveries ORDER BY seq, recipient")
    assert [tuple(row) for row in rows] == [(1, "bob"), (2, "alice"), (2, "bob")]


async def test_what_was_missed_is_delivered_when_its_admin_comes_back(node: Node) -> None:
    first = await node.live()
    await first.close()
    await node.post("missed")
    came_back = datetime.now(UTC)
    async with await node.live(after=0) as second:
        rows = await eventually(lambda: node.sql("SELECT connection, sent_at FROM audit.deliveries"))
    assert [str(row["connection"]) for row in rows] == [second.seen[0]["connection"]]
    assert rows[0]["sent_at"] >= came_back


async def test_what_is_sent_while_a_connection_catches_up_is_replayed_and_what_comes_after_it_is_not(
    node: Node,
) -> None:
    for title in ("missed", "missed, too"):
        await node.post(title)
    await node.flushed(2)
    async with await node.live("alice", after=0) as alice, await node.live("bob") as bob:
        live = await node.post("live")
        await alice.events(1)
        await bob.events(1)
        await node.flushed(live["seq"])
        query = "SELECT recipient, seq, replayed FROM audit.deliveries ORDER BY recipient, seq"
        rows = await node.sql(query)
        latency = await node.sql("SELECT sum(deliveries), sum(replayed), max(sent_p99) FROM audit.latency")
    assert [tuple(row) for row in rows] == [
        ("alice", 1, True),
        ("alice", 2, True),
        ("alice", 3, False),
        ("bob", 3, False),
    ]
    (slowest,) = await node.sql("SELECT max(sent_at - occurred_at) FROM audit.deliveries WHERE NOT replayed")
    assert tuple(latency[0]) == (4, 2, slowest[0].total_seconds())
    await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NOT NULL OFFSET 1"))
    assert await node.sql(query) == rows, "what was once sent is of the same kind for good"


async def test_what_a_slow_reader_is_sent_late_is_live(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    opened = await open_ledger()
    entry = opened.connection("alice", sent_seq=0, live_seq=None)
    opened.ledger.record_dispatch_to(entry, 0, 2)
    await opened.dispatch(0, 4)
    opened.ledger.record_dispatch_to(entry, 2, 4)
    opened.ledger.record_live(entry)
    opened.ledger.record_position(entry, 4)  # its socket is full
    await opened.dispatch(4, 6)
    opened.ledger.record_dispatch_to(entry, 4, 6)
    opened.ledger.record_live(entry)
    await opened.flusher.flush()
    rows = await opened.rows("SELECT seq, replayed FROM audit.deliveries ORDER BY seq")
    assert rows == [(1, True), (2, True), (3, True), (4, True), (5, False), (6, False)]
