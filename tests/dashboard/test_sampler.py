"""The sampler with a fake PostgreSQL and fake nodes: what a sample is made of, and what it is without them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from service.dashboard import database_stats, sampler
from service.dashboard.node_stats import (
    ANSWER_CHANNEL,
    REQUEST_CHANNEL,
    NodeStats,
    StatsRequest,
    answer_data,
    read_answer,
)
from service.dashboard.sampler import Sampler, minutes_of, rise, total
from service.database.message_key import MessageKey
from service.database.notifications import FLOOD_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

KEY = MessageKey(b"k" * 32)

AT = datetime(2026, 11, 21, 9, 41, 30, tzinfo=UTC)
HERE = NodeStats("here", 100.0, 50, 3, 1, 1000, 10.0, 0.5, 2.0, 1, 8, [])
THERE = replace(HERE, node="there", at=7.0, position=40, connections=2, lagging=0, delivered=500, pool_in_use=2)


def nodes(*stats: NodeStats) -> dict[str, NodeStats]:
    return {one.node: one for one in stats}


# Adding up.


def test_a_rise_is_added_up_over_the_nodes_of_both_samples() -> None:
    later = nodes(replace(HERE, at=102, delivered=1010), replace(THERE, at=9, delivered=540))
    assert rise(nodes(HERE, THERE), later, "delivered") == 50
    assert rise(nodes(HERE, THERE), later, "delivered", per_second=True) == 25
    assert rise(nodes(HERE), later, "delivered") == 10
    assert rise(nodes(HERE, THERE), nodes(replace(HERE, at=102, delivered=1010)), "delivered") == 10


def test_a_rise_is_unknown_without_a_node_in_both_samples() -> None:
    assert rise({}, nodes(HERE), "delivered") is None
    assert rise(nodes(THERE), nodes(HERE), "delivered") is None


def test_an_answer_that_is_older_than_the_last_is_left_out() -> None:
    assert rise(nodes(HERE, THERE), nodes(replace(HERE, at=102, delivered=1002), THERE), "delivered") == 2
    assert rise(nodes(HERE), nodes(replace(HERE, at=99, delivered=900)), "delivered") is None


def test_stats_are_added_up_over_all_nodes() -> None:
    assert total(nodes(HERE, THERE), "connections") == 5
    assert minutes_of([replace(HERE, minutes=[(1, 10, 2), (2, 5, 3)]), replace(THERE, minutes=[(2, 1, 4)])]) == {
        1: (10, 2),
        2: (6, 7),
    }


def test_an_answer_is_read_as_it_was_sent_and_only_by_who_asked() -> None:
    data = answer_data(["a request", "another"], HERE)
    assert read_answer(data, "another") == HERE
    assert read_answer(data, "a third") is None


# Sampling.


class FakeConnection:
    """A connection whose other end answers requests for the stats of nodes with ``others``, after ``forged``."""

    def __init__(self, others: list[NodeStats], forged: list[str]) -> None:
        self.others = others
        self.forged = forged
        self.requests: list[StatsRequest] = []
        self.answers: list[str] = []
        self.is_terminated = False
        self._listener: Callable[..., None] = lambda *_: None

    async def execute(self, _statement: str, *arguments: str) -> None:
        if arguments:
            channel, message = arguments
            assert channel == REQUEST_CHANNEL
            self.requests.append(StatsRequest(**orjson.loads(KEY.verified(channel, message) or "")))
            for one in self.forged:
                self._listener(self, 0, ANSWER_CHANNEL, one)
            self.answers = [
                KEY.sign(ANSWER_CHANNEL, answer_data([self.requests[-1].id, "another"], one)) for one in self.others
            ]
            for answer in self.answers:
                self._listener(self, 0, ANSWER_CHANNEL, answer)

    async def add_listener(self, channel: str, listener: Callable[..., None]) -> None:
        assert channel == ANSWER_CHANNEL
        self._listener = listener

    def terminate(self) -> None:
        self.is_terminated = True

    def is_closed(self) -> bool:
        return self.is_terminated

    async def close(self, **_: Any) -> None:
        self.is_terminated = True


class FakePostgres:
    """What the log and the ledger say, and the connections that were made."""

    def __init__(self) -> None:
        self.log = database_stats.LogState(AT, 50, 1, 1)
        self.others: list[NodeStats] = []
        self.forged: list[str] = []
        self.connections: list[FakeConnection] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.counted: list[tuple[int, int]] = []

    async def connect(self) -> FakeConnection:
        self.connections.append(FakeConnection(self.others, self.forged))
        return self.connections[-1]

    async def log_state(self, _connection: Any) -> database_stats.LogState:
        await self.answers.wait()
        log, self.log = self.log, self.log._replace(at=self.log.at + timedelta(seconds=2))
        return log

    async def last_before(self, _connection: Any, log: database_stats.LogState, at: datetime) -> int:
        return max(0, log.head - int((log.at - at).total_seconds()))

    async def count_alerts(
        self, _connection: Any, after: int, up_to: int, _at_most: int
    ) -> database_stats.CountedAlerts:
        self.counted.append((after, up_to))
        minute = AT.replace(second=0)
        return database_stats.CountedAlerts({(minute, "info"): 20, (minute, "critical"): 10}, 1)

    async def latency(self, *_: Any) -> None:
        """Return None: there were no deliveries."""

    async def latency_by_minute(self, *_: Any) -> dict[datetime, database_stats.Latency]:
        return {AT.replace(second=0): database_stats.Latency(4, 0.1, 0.2, 0.3, 0.4)}

    async def log_bytes(self, _connection: Any) -> int:
        return 8192


class Reporter:
    node = "here"
    key = KEY

    def __init__(self) -> None:
        self.stats = HERE

    def measure(self, *, with_minutes: bool = False) -> NodeStats:
        return replace(self.stats, minutes=[(int(AT.timestamp()) // 60, 7, 2)] if with_minutes else [])


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> FakePostgres:
    fake = FakePostgres()
    for name in ("log_state", "last_before", "count_alerts", "latency", "latency_by_minute", "log_bytes"):
        monkeypatch.setattr(database_stats, name, getattr(fake, name))
    for name, seconds in (("ASK_SECONDS", 0.5), ("HISTORY_SECONDS", 0.5), ("ANSWER_SECONDS", 0.02)):
        monkeypatch.setattr(sampler, name, seconds)
    return fake


def sampling(postgres: FakePostgres, reporter: Reporter | None = None) -> Sampler:
    return Sampler(cast("Any", postgres), cast("Any", reporter or Reporter()))


async def test_a_sample_says_what_happened_since_the_last(postgres: FakePostgres) -> None:
    reporter = Reporter()
    one = sampling(postgres, reporter)
    first = await one.sample()
    assert (first["seconds"], first["alerts"]) == (10, {"info": 2, "warning": 0, "error": 0, "critical": 1})
    assert (first["deliveries"], first["connections"], first["lagging"], first["lag"]) == (None, 3, 1, 0)
    assert first["nodes"] == {"serving": 1, "answered": 1}
    assert first["database"] == {
        "reachable": True,
        "commit_seconds": None,
        "queue": 2,
        "pool_in_use": 1,
        "pool_size": 8,
        "log_events": 50,
        "log_bytes": 8192,
    }
    reporter.stats = replace(HERE, at=104, delivered=1100, commits=14, commit_seconds=0.7, position=55)
    postgres.log = database_stats.LogState(AT + timedelta(seconds=4), 60, 1, 1)
    second = await one.sample()
    assert (second["seconds"], second["deliveries"], second["lag"]) == (4, 25, 5)
    assert second["database"]["commit_seconds"] == pytest.approx(0.05)
    assert postgres.counted == [(40, 50), (50, 60)]
    assert len(postgres.connections) == 1
    await one.close()
    assert postgres.connections[0].is_terminated


async def test_a_sample_is_of_all_nodes_that_answer(postgres: FakePostgres) -> None:
    postgres.log = postgres.log._replace(nodes=3)
    postgres.others = [THERE, replace(HERE, connections=100)]  # an answer in its own name counts for nothing
    sample = await sampling(postgres).sample()
    assert sample["nodes"] == {"serving": 3, "answered": 2}
    assert (sample["connections"], sample["lag"], sample["database"]["pool_in_use"]) == (5, 10, 3)
    [[request]] = [connection.requests for connection in postgres.connections]
    assert (request.node, request.with_minutes) == ("here", False)


async def test_what_no_node_answered_to_this_request_counts_for_nothing(postgres: FakePostgres) -> None:
    postgres.log = postgres.log._replace(nodes=2)
    forged = orjson.dumps(asdict(replace(THERE, node="forged", connections=1_000_000))).decode()
    postgres.others.append(THERE)
    one = sampling(postgres)
    await one.sample()
    [connection] = postgres.connections
    [request], [answer] = connection.requests, connection.answers
    data = answer_data([request.id], replace(THERE, node="forged"))
    postgres.others.clear()
    postgres.forged += [
        answer,  # a replay
        answer.replace("there", "forged"),
        forged,
        data,
        f" {data}",
        f"{'0' * 64} {data}",
        MessageKey(b"x" * 32).sign(ANSWER_CHANNEL, data),
        KEY.sign(REQUEST_CHANNEL, data),
        *("", " ", "\0", "ä {}", "null", "[" * 1000, "9" * 8000),
    ]
    sample = await one.sample()
    assert (sample["connections"], sample["nodes"]["answered"]) == (3, 1)


def test_without_a_key_nothing_is_genuine() -> None:
    assert MessageKey().verified(ANSWER_CHANNEL, MessageKey().sign(ANSWER_CHANNEL, "{}")) is None


async def test_a_node_that_answers_no_longer_is_not_counted_any_more(postgres: FakePostgres) -> None:
    postgres.log = postgres.log._replace(nodes=2)
    postgres.others.append(THERE)
    one = sampling(postgres)
    assert (await one.sample())["connections"] == 5
    postgres.others.clear()
    assert (await one.sample())["connections"] == 3


async def test_a_postgres_that_does_not_answer_makes_the_sample_old_and_its_connection_is_cut(
    postgres: FakePostgres,
) -> None:
    reporter = Reporter()
    one = sampling(postgres, reporter)
    fresh = await one.sample()
    postgres.answers.clear()
    reporter.stats = replace(HERE, at=104, connections=9)
    stuck = await one.sample()
    assert not stuck["database"]["reachable"]
    assert (stuck["measured_at"], stuck["alerts"]) == (fresh["measured_at"], fresh["alerts"])
    assert stuck["connections"] == 9  # what this node knows itself is fresh
    assert postgres.connections[0].is_terminated
    assert await one.history() is None
    postgres.answers.set()
    assert (await one.sample())["database"]["reachable"]
    assert len(postgres.connections) == 3


async def test_the_last_hour_has_sixty_minutes_and_says_what_is_unknown(postgres: FakePostgres) -> None:
    minute = int(AT.timestamp()) // 60
    postgres.log = postgres.log._replace(nodes=2)
    postgres.others = [replace(THERE, minutes=[(minute, 1, 5), (minute - 1, 2, 1)])]
    postgres.forged = [KEY.sign(ANSWER_CHANNEL, answer_data(["of another node"], THERE))]
    history = await sampling(postgres).history()
    assert history is not None
    assert (history["type"], history["every"], len(history["minutes"])) == ("history", 1, 60)
    *_, before, last = history["minutes"]
    assert (last["at"], last["alerts"]) == (
        "2026-11-21T09:41:00.000000Z",
        {"info": 20, "warning": 0, "error": 0, "critical": 10},
    )
    assert (last["deliveries"], last["connections"]) == (8, 7)
    assert last["latency"] == {
        "deliveries": 4,
        "sent_p50": 0.1,
        "sent_p99": 0.2,
        "received_p50": 0.3,
        "received_p99": 0.4,
    }
    assert (before["deliveries"], before["connections"], before["latency"]["deliveries"]) == (2, 1, 0)
    first = history["minutes"][0]
    assert (first["at"], first["deliveries"], first["connections"]) == ("2026-11-21T08:42:00.000000Z", None, None)
    assert sum(first["alerts"].values()) == 0
    [[request]] = [connection.requests for connection in postgres.connections]
    assert (request.node, request.with_minutes) == ("here", True)


async def test_a_flood_of_notifications_ends_the_connection_and_the_next_sample_has_another(
    postgres: FakePostgres,
) -> None:
    postgres.forged = ["forged"] * (2 * FLOOD_PER_SECOND + 1)  # another second may begin meanwhile
    taken = Sampler(cast("Any", postgres), cast("Any", Reporter()))
    await taken.sample()
    assert postgres.connections[0].is_terminated
    postgres.forged = []
    await taken.sample()
    assert [one.is_terminated for one in postgres.connections] == [True, False]
    await taken.close()
