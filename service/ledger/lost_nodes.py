"""Lost nodes: a node that has not renewed its lease for as long as it lasts is ended.

Its connections are closed at what it last flushed, so that the ledger claims no more.

No clocks are compared, because the database's may be set, and those of nodes disagree. Each node
observes the others: it reads their ``seen_at``, which changes with each renewal, and measures on
its own monotonic clock how long each has stayed the same. What was not observed does not count
against anybody:

- Between two observations at most half of a lease counts. After a pause of this process or of the
  whole machine, the others have the other half to renew theirs.
- All counting starts over when a flush of this node has failed, or its own lease has ended: the
  others may have been unable to write, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from service.ledger.statements import END_NODES, NOTIFY_PRESENCE
from service.logs import get_logger
from service.timestamps import boottime

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.ledger.flusher import LedgerFlusher

log = get_logger(__name__)

_SERVING = text("SELECT id, seen_at, lease_seconds FROM nodes WHERE ended_at IS NULL")
# Their rows are locked, so that none of them can renew its lease any more; one that did meanwhile is not lost.
_LOCK_LOST = text(
    """
    SELECT n.id FROM nodes n
    JOIN unnest(cast(:ids AS uuid[]), cast(:seen_at AS timestamptz[])) AS silent (id, seen_at) USING (id, seen_at)
    WHERE n.ended_at IS NULL AND EXISTS (SELECT FROM nodes judge WHERE judge.id = :judge AND judge.ended_at IS NULL)
    ORDER BY n.id FOR UPDATE OF n
    """
)


class NodeLease(NamedTuple):
    """What the table says of a node that has not ended."""

    id: UUID
    seen_at: datetime
    lease_seconds: float


@dataclass(slots=True)
class _Silence:
    """How long a node was observed not to renew its lease, in seconds."""

    seen_at: datetime
    seconds: float = 0


class NodeWatch:
    """Observes how long each node has not renewed its lease. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._silences: dict[UUID, _Silence] = {}
        self._observed_at = 0.0
        self._punctual_since: float | None = None

    def observe(
        self, nodes: Iterable[NodeLease], *, read_from: float, read_until: float, punctual_since: float | None
    ) -> dict[UUID, datetime]:
        """Take note of what was read between these times; return the lost nodes, with their ``seen_at``.

        ``punctual_since`` is since when this node itself has flushed in time, None where it has not.
        """
        observed = max(0.0, read_from - self._observed_at)
        before = self._silences if punctual_since is not None and punctual_since == self._punctual_since else {}
        self._silences, self._observed_at, self._punctual_since = {}, read_until, punctual_since
        lost = {}
        for node in nodes:
            silence = before.get(node.id)
            if silence is None or silence.seen_at != node.seen_at:
                silence = _Silence(node.seen_at)
            else:
                silence.seconds += min(observed, node.lease_seconds / 2)
            self._silences[node.id] = silence
            if punctual_since is not None and silence.seconds >= node.lease_seconds:
                lost[node.id] = node.seen_at
        return lost


class LostNodes:
    """The lost nodes, as one node observes them."""

    def __init__(self, flusher: LedgerFlusher) -> None:
        self._flusher = flusher
        self._watch = NodeWatch()
        self._lost: dict[UUID, datetime] = {}

    async def observe(self, tx: AsyncConnection) -> None:
        """Read the leases. Call it regularly, whoever does the housekeeping."""
        read_from = boottime()
        nodes = [NodeLease(*row) for row in await tx.execute(_SERVING)]
        punctual_since = self._flusher.punctual_since if self._flusher.holds_lease else None
        self._lost = self._watch.observe(
            nodes, read_from=read_from, read_until=boottime(), punctual_since=punctual_since
        )

    async def end(self, tx: AsyncConnection) -> None:
        """End the nodes that were found lost, with ``node_lost``, unless they have renewed their lease since."""
        if not self._lost:
            return
        parameters = {
            "ids": list(self._lost),
            "seen_at": list(self._lost.values()),
            "judge": self._flusher.node_id,
        }
        lost = list((await tx.scalars(_LOCK_LOST, parameters)).all())
        if lost:
            connections = await tx.scalar(END_NODES, {"ids": lost, "reason": "node_lost"})
            log.warning("nodes lost", nodes=len(lost), connections=connections)
            await tx.execute(NOTIFY_PRESENCE)
