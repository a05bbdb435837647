"""PostgreSQL fails over to a standby that lacks the last commits, while nodes and clients go on."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import LedgerSettings, Settings
from tests.harness import Node, Stream, eventually, serving
from tests.http_streams import EventSource, Poller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.failover import FailoverDatabase

HISTORY_CHANGED = (1012, "history_changed")


def _node(failover: FailoverDatabase) -> Iterator[Node]:
    with serving(failover.url, Settings(ledger=LedgerSettings(ledger_flush_seconds=0.05))) as running:
        yield running


node = pytest.fixture(_node, name="node")
other = pytest.fixture(_node, name="other")


async def post(node: Node, *titles: str) -> None:
    """Post alerts, once the node has a database again."""
    async with node.http() as client:
        for title in titles:

            async def is_stored(title: str = title) -> bool:
                return (await client.post("/v1/alerts", json={"title": title})).status_code == 201

            await eventually(is_stored)


async def changes(node: Node) -> float:
    async with node.http() as client:
        text = (await client.get("/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("tocsin_history_changes_total"))


class Admin:
    """A client that holds titles by seq, and a cursor."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.held: dict[int, str] = {}
        self.cursor = "0"
        self.resets: list[int | None] = []

    def take(self, frame: dict[str, Any]) -> None:
        """Take a frame."""
        match frame:
            case {"type": "reset", "after": after}:
                self.resets.append(after)
                self.held = {seq: title for seq, title in self.held.items() if after is not None and seq <= after}
            case {"type": "event", "seq": seq, "alert": {"title": title}}:
                assert seq == max(self.held, default=0) + 1
                self.held[seq] = title
        self.cursor = frame.get("cursor", self.cursor)

    @property
    def titles(self) -> list[str]:
        return list(self.held.values())

    async def receive(self, node: Node, count: int) -> None:
        """Go on from the cursor on a stream of ``node``, until ``count`` events are held."""
        raise NotImplementedError

    async def closed(self) -> tuple[int, str]:
        """Return how the stream ended."""
        raise NotImplementedError

    async def leave(self) -> None:
        """Go offline."""
        raise NotImplementedError


class OverWebSocket(Admin):
    stream: Stream | None = None

    async def receive(self, node: Node, count: int) -> None:
        if self.stream is None:
            self.stream = await node.stream(self.subject, after=self.cursor)
        while len(self.held) < count:
            self.take(await self.stream.next())

    async def closed(self) -> tuple[int, str]:
        assert self.stream is not None
        ended = await self.stream.closed()
        self.stream = None
        return ended

    async def leave(self) -> None:
        assert self.stream is not None
        await self.stream.close()
        self.stream = None


class OverEvents(Admin):
    source: EventSource | None = None

    async def receive(self, node: Node, count: int) -> None:
        if self.source is None:
            self.source = EventSource(node, self.subject)
            await self.source.open(last_id=self.cursor)
        while len(self.held) < count:
            self.take(await self.source.next())
        self.cursor = self.source.last_id

    async def closed(self) -> tuple[int, str]:
        assert self.source is not None
        ended = await self.source.closed()
        await self.leave()
        return ended

    async def leave(self) -> None:
        assert self.source is not None
        await self.source.drop()
        await self.source.http.aclose()
        self.source = None


class OverPolls(Admin):
    poller: Poller | None = None

    async def receive(self, node: Node, count: int) -> None:
        if self.poller is None:
            self.poller = Poller(node, self.subject)
        while len(self.held) < count:
            await self.poll(wait=5)

    async def poll(self, wait: float) -> dict[str, Any]:
        assert self.poller is not None
        self.poller.after = self.cursor
        answer = await self.poller.poll(wait=wait)
        for frame in (answer["reset"], *answer["events"]):
            if frame is not None:
                self.take(frame)
        self.cursor = answer["next"]
        return answer

    async def closed(self) -> tuple[int, str]:
        closed = (await self.poll(wait=30))["closed"]
        await self.leave()
        return closed["code"], closed["reason"]

    async def leave(self) -> None:
        assert self.poller is not None
        await self.poller.http.aclose()
        self.poller = None


KINDS = [OverWebSocket, OverEvents, OverPolls]


async def test_a_failover_that_lost_commits_is_noticed_and_every_client_ends_with_what_the_log_holds(
    failover: FailoverDatabase, node: Node
) -> None:
    online = [kind(f"online {kind.__name__}") for kind in KINDS]
    offline = [kind(f"offline {kind.__name__}") for kind in KINDS]
    everybody = [*online, *offline]
    before = await changes(node)
    await post(node, "1", "2", "3")
    await asyncio.gather(*(admin.receive(node, 3) for admin in everybody))
    await failover.replicate()
    await post(node, "void 4", "void 5")
    await asyncio.gather(*(admin.receive(node, 5) for admin in everybody))
    await asyncio.gather(*(admin.leave() for admin in offline))
    closes = [asyncio.create_task(admin.closed()) for admin in online]
    await failover.fail_over()
    assert await asyncio.gather(*closes) == [HISTORY_CHANGED] * len(closes)
    await post(node, "4", "5", "6")
    await asyncio.gather(*(admin.receive(node, 6) for admin in everybody))
    for admin in everybody:
        assert (admin.titles, admin.resets) == (["1", "2", "3", "4", "5", "6"], [3]), admin.subject
        await admin.leave()
    assert await changes(node) == before + 1


async def test_a_node_that_never_had_the_void_events_resets_all(failover: FailoverDatabase, node: Node) -> None:
    alice = OverWebSocket("alice")
    await post(node, "1")
    await failover.replicate()
    await post(node, "void 2")
    await alice.receive(node, 2)
    closed = asyncio.create_task(alice.closed())
    await failover.fail_over()
    assert await closed == HISTORY_CHANGED
    await post(node, "2")
    with serving(failover.url) as fresh:
        async with await fresh.stream("alice", after=alice.cursor) as stream:
            welcome, reset = await stream.next(), await stream.next()
    assert (welcome["head"], welcome["after"]) == (2, 2)
    assert reset == {"type": "reset", "after": None, "cursor": welcome["cursor"]}


@pytest.mark.parametrize("committing", ["node", "other"])
async def test_a_node_that_was_not_asked_notices_too_and_sends_nothing_of_its_own_history(
    failover: FailoverDatabase, node: Node, other: Node, committing: str
) -> None:
    nodes = {"node": node, "other": other}
    alice, bob = OverWebSocket("alice"), OverWebSocket("bob")
    await post(node, "1", "2")
    await failover.replicate()
    await post(nodes[committing], "void 3")
    await alice.receive(node, 3)
    await bob.receive(other, 3)
    closes = asyncio.gather(*(admin.closed() for admin in (alice, bob)))
    await failover.fail_over()
    await post(nodes[committing], "3", "4")
    assert await closes == [HISTORY_CHANGED] * 2
    await asyncio.gather(alice.receive(other, 4), bob.receive(node, 4))
    for admin in (alice, bob):
        assert (admin.titles, admin.resets) == (["1", "2", "3", "4"], [2])
        await admin.leave()


async def test_the_ledger_claims_nothing_of_what_was_lost(failover: FailoverDatabase, node: Node) -> None:
    alice = OverWebSocket("alice")
    await post(node, "1", "2")
    await failover.replicate()
    await post(node, "void 3", "void 4")
    await alice.receive(node, 4)
    assert alice.stream is not None
    await alice.stream.ack(4)
    await node.flushed(4)
    closed = asyncio.create_task(alice.closed())
    await failover.fail_over()
    assert await closed == HISTORY_CHANGED
    await post(node, "3", "4")
    await asyncio.sleep(0.2)  # several flushes: nothing that waited may claim the new 3 and 4
    assert await node.sql("SELECT FROM audit.deliveries WHERE seq > 2") == []
    await alice.receive(node, 4)
    await eventually(partial(node.sql, "SELECT FROM audit.deliveries WHERE seq = 4 AND sent_at IS NOT NULL"))
    await alice.leave()


async def test_a_failover_that_lost_nothing_closes_and_resets_nothing(failover: FailoverDatabase, node: Node) -> None:
    admins = [kind(kind.__name__) for kind in KINDS]
    before = await changes(node)
    await post(node, "1", "2")
    await asyncio.gather(*(admin.receive(node, 2) for admin in admins))
    await failover.replicate()
    await failover.fail_over()
    await post(node, "3")
    await asyncio.gather(*(admin.receive(node, 3) for admin in admins))
    for admin in admins:
        assert (admin.titles, admin.resets) == (["1", "2", "3"], [])
        await admin.leave()
    assert await changes(node) == before
