"""The stats of one node for the dashboard, and how nodes ask one another for theirs: by NOTIFY.

::

    a node with subscribers ──NOTIFY tocsin_node_stats_requests──► every node
                            ◄──NOTIFY tocsin_node_stats ────────── each but itself

Nothing is stored, and nodes ask only while the dashboard has subscribers. An answer that is lost is
missing from one sample, which says how many nodes answered.

Every role of the database may notify, so requests and answers are signed
(``database/message_key.py``). An answer names the requests that it answers, and counts for nothing
else; so one that is repeated later says nothing. A request that is repeated is answered again, at
most ten times a second.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import orjson
from sqlalchemy import text

from service.errors import DatabaseUnavailable
from service.metrics import COMMIT_QUEUE, COMMIT_SECONDS

if TYPE_CHECKING:
    from prometheus_client import Gauge, Histogram

    from service.database.engine import Database
    from service.database.message_key import MessageKey
    from service.ledger.recorder import LedgerRecorder
    from service.stream.hub import Hub

REQUEST_CHANNEL = "tocsin_node_stats_requests"
ANSWER_CHANNEL = "tocsin_node_stats"
REST_SECONDS = 0.1
"""The pause between two answers."""
REQUESTS_MAX = 64
"""Requests that one answer names; further ones are not answered. A notification has 8,000 bytes."""

# Nothing is stored, so nothing has to reach the disk before the others are notified.
_ANSWER = text(f"SELECT set_config('synchronous_commit', 'off', true), notify_nodes('{ANSWER_CHANNEL}', :answer)")


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


class StatsRequest(NamedTuple):
    """A request for the stats of all nodes but the one that asks."""

    id: str
    node: str
    with_minutes: bool

    @classmethod
    def new(cls, node: str, *, with_minutes: bool) -> Self:
        """Return a request that no other answer can have named."""
        return cls(secrets.token_hex(8), node, with_minutes)


class NodeStatsReporter:
    """Measures this node, and answers the requests of others."""

    def __init__(self, database: Database, hub: Hub, ledger: LedgerRecorder, key: MessageKey) -> None:
        self.key = key
        self._database = database
        self._hub = hub
        self._ledger = ledger
        self._requests: dict[str, bool] = {}
        """The ids of the requests to answer, and whether with minutes."""
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
            pool_in_use=self._database.connections_in_use,
            pool_size=self._database.connections,
            minutes=self._hub.minutes.last_hour() if with_minutes else [],
        )

    def handle_request(self, message: str) -> None:
        """Answer another node, one answer at a time; ignore what is no request of a node."""
        if (data := self.key.verified(REQUEST_CHANNEL, message)) is None:
            return
        request = StatsRequest(**orjson.loads(data))
        if request.node == self.node or len(self._requests) >= REQUESTS_MAX:
            return
        self._requests[request.id] = request.with_minutes
        if self._answering is None or self._answering.done():
            self._answering = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        while self._requests:
            requests, self._requests = self._requests, {}
            stats = self.measure(with_minutes=any(requests.values()))
            answer = self.key.sign(ANSWER_CHANNEL, answer_data(list(requests), stats))
            with suppress(DatabaseUnavailable):  # then that sample does without
                async with self._database.transaction(autocommit=True) as tx:
                    await tx.execute(_ANSWER, {"answer": answer})
            await asyncio.sleep(REST_SECONDS)


def answer_data(requests: list[str], stats: NodeStats) -> str:
    """Return what answers the requests with these ids."""
    return orjson.dumps({"requests": requests, "stats": asdict(stats)}).decode()


def read_answer(data: str, request: str) -> NodeStats | None:
    """Parse the answer of another node; None if it answers no request with this id."""
    answer = orjson.loads(data)
    return NodeStats(**answer["stats"]) if request in answer["requests"] else None


def _values(metric: Gauge | Histogram) -> dict[str, float]:
    """Return the values of a metric without labels, by the suffix of each of its samples."""
    [family] = metric.collect()
    return {sample.name.removeprefix(family.name): sample.value for sample in family.samples if not sample.labels}
