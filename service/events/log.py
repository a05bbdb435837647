"""Reading the log and appending to it.

An append is one SQL function and one round trip (``alembic/sql/append_alerts.sql``): it takes the
lock of the log, then, in a statement of its own so that its snapshot is newer than the lock, reads
the head and inserts ``head + 1 …``, links the batch to the chain (``hash_chain.py``) and notifies.
The lock is held to the commit. Measured on two shared cores: 28,000 alerts/s at 20 per call, 55,000
at 500; a counter row under ``UPDATE`` was slower and bloats while a long transaction is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import text

from service.events.hash_chain import event_line
from service.events.position import ORIGIN, HistoryChanged, Position

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.events.filter import EventFilter
    from service.events.idempotency import IdempotencyKey
    from service.severity import Severity

EVENTS_CHANNEL = "tocsin_events"
ROOM_AHEAD = 3_000_000
"""How many events the partitions ahead of the head have room for: 80 s at 36,000 a second."""
PARTITIONS_AHEAD_MAX = 64
"""The most partitions ahead: a statement over all takes a lock on each, and locks are limited."""


class Event(NamedTuple):
    """One event of the log.

    ``id`` is random, and made before the commit (``position.py``). ``body`` is the alert as JSON
    text, ``details`` an object of what the kind adds to the frame, if anything; ``recipients`` is
    None where all may see it.
    """

    seq: int
    id: int
    alert_id: UUID
    kind: str
    topic: str
    severity: Severity
    recipients: frozenset[str] | None
    actor: str
    occurred_at: datetime
    body: bytes
    details: bytes | None = None

    @property
    def position(self) -> Position:
        """Its position in the log."""
        return Position(self.seq, self.id)

    @property
    def line(self) -> bytes:
        """The event as it is shown and chained: a JSON object without its ``seq``."""
        return event_line(self.id, self.kind, self.occurred_at, self.actor, self.body, details=self.details)


class Appended(NamedTuple):
    """What became of one item of an append.

    ``replayed`` says that the idempotency key was known: ``seq`` and ``body`` are then the first
    answer's. ``mismatch`` says that it was known with another alert. ``body`` is None where the
    item itself was stored.
    """

    seq: int
    replayed: bool
    mismatch: bool
    body: bytes | None


async def append_alerts(  # noqa: PLR0913 - four columns of the alerts
    connection: asyncpg.Connection,
    alerts: Sequence[bytes],
    ids: Sequence[int],
    digests: Sequence[bytes],
    keys: Sequence[IdempotencyKey | None],
    *,
    attempt: int,
) -> tuple[Position, list[Appended]]:
    """Append alerts, as JSON, with the ids and the digests of their events, and their keys.

    Return the position of the head that was found, and the result of each alert. The transaction is
    committed when this returns. When it raises because the connection was lost, the outcome is
    unknown, and is found out by the number of the ``attempt``.
    """
    keyed = any(keys)
    found, *rows = await connection.fetch(
        "SELECT seq, replayed, mismatch, body::text, id FROM append_alerts($1, $2::json, $3, $4, $5, $6)"
        " ORDER BY ordinal",
        attempt,
        (b"[%b]" % b",".join(alerts)).decode(),
        ids,
        b"".join(digests),
        [key and key.key for key in keys] if keyed else None,
        [key and key.content for key in keys] if keyed else None,
    )
    results = [Appended(row[0], row[1], row[2], row[3].encode() if row[3] is not None else None) for row in rows]
    return Position(found["seq"], found["id"]), results


async def read_head(tx: AsyncConnection) -> Position:
    """Return the position of the last event of the log, the origin where it is empty."""
    return Position(*(await tx.execute(text("SELECT seq, id FROM log_head"))).one())


async def read_position(tx: AsyncConnection, seq: int) -> Position | None:
    """Return the position at ``seq``; None where the log does not reach it, or holds it no longer."""
    event_id = await tx.scalar(text("SELECT event_id_at(:seq)"), {"seq": seq})
    return Position(seq, event_id) if event_id is not None else None


async def find_common(tx: AsyncConnection, positions: Sequence[Position]) -> Position | None:
    """Return the last one of ``positions`` that the log holds."""
    statement = text(
        "SELECT seq, id FROM unnest(cast(:seqs AS bigint[]), cast(:ids AS bigint[])) AS held (seq, id)"
        " WHERE log_holds(seq, id) ORDER BY seq DESC LIMIT 1"
    )
    seqs, ids = zip(*positions, strict=True)
    found = (await tx.execute(statement, {"seqs": list(seqs), "ids": list(ids)})).one_or_none()
    return Position(*found) if found is not None else None


async def read_first(tx: AsyncConnection) -> int:
    """Return the first ``seq`` that the log still holds, 1 where it is empty."""
    return int(await tx.scalar(text("SELECT coalesce(min(seq), 1) FROM events")) or 1)


_COLUMNS = "seq, id, alert_id, kind, topic, severity::text, recipients, actor, occurred_at, body::text, details::text"
_READ_TAIL = text(f"SELECT {_COLUMNS} FROM events WHERE seq >= :seq ORDER BY seq LIMIT :limit")  # noqa: S608 - constant
# The inner query stops at `limit` rows, the outer one at `max_bytes`. The patterns are made ready
# once for all events.
_READ_MATCHING = text(
    f"""
    SELECT {_COLUMNS}, matched
    FROM (
        SELECT *, count(*) OVER () AS matched,
               sum(octet_length(body::text)) OVER (ORDER BY seq) - octet_length(body::text) AS bytes_before
        FROM (
            SELECT * FROM events
            WHERE seq > :after AND seq <= :up_to
              AND event_matches((SELECT topic_likes(:topics)), cast(:min_severity AS severity), :recipient,
                                topic, severity, recipients)
            ORDER BY seq LIMIT :limit
        ) AS matching
    ) AS measured
    WHERE bytes_before < :max_bytes ORDER BY seq
    """  # noqa: S608 - constant
)


async def read_tail(tx: AsyncConnection, position: Position, limit: int) -> list[Event]:
    """Return the next ``limit`` events after ``position``, whoever may see them.

    Raises:
        HistoryChanged: the log does not hold ``position``.

    """
    rows = (await tx.execute(_READ_TAIL, {"seq": position.seq, "limit": limit + 1})).all()
    if position == ORIGIN:
        return _events(rows[:limit])
    if not rows or rows[0][:2] != position:
        raise HistoryChanged(position)
    return _events(rows[1:])


async def read_matching(  # noqa: PLR0913 - the range, who looks at it through which filter, and the bounds
    tx: AsyncConnection,
    after: int,
    up_to: int,
    event_filter: EventFilter,
    recipient: str,
    *,
    limit: int,
    max_bytes: int,
) -> tuple[list[Event], bool]:
    """Return the next events in ``(after, up_to]`` that ``recipient`` may see, and whether these are all.

    At most ``limit`` events are returned, and none after ``max_bytes`` of bodies, but always one
    where there is one.
    """
    parameters = {
        "after": after,
        "up_to": up_to,
        "topics": list(event_filter.topics),
        "min_severity": event_filter.min_severity,
        "recipient": recipient,
        "limit": limit,
        "max_bytes": max_bytes,
    }
    rows = (await tx.execute(_READ_MATCHING, parameters)).all()
    complete = not rows or len(rows) == rows[0].matched < limit
    return _events([row[:-1] for row in rows]), complete


def _events(rows: Sequence[Any]) -> list[Event]:
    return [
        Event(
            seq,
            event_id,
            alert_id,
            kind,
            topic,
            severity,
            frozenset(to) if to is not None else None,
            actor,
            at,
            body.encode(),
            details.encode() if details is not None else None,
        )
        for seq, event_id, alert_id, kind, topic, severity, to, actor, at, body, details in rows
    ]


async def ensure_partitions(tx: AsyncConnection, size: int) -> None:
    """Make the partitions, of ``size`` events each, that the next ``ROOM_AHEAD`` events will need.

    They begin where the last one ends, so the size may change. A new partition is made as a table
    of its own and then attached: attaching does not block appending or reading.
    """
    await tx.execute(
        text("SELECT ensure_event_partitions(:size, :room, :most)"),
        {"size": size, "room": ROOM_AHEAD, "most": PARTITIONS_AHEAD_MAX},
    )
