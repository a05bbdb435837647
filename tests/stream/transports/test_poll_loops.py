"""Loops that poll without a cursor, as one writes them first: each event once, and again what was lost on the way."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest

from service.settings import Settings, StreamSettings
from service.stream.transports.longpoll import Poll, PollSession
from tests.harness import PATIENCE, READ, Node, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

PATH = "/v1/events"


@pytest.fixture(scope="module")
def brisk(shared_url: str) -> Iterator[Node]:
    """A node on the shared database that forgets a client of polls after half a second."""
    with serving(shared_url, Settings(stream=StreamSettings(longpoll_idle_timeout_seconds=0.5))) as node:
        yield node


async def post(node: Node, *titles: str, other: Node | None = None) -> list[str]:
    """Post alerts, and wait until the node, and an ``other`` that is asked, too, have fanned them out."""
    for title in titles:
        seq = (await node.post(title, topic="loops"))["seq"]
    for asked in (node, other or node):
        await asked.fanned_out(seq)
    return list(titles)


async def titles_of(client: httpx2.AsyncClient, wait: float = 0, **query: Any) -> list[str]:
    response = await client.get(PATH, params={"wait": wait, "topic": "loops", **query})
    assert response.status_code == 200, response.text
    return [event["alert"]["title"] for event in response.json()["events"]]


@pytest.mark.parametrize("keeps_alive", [True, False])
async def test_a_loop_gets_each_event_once(shared: Node, subject: str, *, keeps_alive: bool) -> None:
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(shared.http(subject, READ))

        async def poll() -> list[str]:
            if keeps_alive:
                return await titles_of(kept)
            async with shared.http(subject, READ) as client:
                return await titles_of(client)

        assert await poll() == []
        first = await post(shared, "a0", "a1", "a2", "a3", "a4")
        assert await poll() == first
        second = await post(shared, "a5", "a6", "a7", "a8", "a9")
        assert await poll() == second
        assert await poll() == []
        query = "SELECT count(*) FROM audit.deliveries WHERE recipient = $1 AND received_at IS NOT NULL"
        await eventually(lambda: _is(shared, 10, query, subject))


async def _is(node: Node, value: Any, query: str, *arguments: Any) -> bool:
    return bool((await node.sql(query, *arguments))[0][0] == value)


async def test_a_loop_that_rests_for_longer_than_the_node_waits_gets_each_event_once(brisk: Node, subject: str) -> None:
    closed = "SELECT count(*) FROM connections WHERE recipient = $1 AND close_reason = 'poll_timeout'"
    async with brisk.http(subject, READ) as client:
        assert await titles_of(client) == []
        for number, titles in enumerate((["a", "b"], ["c"], ["d", "e"])):
            await eventually(partial(_is, brisk, number + 1, closed, subject))
            await post(brisk, *titles)
            assert await titles_of(client) == titles
        assert await titles_of(client) == []


POLLED = (
    "SELECT polled_seq >= (SELECT max(seq) FROM events WHERE topic = 'loops') FROM resume_points WHERE recipient = $1"
)


async def test_a_loop_over_two_nodes_gets_each_event_once(shared: Node, brisk: Node, subject: str) -> None:
    async with shared.http(subject, READ) as here, brisk.http(subject, READ) as there:
        assert await titles_of(here) == []
        for titles, client, node in ((["a", "b"], there, brisk), (["c"], here, shared), (["d"], there, brisk)):
            await post(node, *titles)
            assert await titles_of(client) == titles
            await eventually(lambda: _is(shared, True, POLLED, subject))


async def test_what_a_node_writes_of_an_earlier_answer_does_not_replace_a_later_one(
    shared: Node, brisk: Node, subject: str
) -> None:
    closed = "SELECT count(*) FROM connections WHERE recipient = $1 AND close_reason = 'poll_timeout'"
    async with shared.http(subject, READ) as here, brisk.http(subject, READ) as there:
        assert await titles_of(there) == []
        for titles, client, node in ((["a"], there, brisk), (["b"], here, shared)):
            await post(node, *titles)
            assert await titles_of(client) == titles
            await eventually(lambda: _is(shared, True, POLLED, subject))
        await eventually(partial(_is, brisk, 1, closed, subject))
        assert await titles_of(there) == []


def request(node: Node, subject: str, **query: Any) -> socket.socket:
    """Ask over a socket of its own, and return that."""
    address = urlsplit(node.base)
    asking = socket.create_connection((address.hostname, address.port))
    head = (
        f"GET {PATH}?{urlencode({'topic': 'loops', **query})} HTTP/1.1",
        f"Host: {address.netloc}",
        f"Authorization: Bearer {token(subject)}",
        "\r\n",
    )
    asking.sendall("\r\n".join(head).encode())
    return asking


async def test_an_answer_that_is_lost_while_a_poll_waits_comes_with_the_next(shared: Node, subject: str) -> None:
    async with shared.http(subject, READ) as client:
        assert await titles_of(client) == []
        (await asyncio.to_thread(request, shared, subject, wait=20)).close()
        titles = await post(shared, "a", "b")
        assert await titles_of(client) == titles
        assert await titles_of(client) == []


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("is_written", [True, False])
async def test_an_answer_that_is_lost_on_the_way_comes_again(
    shared: Node, brisk: Node, subject: str, monkeypatch: pytest.MonkeyPatch, *, is_written: bool, elsewhere: bool
) -> None:
    """The ledger has the answer already, or not; that it was lost is not written yet. Another node is asked, or not."""
    lost, answer_lost = threading.Event(), PollSession.answer_lost

    def observed(self: PollSession, poll: Poll) -> None:
        answer_lost(self, poll)
        lost.set()

    monkeypatch.setattr(PollSession, "answer_lost", observed)
    async with (brisk if elsewhere else shared).http(subject, READ) as client:
        assert await titles_of(client) == []
        titles = await post(shared, "a", "b", other=brisk)
        asking = await asyncio.to_thread(request, shared, subject, wait=0)
        assert await asyncio.to_thread(asking.recv, 1)  # what is not read of the answer makes the close a reset
        if is_written:
            polled = "SELECT count(*) FROM resume_points WHERE recipient = $1 AND polled_seq > seq"
            await eventually(lambda: _is(shared, 1, polled, subject))
        asking.close()
        assert await asyncio.to_thread(lost.wait, PATIENCE)
        assert await titles_of(client) == titles
        assert await titles_of(client) == []
        assert await titles_of(client) == []


async def test_a_poll_with_a_cursor_confirms_by_its_cursor_only(shared: Node, subject: str) -> None:
    async with shared.http(subject, READ) as client:
        answer = (await client.get(PATH, params={"wait": 0, "topic": "loops"})).json()
        titles = await post(shared, "a", "b")
        query = {"after": answer["next"], "connection": answer["connection"]}
        assert await titles_of(client, **query) == titles
        # It started again before it had worked off the answer, and lost its cursor.
        assert await titles_of(client) == titles


async def test_two_loops_of_an_admin_share_a_point_unless_they_have_names(shared: Node, subject: str) -> None:
    async with shared.http(subject, READ) as client:
        for consumer in ("a", "b"):
            assert await titles_of(client, consumer=consumer) == []
        titles = await post(shared, "x", "y")
        for consumer in ("a", "b"):
            assert await titles_of(client, consumer=consumer) == titles
            assert await titles_of(client, consumer=consumer) == []


async def test_other_transports_confirm_nothing_without_an_acknowledgement(shared: Node, subject: str) -> None:
    async with await shared.live(subject, topic="loops"):
        pass
    titles = await post(shared, "a", "b")
    for _ in range(2):
        async with await shared.live(subject, topic="loops") as stream:
            assert [frame["alert"]["title"] for frame in stream.seen if frame["type"] == "event"] == titles
    address = {"topic": "loops", "connection": "01a1fd87-65c3-71a6-ba06-3929d3197295"}
    async with shared.http(subject, READ) as client:
        for _ in range(2):
            seen: list[str] = []
            async with client.stream("GET", PATH, params=address) as source:
                async for line in source.aiter_lines():
                    if line.startswith("data: "):
                        frame = json.loads(line.removeprefix("data: "))
                        seen += [frame["alert"]["title"]] if frame["type"] == "event" else []
                        if frame["type"] == "caught_up":
                            break
            assert seen == titles
