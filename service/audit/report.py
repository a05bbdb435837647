"""The report: a period on one page. All numbers are of the same instant, and every count is exact.

Latencies are those of live deliveries: what was replayed to somebody who had been away is counted
only. When a delivery was sent and received is looked up, which costs more than to count it; of more
than ``MEASURED_DELIVERIES`` every n-th event is measured, and the report says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, bindparam, text

from service.audit.queries import hour_of

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import TextClause
    from sqlalchemy.ext.asyncio import AsyncConnection

TOP = 10
"""How many topics, recipients and sources are listed."""

MEASURED_DELIVERIES = 100_000
"""Deliveries whose latency is measured, about."""

_PERCENTILES = ("p50", "p95", "p99")


def _query(sql: str) -> TextClause:
    times = (bindparam(name, type_=DateTime(timezone=True)) for name in ("since", "until") if f":{name}" in sql)
    return text(sql).bindparams(*times)


_ALERTS = _query(
    """
    SELECT severity, count(*) AS alerts, count(*) FILTER (WHERE status IN ('open', 'acknowledged')) AS unresolved
    FROM alerts WHERE created_at >= :since AND created_at < :until GROUP BY severity ORDER BY alerts.severity DESC
    """
)

_SENT = """
    WITH confirmed AS MATERIALIZED (SELECT connection, received_seq FROM audit.connections)
    SELECT {group} AS topic, count(*) AS sent, count(*) FILTER (WHERE d.replayed) AS replayed,
           count(*) FILTER (WHERE d.seq <= c.received_seq) AS received
    FROM audit.deliveries d JOIN confirmed c ON c.connection = d.connection
    WHERE d.occurred_at >= :since AND d.occurred_at < :until
"""
_DELIVERIES = _query(_SENT.format(group="NULL"))
_DELIVERIES_OF_TOPICS = _query(_SENT.format(group="d.topic") + " AND d.topic = ANY (:topics) GROUP BY d.topic")

# One pass over the deliveries, for all of them and for each topic.
_LATENCIES = _query(
    """
    SELECT topic, percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY to_sent) AS sent_in,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY to_received) AS received_in
    FROM (
        SELECT topic, extract(epoch FROM sent_at - occurred_at)::float8 AS to_sent,
               extract(epoch FROM latency)::float8 AS to_received
        FROM audit.deliveries
        WHERE occurred_at >= :since AND occurred_at < :until AND NOT replayed AND seq % :every = 0
    ) AS delivery
    GROUP BY GROUPING SETS ((), (topic))
    ORDER BY grouping(topic) DESC, (percentile_cont(0.95) WITHIN GROUP (ORDER BY to_sent)) DESC NULLS LAST, topic
    LIMIT :top + 1
    """
)

_UNRECEIVED = _query(
    """
    SELECT recipient, count(*) AS alerts, max(severity) AS max_severity,
           extract(epoch FROM max(waiting))::float8 AS waiting
    FROM audit.unreceived WHERE occurred_at >= :since AND occurred_at < :until
    GROUP BY recipient ORDER BY count(*) DESC, recipient LIMIT :top
    """
)

_CONNECTIONS = _query(
    """
    SELECT (SELECT count(*) FROM audit.connections WHERE opened_at >= :since AND opened_at < :until) AS opened,
           (SELECT coalesce(sum(connections), 0)::bigint FROM audit.presence) AS open_now
    """
)

_CLOSES = _query(
    """
    SELECT close_reason AS reason, close_code AS code, count(*) AS connections
    FROM audit.connections WHERE closed_at >= :since AND closed_at < :until
    GROUP BY close_reason, close_code ORDER BY count(*) DESC, close_reason, close_code
    """
)

_REJECTIONS = _query(
    """
    SELECT reason, sum(rejections)::bigint AS rejections FROM audit.rejection_counts
    WHERE hour >= :since AND hour < :until
    GROUP BY reason ORDER BY sum(rejection_counts.rejections) DESC, reason
    """
)

_SOURCES = _query(
    """
    SELECT source, sum(alerts)::bigint AS alerts, sum(repeated)::bigint AS repeated, sum(replayed)::bigint AS replayed,
           sum(refused)::bigint AS refused
    FROM audit.sources WHERE hour >= :since AND hour < :until
    GROUP BY source ORDER BY sum(sources.alerts) DESC, sum(sources.refused) DESC, source LIMIT :top
    """
)

_LOG_GAPS = _query("SELECT after_seq, before_seq, missing FROM audit.log_gaps ORDER BY after_seq LIMIT :top")


async def report(tx: AsyncConnection, since: datetime, until: datetime) -> dict[str, Any]:
    """Return the report of a period; sources and rejections are counted in all hours that it touches."""
    parameters = {"since": since, "until": until, "top": TOP}

    async def rows(query: TextClause, **changed: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in (await tx.execute(query, parameters | changed)).mappings()]

    [sent] = await rows(_DELIVERIES)
    every = max(1, -(-(sent["sent"] - sent["replayed"]) // MEASURED_DELIVERIES))
    latencies, *slowest = await rows(_LATENCIES, every=every)
    names = [topic["topic"] for topic in slowest]
    sent_of = {row["topic"]: row for row in await rows(_DELIVERIES_OF_TOPICS, topics=names)} if names else {}
    [connections] = await rows(_CONNECTIONS)
    return {
        "since": since,
        "until": until,
        "alerts": await rows(_ALERTS),
        "measured_every": every,
        "deliveries": delivery_stats(sent | latencies),
        "slowest_topics": [
            {"topic": topic["topic"], **delivery_stats(sent_of[topic["topic"]] | topic)} for topic in slowest
        ],
        "unreceived": await rows(_UNRECEIVED),
        "connections": connections,
        "closes": await rows(_CLOSES),
        "rejections": await rows(_REJECTIONS, since=hour_of(since)),
        "sources": await rows(_SOURCES, since=hour_of(since)),
        "log_gaps": await rows(_LOG_GAPS),
    }


def delivery_stats(row: dict[str, Any]) -> dict[str, Any]:
    """Return the counts and percentiles of a row, in seconds; None without live deliveries."""
    stats: dict[str, Any] = {name: row[name] for name in ("sent", "received", "replayed")}
    for step in ("sent", "received"):
        times = row[f"{step}_in"] or (None, None, None)
        stats |= {f"{step}_{name}": time for name, time in zip(_PERCENTILES, times, strict=True)}
    return stats
