"""A WebSocket, server-sent events and long polls, on one log: whatever drops, each client has the same events."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.settings import LedgerSettings, LimitSettings, Settings, StreamSettings
from tests.harness import PATIENCE, Node, Stream, eventually, serving
from tests.http_streams import EventSource, Poller

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY = "1000000/second"
TOPIC, OTHER = "payments", "infra"
examples = itertools.count()


@pytest.fixture(scope="module")
def frugal(shared_url: str) -> Iterator[Node]:
    """A node that remembers little and replays in small chunks, so that a resume is served from memory and the log."""
    limits = LimitSettings(write_limit=EVERY, read_limit=EVERY, connect_limit=EVERY)
    stream = StreamSettings(
        heartbeat_seconds=0.1,
        replay_cache_events=6,
        replay_chunk_events=3,
        connections_per_recipient=1000,
        longpoll_idle_timeout_seconds=5,
    )
    with serving(
        shared_url, Settings(limits=limits, stream=stream, ledger=LedgerSettings(ledger_flush_seconds=0.05))
    ) as running:
        yield running


class Receiver:
    """An admin: what they have, and by which connection it came."""

    def __init__(self, node: Node, subject: str, after: int) -> None:
        self.node = node
        self.subject = subject
        self.cursor = after
        self.after = str(after)
        self.texts: list[bytes] = []
        self.had: dict[str, set[int]] = defaultdict(set)

    async def read_to(self, seq: int) -> None:
        """Read until the cursor has reached ``seq``."""
        while self.cursor < seq:
            await self.read_once()

    async def read_once(self) -> None:
        """Read a frame, or an answer, and resume first where the connection was dropped."""
        raise NotImplementedError

    async def drop(self) -> None:
        """Lose the connection, and what is on its way."""
        raise NotImplementedError

    async def ack(self) -> None:
        """Acknowledge everything that has come."""
        raise NotImplementedError

    def take(self, text: bytes, connection: str) -> None:
        """Take a frame."""
        frame = json.loads(text)
        if frame["type"] == "event":
            assert frame["seq"] > self.cursor
            self.texts.append(text)
            self.had[connection].add(frame["seq"])
        if frame["type"] in ("event", "heartbeat", "caught_up") and frame["seq"] >= self.cursor:
            self.cursor, self.after = frame["seq"], frame["cursor"]


class OverWebSocket(Receiver):
    stream: Stream | None = None
    connection = ""

    async def read_once(self) -> None:
        if self.stream is None:
            self.stream = await self.node.stream(self.subject, after=self.after, topic=TOPIC)
            self.connection = (await self.stream.next())["connection"]
        async with asyncio.timeout(PATIENCE):
            self.take(await self.stream.connection.recv(decode=False), self.connection)

    async def drop(self) -> None:
        if self.stream is not None:
            self.stream.connection.transport.abort()
            self.stream = None

    async def ack(self) -> None:
        if self.stream is not None:
            await self.stream.ack(self.cursor)


class OverEvents(Receiver):
    source: EventSource | None = None
    is_open = False

    async def read_once(self) -> None:
        if self.source is None:
            self.source = EventSource(self.node, self.subject)
            await self.source.open(after=self.after, topic=TOPIC)
        elif not self.is_open:
            await self.source.open(last_id=self.source.last_id or self.after, topic=TOPIC)
        self.is_open = True
        await self.source.next()
        self.take(self.source.texts[-1], self.source.connection)

    async def drop(self) -> None:
        if self.source is not None:
            await self.source.drop()
            self.is_open = False

    async def ack(self) -> None:
        if self.source is not None and self.source.texts:
            await self.source.ack(self.cursor)


class OverPolls(Receiver):
    def __init__(self, node: Node, subject: str, after: int) -> None:
        super().__init__(node, subject, after)
        self.poller = Poller(node, subject)
        self.poller.after = self.after

    async def read_once(self) -> None:
        known = len(self.poller.texts)
        answer = await self.poller.poll(wait=0.05, topic=TOPIC)
        for text in self.poller.texts[known:]:
            self.take(text, answer["connection"])
        self.cursor = max(self.cursor, int(answer["next"].partition("-")[0]))

    async def drop(self) -> None:
        before = self.poller.after, self.poller.connection, len(self.poller.texts)
        await self.poller.poll(topic=TOPIC)
        self.poller.after, self.poller.connection = before[:2]
        del self.poller.texts[before[2] :]

    async def ack(self) -> None:
        if self.poller.connection is not None:
            body = {"connection": self.poller.connection, "seq": self.cursor}
            answer = await self.poller.http.post("/v1/events/ack", json=body)
            assert answer.status_code == 200, answer.text


WHO = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.lists(st.sampled_from([TOPIC, TOPIC, OTHER]), min_size=1, max_size=8)),
        st.tuples(st.sampled_from(["read", "drop", "ack", "catch up"]), WHO),
    ),
    max_size=25,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_every_transport_gives_the_same_events_whatever_drops(frugal: Node, steps: list[tuple[str, Any]]) -> None:
    asyncio.run(history(frugal, steps))


async def history(node: Node, steps: list[tuple[str, Any]]) -> None:
    base = (await node.post(topic=OTHER))["seq"]
    number = next(examples)
    receivers = [kind(node, f"{kind.__name__}-{number}", base) for kind in (OverWebSocket, OverEvents, OverPolls)]
    posted: list[int] = []
    head = base
    for what, argument in [*steps, ("post", [TOPIC])]:
        if what == "post":
            seqs = await node.post_all([{"topic": topic} for topic in argument], at_once=1)
            posted += [seq for seq, topic in zip(seqs, argument, strict=True) if topic == TOPIC]
            head = seqs[-1]
        elif what == "read":
            await receivers[argument].read_once()
        elif what == "catch up":
            await receivers[argument].read_to(head)
        else:
            await (receivers[argument].drop() if what == "drop" else receivers[argument].ack())
    for receiver in receivers:
        await receiver.read_to(head)
        await receiver.ack()
        assert [json.loads(text)["seq"] for text in receiver.texts] == posted
        assert receiver.texts == receivers[0].texts
    for receiver in receivers:
        await eventually(lambda receiver=receiver: ledger_agrees(node, receiver, head))  # type: ignore[misc]
        await receiver.drop()
        if isinstance(receiver, OverPolls):
            await receiver.poller.http.aclose()
        elif isinstance(receiver, OverEvents) and receiver.source is not None:
            await receiver.source.http.aclose()


async def ledger_agrees(node: Node, receiver: Receiver, head: int) -> bool:
    """Say whether the ledger has all that came, and that the last of it was received; it never has more."""
    query = "SELECT connection::text, seq, received_at FROM audit.deliveries WHERE recipient = $1"
    rows = await node.sql(query, receiver.subject)
    sent, received = defaultdict(set), defaultdict(set)
    for row in rows:
        sent[row["connection"]].add(row["seq"])
        if row["received_at"] is not None:
            received[row["connection"]].add(row["seq"])
    for connection, seqs in received.items():
        assert seqs <= receiver.had[connection], "the ledger claims a receipt that there was not"
    return all(seqs <= sent[connection] for connection, seqs in receiver.had.items()) and any(
        head in seqs for seqs in received.values()
    )
