"""Streams over real sockets, by both clients: nothing lost and nothing doubled, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from service.client import (
    AsyncClient,
    Client,
    Connected,
    Disconnected,
    Reset,
    StreamRejected,
    Unreachable,
    stream_state,
)
from service.settings import Settings, StreamSettings
from tests.client.flaky_proxy import FlakyProxy, answer
from tests.harness import READ, WRITE, Node, Process, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back without long pauses."""
    monkeypatch.setattr(
        stream_state, "_BACKOFF", {"retry": (0.01, 0.2), "refresh": (0.01, 0.2), "retry_later": (0.01, 0.2)}
    )


@pytest.fixture
def who() -> str:
    """An admin of the test's own on the shared node."""
    return f"alice-{uuid.uuid4().hex}"


def async_client(base: str, bearer: Any = None) -> AsyncClient:
    return AsyncClient(base, bearer or token("alice"), trust_env=False)


async def received(node: Node, who: str) -> int:
    rows = await node.sql("SELECT coalesce(max(seq), 0) FROM resume_points WHERE recipient = $1", who)
    return int(rows[0][0])


async def test_events_come_typed_and_in_order(lenient: Node, head: int) -> None:
    posted = await lenient.post("It happened", topic="payments.eu", severity="critical", attributes={"a": 1})
    async with async_client(lenient.base) as tocsin, tocsin.stream(after=head) as events:
        event = await anext(events)
    assert (event.seq, event.kind, event.actor) == (head + 1, "alert.created", "billing")
    assert (event.alert.id, event.alert.title, event.alert.attributes) == (posted["id"], "It happened", {"a": 1})
    assert event.alert.created_at.tzinfo is not None
    assert event.raw["alert"]["topic"] == event.alert.topic == "payments.eu"


async def test_the_filters_and_the_start_are_those_that_were_asked_for(lenient: Node, head: int) -> None:
    for number, topic in enumerate(["a", "b.c", "a", "b"]):
        await lenient.post(f"Number {number}", topic=topic, severity="error" if number else "info")
    async with async_client(lenient.base) as tocsin:
        async with tocsin.stream(after=head, topics=["a", "b.*"], min_severity="error") as events:
            assert [(await anext(events)).seq for _ in range(2)] == [head + 2, head + 3]
        async with tocsin.stream(after="latest") as events:
            waiting = asyncio.ensure_future(anext(events))
            await eventually(lambda: stream_state.seq_of(events.cursor) == head + 4)
            await lenient.post("New")
            assert (await waiting).seq == head + 5


async def test_an_event_is_acknowledged_when_the_body_has_finished_with_it(lenient: Node, head: int, who: str) -> None:
    await lenient.post_all([{}] * 3)
    async with async_client(lenient.base, token(who)) as tocsin, tocsin.stream(after=head) as events:
        seen = 0
        async for event in events:
            seen = event.seq - head
            if seen == 2:
                await eventually(lambda: acknowledged(lenient, who, head + 1))
                assert await received(lenient, who) < head + 2
            if seen == 3:
                break
    await eventually(lambda: acknowledged(lenient, who, head + 3))


async def acknowledged(node: Node, who: str, seq: int) -> bool:
    return await received(node, who) >= seq


async def test_an_event_whose_body_failed_is_not_acknowledged_and_comes_again(
    lenient: Node, head: int, who: str
) -> None:
    await lenient.post_all([{}] * 2)
    tocsin = async_client(lenient.base, token(who))

    async def fail_at_two() -> None:
        async with tocsin.stream(after=head) as events:
            async for event in events:
                if event.seq == head + 2:
                    raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail_at_two()
    await eventually(lambda: acknowledged(lenient, who, head + 1))
    async with tocsin.stream() as events:
        assert (await anext(events)).seq == head + 2
    await tocsin.close()


async def test_acks_of_a_burst_are_few(lenient: Node, head: int, who: str) -> None:
    await lenient.post_all([{}] * 200)
    async with async_client(lenient.base, token(who)) as tocsin, tocsin.stream(after=head) as events:
        async for event in events:
            if event.seq == head + 200:
                break
    await eventually(lambda: acknowledged(lenient, who, head + 200))
    rows = await lenient.sql(
        "SELECT count(*) FROM receipts JOIN connections c ON c.id = connection_id WHERE recipient = $1", who
    )
    assert rows[0][0] < 20


async def seen_by(node: Node, who: str) -> set[str]:
    rows = await node.sql("SELECT alert_id::text FROM audit.sightings WHERE recipient = $1", who)
    return {row[0] for row in rows}


async def test_alerts_that_a_person_saw_are_reported_at_once_or_on_the_next_connection(
    lenient: Node, proxy: FlakyProxy, head: int, who: str
) -> None:
    listed, _unread, later = [(await lenient.post())["id"] for _ in range(3)]
    async with async_client(proxy.base, token(who)) as tocsin, tocsin.stream(after=head + 3) as events:
        await events.seen([listed])  # before there is a connection
        waiting = asyncio.ensure_future(anext(events))
        await eventually(lambda: seen_by(lenient, who))
        proxy.cut()
        await events.seen([later])
        await lenient.post()
        await waiting
        await eventually(lambda: is_seen(lenient, who, later))
    assert await seen_by(lenient, who) == {listed, later}
    await eventually(lambda: acknowledged(lenient, who, head + 4))


async def is_seen(node: Node, who: str, alert: str) -> bool:
    return alert in await seen_by(node, who)


async def test_the_synchronous_stream_reports_what_was_seen_too(lenient: Node, head: int, who: str) -> None:
    posted = await lenient.post()

    def follow() -> None:
        with Client(lenient.base, token(who), trust_env=False) as tocsin, tocsin.stream(after=head) as events:
            events.seen([next(events).alert.id])

    await asyncio.to_thread(follow)
    await eventually(lambda: is_seen(lenient, who, posted["id"]))


async def test_a_stream_resumes_after_every_drop(lenient: Node, proxy: FlakyProxy, head: int) -> None:
    notices: list[Any] = []
    async with async_client(proxy.base) as tocsin, tocsin.stream(after=head, on_notice=notices.append) as events:
        seen = []
        for turn in range(5):
            await lenient.post_all([{}] * 20)
            for _ in range(20):
                seen.append((await anext(events)).seq)
                if len(seen) % 7 == 0:
                    proxy.cut()
            proxy.faults = [answer("502 Bad Gateway")] if turn == 2 else []
    assert seen == list(range(head + 1, head + 101))
    assert any(isinstance(notice, Disconnected) and notice.reason == "http_502" for notice in notices)
    assert sum(isinstance(notice, Connected) for notice in notices) > 3


async def test_the_synchronous_stream_resumes_too(lenient: Node, proxy: FlakyProxy, head: int, who: str) -> None:
    seen: list[int] = []

    def follow() -> None:
        with Client(proxy.base, token(who), trust_env=False) as tocsin, tocsin.stream(after=head) as events:
            for event in events:
                seen.append(event.seq)
                if len(seen) % 7 == 0 and len(seen) < 50:
                    proxy.cut()
                if len(seen) == 100:
                    return

    following_it = asyncio.create_task(asyncio.to_thread(follow))
    for _ in range(4):
        await lenient.post_all([{}] * 20)
    await eventually(lambda: len(seen) >= 50)  # what came before a cut is read after it, and cannot be acknowledged
    await lenient.post_all([{}] * 20)
    await following_it
    assert seen == list(range(head + 1, head + 101))
    await eventually(lambda: acknowledged(lenient, who, head + 100))


async def test_a_stream_outlives_a_node_that_is_killed_and_one_that_is_stopped(start: Callable[..., Process]) -> None:
    node = start()
    port = urlsplit(node.base).port
    async with async_client(node.base) as tocsin, tocsin.stream(after=0) as events:
        seen = []
        for end in (Process.kill, Process.stop, None):
            await node.post_all([{}] * 10)
            seen += [(await anext(events)).seq for _ in range(10)]
            if end is not None:
                await asyncio.to_thread(end, node)
                node = await asyncio.to_thread(start, port)
    assert seen == list(range(1, 31))


async def test_a_token_that_expires_is_asked_for_again(lenient: Node, head: int, who: str) -> None:
    tokens = iter([token(who, ttl_seconds=3), token(who)])
    notices: list[Any] = []

    async def fresh() -> str:
        return next(tokens)

    async with (
        async_client(lenient.base, fresh) as tocsin,
        tocsin.stream(after=head, on_notice=notices.append) as events,
    ):
        await lenient.post()
        assert (await anext(events)).seq == head + 1
        waiting = asyncio.ensure_future(anext(events))
        await eventually(lambda: Disconnected("token_expired", 0.0) in notices)
        await lenient.post()
        assert (await waiting).seq == head + 2


@pytest.mark.parametrize(
    ("bearer", "options", "reason"),
    [
        (token("alice", READ, ttl_seconds=-5), {}, "token_expired"),
        ("no.token.at-all", {}, "token_invalid"),
        (token("alice", WRITE), {}, "scope_missing"),
        (token("alice", topics=["a"]), {"topics": ["b"]}, "topic_forbidden"),
    ],
)
async def test_a_stream_that_would_be_refused_again_ends(
    lenient: Node, bearer: str, options: dict[str, Any], reason: str
) -> None:
    async with async_client(lenient.base, bearer) as tocsin, tocsin.stream(**options) as events:
        with pytest.raises(StreamRejected) as refused:
            await anext(events)
    assert (refused.value.reason, refused.value.code) == (reason, 1008)

    def follow() -> None:
        with Client(lenient.base, bearer, trust_env=False) as synchronous, synchronous.stream(**options) as stream:
            next(stream)

    with pytest.raises(StreamRejected, match=reason):
        await asyncio.to_thread(follow)


async def test_a_service_without_a_stream_is_not_asked_again(proxy: FlakyProxy) -> None:
    proxy.faults = [answer("404 Not Found")] * 2
    async with async_client(proxy.base) as tocsin, tocsin.stream() as events:
        with pytest.raises(StreamRejected, match="404"):
            await anext(events)
    assert proxy.connections == 1


async def test_a_service_that_was_never_reached_is_given_up() -> None:
    async with async_client("http://127.0.0.1:9") as tocsin, tocsin.stream(first_connection_seconds=0.1) as events:
        with pytest.raises(Unreachable):
            await anext(events)


async def test_a_silent_service_is_left(database_url: str) -> None:
    silent = Settings(stream=StreamSettings(heartbeat_seconds=3600))
    with serving(database_url, silent) as node:
        notices: list[Any] = []
        async with async_client(node.base) as tocsin, tocsin.stream(after=0, on_notice=notices.append) as events:
            waiting = asyncio.ensure_future(anext(events))
            await eventually(lambda: notices)
            events._state.silence_seconds = 0.2
            await node.post("It is heard, and then nothing")
            await waiting
            waiting = asyncio.ensure_future(anext(events))
            await eventually(lambda: any(isinstance(n, Disconnected) and n.reason == "server_silent" for n in notices))
            await node.post()
            assert (await waiting).seq == 2


@pytest.mark.parametrize("mark", ["", "-deadbeef"])
async def test_a_cursor_that_the_log_does_not_hold_begins_anew(lenient: Node, head: int, mark: str) -> None:
    await lenient.post_all([{}] * 3)
    await lenient.fanned_out(head + 3)
    notices: list[Any] = []
    after = f"{head + (2 if mark else 100)}{mark}"
    async with async_client(lenient.base) as tocsin, tocsin.stream(after=after, on_notice=notices.append) as events:
        waiting = asyncio.ensure_future(anext(events))
        await eventually(lambda: any(isinstance(notice, Reset) for notice in notices))
        await lenient.post("New")
        event = await waiting
    assert event.seq == head + 4
    assert events.cursor == event.cursor
    assert [(notice.after, notice.cursor.split("-")[0]) for notice in notices if isinstance(notice, Reset)] == [
        (None, str(head + 3))
    ]
