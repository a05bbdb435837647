"""The sampler of the dashboard: how the whole service stands, asked of PostgreSQL and of the other nodes.

It has a connection of its own, named ``tocsin dashboard`` in ``pg_stat_activity``, and only while somebody looks. It
asks one thing after the other, each within a time: where PostgreSQL is slow or gone, the figures are those of before,
and say since when.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from service.dashboard import database_stats as ledger
from service.dashboard.node_stats import ANSWER_CHANNEL, ASK_CHANNEL, WITH_MINUTES, Figures, NodeFigures, read_answer
from service.database.engine import CONNECTION_LOST, close_quietly
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
    """Takes the figures of the whole service, seen from one node."""

    def __init__(self, database: Database, figures: Figures) -> None:
        self._database = database
        self._figures = figures
        self._connection: asyncpg.Connection | None = None
        self._answers: dict[str, NodeFigures] = {}
        self._wanted = ""
        self._answered = asyncio.Event()
        self._before: dict[str, NodeFigures] = {}
        self._counted: ledger.Now | None = None
        self._known: dict[str, Any] = {
            "measured_at": None,
            "seconds": None,
            "every": 1,
            "alerts": None,
            "latency": None,
        }
        self._log = ledger.Now(datetime.now(UTC), 0, 1, 1)
        self._bytes: int | None = None
        self._sized = -float(SIZE_EVERY_SECONDS)

    async def close(self) -> None:
        """Let the connection go."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_quietly(connection)

    # The figures of now.

    async def figures(self) -> dict[str, Any]:
        """Take them: what PostgreSQL knows of the last seconds, and what each node says of itself."""
        reachable = await self._within(ASK_SECONDS, self._measure) is not None
        nodes = {**self._answers, self._figures.node: self._figures.now()}
        commits, rates = self._rise(nodes, "commits"), self._rise(nodes, "delivered", per_second=True)
        spent = self._rise(nodes, "commit_seconds")
        self._before = nodes
        return {
            "type": "figures",
            "at": rfc3339(datetime.now(UTC)),
            **self._known,
            "deliveries": rates,
            "connections": _total(nodes, "connections"),
            "lagging": _total(nodes, "lagging"),
            "lag": max(0, *(self._log.head - node.position for node in nodes.values()), 0),
            "nodes": {"serving": max(self._log.nodes, len(nodes)), "answered": len(nodes)},
            "database": {
                "reachable": reachable,
                "commit_seconds": spent / commits if commits and spent is not None else None,
                "queue": int(_total(nodes, "queue")),
                "pool_in_use": _total(nodes, "pool_in_use"),
                "pool_size": _total(nodes, "pool_size"),
                "log_events": self._log.head - self._log.first + 1,
                "log_bytes": self._bytes,
            },
        }

    async def _measure(self, connection: asyncpg.Connection) -> bool:
        log = await ledger.now(connection)
        await self._ask_nodes(connection, log.nodes - 1)
        since = self._counted or await self._earlier(connection, log, FIRST_SPAN)
        counted = await ledger.count_alerts(connection, since.head, log.head, ledger.COUNTED_AT_ONCE)
        minute_ago = await self._earlier(connection, log, LATENCY_SPAN)
        latency = await ledger.latency(connection, minute_ago.head, log.head)
        if time.monotonic() - self._sized >= SIZE_EVERY_SECONDS:
            self._bytes, self._sized = await ledger.log_bytes(connection), time.monotonic()
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

    async def _earlier(self, connection: asyncpg.Connection, log: ledger.Now, span: timedelta) -> ledger.Now:
        at = log.at - span
        return log._replace(at=at, head=await ledger.last_before(connection, log, at))

    def _rise(self, nodes: dict[str, NodeFigures], name: str, *, per_second: bool = False) -> float | None:
        """Return by how much a count rose since the last sample, on all nodes that are in both; None: on none."""
        pairs = [(self._before[node], after) for node, after in nodes.items() if node in self._before]
        pairs = [(before, after) for before, after in pairs if after.at > before.at]
        if not pairs:
            return None
        return math.fsum(
            (getattr(after, name) - getattr(before, name)) / (after.at - before.at if per_second else 1)
            for before, after in pairs
        )

    # The last hour.

    async def history(self) -> dict[str, Any] | None:
        """Return the last hour by minute, or None where PostgreSQL does not answer in time."""
        return await self._within(HISTORY_SECONDS, self._recall)

    async def _recall(self, connection: asyncpg.Connection) -> dict[str, Any]:
        log = await ledger.now(connection)
        await self._ask_nodes(connection, log.nodes - 1, WITH_MINUTES)
        after = await ledger.last_before(connection, log, log.at - ledger.HISTORY)
        counted = await ledger.count_alerts(connection, after, log.head, ledger.COUNTED_OF_AN_HOUR)
        latencies = await ledger.latency_by_minute(connection, log, after)
        noted = _noted([self._figures.now(minutes=True), *self._answers.values()])
        unknown = asdict(ledger.Latency(0, None, None, None, None))
        last = int(log.at.timestamp()) // MINUTE
        minutes = []
        for number in range(last - MINUTE + 1, last + 1):
            minute = datetime.fromtimestamp(number * MINUTE, UTC)
            deliveries, connections = noted.get(number, (None, None))
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

    async def _ask_nodes(self, connection: asyncpg.Connection, others: int, wanted: str = "") -> None:
        """Ask the other nodes, and wait a moment for as many answers; whoever is gone is forgotten."""
        self._answers.clear()
        self._wanted = wanted
        await connection.execute("SELECT pg_notify($1, $2)", ASK_CHANNEL, f"{self._figures.node} {wanted}")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while len(self._answers) < others:
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            pass  # the sample says how many answered

    def _hear(self, answer: str) -> None:
        figures = read_answer(answer)
        is_meant = bool(figures.minutes) or self._wanted != WITH_MINUTES  # or it answers another node's question
        if figures.node != self._figures.node and is_meant:
            self._answers[figures.node] = figures
            self._answered.set()

    async def _within(
        self, seconds: float, question: Callable[[asyncpg.Connection], Awaitable[_Answer]]
    ) -> _Answer | None:
        """Ask, or return None where it takes longer; then the connection is cut, so that nothing of it goes on."""
        try:
            async with asyncio.timeout(seconds):
                if self._connection is None:
                    self._connection = await self._connect()
                return await question(self._connection)
        except CONNECTION_LOST:
            if self._connection is not None:
                self._connection.terminate()
                self._connection = None
            return None

    async def _connect(self) -> asyncpg.Connection:
        connection = await self._database.connect()
        try:
            await connection.execute(_PREPARE)
            await connection.add_listener(ANSWER_CHANNEL, lambda _c, _pid, _channel, answer: self._hear(answer))
        except BaseException:
            connection.terminate()
            raise
        return connection


def _total(nodes: dict[str, NodeFigures], name: str) -> Any:
    return sum(getattr(node, name) for node in nodes.values())


def _noted(nodes: list[NodeFigures]) -> dict[int, tuple[int, int]]:
    """Add up what nodes noted of each minute."""
    total: dict[int, tuple[int, int]] = {}
    for node in nodes:
        for minute, deliveries, connections in node.minutes:
            before = total.get(minute, (0, 0))
            total[minute] = (before[0] + deliveries, before[1] + connections)
    return total
