from __future__ import annotations

import time
import uuid
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import pytest

from service.auth.principal import Principal
from service.dashboard import database_stats
from service.dashboard.node_stats import ANSWER_CHANNEL, REQUEST_CHANNEL
from service.dashboard.subscribers import StreamSubscriber
from service.settings import LedgerSettings, Settings, StreamSettings
from service.stream.frames import FrameBatch
from service.stream.minute_counters import MinuteCounters
from tests.harness import READ, WRITE, Node, eventually, serving
from tests.http_streams import EventSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from service.dashboard.subscribers import Dashboard
    from service.stream.transports.sse import SseTransport
    from tests.harness import Process

PATH = "/v1/dashboard"
SAMPLES_SECONDS = 5
"""Time for two samples, had anybody taken them."""


class Looking(EventSource):
    """A viewer of the dashboard."""

    path = PATH

    async def figures(self) -> dict[str, Any]:
        """Return the next sample."""
        return await self.next_of("figures")


@pytest.fixture
def node(database_url: str) -> Iterator[Node]:
    """A node whose ledger is soon written, and which lets few look."""
    settings = Settings(
        ledger=LedgerSettings(ledger_flush_seconds=0.05),
        stream=StreamSettings(connections_per_recipient=2, dashboard_subscribers_max=3),
    )
    with serving(database_url, settings) as running:
        yield running


async def samplers(node: Node) -> int:
    """Count the connections of samplers."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'tocsin dashboard'"
    )
    return int((await node.sql(query))[0][0])


async def is_sampled(node: Node, times: int) -> bool:
    return await samplers(node) == times


@asynccontextmanager
async def overhearing(node: Node) -> AsyncIterator[list[str]]:
    """Hear what the nodes ask and answer one another about their figures."""
    heard: list[str] = []
    connection = await asyncpg.connect(node.database_url)
    for channel in (REQUEST_CHANNEL, ANSWER_CHANNEL):
        await connection.add_listener(channel, lambda _c, _pid, channel, _payload: heard.append(str(channel)))
    yield heard
    await connection.close()


async def a_while_passes(node: Node) -> None:
    """Wait until every node has renewed its lease after the time of two samples."""
    query = "SELECT min(seen_at) AS seen, clock_timestamp() AS now FROM nodes WHERE ended_at IS NULL"
    until = (await node.sql(query))[0]["now"] + timedelta(seconds=SAMPLES_SECONDS)

    async def passed() -> bool:
        return bool((await node.sql(query))[0]["seen"] > until)

    await eventually(passed)


# Only while somebody looks.


async def test_the_sampler_starts_with_the_first_viewer_and_stops_with_the_last(node: Node) -> None:
    async with overhearing(node) as heard:
        await a_while_passes(node)
        assert (heard, await samplers(node)) == ([], 0)
        async with Looking(node) as alice, Looking(node, "bob") as bob:
            await alice.open()
            await alice.figures()
            assert (bool(heard), await samplers(node)) == (True, 1)
            await bob.open()
            await bob.figures()
            await alice.drop()
            await bob.figures()
            assert await samplers(node) == 1
        await eventually(lambda: is_sampled(node, 0))
        heard.clear()
        await a_while_passes(node)
        assert (heard, await samplers(node)) == ([], 0)


async def test_a_look_at_the_last_hour_leaves_no_sampler_behind(node: Node) -> None:
    async with node.http("alice", READ) as client:
        answer = await client.get(PATH)
    assert (answer.status_code, len(answer.json()["minutes"])) == (200, 60)
    await eventually(lambda: is_sampled(node, 0))


async def test_viewers_of_a_node_are_shown_the_same_sample(node: Node) -> None:
    async with Looking(node) as alice, Looking(node, "bob") as bob:
        await alice.open()
        await alice.figures()
        await bob.open()
        frame = await bob.figures()
        assert frame["at"] in [(await alice.figures())["at"], (await alice.figures())["at"]]


# What the figures say.


async def test_the_figures_are_those_of_the_log_and_of_the_ledger(node: Node) -> None:
    severities = ["critical", "error", "error", "info", "info", "info"]
    async with await node.live("bob") as bob, Looking(node) as alice:
        await alice.open()
        assert (await alice.next())["type"] == "history"
        first = await alice.figures()
        assert (first["deliveries"], first["connections"], first["lag"]) == (None, 1, 0)
        for severity in severities:
            await node.post(severity=severity)
        for _ in severities:
            await bob.ack((await bob.next_of("event"))["seq"])
        counted = {"critical": 0.0, "error": 0.0, "warning": 0.0, "info": 0.0}
        delivered = 0.0
        while sum(counted.values()) < len(severities) - 0.01 or delivered < len(severities) - 1:
            sample = await alice.figures()
            delivered += sample["deliveries"] * sample["seconds"]
            for severity, rate in sample["alerts"].items():
                counted[severity] += rate * sample["seconds"]
        assert counted == pytest.approx({"critical": 1, "error": 2, "warning": 0, "info": 3})
        assert delivered == pytest.approx(
            len(severities), rel=0.2
        )  # by the clock of the node, the rest by PostgreSQL's

        async def measured() -> dict[str, Any] | None:
            sample = await alice.figures()
            latency: dict[str, Any] | None = sample["latency"]
            return latency if latency and latency["received_p99"] is not None else None

        latency = await eventually(measured)
        [expected] = await node.sql(
            "SELECT count(*) AS deliveries, percentile_cont(0.5) WITHIN GROUP (ORDER BY"
            " extract(epoch FROM sent_at - occurred_at)) AS sent_p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY"
            " extract(epoch FROM latency)) AS received_p99 FROM audit.deliveries"
        )
        assert {name: latency[name] for name in expected.keys()} == pytest.approx(dict(expected))  # noqa: SIM118 - a Record
        database = alice.frames[-1]["database"]
        assert database["reachable"]
        assert database["log_events"] == len(severities)
        assert database["log_bytes"] > 0


async def test_the_last_hour_is_told_by_minute(node: Node) -> None:
    async with await node.live("bob") as bob:
        for severity in ("critical", "error", "error"):
            await node.post(severity=severity)
        last = [await bob.next_of("event") for _ in range(3)][-1]["seq"]
        await node.flushed(last)
        await node.sql("UPDATE events SET occurred_at = occurred_at - interval '30 minutes' WHERE seq = 1")
        await node.sql("UPDATE dispatches SET at = at - interval '30 minutes' WHERE up_to_seq = 1")

        async def minutes() -> list[dict[str, Any]] | None:
            async with node.http("alice", READ) as client:
                found: list[dict[str, Any]] = (await client.get(PATH)).json()["minutes"]
            return found if sum(minute["deliveries"] or 0 for minute in found) == 3 else None

        hour = await eventually(minutes)
    times = [datetime.fromisoformat(minute["at"]) for minute in hour]
    assert {after - before for before, after in pairwise(times)} == {timedelta(minutes=1)}
    half_an_hour_ago = [minute["alerts"]["critical"] for minute in hour[:-20]]
    assert sum(half_an_hour_ago) == 1
    assert sum(minute["alerts"]["error"] for minute in hour[-3:]) == 2
    assert sum(minute["latency"]["deliveries"] for minute in hour) == 3
    assert hour[0]["deliveries"] is None  # the node did not serve then
    assert max(minute["connections"] or 0 for minute in hour) == 1


async def test_the_figures_are_of_all_nodes_whichever_is_asked(start: Callable[..., Process]) -> None:
    one, other = start(), start()
    async with await one.live("bob"), await other.live("carol") as carol, Looking(one) as alice:
        await alice.open()
        await alice.figures()
        await other.post()
        await carol.next_of("event")

        async def complete() -> dict[str, Any] | None:
            frame = await alice.figures()
            return frame if (frame["deliveries"] or 0) > 0 else None

        frame = await eventually(complete)
        assert frame["nodes"] == {"serving": 2, "answered": 2}
        assert (frame["connections"], frame["database"]["pool_size"]) == (2, 16)
        assert frame["deliveries"] * frame["seconds"] == pytest.approx(2, rel=0.2)
        assert await samplers(one) == 1
        other.kill()

        async def alone() -> bool:
            return bool((await alice.figures())["connections"] == 1)

        await eventually(alone)


async def test_of_many_events_some_are_counted_for_all(node: Node) -> None:
    await node.post_all([{"severity": "info"}] * 60)
    connection = await asyncpg.connect(node.database_url)
    try:
        log = await database_stats.now(connection)
        assert (log.head, log.first, log.nodes) == (60, 1, 1)
        [(_, alerts)] = (every := await database_stats.count_alerts(connection, 0, 60, 60)).alerts.items()
        assert (alerts, every.every) == (60, 1)
        some = await database_stats.count_alerts(connection, 0, 60, 20)
        assert (sum(some.alerts.values()), some.every) == (60, 3)
        assert await database_stats.last_before(connection, log, log.at) == 60
        assert await database_stats.last_before(connection, log, log.at - timedelta(days=1)) == 0
        [tenth] = await connection.fetch("SELECT occurred_at FROM events WHERE seq = 10")
        before = "SELECT count(*) FROM events WHERE occurred_at < $1"
        expected = await connection.fetchval(before, tenth[0])
        assert await database_stats.last_before(connection, log, tenth[0]) == expected
    finally:
        await connection.close()


@pytest.mark.unit
def test_a_minute_that_nobody_noted_is_unknown_and_the_oldest_are_forgotten() -> None:
    minutes = MinuteCounters()
    minutes.record(60, 5, 1)
    minutes.record(90, 7, 3)
    minutes.record(119, 7, 2)
    minutes.record(240, 8, 0)
    assert minutes.last_hour() == [(1, 7, 3), (4, 1, 0)]
    for minute in range(5, 100):
        minutes.record(minute * 60, 8, 0)
    assert (len(minutes.last_hour()), minutes.last_hour()[0][0]) == (61, 39)


# A slow database.


async def test_a_slow_database_makes_the_figures_late_and_nothing_else(node: Node) -> None:
    await node.post()  # a minute without events has no deliveries to ask for
    async with Looking(node) as alice:
        await alice.open()
        fresh = await alice.figures()
        assert fresh["database"]["reachable"]
        connection = await asyncpg.connect(node.database_url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
            await connection.execute("LOCK TABLE connections IN ACCESS EXCLUSIVE MODE")

            async def late() -> dict[str, Any] | None:
                frame = await alice.figures()
                return None if frame["database"]["reachable"] else frame

            stuck = await eventually(late)
            await node.post()
            assert (await alice.figures())["measured_at"] == stuck["measured_at"]
        await connection.close()

        async def again() -> bool:
            frame = await alice.figures()
            return bool(frame["database"]["reachable"] and frame["measured_at"] > stuck["measured_at"])

        await eventually(again)
    await eventually(lambda: is_sampled(node, 0))


# Who may look, and for how long.


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_looking_takes_the_scope_to_read_alerts(node: Node, accept: str) -> None:
    async with node.http("mallory", WRITE) as client:
        answer = await client.get(PATH, headers={"Accept": accept})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert await samplers(node) == 0


async def test_the_figures_end_with_the_token(node: Node) -> None:
    expires = time.time() + 4
    async with Looking(node, ttl_seconds=4) as alice:
        await alice.open()
        assert await alice.closed() == (1008, "token_expired")
    assert expires - 1 <= time.time()
    await eventually(lambda: is_sampled(node, 0))


async def test_the_figures_end_when_the_token_is_revoked(node: Node) -> None:
    jti = uuid.uuid4().hex
    async with Looking(node, jti=jti) as alice, Looking(node, "bob") as bob:
        await alice.open()
        await bob.open()
        async with node.http("root", "admin") as client:
            assert (await client.post("/v1/revocations", json={"jti": jti})).status_code == 201
        assert await alice.closed() == (1008, "token_revoked")
        await bob.figures()


async def test_the_figures_end_with_the_node(database_url: str) -> None:
    with serving(database_url) as running:
        alice = await Looking(running).open()
        await alice.figures()
    assert await alice.closed() == (1012, "shutting_down")
    await alice.http.aclose()


async def test_viewers_are_limited_by_subject_and_by_node(node: Node) -> None:
    async with Looking(node) as one, Looking(node) as two, Looking(node, "bob") as bob:
        await one.open()
        await two.open()
        answer = await one.http.get(PATH, headers={"Accept": "text/event-stream"})
        assert (answer.status_code, answer.json()["code"]) == (429, "connection_limit")
        await bob.open()
        async with node.http("carol", READ) as client:
            answer = await client.get(PATH)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        await one.drop()

        async def has_room() -> bool:
            async with node.http("carol", READ) as client:
                return (await client.get(PATH)).status_code == 200

        await eventually(has_room)


@pytest.mark.unit
def test_a_viewer_that_does_not_read_misses_samples_and_is_closed_in_the_end() -> None:
    class FullSocket:
        """A socket that is full from the first: a real one takes hours of samples."""

        written = 0

        def write_frames(self, _batch: FrameBatch) -> bool:
            self.written += 1
            return False

    socket = FullSocket()
    principal = Principal("alice", frozenset(), ("*",), expires_at=time.time() + 60)
    subscriber = StreamSubscriber(cast("Dashboard", None), cast("SseTransport", socket), principal, slow_seconds=30)
    subscriber.send(FrameBatch())
    subscriber.send(FrameBatch())
    assert socket.written == 1
    assert not subscriber.is_stuck(time.monotonic() + 29)
    assert subscriber.is_stuck(time.monotonic() + 31)
    subscriber.drained()
    subscriber.send(FrameBatch())
    assert socket.written == 2
