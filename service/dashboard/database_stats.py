"""The figures of the whole service that the log and the ledger know: how many alerts, and how long deliveries took.

They are asked for while somebody looks at the dashboard, so each question costs about the same however long the log is
and however much happens: it reads by index, and of more than it may read it takes every so many-th, which it says. The
latencies are those of ``audit.deliveries``, of a sample of events and connections.

The questions are statements on a connection of the asker's own, whose time zone is UTC, and whose time is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncpg

    from service.severity import Severity

KINDS = ["alert.created", "alert.repeated"]
"""The events that are an alert that was posted."""

COUNTED_AT_ONCE = 2_000
COUNTED_OF_AN_HOUR = 20_000
EVENTS_AT_ONCE, CONNECTIONS_AT_ONCE = 50, 20
EVENTS_OF_A_MINUTE, CONNECTIONS_OF_AN_HOUR = 8, 12
HISTORY = timedelta(hours=1)

_NOW = """
    SELECT clock_timestamp() AS at,
           coalesce((SELECT max(last_seq) FROM log_chain), 0) AS head,
           coalesce((SELECT min(seq) FROM events), 1) AS first,
           (SELECT count(*) FROM serving_nodes) AS nodes
"""

_BYTES = """
    SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
    FROM pg_inherits WHERE inhparent = 'events'::regclass
"""

# Times rise with seq, so the last event before a time is found by halving: some twenty looks into the primary key.
_LAST_BEFORE = """
    WITH RECURSIVE search (low, high) AS (
        SELECT $1::bigint, $2::bigint
        UNION ALL
        SELECT CASE WHEN is_before THEN mid ELSE low END, CASE WHEN is_before THEN high ELSE mid - 1 END
        FROM search
        CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS mid) AS middle
        CROSS JOIN LATERAL (
            SELECT coalesce((SELECT occurred_at < $3 FROM events WHERE seq = mid), true) AS is_before
        ) AS compared
        WHERE low < high
    )
    SELECT low FROM search ORDER BY high - low LIMIT 1
"""

_COUNT = """
    SELECT date_trunc('minute', e.occurred_at) AS minute, e.severity::text AS severity, count(*) * $3 AS alerts
    FROM generate_series($1::bigint + $3, $2::bigint, $3::bigint) AS counted (seq) JOIN events e ON e.seq = counted.seq
    WHERE e.kind = ANY ($4) AND e.seq > $1 AND e.seq <= $2
    GROUP BY 1, 2
"""

# UUIDs of version 7 begin with their time, so the primary key finds the connections that were opened lately.
_SAMPLE = """
    SELECT coalesce(array_agg(id), '{}') FROM (
        SELECT id FROM connections WHERE closed_at IS NULL OR id >= $1 ORDER BY random() LIMIT $2
    ) AS sampled
"""


def _latency(group: str) -> str:
    return f"""
        SELECT {group} AS minute, count(sent_at) AS deliveries,
               percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM sent_at - occurred_at))
                   AS sent,
               percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM latency)) AS received
        FROM audit.deliveries
        WHERE seq = ANY ($1::bigint[]) AND connection = ANY ($2::uuid[])
        GROUP BY 1
    """  # noqa: S608 - constants


_LATENCY = _latency("NULL::timestamptz")
_LATENCY_BY_MINUTE = _latency("date_trunc('minute', occurred_at)")


class Now(NamedTuple):
    """Where the log stands, by the database's clock: its first and last seq, and how many nodes serve."""

    at: datetime
    head: int
    first: int
    nodes: int


class Counted(NamedTuple):
    """Alerts by minute and severity. ``every`` is 1 where all were counted, n where every n-th event was."""

    alerts: dict[tuple[datetime, Severity], int]
    every: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from the event to the socket, and from there to the acknowledgement; None where there are none."""

    deliveries: int
    sent_p50: float | None
    sent_p99: float | None
    received_p50: float | None
    received_p99: float | None


async def now(connection: asyncpg.Connection) -> Now:
    """Return where the log stands."""
    return Now(*await connection.fetchrow(_NOW))


async def log_bytes(connection: asyncpg.Connection) -> int:
    """Return how much room the log takes on disk, its indexes included."""
    size: int = await connection.fetchval(_BYTES)
    return size


async def last_before(connection: asyncpg.Connection, log: Now, at: datetime) -> int:
    """Return the seq of the last event before a time."""
    seq: int = await connection.fetchval(_LAST_BEFORE, min(log.first - 1, log.head), log.head, at)
    return seq


async def count_alerts(connection: asyncpg.Connection, after: int, head: int, most: int) -> Counted:
    """Count the alerts of ``(after, head]``, looking at no more than ``most`` events."""
    every = max(1, -(-(head - after) // most))
    rows = await connection.fetch(_COUNT, after, head, every, KINDS)
    return Counted({(row["minute"], row["severity"]): row["alerts"] for row in rows}, every)


async def latency(connection: asyncpg.Connection, after: int, head: int) -> Latency | None:
    """Return how long the deliveries of ``(after, head]`` took to the connections that are open."""
    found = await _latencies(connection, _LATENCY, _spread(after, head, EVENTS_AT_ONCE), "f" * 32, CONNECTIONS_AT_ONCE)
    return found.get(None)


async def latency_by_minute(connection: asyncpg.Connection, log: Now, after: int) -> dict[datetime | None, Latency]:
    """Return how long the deliveries of ``(after, head]`` took, by the minute of the events."""
    opened = f"{int((log.at - HISTORY).timestamp() * 1000):012x}".ljust(32, "0")
    seqs = _spread(after, log.head, EVENTS_OF_A_MINUTE * 60)
    return await _latencies(connection, _LATENCY_BY_MINUTE, seqs, opened, CONNECTIONS_OF_AN_HOUR)


async def _latencies(
    connection: asyncpg.Connection, question: str, seqs: list[int], opened: str, connections: int
) -> dict[datetime | None, Latency]:
    if not seqs:
        return {}
    sample = await connection.fetchval(_SAMPLE, opened, connections)
    rows = await connection.fetch(question, seqs, sample)
    return {
        row["minute"]: Latency(row["deliveries"], *(row["sent"] or (None, None)), *(row["received"] or (None, None)))
        for row in rows
    }


def _spread(after: int, head: int, most: int) -> list[int]:
    """Return up to ``most`` numbers of ``(after, head]``, evenly apart, the last one among them."""
    every = max(1, -(-(head - after) // most))
    return list(range(head, after, -every))
