"""The sampler of the dashboard: the stats of the service, from PostgreSQL and all nodes.

It has a connection of its own, named ``tocsin dashboard`` in ``pg_stat_activity``, while the
dashboard has subscribers. It asks one question after the other, each within a time limit: where
PostgreSQL is slow or gone, a sample repeats the previous values, and says when they were measured.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from service.dashboard import database_stats
from service.dashboard.node_stats import (
    ANSWER_CHANNEL,
    REQUEST_CHANNEL,
    NodeStats,
    NodeStatsReporter,
    StatsRequest,
    read_answer,
)
from service.database.engine import close_quietly
from service.database.failures import Failure, classify
from service.database.notifications import NotificationRate
from service.severity import SEVERITIES
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from service.database.engine import Database

PAUSE_SECONDS = 2
ASK_SECONDS = 1.5
HISTORY_SECONDS = 5
ANSWER_SECONDS = 0.3
SIZE_EVERY_SECONDS = 30
FIRST_SPAN = timedelta(seconds=10)
LATENCY_SPAN = timedelta(minutes=1)
MINUTE = 60

_PREPARE = (
    "SET application_name = 'tocsin dashboard'; SET synchronous_commit = off;"
    f" SET statement_timeout = {HISTORY_SECONDS * 1000}"
)

_Answer = TypeVar("_Answer")


class Sampler:
    """Takes samples of the whole service, from one node."""

    def __init__(self, database: Database, reporter: NodeStatsReporter) -> None:
        self._database = database
        self._reporter = reporter
        self._connection: asyncpg.Connection | None = None
        self._answers: dict[str, NodeStats] = {}
        self._request_id = ""
        self._answered = asyncio.Event()
        self._previous: dict[str, NodeStats] = {}
        self._counted: database_stats.LogState | None = None
        self._known: dict[str, Any] = {
            "measured_at": None,
            "seconds": None,
            "every": 1,
            "alerts": None,
            "latency": None,
        }
        self._log = database_stats.LogState(datetime.now(UTC), 0, 1, 1)
        self._bytes: int | None = None
        self._sized = -float(SIZE_EVERY_SECONDS)

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_quietly(connection)

    # A sample.

    async def sample(self) -> dict[str, Any]:
        """Return a sample: the last seconds as PostgreSQL has them, and the stats of each node."""
        reachable = await self._within(ASK_SECONDS, self._measure) is not None
        nodes = {**self._answers, self._reporter.node: self._reporter.measure()}
        before, self._previous = self._previous, nodes
        commits, commit_seconds = rise(before, nodes, "commits"), rise(before, nodes, "commit_seconds")
        return {
            "type": "figures",
            "at": rfc3339(datetime.now(UTC)),
            **self._known,
            "deliveries": rise(before, nodes, "delivered", per_second=True),
            "connections": total(nodes, "connections"),
            "lagging": total(nodes, "lagging"),
            "lag": max(0, *(self._log.head - node.position for node in nodes.values()), 0),
            "nodes": {"serving": max(self._log.nodes, len(nodes)), "answered": len(nodes)},
            "database": {
                "reachable": reachable,
                "commit_seconds": commit_seconds / commits if commits and commit_seconds is not None else None,
                "queue": int(total(nodes, "queue")),
                "pool_in_use": total(nodes, "pool_in_use"),
                "pool_size": total(nodes, "pool_size"),
                "log_events": self._log.head - self._log.first + 1,
                "log_bytes": self._bytes,
            },
        }

    async def _measure(self, connection: asyncpg.Connection) -> bool:
        log = await database_stats.log_state(connection)
        await self._ask_nodes(connection, log.nodes - 1)
        since = self._counted or await self._earlier(connection, log, FIRST_SPAN)
        counted = await database_stats.count_alerts(connection, since.head, log.head, database_stats.SAMPLE_EVENTS_MAX)
        minute_ago = await self._earlier(connection, log, LATENCY_SPAN)
        latency = await database_stats.latency(connection, minute_ago.head, log.head)
        if time.monotonic() - self._sized >= SIZE_EVERY_SECONDS:
            self._bytes, self._sized = await database_stats.log_bytes(connection), time.monotonic()
        seconds = (log.at - since.at).total_seconds()
        alerts = dict.fromkeys(SEVERITIES, 0.0)
        for (_, severity), number in counted.alerts.items():
            alerts[severity] += number / seconds
        self._log = self._counted = log
        self._known = {
            "measured_at": rfc3339(log.at),
            "seconds": seconds,
            "every": counted.every,
            "alerts": alerts,
            "latency": asdict(latency) if latency else None,
        }
        return True

    async def _earlier(
        self, connection: asyncpg.Connection, log: database_stats.LogState, span: timedelta
    ) -> database_stats.LogState:
        at = log.at - span
        return log._replace(at=at, head=await database_stats.last_before(connection, log, at))

    # The last hour.

    async def history(self) -> dict[str, Any] | None:
        """Return the last hour by minute, or None where PostgreSQL does not answer in time."""
        return await self._within(HISTORY_SECONDS, self._read_history)

    async def _read_history(self, connection: asyncpg.Connection) -> dict[str, Any]:
        log = await database_stats.log_state(connection)
        await self._ask_nodes(connection, log.nodes - 1, with_minutes=True)
        after = await database_stats.last_before(connection, log, log.at - database_stats.HISTORY)
        counted = await database_stats.count_alerts(connection, after, log.head, database_stats.HOUR_EVENTS_MAX)
        latencies = await database_stats.latency_by_minute(connection, log, after)
        recorded = minutes_of([self._reporter.measure(with_minutes=True), *self._answers.values()])
        unknown = asdict(database_stats.Latency(0, None, None, None, None))
        last = int(log.at.timestamp()) // MINUTE
        minutes = []
        for number in range(last - MINUTE + 1, last + 1):
            minute = datetime.fromtimestamp(number * MINUTE, UTC)
            deliveries, connections = recorded.get(number, (None, None))
            latency = latencies.get(minute)
            minutes.append(
                {
                    "at": rfc3339(minute),
                    "alerts": {name: counted.alerts.get((minute, name), 0) for name in SEVERITIES},
                    "deliveries": deliveries,
                    "connections": connections,
                    "latency": asdict(latency) if latency else unknown,
                }
            )
        return {"type": "history", "at": rfc3339(log.at), "every": counted.every, "minutes": minutes}

    # Asking.

    async def _ask_nodes(self, connection: asyncpg.Connection, others: int, *, with_minutes: bool = False) -> None:
        """Ask the other nodes, and wait a moment for as many answers."""
        self._answers.clear()
        request = StatsRequest.new(self._reporter.node, with_minutes=with_minutes)
        self._request_id = request.id
        message = self._reporter.key.sign(REQUEST_CHANNEL, orjson.dumps(request._asdict()).decode())
        await connection.execute("SELECT notify_nodes($1, $2)", REQUEST_CHANNEL, message)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while len(self._answers) < others:
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            pass  # the sample says how many answered

    def _listening(self, rate: NotificationRate) -> Callable[[asyncpg.Connection, int, str, str], None]:
        """Return what receives the notifications of one connection, which ends when they are too many."""

        def received(connection: asyncpg.Connection, _pid: int, _channel: str, message: str) -> None:
            if not connection.is_closed() and rate.is_flood():
                connection.terminate()
            if not connection.is_closed():
                self._receive_answer(message)

        return received

    def _receive_answer(self, message: str) -> None:
        """Keep the answer of another node to the last request; ignore everything else."""
        data = self._reporter.key.verified(ANSWER_CHANNEL, message)
        stats = read_answer(data, self._request_id) if data is not None else None
        if stats is not None and stats.node != self._reporter.node:
            self._answers[stats.node] = stats
            self._answered.set()

    async def _within(
        self, seconds: float, question: Callable[[asyncpg.Connection], Awaitable[_Answer]]
    ) -> _Answer | None:
        """Ask, or cut the connection and return None if the answer takes longer."""
        try:
            async with asyncio.timeout(seconds):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                return await question(self._connection)
        except Exception as error:
            if self._connection is not None:
                self._connection.terminate()
                self._connection = None
            if classify(error) is Failure.DEFECT:
                raise
            return None

    async def _connect(self) -> asyncpg.Connection:
        connection = await self._database.connect()
        try:
            await connection.execute(_PREPARE)
            await connection.add_listener(ANSWER_CHANNEL, self._listening(NotificationRate()))
        except BaseException:
            connection.terminate()
            raise
        return connection


def rise(
    before: dict[str, NodeStats], after: dict[str, NodeStats], name: str, *, per_second: bool = False
) -> float | None:
    """Return by how much a count rose, added up over the nodes in both samples; None: no such node.

    A node is left out where its two samples are the same one.
    """
    pairs = [(before[node], stats) for node, stats in after.items() if node in before and stats.at > before[node].at]
    if not pairs:
        return None
    return math.fsum(
        (getattr(now, name) - getattr(then, name)) / (now.at - then.at if per_second else 1) for then, now in pairs
    )


def total(nodes: dict[str, NodeStats], name: str) -> Any:
    """Return the sum of one of the stats over all nodes."""
    return sum(getattr(node, name) for node in nodes.values())


def minutes_of(nodes: list[NodeStats]) -> dict[int, tuple[int, int]]:
    """Return the deliveries and the connections of each minute, added up over all nodes."""
    total: dict[int, tuple[int, int]] = {}
    for node in nodes:
        for minute, deliveries, connections in node.minutes:
            before = total.get(minute, (0, 0))
            total[minute] = (before[0] + deliveries, before[1] + connections)
    return total
