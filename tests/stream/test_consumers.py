"""Random streams of an admin lose nothing for any of their filters and consumers.

The checker keeps its own record of what each consumer was sent and acknowledged; it shares nothing with the service.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import Settings
from tests.harness import Node, Stream, eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

SEVERITIES = ("info", "warning", "error", "critical")
FILTERS = (("*", "info"), ("a,b", "warning"))
STEPS = 100


@dataclass
class Opened:
    """One stream: what it began after, was sent, and acknowledged."""

    stream: Stream
    after: int
    is_own_cursor: bool
    is_latest: bool
    seqs: list[int] = field(default_factory=list)
    acked: int = 0


@dataclass
class Consumer:
    """One filter, or one name, of an admin."""

    name: str
    topics: str
    least: str
    streams: list[Opened] = field(default_factory=list)
    open: Opened | None = None
    cursor: int | None = None

    def _is_severe(self, severity: str) -> bool:
        return SEVERITIES.index(severity) >= SEVERITIES.index(self.least)

    def expects(self, event: tuple[int, str, str]) -> bool:
        seq, topic, severity = event
        began = self.streams[0].after
        return seq > began and self._is_severe(severity) and (self.topics == "*" or topic in self.topics.split(","))

    def handled(self) -> set[int]:
        """Return what was sent, and acknowledged there or by a stream that came back with the client's own cursor."""
        return {
            seq
            for one in self.streams
            for seq in one.seqs
            if any(
                other.acked >= seq and (other is one or (other.is_own_cursor and other.after >= seq))
                for other in self.streams
            )
        }


class Trial:
    """An admin with several consumers on two nodes."""

    def __init__(self, seed: int, nodes: list[Node]) -> None:
        self.choose = random.Random(seed)
        self.nodes = nodes
        self.subject = f"alice-{uuid.uuid4().hex}"
        self.log: list[tuple[int, str, str]] = []
        plain = [Consumer("", *one) for one in FILTERS]
        self.consumers = plain + [Consumer(name, *one) for name in ("x",) for one in FILTERS[:1]]

    async def publish(self) -> None:
        alerts = [
            {"topic": self.choose.choice("abc"), "severity": self.choose.choice(SEVERITIES)}
            for _ in range(self.choose.randint(1, 4))
        ]
        seqs = await self.nodes[0].post_all(alerts, at_once=1)
        self.log += [(seq, one["topic"], one["severity"]) for seq, one in zip(seqs, alerts, strict=True)]

    async def connect(self, consumer: Consumer, after: str | None) -> Opened:
        """Connect to either node. The point of a first stream with a cursor is written with the next flush."""
        node = self.choose.choice(self.nodes)
        if consumer.streams:
            await eventually(lambda: self.is_written(consumer))
        query: dict[str, Any] = {"topic": consumer.topics, "min_severity": consumer.least}
        if consumer.name:
            query["consumer"] = consumer.name
        if after is not None:
            query["after"] = after
        stream = await node.stream(self.subject, options={"max_queue": None}, **query)
        welcome = await stream.next_of("welcome")
        opened = Opened(
            stream, welcome["after"], is_own_cursor=after not in {None, "latest"}, is_latest=after == "latest"
        )
        consumer.streams.append(opened)
        return opened

    async def is_written(self, consumer: Consumer) -> bool:
        query = (
            "SELECT FROM audit.resume_points WHERE recipient = $1 AND coalesce(consumer, '') = $2"
            " AND topics = string_to_array($3, ',') AND min_severity::text = $4"
        )
        arguments = (self.subject, consumer.name, consumer.topics, consumer.least)
        return bool(await self.nodes[0].sql(query, *arguments))

    async def read(self, opened: Opened) -> None:
        """Read what was sent so far, and let the node read what was acknowledged."""
        await opened.stream.send({"type": "ping"})
        while (frame := await opened.stream.next())["type"] != "pong":
            if frame["type"] == "event":
                opened.seqs.append(frame["seq"])

    async def step(self) -> None:
        consumer = self.choose.choice(self.consumers)
        opened = consumer.open
        action = self.choose.choice(("publish", "read", "acknowledge", "acknowledge", "leave"))
        if action == "publish":
            await self.publish()
        elif opened is None:
            own = str(consumer.cursor) if consumer.cursor is not None else None
            consumer.open = await self.connect(consumer, self.choose.choice((None, None, "latest", own)))
        elif action == "read":
            await self.read(opened)
            if not opened.is_latest:  # a cursor says that its client has everything up to there
                consumer.cursor = max([consumer.cursor or 0, opened.after, *opened.seqs])
        elif action == "acknowledge":
            await self.read(opened)
            if opened.seqs:
                opened.acked = max(opened.acked, self.choose.choice(opened.seqs))
                await opened.stream.ack(opened.acked)
                await self.read(opened)
        elif action == "leave":
            await self.leave(consumer)

    async def leave(self, consumer: Consumer) -> None:
        if consumer.open is not None:
            await consumer.open.stream.close()
            consumer.open = None
            consumer.cursor = self.choose.choice((consumer.cursor, None))  # it may lose its cursor, as a restart does

    async def check(self, consumer: Consumer) -> None:
        """Come back without a cursor: all that the consumer did not acknowledge is sent."""
        await self.leave(consumer)
        if not consumer.streams:
            return
        handled = consumer.handled()
        last = await self.connect(consumer, None)
        async with last.stream as stream:
            await stream.next_of("caught_up")
            sent = {frame["seq"] for frame in stream.seen if frame["type"] == "event"}
        expected = {event[0] for event in self.log if consumer.expects(event)}
        assert expected - handled - sent == set(), (consumer.name, consumer.topics, consumer.least)


@pytest.fixture(scope="module")
def nodes(shared_url: str) -> Iterator[list[Node]]:
    with serving(shared_url, Settings()) as first, serving(shared_url, Settings()) as second:
        yield [first, second]


@pytest.mark.parametrize("seed", range(6))
async def test_no_consumer_loses_what_it_did_not_acknowledge(nodes: list[Node], seed: int) -> None:
    trial = Trial(seed, nodes)
    for _ in range(STEPS):
        await trial.step()
    for node in nodes:
        await node.fanned_out(trial.log[-1][0])
    for consumer in trial.consumers:
        await trial.check(consumer)
