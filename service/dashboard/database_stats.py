"""Statistics of the whole service: how many alerts, and how long deliveries took.

They are queried while somebody looks at the dashboard, so each query costs about the same however
long the log is and however much happens: it reads by index, and of more events than its maximum it
reads every n-th, and returns n. The latencies are those of ``audit.deliveries``, for a sample of
events and connections.

The queries run on a dedicated connection, whose time zone is UTC and whose statements have a
timeout.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncpg

    from service.severity import Severity

POSTED_KINDS = ["alert.created", "alert.repeated"]
"""The kinds of the events of posted alerts."""

SAMPLE_EVENTS_MAX, HOUR_EVENTS_MAX = 2_000, 20_000
"""Events that are counted, for a sample and for the last hour."""
LATENCY_EVENTS, LATENCY_CONNECTIONS = 50, 20
LATENCY_EVENTS_OF_A_MINUTE, LATENCY_CONNECTIONS_OF_AN_HOUR = 8, 12
"""Events and connections whose latency is read."""
HISTORY = timedelta(hours=1)

_LOG_STATE = """
    SELECT clock_timestamp() AS at,
           coalesce((SELECT max(last_seq) FROM log_chain), 0) AS head,
           coalesce((SELECT min(seq) FROM events), 1) AS first,
           (SELECT count(*) FROM serving_nodes) AS nodes
"""

_BYTES = """
    SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
    FROM pg_inherits WHERE inhparent = 'events'::regclass
"""

# Times rise with seq, so the last event before a time is found by bisection, in some twenty reads
# of the primary key.
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

# UUIDs of version 7 begin with their time, so the primary key finds the connections that were
# opened recently.
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
        WHERE seq = ANY ($1::bigint[]) AND connection = ANY ($2::uuid[]) AND NOT replayed
        GROUP BY 1
    """  # noqa: S608 - constants


_LATENCY = _latency("NULL::timestamptz")
_LATENCY_BY_MINUTE = _latency("date_trunc('minute', occurred_at)")


class LogState(NamedTuple):
    """The extent of the log and the number of nodes, at a time of the database's clock."""

    at: datetime
    head: int
    first: int
    nodes: int


class CountedAlerts(NamedTuple):
    """Alerts by minute and severity, from every n-th event; ``every`` is n."""

    alerts: dict[tuple[datetime, Severity], int]
    every: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from the event to the socket, and from there to the receipt, if any; of what was not replayed."""

    deliveries: int
    sent_p50: float | None
    sent_p99: float | None
    received_p50: float | None
    received_p99: float | None


async def log_state(connection: asyncpg.Connection) -> LogState:
    """Return the state of the log."""
    return LogState(*await connection.fetchrow(_LOG_STATE))


async def log_bytes(connection: asyncpg.Connection) -> int:
    """Return the size of the log on disk, with its indexes."""
    size: int = await connection.fetchval(_BYTES)
    return size


async def last_before(connection: asyncpg.Connection, log: LogState, at: datetime) -> int:
    """Return the seq of the last event before a time."""
    seq: int = await connection.fetchval(_LAST_BEFORE, min(log.first - 1, log.head), log.head, at)
    return seq


async def count_alerts(connection: asyncpg.Connection, after: int, head: int, limit: int) -> CountedAlerts:
    """Count the alerts of ``(after, head]``, reading at most about ``limit`` events."""
    every = _step(after, head, limit)
    rows = await connection.fetch(_COUNT, after, head, every, POSTED_KINDS)
    return CountedAlerts({(row["minute"], row["severity"]): row["alerts"] for row in rows}, every)


async def latency(connection: asyncpg.Connection, after: int, head: int) -> Latency | None:
    """Return the latency of the deliveries of ``(after, head]`` to open connections."""
    found = await _latencies(
        connection, _LATENCY, evenly_spaced(after, head, LATENCY_EVENTS), "f" * 32, LATENCY_CONNECTIONS
    )
    return found.get(None)


async def latency_by_minute(
    connection: asyncpg.Connection, log: LogState, after: int
) -> dict[datetime | None, Latency]:
    """Return the latency of the deliveries of ``(after, head]``, by the minute of the events."""
    opened = f"{int((log.at - HISTORY).timestamp() * 1000):012x}".ljust(32, "0")
    seqs = evenly_spaced(after, log.head, LATENCY_EVENTS_OF_A_MINUTE * 60)
    return await _latencies(connection, _LATENCY_BY_MINUTE, seqs, opened, LATENCY_CONNECTIONS_OF_AN_HOUR)


async def _latencies(
    connection: asyncpg.Connection, query: str, seqs: list[int], opened: str, connections: int
) -> dict[datetime | None, Latency]:
    if not seqs:
        return {}
    sample = await connection.fetchval(_SAMPLE, opened, connections)
    rows = await connection.fetch(query, seqs, sample)
    return {
        row["minute"]: Latency(row["deliveries"], *(row["sent"] or (None, None)), *(row["received"] or (None, None)))
        for row in rows
    }


def evenly_spaced(after: int, head: int, limit: int) -> list[int]:
    """Return up to ``limit`` evenly spaced numbers of ``(after, head]``, from the last down."""
    return list(range(head, after, -_step(after, head, limit)))


def _step(after: int, head: int, limit: int) -> int:
    """Return n, so that every n-th of ``(after, head]`` are at most ``limit``."""
    return max(1, -(-(head - after) // limit))
