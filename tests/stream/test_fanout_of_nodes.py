from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.settings import Settings, StreamSettings
from service.severity import SEVERITIES
from tests.fixtures.notifications import kill_listeners
from tests.harness import PATIENCE, Node, Stream, eventually, serving
from tests.stream.conftest import raw_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def seqs(stream: Stream) -> list[int]:
    return [frame["seq"] for frame in stream.seen if frame["type"] == "event"]


# Two nodes on one database.


@pytest.fixture
def second(database_url: str) -> Iterator[Node]:
    with serving(database_url) as running:
        yield running


async def test_an_alert_posted_on_one_node_arrives_on_the_other(node: Node, second: Node) -> None:
    async with await node.live() as here, await second.live() as there:
        for posting in (node, second):
            alert = await posting.post()
            for stream in (here, there):
                event = await stream.next_of("event")
                assert (event["seq"], event["alert"]["id"]) == (alert["seq"], alert["id"])


async def test_every_stream_of_every_node_is_in_order_while_both_nodes_store(node: Node, second: Node) -> None:
    async with await node.live() as one, await second.live() as two, await second.stream(after=0) as three:
        stored = await asyncio.gather(node.post_all([{}] * 150), second.post_all([{}] * 150))
        assert sorted([*stored[0], *stored[1]]) == list(range(1, 301))
        for stream in (one, two, three):
            assert [event["seq"] for event in await stream.events(300)] == list(range(1, 301))


async def test_a_cursor_that_is_ahead_of_this_node_alone_is_of_this_log(node: Node, database_url: str) -> None:
    deaf = Settings(stream=StreamSettings(log_poll_interval_seconds=PATIENCE * 4))
    with serving(database_url, deaf) as behind:
        async with await node.live("alice") as stream:
            for after in ("named", "own"):
                await kill_listeners(node)  # a bus that listens again tells nothing of what was committed meanwhile
                seqs_ahead = await node.post_all([{}] * 5, at_once=1)
                await stream.events(5)
                await stream.ack(seqs_ahead[-2])
                await eventually(partial(has_received, node, "alice", seqs_ahead[-2]))
                query: dict[str, Any] = {"after": seqs_ahead[-2]} if after == "named" else {}
                async with await behind.stream("alice", **query) as resumed:
                    await resumed.next_of("caught_up")
                assert [frame["type"] for frame in resumed.seen] == ["welcome", "event", "caught_up"]
                assert seqs(resumed) == seqs_ahead[-1:]
                assert resumed.seen[0]["after"] == seqs_ahead[-2]


async def has_received(node: Node, name: str, seq: int) -> bool:
    return bool(await node.sql("SELECT FROM resume_points WHERE recipient = $1 AND seq = $2", name, seq))


# Replay, from memory and from the log.


async def chunks(node: Node, subject: str) -> list[tuple[int, int]]:
    """Return the ranges in which a connection was sent its replay."""
    rows = await node.sql(
        "SELECT d.after_seq, up_to_seq FROM dispatches d JOIN connections c ON c.id = connection_id"
        " WHERE recipient = $1 ORDER BY up_to_seq",
        subject,
    )
    return [(row[0], row[1]) for row in rows]


async def test_a_replay_is_the_same_from_memory_and_from_the_log_and_chunked_by_bytes(
    node: Node, database_url: str
) -> None:
    sizes = [10, 12_000, 100, 9_000, 9_000, 9_000, 20, 16_000, 16_000, 1, 1, 1, 15_000, 5]
    alerts: list[dict[str, Any]] = [{"body": "é" * (size // 2) or "x", "title": str(size)} for size in sizes]
    chunked = Settings(stream=StreamSettings(replay_chunk_bytes=20_000, replay_chunk_events=4))
    with serving(database_url, chunked) as remembering:
        async with await remembering.live("live") as stream:
            for alert in alerts:
                await node.post(**alert)
            live = await raw_events(stream, len(alerts))
        async with await remembering.stream("memory", after=0) as stream:
            assert await raw_events(stream, len(alerts)) == live
            await stream.next_of("caught_up")
    with serving(database_url, chunked) as fresh:
        async with await fresh.stream("log", after=0) as stream:
            assert await raw_events(stream, len(alerts)) == live
            await stream.next_of("caught_up")
    for subject in ("memory", "log"):
        ranges = await chunks(node, subject)
        assert (ranges[0][0], ranges[-1][1]) == (0, len(alerts))
        assert all(earlier[1] == later[0] for earlier, later in pairwise(ranges))
        assert len(ranges) > len(alerts) / 4
        for after, up_to in ranges:
            assert up_to - after <= 4
            assert sum(map(len, live[after : up_to - 1])) < 20_000


async def test_an_event_is_the_same_bytes_live_from_memory_and_from_the_log(node: Node, database_url: str) -> None:
    odd: list[dict[str, Any]] = [
        {"title": "plain"},
        {"title": "Übergröße — 日本 🚨 </script> \\u0041", "body": 'a\n\tb "c" \\ \u2028'},
        {"title": "numbers", "attributes": {"z": 1.0, "a": -0.0, "b": 1e29, "c": 1e-7, "d": 2**53 - 1, "e": 0.1}},
        {"title": "nested", "attributes": {"": {"b": [None, True, {"a": []}], "a": {}}}},
        {"title": "named", "recipients": ["zoe", "alice", "bob"], "dedup_key": "k", "topic": "a.b-c_d"},
        {"title": "links", "links": [{"title": "x", "url": "https://example.org/?a=1&b=%20#é"}]},
        {"title": "later", "expires_at": "2100-01-01T00:00:00+05:30", "severity": "critical"},
        {"title": "x" * 200, "body": "é" * 8000},
    ]
    async with await node.stream(after=0) as stream:
        for alert in odd:
            await node.post(**alert)
        live = await raw_events(stream, len(odd))
    async with await node.stream(after=0) as stream:
        assert await raw_events(stream, len(odd)) == live
    with serving(database_url) as fresh:
        async with await fresh.stream(after=0) as stream:
            assert await raw_events(stream, len(odd)) == live


async def test_a_range_in_which_nothing_matches_is_passed_over(node: Node, database_url: str) -> None:
    await node.post_all([{"topic": "other"}] * 30)
    await node.post(topic="mine")
    await node.post_all([{"topic": "other"}] * 30)
    chunked = Settings(stream=StreamSettings(replay_chunk_events=1))
    with serving(database_url, chunked) as fresh:
        for server in (node, fresh):
            async with await server.stream(after=0, topic="mine") as stream:
                assert (await stream.next_of("caught_up"))["seq"] == 61
            assert seqs(stream) == [31]


async def test_events_beyond_what_memory_holds_come_from_the_log(database_url: str) -> None:
    little = StreamSettings(replay_cache_events=3, replay_cache_bytes=1024, replay_chunk_events=2)
    with serving(database_url, Settings(stream=little)) as node:
        async with await node.live() as live:
            await node.post_all([{}] * 200)
            assert [event["seq"] for event in await live.events(200)] == list(range(1, 201))
        for after in (0, 100, 196, 197, 198, 200):
            async with await node.stream(after=after) as stream:
                await stream.next_of("caught_up")
            assert seqs(stream) == list(range(after + 1, 201))


async def test_a_storm_of_reconnects_does_not_read_the_log(node: Node) -> None:
    await node.fanned_out(max(await node.post_all([{}] * 100)))
    async with await node.live(after=0):
        before, began = await log_reads(node), time.monotonic()
        streams = await asyncio.gather(*(node.stream(f"admin {n}", after=n) for n in range(50)))
        for after, stream in enumerate(streams):
            await stream.next_of("caught_up")
            assert seqs(stream) == list(range(after + 1, 101))
            await stream.close()
        polls = time.monotonic() - began  # each reads too, one a second
        assert await log_reads(node) - before < 10 + polls


async def log_reads(node: Node) -> float:
    async with node.http() as client:
        text = (await client.get("/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("tocsin_log_reads_total"))


# Exactly what matches, to everybody.


@dataclass(frozen=True)
class Alert:
    topic: str
    severity: str
    recipients: tuple[str, ...] | None

    def fields(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "severity": self.severity,
            "recipients": list(self.recipients) if self.recipients else None,
        }


@dataclass(frozen=True)
class Client:
    """An admin who connects once ``joins`` alerts are stored, with a cursor ``back`` before that."""

    name: str
    patterns: tuple[str, ...]
    least: str
    joins: int
    back: int
    node: int

    def sees(self, alert: Alert) -> bool:
        by_topic = any(
            pattern in ("*", alert.topic) or (pattern.endswith(".*") and alert.topic.startswith(pattern[:-1]))
            for pattern in self.patterns
        )
        by_severity = SEVERITIES.index(alert.severity) >= SEVERITIES.index(self.least)
        return by_topic and by_severity and (alert.recipients is None or self.name in alert.recipients)


NAMES = st.sampled_from(["ann", "ben", "cyd"])
ALERTS = st.builds(
    Alert,
    topic=st.sampled_from(["a", "a.b", "a.b.c", "ab", "b"]),
    severity=st.sampled_from(SEVERITIES),
    recipients=st.none() | st.lists(NAMES, min_size=1, max_size=2, unique=True).map(tuple),
)
CLIENTS = st.builds(
    Client,
    name=NAMES,
    patterns=st.lists(st.sampled_from(["*", "a", "a.*", "a.b", "a.b.*", "b", "x"]), min_size=1, max_size=3).map(tuple),
    least=st.sampled_from(SEVERITIES),
    joins=st.integers(0, 25),
    back=st.integers(0, 25),
    node=st.integers(0, 1),
)


@pytest.fixture(scope="module")
def pair(shared_url: str) -> Iterator[Sequence[Node]]:
    """Two nodes on one database: one with the memory of a log, one with almost none."""
    usual = StreamSettings(heartbeat_seconds=0.1)
    little = StreamSettings(
        heartbeat_seconds=0.1, replay_cache_events=4, replay_chunk_events=2, replay_chunk_bytes=1024
    )
    with serving(shared_url, Settings(stream=usual)) as one, serving(shared_url, Settings(stream=little)) as two:
        yield one, two


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    alerts=st.lists(ALERTS, min_size=1, max_size=25),
    clients=st.lists(CLIENTS, min_size=1, max_size=6),
    posting=st.integers(0, 1),
)
async def test_each_client_gets_exactly_the_events_that_match_in_increasing_order(
    pair: Sequence[Node], alerts: list[Alert], clients: list[Client], posting: int
) -> None:
    base = (await pair[0].sql("SELECT coalesce(max(seq), 0) FROM events"))[0][0]
    last = base + len(alerts)
    stored = 0

    async def store() -> None:
        nonlocal stored
        async with pair[posting].http() as http:
            for number, alert in enumerate(alerts, start=1):
                response = await http.post("/v1/alerts", json={"title": "t", **alert.fields()})
                assert response.json()["seq"] == base + number
                stored = number

    async def follow(client: Client) -> None:
        joins = min(client.joins, len(alerts))
        await eventually(lambda: stored >= joins)
        after = base + max(0, joins - client.back)
        options = {"topic": ",".join(client.patterns), "min_severity": client.least, "after": after}
        async with await pair[client.node].stream(client.name, **options) as stream:
            assert (await stream.next())["after"] == after
            while (await stream.next_of("heartbeat"))["seq"] < last:
                pass
        expected = [base + n for n, alert in enumerate(alerts, start=1) if base + n > after and client.sees(alert)]
        assert seqs(stream) == expected

    await asyncio.gather(store(), *map(follow, clients))
