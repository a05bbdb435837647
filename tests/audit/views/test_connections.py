"""The views of connections: ``audit.connections``, ``presence``, ``rejections`` and ``tokens``."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from service.events.position import ORIGIN
from service.ledger import statements
from service.ledger.flusher import LeaseLost
from service.metrics import HANDSHAKES_REJECTED
from service.settings import LimitSettings, Settings
from tests.harness import eventually, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger
    from tests.harness import Node


async def revoke(node: Node, **target: Any) -> None:
    async with node.http("root", "admin") as client:
        answer = await client.post("/v1/revocations", json=target)
    assert answer.status_code == 201, answer.text


async def test_a_connection_says_who_from_where_to_see_what_how_far_and_for_how_long(node: Node) -> None:
    claims = {"jti": "jti 1", "topics": ["payments.*", "search"]}
    options = {"additional_headers": {"Origin": node.base}, "user_agent_header": "Mozilla/5.0 (test)"}
    opened = datetime.now(UTC)
    alice = await node.live("alice", claims=claims, options=options, topic="payments.eu,search", min_severity="error")
    await node.post(topic="search", severity="critical")
    await node.post(topic="payments.us", severity="critical")
    await alice.events(1)
    await node.flushed(2)
    query = "SELECT * FROM audit.connections"
    (row,) = await node.sql(query)
    assert str(row["connection"]) == alice.seen[0]["connection"]
    (serving,) = await node.sql("SELECT id FROM nodes")
    assert (row["node"], row["host"]) == (serving["id"], socket.gethostname())
    assert (row["recipient"], row["transport"]) == ("alice", "websocket")
    assert (sorted(row["topics"]), row["min_severity"]) == (["payments.eu", "search"], "error")
    assert (row["remote_addr"], row["user_agent"]) == ("127.0.0.1", "Mozilla/5.0 (test)")
    assert row["jti"] == "jti 1"
    assert row["token_expires_at"] > datetime.now(UTC)
    assert opened <= row["opened_at"] <= datetime.now(UTC)
    assert (row["closed_at"], row["close_code"], row["close_reason"]) == (None, None, None)
    assert (row["after_seq"], row["sent_seq"], row["received_seq"]) == (0, 2, None)
    assert row["duration"] < (await node.sql(query))[0]["duration"] < datetime.now(UTC) - opened
    await alice.ack(1)
    await eventually(lambda: node.sql("SELECT FROM receipts"))
    await revoke(node, jti="jti 1")
    assert await alice.closed() == (1008, "token_revoked")
    await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NOT NULL"))
    (row,) = await node.sql(query)
    assert (row["close_code"], row["close_reason"]) == (1008, "token_revoked")
    assert row["duration"] == row["closed_at"] - row["opened_at"]
    assert (row["after_seq"], row["sent_seq"], row["received_seq"]) == (0, 2, 1)


async def test_presence_counts_the_open_connections_of_nodes_whose_lease_holds(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    short, long = await open_ledger(node_lease_seconds=5), await open_ledger(node_lease_seconds=60)
    first = short.connection("alice")
    await asyncio.sleep(0.001)  # so that the one was opened before the other
    second = long.connection("alice")
    closed = long.connection("bob")
    long.ledger.record_closing(closed, 1000, "client")
    long.connection("carol")
    for opened in (short, long):
        await opened.flusher.flush()
    query = "SELECT recipient, connections, since, nodes FROM audit.presence ORDER BY recipient"
    alice, carol = await short.rows(query)
    both = sorted((short.ledger.node_id, long.ledger.node_id))
    assert alice == ("alice", 2, first.opened_at, both)
    assert (carol[0], carol[1], carol[3]) == ("carol", 1, [long.ledger.node_id])
    # Each node has said for how long it may be silent.
    for opened in (short, long):
        await opened.age(opened.ledger.node_id, 30)
    assert [row[:2] for row in await short.rows(query)] == [("alice", 1), ("carol", 1)]
    assert (await short.rows(query))[0] == ("alice", 1, second.opened_at, [long.ledger.node_id])
    await long.age(long.ledger.node_id, 61)
    assert await short.rows(query) == []
    await long.flusher.flush()
    await long.age(long.ledger.node_id, 0)
    assert len(await short.rows(query)) == 2
    await long.flusher.sign_off()
    assert await short.rows(query) == []


async def test_a_rejection_says_why_and_whose_token_it_was(node: Node) -> None:
    before = datetime.now(UTC)
    options = {"user_agent_header": "curl/8"}
    for stream, reason in (
        (await node.stream("alice", scope="alerts:write", options=options), "scope_missing"),
        (await node.stream("mallory", claims={"ttl_seconds": -1000}, options=options), "token_expired"),
    ):
        assert (await stream.closed())[1] == reason
    rows = await eventually(lambda: node.sql("SELECT * FROM audit.rejections ORDER BY at OFFSET 1")) and await node.sql(
        "SELECT * FROM audit.rejections ORDER BY at"
    )
    assert [(row["reason"], row["subject"]) for row in rows] == [("scope_missing", "alice"), ("token_expired", None)]
    (serving,) = await node.sql("SELECT id FROM nodes")
    for row in rows:
        assert before <= row["at"] <= datetime.now(UTC)
        assert (row["node"], row["remote_addr"], row["path"]) == (serving["id"], "127.0.0.1", "/v1/ws")
        assert (row["origin"], row["user_agent"]) == (None, "curl/8")


async def tokens(node: Node) -> dict[Any, Any]:
    return {row["jti"] or row["recipient"]: row for row in await node.sql("SELECT * FROM audit.tokens")}


async def test_tokens_are_listed_with_their_use_and_what_revoked_them(node: Node) -> None:
    kept = [await node.live("alice", claims={"jti": "kept"}) for _ in range(2)]
    past = await node.live("alice", claims={"jti": "past"})
    await past.close()
    stolen = await node.live("bob", claims={"jti": "stolen"})
    await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NOT NULL"))
    await revoke(node, jti="stolen", reason="a laptop was lost")
    await revoke(node, jti="never used")
    assert await stolen.closed() == (1008, "token_revoked")
    await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NOT NULL OFFSET 1"))
    rows = await tokens(node)
    assert sorted(rows) == ["kept", "never used", "past", "stolen"]
    (connections,) = await node.sql(
        "SELECT min(opened_at) AS first, max(token_expires_at) AS expires FROM connections WHERE jti = 'kept'"
    )
    row = rows["kept"]
    assert (row["recipient"], row["connections"], row["open"]) == ("alice", 2, 2)
    assert (row["first_used_at"], row["expires_at"]) == (connections["first"], connections["expires"])
    assert row["last_used_at"] > row["first_used_at"]
    assert (row["revoked_at"], row["revoked_by"], row["reason"]) == (None, None, None)
    closed = (await node.sql("SELECT closed_at FROM connections WHERE jti = 'past'"))[0][0]
    assert (rows["past"]["open"], rows["past"]["last_used_at"], rows["past"]["revoked_at"]) == (0, closed, None)
    row = rows["stolen"]
    assert (row["connections"], row["open"]) == (1, 0)
    assert (row["revoked_by"], row["reason"]) == ("root", "a laptop was lost")
    assert row["first_used_at"] < row["revoked_at"] <= row["last_used_at"]
    row = rows["never used"]
    assert (row["recipient"], row["connections"], row["open"], row["first_used_at"]) == (None, 0, 0, None)
    assert (row["revoked_by"], row["reason"]) == ("root", None)
    for stream in kept:
        await stream.close()


async def test_a_revocation_of_a_subject_covers_its_tokens_that_were_issued_before_and_no_others(node: Node) -> None:
    used = await node.live("alice", claims={"jti": "used before"})
    await used.close()
    await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NOT NULL"))
    cut_off = await node.live("alice", claims={"jti": "cut off"})
    nameless = await node.live("alice")
    of_another = await node.live("bob", claims={"jti": "another's"})
    await eventually(lambda: node.sql("SELECT FROM connections OFFSET 3"))
    before = datetime.now(UTC) + timedelta(seconds=1)  # of those who take their time
    await revoke(node, subject="alice", before=before.isoformat(), reason="she left")
    for stream in (cut_off, nameless):
        assert await stream.closed() == (1008, "token_revoked")
    await eventually(lambda: datetime.now(UTC) > before + timedelta(seconds=1))  # a token says when in whole seconds
    fresh = await node.live("alice", claims={"jti": "fresh"})
    await eventually(lambda: node.sql("SELECT FROM connections WHERE close_reason = 'token_revoked' OFFSET 1"))
    await eventually(lambda: node.sql("SELECT FROM connections WHERE jti = 'fresh'"))
    rows = await tokens(node)
    assert {name: row["reason"] for name, row in rows.items()} == {
        "used before": "she left",
        "cut off": "she left",
        "alice": "she left",  # her token without a jti
        "another's": None,
        "fresh": None,
    }
    assert all((row["revoked_at"] is None) == (row["reason"] is None) for row in rows.values())
    for stream in (fresh, of_another):
        await stream.close()


async def test_every_rejection_is_counted_and_of_one_address_only_some_have_a_row_of_their_own(
    database_url: str,
) -> None:
    settings = Settings(limits=LimitSettings(auth_failure_limit="3/hour"))
    with serving(database_url, settings) as node:
        rejected = HANDSHAKES_REJECTED.labels("scope_missing")
        before = rejected._value.get()
        for _ in range(20):
            await (await node.stream("alice", scope="alerts:write")).closed()
        counts = "SELECT sum(rejections) FROM audit.rejection_counts WHERE reason = 'scope_missing'"
        await eventually(lambda: _is(node, counts, 20))
        assert rejected._value.get() - before == 20
        assert len(await node.sql("SELECT FROM audit.rejections")) == 3
        async with node.http("auditor", "audit:read") as auditor:
            report = (await auditor.get("/v1/audit/report")).json()
            page = (await auditor.get("/v1/audit/rejections")).json()
        assert report["rejections"] == page["counts"] == [{"reason": "scope_missing", "rejections": 20}]
        assert len(page["rejections"]) == 3


async def _is(node: Node, query: str, value: int) -> bool:
    return bool((await node.sql(query))[0][0] == value)


async def test_the_counts_of_rejections_survive_flushes_that_fail_or_are_repeated(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    first, second = await open_ledger(), await open_ledger()
    query = "SELECT reason, sum(rejections)::int FROM audit.rejection_counts GROUP BY reason ORDER BY reason"
    for _ in range(5_000):
        first.ledger.count_rejection("token_expired")
    for node in (first, second):
        node.ledger.count_rejection("scope_missing")
        await node.flusher.flush()
    first.ledger.count_rejection("token_expired")
    async with first.locked():
        await first.time_out(first.flusher.flush())
    first.ledger.count_rejection("token_expired")
    # The outcome of a commit is unknown: what was written is put back, and written again.
    pending = first.ledger.begin_flush()
    rows = pending.rows()["rejection_hours"]
    upsert = statements.UPSERTS["rejection_hours"]
    async with first.pool.ledger.transaction() as tx:
        await tx.execute(upsert, {"rows": orjson.dumps(rows).decode()})
    first.ledger.end_flush(written=False)
    await first.flusher.flush()
    assert await first.rows(query) == [("scope_missing", 2), ("token_expired", 5_002)]


async def test_the_counts_of_rejections_survive_the_loss_of_a_lease_and_of_the_history(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    query = "SELECT reason, sum(rejections)::int FROM audit.rejection_counts GROUP BY reason ORDER BY reason"
    opened.ledger.count_rejection("token_missing")
    await opened.flusher.flush()
    for _ in range(10):
        opened.ledger.count_rejection("token_missing")
    opened.ledger.count_rejection("scope_missing")
    await opened.rows("SELECT end_nodes(ARRAY[$1::uuid], 'node_lost')", opened.ledger.node_id)
    with pytest.raises(LeaseLost):
        await opened.flusher.flush()
    await opened.flusher.register(ORIGIN)
    assert await opened.rows(query) == [("scope_missing", 1), ("token_missing", 11)]
    opened.ledger.count_rejection("token_missing")
    opened.ledger.begin_flush()
    opened.flusher.start_over(ORIGIN, None)
    opened.ledger.end_flush(written=False)
    opened.ledger.count_rejection("token_missing")
    await opened.flusher.flush()
    await opened.flusher.flush()
    assert await opened.rows(query) == [("scope_missing", 1), ("token_missing", 13)]
