from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import LedgerSettings, LimitSettings, Settings, StreamSettings
from service.stream.transports import http_endpoint
from service.stream.transports.sse import read_event_id
from tests.harness import READ, WRITE, Node, eventually, serving, token
from tests.http_streams import PATH, EventSource, Poller
from tests.stream.conftest import post_and_fan_out, raw_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Process

EVERY = "1000000/second"


@pytest.fixture(scope="module")
def brisk(shared_url: str) -> Iterator[Node]:
    """A node with frequent heartbeats, short patience and no REST limits."""
    settings = Settings(
        limits=LimitSettings(read_limit=EVERY, write_limit=EVERY, auth_failure_limit=EVERY),
        stream=StreamSettings(heartbeat_seconds=0.1, longpoll_idle_timeout_seconds=0.5, connections_per_recipient=2),
        ledger=LedgerSettings(ledger_flush_seconds=0.05),
    )
    with serving(shared_url, settings) as running:
        yield running


async def rows(node: Node, subject: str) -> list[dict[str, Any]]:
    query = "SELECT * FROM connections WHERE recipient = $1 ORDER BY opened_at"
    return [dict(row) for row in await node.sql(query, subject)]


async def closed_row(node: Node, subject: str) -> dict[str, Any]:
    """Return the only connection of a subject, once it has ended."""

    async def ended() -> dict[str, Any] | None:
        found = await rows(node, subject)
        return found[0] if found and found[0]["closed_at"] else None

    row: dict[str, Any] = await eventually(ended)
    return row


async def received(node: Node, subject: str) -> set[int]:
    query = "SELECT seq FROM audit.deliveries WHERE recipient = $1 AND received_at IS NOT NULL"
    return {row["seq"] for row in await node.sql(query, subject)}


async def sent(node: Node, subject: str) -> list[int]:
    query = "SELECT seq FROM audit.deliveries WHERE recipient = $1 ORDER BY seq"
    return [row["seq"] for row in await node.sql(query, subject)]


# Server-sent events.


async def test_the_frames_are_those_of_the_websocket(shared: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source, await shared.live(subject) as stream:
        await source.live()
        posted = [await shared.post(f"Ümläut {number} data: x", body="a\n\ndata: b") for number in range(3)]
        assert [frame["seq"] for frame in await source.events(3)] == [answer["seq"] for answer in posted]
        on_socket = await raw_events(stream, 3)
        assert [text for text in source.texts if text.startswith(b'{"type":"event",')] == on_socket
        assert [frame["type"] for frame in source.frames[:2]] == ["welcome", "caught_up"]
        await shared.flushed(posted[-1]["seq"])
        [row] = [row for row in await rows(shared, subject) if row["transport"] == "sse"]
        assert str(row["id"]) == source.connection
    await eventually(lambda: received_none_and_closed(shared, subject))


async def received_none_and_closed(node: Node, subject: str) -> bool:
    found = [row for row in await rows(node, subject) if row["transport"] == "sse"]
    return bool(found[0]["closed_at"]) and found[0]["close_reason"] == "connection_lost"


async def test_a_stream_resumes_from_its_last_event_id_and_so_acknowledges(shared: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source:
        await source.live(after="latest")
        first = await shared.post()
        await source.events(1)
        await source.drop()
        missed = [await shared.post() for _ in range(2)]
        await source.open(last_id=source.last_id)
        assert [frame["seq"] for frame in await source.events(2)] == [answer["seq"] for answer in missed]
        await shared.flushed(missed[-1]["seq"])
        assert await eventually(lambda: received(shared, subject)) == {first["seq"]}


async def test_an_id_without_a_connection_resumes_and_acknowledges_nothing(shared: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source:
        await source.live(after="latest")
        first = await shared.post()
        await source.events(1)
        await source.drop()
        second = await shared.post()
        await source.open(last_id=str(first["seq"]))
        assert [frame["seq"] for frame in await source.events(1)] == [second["seq"]]
        await source.ack(second["seq"])
        assert await eventually(lambda: received(shared, subject)) == {second["seq"]}


async def test_a_client_acknowledges_while_it_is_connected_but_never_ahead(shared: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source:
        await source.live(after="latest")
        answers = [await shared.post() for _ in range(2)]
        await source.events(2)
        assert await source.ack(answers[0]["seq"]) == answers[0]["seq"]
        assert await eventually(lambda: received(shared, subject)) == {answers[0]["seq"]}
        assert await source.ack(2**53 - 1) == answers[1]["seq"]


async def test_an_ack_for_a_connection_that_has_ended_counts_up_to_what_it_was_sent(shared: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source:
        await source.live(after="latest")
        seq = await post_and_fan_out(shared)
        await source.events(1)
        await source.drop()
        await closed_row(shared, subject)
        await post_and_fan_out(shared)
        assert await source.ack(2**53 - 1) == seq
        assert await received(shared, subject) == {seq}


async def test_an_ack_for_a_connection_of_another_node_counts(shared: Node, brisk: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source, EventSource(brisk, subject) as elsewhere:
        await source.live(after="latest")
        seq = (await shared.post())["seq"]
        await source.events(1)
        elsewhere.frames = source.frames
        assert await elsewhere.ack(seq) == seq
        assert await received(shared, subject) == {seq}


async def test_nobody_acknowledges_for_another(shared: Node, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "RETRY_SECONDS", (0.01,))  # no other node is about to write
    async with EventSource(shared, subject) as source, shared.http("mallory", READ) as mallory:
        await source.live()
        for connection in (source.connection, str(uuid.uuid4())):
            answer = await mallory.post(f"{PATH}/ack", json={"connection": connection, "seq": 1})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_an_ack_needs_a_connection_and_a_seq(shared: Node, subject: str) -> None:
    async with shared.http(subject, READ) as client:
        bodies: list[Any] = [{}, {"connection": "x", "seq": 1}, {"connection": str(uuid.uuid4()), "seq": -1}, [], 7]
        for body in bodies:
            answer = await client.post(f"{PATH}/ack", json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_heartbeats_move_the_cursor(brisk: Node, subject: str) -> None:
    async with EventSource(brisk, subject, topics=["payments"]) as source:
        await source.live()
        seq = (await brisk.post(topic="infra"))["seq"]
        while (await source.next_of("heartbeat"))["seq"] < seq:
            pass
        assert read_event_id(source.last_id) == (source.frames[-1]["cursor"], uuid.UUID(source.connection))


async def test_presence_is_announced(shared: Node, subject: str) -> None:
    async with EventSource(shared, "alice") as source:
        await source.live()
        async with EventSource(shared, subject) as other:
            await other.live()
            while subject not in {one["recipient"] for one in (await source.next_of("presence"))["joined"]}:
                pass


async def test_the_filter_is_that_of_the_websocket(shared: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source:
        await source.live(topic="payments.*,infra", min_severity="error", after="latest")
        await shared.post("no", topic="payments.eu", severity="warning")
        await shared.post("no", topic="other", severity="critical")
        await shared.post("no", topic="infra", severity="critical", recipients=["somebody"])
        await shared.post("yes", topic="infra", severity="critical", recipients=[subject])
        await shared.post("yes", topic="payments.eu", severity="error")
        assert [frame["alert"]["title"] for frame in await source.events(2)] == ["yes", "yes"]


async def test_a_cursor_of_another_log_is_reported(shared: Node, subject: str) -> None:
    async with EventSource(shared, subject) as source:
        await source.open(after=2**62)
        welcome, reset = await source.next_of("welcome"), await source.next()
        assert reset == {"type": "reset", "after": None, "cursor": welcome["cursor"]}
        caught_up = await source.next_of("caught_up")
        assert read_event_id(source.last_id) == (caught_up["cursor"], uuid.UUID(source.connection))


# Long poll.


async def test_polls_go_on_from_one_another_on_one_connection(shared: Node, subject: str) -> None:
    async with Poller(shared, subject) as poller, await shared.live(subject) as stream:
        assert (await poller.poll())["events"] == []
        posted = []
        for _ in range(3):
            posted.append((await shared.post(body="a\nb"))["seq"])
            answer = await poller.poll(wait=10)
            assert [event["seq"] for event in answer["events"]] == posted[-1:]
            assert (answer["caught_up"], answer["gap"], answer["closed"]) == (True, None, None)
        assert poller.texts == await raw_events(stream, 3)
        await poller.poll()
        await shared.flushed(posted[-1])
        [row] = [row for row in await rows(shared, subject) if row["transport"] == "longpoll"]
        assert str(row["id"]) == poller.connection
        query = "SELECT seq FROM audit.deliveries WHERE connection = $1 AND received_at >= sent_at ORDER BY seq"
        assert await eventually(lambda: seqs(shared, query, row["id"], 3)) == posted


async def seqs(node: Node, query: str, connection: uuid.UUID, count: int) -> list[int] | None:
    found = [row["seq"] for row in await node.sql(query, connection)]
    return found if len(found) >= count else None


async def test_a_poll_is_answered_the_moment_there_is_an_event(shared: Node, subject: str) -> None:
    async with Poller(shared, subject) as poller:
        await poller.poll()
        waiting = asyncio.create_task(poller.poll(wait=60))
        seq = (await shared.post())["seq"]
        assert [event["seq"] for event in (await waiting)["events"]] == [seq]


async def test_a_poll_is_answered_empty_when_its_time_is_over(shared: Node, subject: str) -> None:
    async with Poller(shared, subject) as poller:
        answer = await poller.poll(wait=0.2)
        assert (answer["events"], answer["caught_up"]) == ([], True)


async def test_polls_that_name_no_connection_go_on_as_well(shared: Node, subject: str) -> None:
    async with Poller(shared, subject) as poller:
        for _ in range(3):
            await poller.poll()
            poller.connection = None
            seq = (await shared.post())["seq"]
            assert len((await poller.poll(wait=10))["events"]) == 1
    await shared.flushed(seq)
    assert len(await rows(shared, subject)) == 1


async def test_an_answer_that_was_lost_is_given_again_on_another_connection(shared: Node, subject: str) -> None:
    async with Poller(shared, subject) as poller:
        await poller.poll()
        before, first = poller.after, poller.connection
        seq = (await shared.post())["seq"]
        await poller.poll(wait=10)
        poller.after = before
        assert [event["seq"] for event in (await poller.poll(wait=10, connection=first))["events"]] == [seq]
        assert poller.connection != first
        await poller.poll()
        await eventually(lambda: received(shared, subject))
        deliveries = await shared.sql(
            "SELECT connection FROM audit.deliveries WHERE received_at IS NOT NULL AND recipient = $1", subject
        )
        assert [str(row["connection"]) for row in deliveries] == [poller.connection]


@pytest.mark.parametrize("after", [None, "latest"])
async def test_a_client_that_names_no_seq_acknowledges_nothing(shared: Node, subject: str, after: str | None) -> None:
    async with Poller(shared, subject) as poller, EventSource(shared, subject) as source:
        await poller.poll()
        lost = (await shared.post())["seq"]
        await poller.poll(wait=10)
        query: dict[str, Any] = {} if after is None else {"after": after}
        lost_on = poller.connection
        for connection in (lost_on, None) if after else (lost_on,):  # a second poll without a cursor would confirm one
            poller.after, poller.connection = None, connection
            await poller.poll(**query)
        await source.live(connection=lost_on, **query)
        await shared.flushed(await post_and_fan_out(shared))
        assert lost not in await received(shared, subject)


async def test_polls_that_end_are_closed_after_a_while(brisk: Node, subject: str) -> None:
    async with Poller(brisk, subject) as poller:
        await poller.poll()
        row = await closed_row(brisk, subject)
        assert (row["transport"], row["close_code"], row["close_reason"]) == ("longpoll", 1001, "poll_timeout")
        old = poller.connection
        await poller.poll()
        assert poller.connection != old


async def test_a_poll_says_of_a_reset(shared: Node, subject: str) -> None:
    async with Poller(shared, subject) as poller:
        answer = await poller.poll(after=2**62)
        assert answer["reset"] == {"type": "reset", "after": None, "cursor": answer["next"]}
        seq = (await shared.post())["seq"]
        assert [event["seq"] for event in (await poller.poll(wait=10))["events"]] == [seq]


# What both share.


async def test_a_stream_ends_within_a_second_of_its_tokens_expiry(shared: Node) -> None:
    """A token expires by the clock: for 3 s, so that a busy machine opens both streams before."""
    alice, bob = uuid.uuid4().hex, uuid.uuid4().hex
    async with (
        EventSource(shared, alice, ttl_seconds=3) as source,
        Poller(shared, bob, ttl_seconds=3) as poller,
    ):
        polling = asyncio.create_task(poller.poll(wait=30))
        await source.live()
        assert await source.closed() == (1008, "token_expired")
        closed = (await polling)["closed"]
        assert (closed["code"], closed["reason"]) == (1008, "token_expired")
    for subject in (alice, bob):
        row = await closed_row(shared, subject)
        assert (row["close_code"], row["close_reason"]) == (1008, "token_expired")
        lateness = row["closed_at"] - row["token_expires_at"]
        assert 0 <= lateness.total_seconds() < 1


async def test_who_is_stopped_learns_why(start: Callable[..., Process], subject: str) -> None:
    node = start()
    async with EventSource(node, subject) as source, Poller(node, subject) as idle:
        await source.live()
        await idle.poll()
        node.process.terminate()
        assert await source.closed() == (1012, "shutting_down")
    assert node.stop() == 0
    assert {(row["transport"], row["close_code"], row["close_reason"]) for row in await rows(node, subject)} == {
        ("sse", 1012, "shutting_down"),
        ("longpoll", 1012, "shutting_down"),
    }


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "token_missing"),
        ({"Authorization": "Bearer x.y.z"}, 401, "token_invalid"),
        ({"Authorization": f"Bearer {token('alice', READ, ttl_seconds=-1)}"}, 401, "token_expired"),
        ({"Authorization": f"Bearer {token('alice', WRITE)}"}, 403, "scope_missing"),
    ],
)
async def test_a_refusal_is_a_problem_document_and_kept(
    brisk: Node, accept: str, headers: dict[str, str], status: int, code: str
) -> None:
    async with brisk.http() as client:
        del client.headers["authorization"]
        agent = uuid.uuid4().hex
        answer = await client.get(PATH, headers={"Accept": accept, "User-Agent": agent, **headers})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("www-authenticate" in answer.headers) == (status in (401, 403))
    query = "SELECT path, reason FROM handshake_rejections WHERE user_agent = $1"
    [row] = await eventually(lambda: brisk.sql(query, agent))
    assert (row["path"], row["reason"]) == (PATH, code)


@pytest.mark.parametrize("accepted", ["text/event-stream", "application/json"])
async def test_who_was_never_let_in_is_no_recipient(database_url: str, accepted: str, subject: str) -> None:
    with serving(database_url, Settings(stream=StreamSettings(connections_max=1))) as full:
        async with await full.live("alice"), full.http(subject, READ) as client:
            refused = await client.get(PATH, headers={"Accept": accepted})
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            async with await full.stream(subject) as stream:
                assert (await stream.closed())[1] == "overloaded"
            assert [row["id"] for row in await full.sql("SELECT id FROM recipients")] == ["alice"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_the_streams_of_an_admin_are_counted_whatever_carries_them(
    brisk: Node, subject: str, accept: str
) -> None:
    async with await brisk.live(subject), EventSource(brisk, subject) as source, brisk.http(subject, READ) as client:
        await source.live()
        answer = await client.get(PATH, headers={"Accept": accept})
        assert (answer.status_code, answer.json()["code"]) == (429, "connection_limit")
        assert "retry-after" in answer.headers


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("after=-1", 422),
        ("after=yesterday", 422),
        ("after=9223372036854775808", 422),
        (f"after={'9' * 5000}", 422),
        ("after=1&after=x", 422),
        ("after=%00", 422),
        ("min_severity=dire", 422),
        ("topic=UPPER", 422),
        (f"topic={','.join(['a'] * 101)}", 422),
        ("topic=billing", 403),
        ("wait=-1", 422),
        ("wait=61", 422),
        ("wait=nan", 422),
        ("wait=inf", 422),
        ("connection=x", 422),
        ("consumer=", 422),
        ("consumer=a%20b", 422),
        ("topic=", 422),
        ("topics=payments.eu", 422),
        ("severity=error", 422),
        ("page=2", 422),
        ("token=x", 422),
    ],
)
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_query_that_cannot_be_read_is_refused(brisk: Node, accept: str, query: str, status: int) -> None:
    async with brisk.http("alice", READ, topics=["payments.*"]) as client:
        answer = await client.get(f"{PATH}?{query}", headers={"Accept": accept})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "last_id",
    [
        "x",
        "-1",
        "1.",
        "1.x",
        f"1.{'-' * 36}",
        "9" * 20,
        "9" * 5000,
        "\uff11",
        str(2**63),
        f"1.{uuid.UUID(int=7)}.",
        "1,2",
    ],
)
async def test_an_id_that_is_none_of_ours_is_refused(brisk: Node, last_id: str) -> None:
    async with brisk.http("alice", READ) as client:
        answer = await client.get(PATH, headers={b"Last-Event-ID": last_id.encode()})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_unknown_connections_do_no_harm(shared: Node, subject: str) -> None:
    async with Poller(shared, subject) as poller:
        answer = await poller.poll(connection=str(uuid.uuid4()))
        assert answer["events"] == []
    async with EventSource(shared, subject) as source:
        await source.live(last_id=f"0.{uuid.uuid4()}")
    assert json.loads(source.texts[0])["after"] == 0
