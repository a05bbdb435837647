from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed

from service.settings import Settings, StreamSettings
from tests.harness import Node, Stream, eventually, serving, token
from tests.stream.conftest import post_and_fan_out

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def brisk(shared_url: str) -> Iterator[Node]:
    """A node with frequent heartbeats."""
    with serving(shared_url, Settings(stream=StreamSettings(heartbeat_seconds=0.1))) as running:
        yield running


async def ledger(node: Node, subject: str, condition: str = "true") -> dict[str, Any]:
    """Return the connection of a subject, once the ledger has it and the condition holds."""
    query = f"SELECT * FROM connections WHERE recipient = $1 AND {condition}"
    [row] = await eventually(lambda: node.sql(query, subject))
    return dict(row)


# The token's end.


async def test_a_stream_is_closed_within_a_second_of_its_tokens_expiry(shared: Node, subject: str) -> None:
    async with await shared.live(subject, claims={"ttl_seconds": 1.5}) as stream:
        assert await stream.closed() == (1008, "token_expired")
    row = await ledger(shared, subject, "closed_at IS NOT NULL")
    assert (row["close_code"], row["close_reason"]) == (1008, "token_expired")
    assert timedelta(0) <= row["closed_at"] - row["token_expires_at"] < timedelta(seconds=1)


async def test_a_fresh_token_of_the_same_admin_extends_the_stream(shared: Node, subject: str) -> None:
    async with await shared.live(subject, claims={"ttl_seconds": 2}) as stream:
        await stream.send({"type": "authenticate", "token": token(subject, ttl_seconds=600, jti="fresh")})
        answer = await stream.next_of("authenticated")
        row = await ledger(shared, subject, "jti = 'fresh'")
        first = datetime.fromisoformat(stream.seen[0]["token_expires_at"])
        assert row["token_expires_at"] > first + timedelta(seconds=500)
        assert answer["token_expires_at"] == row["token_expires_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        async with await shared.live("another", claims={"ttl_seconds": 2}) as without:
            assert await without.closed() == (1008, "token_expired")
        alert = await shared.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"]


async def test_a_fresh_token_that_would_not_have_opened_the_stream_is_an_error_and_the_stream_goes_on(
    shared: Node, subject: str
) -> None:
    async with await shared.live(subject) as stream:
        row = await ledger(shared, subject)
        for text, code in ((token("somebody else"), "subject_changed"), ("x.y.z", "token_invalid")):
            await stream.send({"type": "authenticate", "token": text})
            error = await stream.next_of("error")
            assert (error["code"], text in str(error)) == (code, False)
        alert = await shared.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"]
    assert (await ledger(shared, subject))["token_expires_at"] == row["token_expires_at"]


# Acknowledging.


async def receipts(node: Node, subject: str) -> list[int]:
    rows = await node.sql(
        "SELECT seq FROM receipts r JOIN connections c ON c.id = connection_id WHERE recipient = $1 ORDER BY seq",
        subject,
    )
    return [row[0] for row in rows]


async def test_an_ack_counts_for_all_before_it(shared: Node, subject: str) -> None:
    async with await shared.live(subject) as stream:
        seqs = [(await shared.post())["seq"] for _ in range(3)]
        await stream.events(3)
        await stream.ack(seqs[1])
        await eventually(lambda: receipts(shared, subject))
        await stream.ack(seqs[0])
        await stream.send({"type": "ping"})
        await stream.next_of("pong")
        await stream.ack(seqs[2])
        await eventually(
            lambda: shared.sql("SELECT FROM resume_points WHERE recipient = $1 AND seq = $2", subject, seqs[2])
        )
        assert await receipts(shared, subject) == seqs[1:]
    rows = await shared.sql(
        "SELECT seq, received_at IS NOT NULL AND received_at >= sent_at FROM audit.deliveries WHERE recipient = $1",
        subject,
    )
    assert sorted(map(tuple, rows)) == [(seq, True) for seq in seqs]


async def test_an_ack_of_what_was_not_sent_is_an_error_and_is_not_recorded(shared: Node, subject: str) -> None:
    head = await post_and_fan_out(shared)
    async with await shared.live(subject) as stream:
        await stream.ack(head + 1)
        error = await stream.next_of("error")
        assert (error["code"], error["detail"]) == ("ack_ahead", f"Only {head} was sent.")
        alert = await shared.post()
        await stream.next_of("event")
        await stream.ack(alert["seq"])
        await eventually(lambda: receipts(shared, subject))
    assert await receipts(shared, subject) == [alert["seq"]]


async def test_heartbeats_move_the_cursor_over_what_was_not_for_the_stream(brisk: Node, subject: str) -> None:
    async with await brisk.live(subject, topic="mine") as stream:
        mine = (await brisk.post(topic="mine"))["seq"]
        last = [(await brisk.post(topic="other"))["seq"] for _ in range(3)][-1]
        while (beat := await stream.next_of("heartbeat"))["seq"] < last:
            pass
        assert beat["seq"] == last
        seqs = [frame["seq"] for frame in stream.seen if "seq" in frame]
        assert seqs == sorted(seqs)
        await stream.ack(last)
        await eventually(
            lambda: brisk.sql("SELECT FROM resume_points WHERE recipient = $1 AND seq = $2", subject, last)
        )
    assert [frame["seq"] for frame in stream.seen if frame["type"] == "event"] == [mine]
    async with await brisk.stream(subject, topic="mine") as again:
        assert (await again.next_of("welcome"))["after"] == last


async def test_an_idle_stream_hears_that_the_server_lives(brisk: Node, subject: str) -> None:
    async with await brisk.live(subject) as stream:
        first, second = await stream.next_of("heartbeat"), await stream.next_of("heartbeat")
        assert first["at"] < second["at"]


# What else a client may send.


@pytest.mark.parametrize("data", ["é 🚨", "x" * 16_000])
async def test_a_ping_is_echoed(shared: Node, data: Any) -> None:
    async with await shared.live() as stream:
        await stream.send({"type": "ping", "data": data})
        assert await stream.next_of("pong") == {"type": "pong", "data": data}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", "bad_message"),
        ('{"type":"ping","data":' + "[" * 500 + "]" * 500 + "}", "bad_message"),
        ('{"type":"ack","seq":1,"seq":1}', "bad_message: /seq: the object has this member twice"),
    ],
)
async def test_what_is_no_message_of_the_protocol_closes_the_stream(
    shared: Node, subject: str, message: str, reason: str
) -> None:
    async with await shared.live(subject) as stream:
        await stream.connection.send(message)
        assert await stream.closed() == (1008, reason)
    row = await ledger(shared, subject, "closed_at IS NOT NULL")
    assert (row["close_code"], row["close_reason"]) == (1008, "bad_message")


async def answers(stream: Stream, count: int) -> list[str]:
    return [(frame := await stream.next())["type"] + frame.get("code", "") for _ in range(count)]


async def test_messages_over_the_limit_are_dropped_and_too_many_of_them_close_the_stream(
    shared_url: str, subject: str
) -> None:
    limits = StreamSettings(message_limit="100/second; 5/minute", message_violation_limit="3/minute")
    with serving(shared_url, Settings(stream=limits)) as node:
        async with await node.live(subject) as stream, await node.live(subject) as other:
            for number in range(9):
                await stream.send({"type": "ping", "data": number})
            assert await answers(stream, 8) == ["pong"] * 5 + ["errorrate_limited"] * 3
            assert stream.seen[-1]["retry_after"] == 12  # five a minute
            assert await stream.closed() == (1008, "rate_limited")
            await other.send({"type": "ping", "data": "each connection counts for itself"})
            await other.next_of("pong")
        row = await ledger(node, subject, "close_code = 1008")
        assert row["close_reason"] == "rate_limited"


# How it ends.


async def test_the_ledger_keeps_the_code_and_reason_of_a_client_that_closes(shared: Node, subject: str) -> None:
    stream = await shared.live(subject)
    alert = await shared.post()
    await stream.next_of("event")
    await stream.connection.close(4001, "lunch")
    row = await ledger(shared, subject, "closed_at IS NOT NULL")
    assert (row["close_code"], row["close_reason"], row["sent_seq"]) == (4001, "lunch", alert["seq"])


async def test_the_ledger_tells_a_lost_connection_from_one_that_was_closed(shared: Node, subject: str) -> None:
    stream = await shared.live(subject)
    stream.connection.transport.abort()
    row = await ledger(shared, subject, "closed_at IS NOT NULL")
    assert (row["close_code"], row["close_reason"]) == (1006, "connection_lost")
    with pytest.raises(ConnectionClosed):
        await stream.next()


async def test_messages_that_arrive_together_are_answered_in_order(shared: Node) -> None:
    async with await shared.live() as stream:
        for number in range(50):
            await stream.connection.send(json.dumps({"type": "ping", "data": number}))
        assert [(await stream.next_of("pong"))["data"] for _ in range(50)] == list(range(50))
