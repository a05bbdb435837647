"""What one node says of itself to the dashboard, and how nodes ask one another: by NOTIFY, and only while one looks.

::

    a node with viewers ──NOTIFY tocsin_figures_asked──► every node
                        ◄──NOTIFY tocsin_figures ─────── each but itself

Nothing is stored, and nobody asks while nobody looks. An answer that is lost is missing from one sample, which says how
many nodes answered.
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
    from service.ledger.recorder import Ledger
    from service.stream.hub import Hub

ASK_CHANNEL = "tocsin_figures_asked"
ANSWER_CHANNEL = "tocsin_figures"
WITH_MINUTES = "minutes"

# There is nothing to be kept, so nobody who publishes is to wait for the disk behind it.
_ANSWER = text(f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{ANSWER_CHANNEL}', :answer)")


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A node at an instant. ``at`` is its own clock; ``delivered``, ``commits`` and their seconds only rise."""

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
    """Of each minute of the last hour, where asked for: its number since the epoch, deliveries, most connections."""


class Figures:
    """The figures of this node, told to the nodes that ask."""

    def __init__(self, database: Database, hub: Hub, ledger: Ledger) -> None:
        self._database = database
        self._hub = hub
        self._ledger = ledger
        self._asked = False
        self._with_minutes = False
        self._answering: asyncio.Task[None] | None = None

    @property
    def node(self) -> str:
        """The id of this node."""
        return str(self._ledger.node_id)

    def now(self, *, minutes: bool = False) -> NodeFigures:
        """Return how it stands here."""
        commit = _values(COMMIT_SECONDS)
        return NodeFigures(
            node=self.node,
            at=time.monotonic(),
            position=self._hub.position,
            connections=self._hub.open,
            lagging=self._hub.lagging,
            delivered=self._hub.delivered,
            commits=commit["_count"],
            commit_seconds=commit["_sum"],
            queue=_values(COMMIT_QUEUE)[""],
            pool_in_use=self._database.pool_in_use,
            pool_size=self._database.pool_size,
            minutes=self._hub.minutes.last_hour() if minutes else [],
        )

    def asked(self, question: str) -> None:
        """Answer another node, one answer at a time."""
        asker, _, wanted = question.partition(" ")
        if asker == self.node:
            return
        self._asked = True
        self._with_minutes |= wanted == WITH_MINUTES
        if self._answering is None or self._answering.done():
            self._answering = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        while self._asked:
            figures = self.now(minutes=self._with_minutes)
            self._asked = self._with_minutes = False
            with suppress(DatabaseUnavailable):  # then that sample does without
                async with self._database.transaction(each_commits=True) as tx:
                    await tx.execute(_ANSWER, {"answer": orjson.dumps(asdict(figures)).decode()})


def read_answer(answer: str) -> NodeFigures:
    """Read what another node said."""
    return NodeFigures(**orjson.loads(answer))


def _values(metric: Gauge | Histogram) -> dict[str, float]:
    """Return what a metric without labels holds, by the suffix of each of its samples."""
    [family] = metric.collect()
    return {sample.name.removeprefix(family.name): sample.value for sample in family.samples if not sample.labels}
