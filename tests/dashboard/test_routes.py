from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.dashboard import database_stats, sampler, subscribers
from service.dashboard.node_stats import ANSWER_CHANNEL, REQUEST_CHANNEL, REST_SECONDS
from service.settings import LedgerSettings, Settings, StreamSettings
from tests.harness import READ, WRITE, Node, eventually, serving
from tests.http_streams import EventSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.fixtures.open_ledger import OpenLedger


PATH = "/v1/dashboard"
PAUSE_SECONDS = 0.2


class Subscription(EventSource):
    """A client of the dashboard's stream."""

    path = PATH

    async def sample(self) -> dict[str, Any]:
        """Return the next sample."""
        return await self.next_of("figures")


@pytest.fixture(scope="module", autouse=True)
def _sampled_often() -> Iterator[None]:
    """Let the nodes of this process take five samples a second, and wait less for PostgreSQL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscribers, "PAUSE_SECONDS", PAUSE_SECONDS)
        patch.setattr(sampler, "ASK_SECONDS", 1)
        patch.setattr(sampler, "HISTORY_SECONDS", 2)
        patch.setattr(subscribers, "HISTORY_FRESH_SECONDS", 0.1)
        yield


@contextmanager
def dashboard_node(database_url: str) -> Iterator[Node]:
    """Run a node whose ledger is soon written, and which takes few subscribers."""
    settings = Settings(
        ledger=LedgerSettings(ledger_flush_seconds=0.05),
        stream=StreamSettings(connections_per_recipient=2, dashboard_subscribers_max=3),
    )
    with serving(database_url, settings) as running:
        yield running


@pytest.fixture
def node(database_url: str) -> Iterator[Node]:
    """A node on a log of its own."""
    with dashboard_node(database_url) as running:
        yield running


@pytest.fixture(scope="module")
def unsampled(shared_url: str) -> Iterator[Node]:
    """A node for tests that do not count what is in the log; nobody subscribes between two of them."""
    with dashboard_node(shared_url) as running:
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
async def notifications_of(node: Node) -> AsyncIterator[list[str]]:
    """Record the channels on which nodes ask one another for their stats, and answer."""
    notified: list[str] = []
    connection = await asyncpg.connect(node.database_url)
    for channel in (REQUEST_CHANNEL, ANSWER_CHANNEL):
        await connection.add_listener(channel, lambda _c, _pid, channel, _payload: notified.append(str(channel)))
    yield notified
    await connection.close()


async def a_while_passes() -> None:
    """Wait a real second: time for five samples, had anybody taken them."""
    await asyncio.sleep(5 * PAUSE_SECONDS)


# Only while there are subscribers.


async def test_the_sampler_starts_with_the_first_subscriber_and_stops_with_the_last(unsampled: Node) -> None:
    async with notifications_of(unsampled) as notified:
        await a_while_passes()
        assert (notified, await samplers(unsampled)) == ([], 0)
        async with Subscription(unsampled) as alice, Subscription(unsampled, "bob") as bob:
            await alice.open()
            await alice.sample()
            await eventually(lambda: notified)
            assert await samplers(unsampled) == 1
            await bob.open()
            await bob.sample()
            await alice.drop()
            await bob.sample()
            assert await samplers(unsampled) == 1
        await eventually(lambda: is_sampled(unsampled, 0))
        notified.clear()
        await a_while_passes()
        assert (notified, await samplers(unsampled)) == ([], 0)


async def test_a_look_at_the_last_hour_leaves_no_sampler_behind(unsampled: Node) -> None:
    async with unsampled.http("alice", READ) as client:
        answer = await client.get(PATH)
    assert (answer.status_code, len(answer.json()["minutes"])) == (200, 60)
    await eventually(lambda: is_sampled(unsampled, 0))


# The stats.


async def test_the_stats_are_those_of_the_log_and_of_the_ledger(node: Node) -> None:
    severities = ["critical", "error", "error", "info", "info", "info"]
    async with await node.live("bob") as bob, Subscription(node) as alice:
        await alice.open()
        assert (await alice.next())["type"] == "history"
        first = await alice.sample()
        assert (first["deliveries"], first["connections"], first["lag"]) == (None, 1, 0)
        for severity in severities:
            await node.post(severity=severity)
        for _ in severities:
            await bob.ack((await bob.next_of("event"))["seq"])
        counted = {"critical": 0.0, "error": 0.0, "warning": 0.0, "info": 0.0}
        has_delivered = False
        while sum(counted.values()) < len(severities) - 0.01 or not has_delivered:
            sample = await alice.sample()
            has_delivered |= sample["deliveries"] > 0
            for severity, rate in sample["alerts"].items():
                counted[severity] += rate * sample["seconds"]
        assert counted == pytest.approx({"critical": 1, "error": 2, "warning": 0, "info": 3})

        received = "SELECT FROM audit.deliveries WHERE received_at IS NOT NULL OFFSET $1"
        await eventually(lambda: node.sql(received, len(severities) - 1))
        [expected] = await node.sql(
            "SELECT count(*) AS deliveries, percentile_cont(0.5) WITHIN GROUP (ORDER BY"
            " extract(epoch FROM sent_at - occurred_at)) AS sent_p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY"
            " extract(epoch FROM latency)) AS received_p99 FROM audit.deliveries"
        )

        async def is_measured() -> bool:
            latency = (await alice.sample())["latency"] or {}  # at first, one that was measured before
            return {name: latency.get(name) for name in dict(expected)} == pytest.approx(dict(expected))

        await eventually(is_measured)
        database = alice.frames[-1]["database"]
        assert database["reachable"]
        assert database["log_events"] == len(severities)
        assert database["log_bytes"] > 0


async def test_what_was_replayed_is_in_no_latency(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    opened = await open_ledger()
    entry = opened.connection(sent_seq=0, live_seq=None)
    await opened.dispatch(0, 4)
    opened.ledger.record_dispatch_to(entry, 0, 4)
    await opened.flusher.flush()
    assert await database_stats.latency(opened.database, 0, 4) is None
    opened.ledger.record_live(entry)
    await opened.dispatch(4, 6)
    await opened.flusher.flush()
    measured = await database_stats.latency(opened.database, 0, 6)
    assert measured is not None
    assert measured.deliveries == 2


async def test_the_last_hour_is_sent_by_minute(node: Node) -> None:
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


async def test_the_stats_are_of_all_nodes_whichever_is_asked(database_url: str) -> None:
    with ExitStack() as running, dashboard_node(database_url) as one:
        other = running.enter_context(serving(database_url))
        await two_nodes_are_sampled(one, other, running)


async def two_nodes_are_sampled(one: Node, other: Node, running: ExitStack) -> None:
    async with await one.live("bob"), await other.live("carol") as carol, Subscription(one) as alice:
        await alice.open()
        await alice.sample()
        await other.post()
        await carol.next_of("event")

        async def complete() -> dict[str, Any] | None:
            frame = await alice.sample()
            return frame if (frame["deliveries"] or 0) > 0 else None

        frame = await eventually(complete)
        assert frame["nodes"] == {"serving": 2, "answered": 2}
        assert (frame["connections"], frame["database"]["pool_size"]) == (2, 26)
        assert await samplers(one) == 1
        await asyncio.to_thread(running.close)

        async def alone() -> bool:
            return bool((await alice.sample())["connections"] == 1)

        await eventually(alone)


async def test_what_others_notify_is_no_node_and_costs_few_answers(database_url: str) -> None:
    """Whoever may log in hears what nodes ask and answer, and may repeat it, or say something else."""
    notified: dict[str, list[str]] = {REQUEST_CHANNEL: [], ANSWER_CHANNEL: []}
    stranger = await asyncpg.connect(database_url)
    for name in notified:
        await stranger.add_listener(name, lambda _c, _pid, channel, payload: notified[channel].append(payload))
    with dashboard_node(database_url) as node, dashboard_node(database_url):
        async with Subscription(node) as alice, Subscription(node, "bob") as bob:
            await alice.open()
            await bob.open()
            while (await alice.sample())["nodes"] != {"serving": 2, "answered": 2}:
                pass
            await eventually(lambda: notified[REQUEST_CHANNEL] and len(notified[ANSWER_CHANNEL]) > 1)
            request, (first, *_, last) = notified[REQUEST_CHANNEL][-1], notified[ANSWER_CHANNEL]
            began, answered = time.monotonic(), len(notified[ANSWER_CHANNEL])
            for _ in range(100):
                for message in (request, request.split(" ", 1)[1], "", "x"):
                    await stranger.execute("SELECT pg_notify($1, $2)", REQUEST_CHANNEL, message)
            elapsed = time.monotonic() - began
            assert len(notified[ANSWER_CHANNEL]) - answered <= 2 + elapsed / REST_SECONDS
            forged = last.replace('"connections":', '"connections":1000')
            for _ in range(5):
                for message in (first, last, forged, forged.split(" ", 1)[1], "{}", "x"):
                    await stranger.execute("SELECT pg_notify($1, $2)", ANSWER_CHANNEL, message)
                sample = await bob.sample()
                assert (sample["nodes"]["serving"], sample["connections"]) == (2, 0)
            while (await bob.sample())["nodes"] != {"serving": 2, "answered": 2}:
                pass
    await stranger.close()


async def test_of_many_events_some_are_counted_for_all(node: Node) -> None:
    await node.post_all([{"severity": "info"}] * 60)
    connection = await asyncpg.connect(node.database_url)
    try:
        log = await database_stats.log_state(connection)
        assert (log.head, log.first, log.nodes) == (60, 1, 1)
        every = await database_stats.count_alerts(connection, 0, 60, 60)
        assert (sum(every.alerts.values()), every.every) == (60, 1)  # also where another minute has begun
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


# A slow database.


async def test_a_slow_database_makes_the_stats_late_and_nothing_else(node: Node) -> None:
    await node.post()  # a minute without events has no deliveries to ask for
    async with Subscription(node) as alice:
        await alice.open()
        fresh = await alice.sample()
        assert fresh["database"]["reachable"]
        connection = await asyncpg.connect(node.database_url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
            await connection.execute("LOCK TABLE connections IN ACCESS EXCLUSIVE MODE")

            async def late() -> dict[str, Any] | None:
                frame = await alice.sample()
                return None if frame["database"]["reachable"] else frame

            stuck = await eventually(late)
            await node.post()
            assert (await alice.sample())["measured_at"] == stuck["measured_at"]
        await connection.close()

        async def again() -> bool:
            frame = await alice.sample()
            return bool(frame["database"]["reachable"] and frame["measured_at"] > stuck["measured_at"])

        await eventually(again)
    await eventually(lambda: is_sampled(node, 0))


# Who may look, and for how long.


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_looking_takes_the_scope_to_read_alerts(unsampled: Node, accept: str) -> None:
    async with unsampled.http("mallory", WRITE) as client:
        answer = await client.get(PATH, headers={"Accept": accept})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert await samplers(unsampled) == 0


async def test_the_stats_end_when_the_token_is_revoked(unsampled: Node) -> None:
    jti = uuid.uuid4().hex
    async with Subscription(unsampled, jti=jti) as alice, Subscription(unsampled, "bob") as bob:
        await alice.open()
        await bob.open()
        async with unsampled.http("root", "admin") as client:
            assert (await client.post("/v1/revocations", json={"jti": jti})).status_code == 201
        assert await alice.closed() == (1008, "token_revoked")
        await bob.sample()


async def test_the_stats_end_with_the_node(database_url: str) -> None:
    with serving(database_url) as running:
        alice = await Subscription(running).open()
        await alice.sample()
    assert await alice.closed() == (1012, "shutting_down")
    await alice.http.aclose()


async def test_subscribers_are_limited_by_subject_and_by_node(unsampled: Node) -> None:
    async with Subscription(unsampled) as one, Subscription(unsampled) as two, Subscription(unsampled, "bob") as bob:
        await one.open()
        await two.open()
        answer = await one.http.get(PATH, headers={"Accept": "text/event-stream"})
        assert (answer.status_code, answer.json()["code"]) == (429, "connection_limit")
        await bob.open()
        async with unsampled.http("carol", READ) as client:
            answer = await client.get(PATH)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
