from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import Settings, StreamSettings
from service.stream import presence
from tests.harness import Node, Stream, eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.notifications import WithoutNotifications


@pytest.fixture(scope="module", autouse=True)
def _announced_soon() -> Iterator[None]:
    """Let the nodes of this process compare the lists 20 times a second, not once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence, "PAUSE_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def other(shared_url: str) -> Iterator[Node]:
    """A second node on the same database."""
    with serving(shared_url) as running:
        yield running


@pytest.fixture
def alice() -> str:
    return "alice " + uuid.uuid4().hex


@pytest.fixture
def bob() -> str:
    return "bob " + uuid.uuid4().hex


def joining(frame: dict[str, Any]) -> list[str]:
    return [one["recipient"] for one in frame["joined"]]


async def joined(stream: Stream, name: str) -> dict[str, Any]:
    while name not in joining(frame := await stream.next_of("presence")):
        pass
    return frame


async def left(stream: Stream, name: str) -> dict[str, Any]:
    while name not in (frame := await stream.next_of("presence"))["left"]:
        pass
    return frame


async def listed(node: Node, name: str) -> dict[str, Any] | None:
    async with node.http("anybody", "alerts:read") as client:
        present = (await client.get("/v1/presence")).json()["present"]
    return next((one for one in present if one["recipient"] == name), None)


async def test_who_joins_and_leaves_one_node_is_announced_on_the_other(
    shared: Node, other: Node, alice: str, bob: str
) -> None:
    async with await shared.live(alice) as stream:
        await joined(stream, alice)
        async with await other.live(bob) as arrived:
            frame = await joined(stream, bob)
            [since] = [one["since"] for one in frame["joined"] if one["recipient"] == bob]
            assert (frame["truncated"], frame["present"] >= 2) == (False, True)
            assert await listed(shared, bob) == {"recipient": bob, "connections": 1, "since": since}
            await joined(arrived, bob)
        frame = await left(stream, bob)
        assert bob not in joining(frame)
        assert await listed(other, bob) is None


async def test_an_admin_is_present_until_their_last_stream_on_any_node_is_gone(
    shared: Node, other: Node, alice: str, bob: str
) -> None:
    async with await shared.live(alice) as stream:
        await joined(stream, alice)
        async with await other.live(bob):
            await joined(stream, bob)
            async with await shared.live(bob):
                await eventually(lambda: connections(shared, bob, 2))
            await eventually(lambda: connections(shared, bob, 1))
        await left(stream, bob)
    changes = [frame for frame in stream.seen if frame["type"] == "presence"]
    assert sum(joining(frame).count(bob) for frame in changes) == 1
    assert sum(frame["left"].count(bob) for frame in changes) == 1


async def connections(node: Node, name: str, count: int) -> bool:
    one = await listed(node, name)
    return one is not None and one["connections"] == count


async def test_a_refused_handshake_is_no_presence(shared: Node, alice: str, bob: str) -> None:
    async with await shared.live(alice) as stream:
        await joined(stream, alice)
        async with await shared.stream(bob, scope="alerts:write") as refused:
            await refused.closed()
        async with await shared.live(carol := uuid.uuid4().hex):
            await joined(stream, carol)
    assert bob not in str(stream.seen)


async def test_presence_is_announced_though_no_notifications_stays_up(
    shared: Node, other: Node, no_notifications: WithoutNotifications, alice: str, bob: str
) -> None:
    async with await shared.live(alice) as stream:
        await joined(stream, alice)
        async with no_notifications(shared):
            async with await other.live(bob):
                await joined(stream, bob)
            await left(stream, bob)


async def test_a_list_that_is_not_complete_says_so(node: Node, database_url: str) -> None:
    with serving(database_url, Settings(stream=StreamSettings(presence_max=2))) as small:
        async with await small.live("a") as stream:
            await joined(stream, "a")
            async with await node.live("b"), await node.live("c"):
                frame = await joined(stream, "b")
                assert (frame["present"], frame["truncated"]) == (2, True)
        assert not any("c" in joining(frame) for frame in stream.seen if frame["type"] == "presence")


async def test_more_and_fewer_connections_of_an_admin_are_announced(shared: Node, other: Node, alice: str) -> None:
    async def changed(stream: Stream) -> int:
        while True:
            for one in (await stream.next_of("presence"))["changed"]:
                if one["recipient"] == alice:
                    return int(one["connections"])

    async with await shared.live(alice) as stream:
        await joined(stream, alice)
        async with await other.live(alice):
            assert await changed(stream) == 2
        assert await changed(stream) == 1
