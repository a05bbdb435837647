from __future__ import annotations

import socket
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import Settings, StreamSettings
from tests.harness import Node, Stream, eventually, serving
from tests.stream.conftest import post_and_fan_out

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = {"body": "x" * 16_000, "attributes": {"y": "y" * 8_000}}


@pytest.fixture(scope="module")
def strict(shared_url: str) -> Iterator[Node]:
    """A node with little patience, and little memory, so that who lags is served from the log as well."""
    stream = StreamSettings(slow_consumer_seconds=1, replay_cache_bytes=1024 * 1024)
    with serving(shared_url, Settings(stream=stream)) as running:
        yield running


async def stuck(node: Node, subject: str, **options: Any) -> Stream:
    """Open a stream whose client takes little before it reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, _, port = node.base.removeprefix("http://").partition(":")
    client.connect((host, int(port)))
    client.setblocking(False)
    return await node.live(subject, options={"sock": client, "max_queue": 1}, **options)


def seqs(stream: Stream) -> list[int]:
    return [frame["seq"] for frame in stream.seen if frame["type"] == "event"]


async def test_an_alert_for_named_admins_goes_to_them_alone_and_in_its_place(shared: Node) -> None:
    alice, bob, carol = (uuid.uuid4().hex for _ in range(3))
    to: list[list[str] | None] = [None, [alice], [bob, alice], None, [bob], None, [alice], [carol], None] * 3
    async with (
        await shared.live(alice) as first,
        await shared.live(alice, topic="*,x") as second,
        await shared.live(bob) as third,
        await shared.live("nobody in particular") as fourth,
    ):
        posted = dict(zip(await shared.post_all([{"recipients": names} for names in to]), to, strict=True))
        for stream, name in ((first, alice), (second, alice), (third, bob), (fourth, "")):
            expected = sorted(seq for seq, names in posted.items() if names is None or name in names)
            events = await stream.events(len(expected))
            assert [event["seq"] for event in events] == expected
            assert all(event["alert"]["recipients"] == posted[event["seq"]] for event in events)
    async with await shared.stream(bob, after=min(posted) - 1) as replayed:
        await replayed.next_of("caught_up")
    assert seqs(replayed) == sorted(seq for seq, names in posted.items() if names is None or bob in names)


async def own_sent_seq(node: Node, subject: str) -> int | None:
    """Return how far a connection was sent by its own account, None while it keeps up with its node."""
    [row] = await eventually(lambda: node.sql("SELECT sent_seq FROM connections WHERE recipient = $1", subject))
    sent_seq: int | None = row["sent_seq"]
    return sent_seq


async def test_a_slow_reader_delays_nobody_and_catches_up_without_a_hole(shared: Node, subject: str) -> None:
    async with await stuck(shared, subject) as slow, await shared.live() as quick:
        posted = sorted(await shared.post_all([LARGE] * 220))
        assert [event["seq"] for event in await quick.events(len(posted))] == posted
        lag = await eventually(lambda: own_sent_seq(shared, subject))
        assert lag < posted[-1]
        more = await shared.post()
        assert (await quick.next_of("event"))["seq"] == more["seq"]
        assert [event["seq"] for event in await slow.events(len(posted) + 1)] == [*posted, more["seq"]]
        await slow.next_of("caught_up")
        last = await shared.post()
        assert (await slow.next_of("event"))["seq"] == last["seq"]
        await shared.flushed(last["seq"])
    rows = await shared.sql("SELECT seq FROM audit.deliveries WHERE recipient = $1 ORDER BY seq", subject)
    assert [row["seq"] for row in rows] == [*posted, more["seq"], last["seq"]]


async def test_a_reader_that_stays_stuck_is_closed_and_resumes_where_it_was(strict: Node, subject: str) -> None:
    head = await post_and_fan_out(strict)
    async with await stuck(strict, subject) as slow:
        posted = sorted(await strict.post_all([LARGE] * 220))
        query = "SELECT * FROM connections WHERE recipient = $1 AND closed_at IS NOT NULL"
        [row] = await eventually(lambda: strict.sql(query, subject))
        assert (row["close_code"], row["close_reason"]) == (1013, "slow_consumer")
        assert await slow.closed() == (1013, "slow_consumer")
    assert seqs(slow) == posted[: len(seqs(slow))]
    assert row["sent_seq"] <= seqs(slow)[-1] < posted[-1]
    async with await strict.stream(subject, after=seqs(slow)[-1]) as resumed:
        await resumed.next_of("caught_up")
    assert seqs(slow) + seqs(resumed) == list(range(head + 1, posted[-1] + 1)) == posted
