"""The stats of one node for the dashboard, and how nodes ask one another for theirs: by NOTIFY.

::

    a node with subscribers ──NOTIFY tocsin_node_stats_requests──► every node
                            ◄──NOTIFY tocsin_node_stats ────────── each but itself

Nothing is stored, and nodes ask only while the dashboard has subscribers. An answer that is lost is
missing from one sample, which says how many nodes answered.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson
from sqlalchemy import text

from service.errors import DatabaseUnavailable
from service.metrics import COMMIT_QUEUE, COMMIT_SECONDS

if TYPE_CHECKING:
    from prometheus_client import Gauge, Histogram

    from service.database.engine import Database
    from service.ledger.recorder import LedgerRecorder
    from service.stream.hub import Hub

REQUEST_CHANNEL = "tocsin_node_stats_requests"
ANSWER_CHANNEL = "tocsin_node_stats"
WITH_MINUTES = "minutes"

# Nothing is stored, so nothing has to reach the disk before the others are notified.
_ANSWER = text(f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{ANSWER_CHANNEL}', :answer)")


@dataclass(frozen=True, slots=True)
class NodeStats:
    """A node at an instant.

    ``at`` is its own clock; ``delivered``, ``commits`` and their seconds only rise.
    """

    node: str
    at: float
    position: int
    connections: int
    lagging: int
    delivered: int
    commits: float
    commit_seconds: float
    queue: float
    pool_in_use: int
    pool_size: int
    minutes: list[tuple[int, int, int]]
    """If requested, of each minute: its number since the epoch, deliveries, most connections."""


class NodeStatsReporter:
    """Measures this node, and answers the requests of others."""

    def __init__(self, database: Database, hub: Hub, ledger: LedgerRecorder) -> None:
        self._database = database
        self._hub = hub
        self._ledger = ledger
        self._requested = False
        self._with_minutes = False
        self._answering: asyncio.Task[None] | None = None

    @property
    def node(self) -> str:
        """The id of this node."""
        return str(self._ledger.node_id)

    def measure(self, *, with_minutes: bool = False) -> NodeStats:
        """Return the stats of this node."""
        commit = _values(COMMIT_SECONDS)
        return NodeStats(
            node=self.node,
            at=time.monotonic(),
            position=self._hub.position.seq,
            connections=self._hub.open,
            lagging=self._hub.lagging,
            delivered=self._hub.delivered,
            commits=commit["_count"],
            commit_seconds=commit["_sum"],
            queue=_values(COMMIT_QUEUE)[""],
            pool_in_use=self._database.pool_in_use,
            pool_size=self._database.pool_size,
            minutes=self._hub.minutes.last_hour() if with_minutes else [],
        )

    def handle_request(self, request: str) -> None:
        """Answer another node, one answer at a time."""
        requester, _, requested = request.partition(" ")
        if requester == self.node:
            return
        self._requested = True
        self._with_minutes |= requested == WITH_MINUTES
        if self._answering is None or self._answering.done():
            self._answering = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        while self._requested:
            stats = self.measure(with_minutes=self._with_minutes)
            self._requested = self._with_minutes = False
            with suppress(DatabaseUnavailable):  # then that sample does without
                async with self._database.transaction(autocommit=True) as tx:
                    await tx.execute(_ANSWER, {"answer": orjson.dumps(asdict(stats)).decode()})


def read_answer(answer: str) -> NodeStats:
    """Parse the answer of another node."""
    return NodeStats(**orjson.loads(answer))


def _values(metric: Gauge | Histogram) -> dict[str, float]:
    """Return the values of a metric without labels, by the suffix of each of its samples."""
    [family] = metric.collect()
    return {sample.name.removeprefix(family.name): sample.value for sample in family.samples if not sample.labels}
