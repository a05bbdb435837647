"""``audit.timeline``, an alert from its creation on; ``audit.latency``, against percentiles computed here."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.harness import Node


async def test_the_timeline_of_an_alert_is_in_order(node: Node) -> None:
    async with await node.live("alice") as alice, await node.live("bob", min_severity="error") as bob:
        alert = await node.post("It happened", recipients=["alice", "bob"], severity="warning")
        await alice.events(1)
        await alice.ack(alert["seq"])
        await eventually(lambda: node.sql("SELECT FROM receipts"))
        async with node.http("bob", "alerts:manage") as desk:
            answers = [
                await desk.post(f"/v1/alerts/{alert['id']}/comments", json={"text": "I look into it."}),
                await desk.post(f"/v1/alerts/{alert['id']}/resolve"),
            ]
        assert [answer.status_code for answer in answers] == [201, 200]
        await alice.events(2)
        other = await node.post("Another one")
        await node.flushed(other["seq"])
        rows = await node.sql("SELECT * FROM audit.timeline WHERE alert_id = $1::text::uuid", alert["id"])
        connection = alice.seen[0]["connection"]
        assert [frame["type"] for frame in bob.seen] == ["welcome", "caught_up"]
    entries = sorted(
        (row["seq"], row["action"], row["actor"], row["connection"] and str(row["connection"])) for row in rows
    )
    assert entries == [
        (1, "alert.created", "billing", None),
        (1, "received", "alice", connection),
        (1, "sent", "alice", connection),
        (2, "alert.commented", "bob", None),
        (2, "sent", "alice", connection),
        (3, "alert.resolved", "bob", None),
        (3, "sent", "alice", connection),
    ]
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert [row["action"] for row in rows][:3] == ["alert.created", "sent", "received"]
    details = {(row["seq"], row["action"]): json.loads(row["details"]) for row in rows}
    created = {"severity": "warning", "status": "open", "recipients": ["alice", "bob"]}
    assert details[1, "alert.created"] == created
    commented = details[2, "alert.commented"]
    assert commented == {**created, "comment": {"id": commented["comment"]["id"], "text": "I look into it."}}
    assert details[3, "alert.resolved"]["status"] == "resolved"
    (node_row,) = await node.sql("SELECT id FROM nodes")
    assert details[1, "sent"] == {"node": str(node_row["id"]), "replayed": False}
    took = {row["action"]: row["at"] for row in rows if row["seq"] == 1}
    assert details[1, "received"]["latency"] == (took["received"] - took["sent"]).total_seconds()


def percentile(values: Sequence[float], fraction: float) -> float | None:
    """Return what PostgreSQL's percentile_cont does: the linear interpolation between the two nearest values."""
    if not values:
        return None
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


async def test_the_percentiles_are_those_of_the_deliveries_of_each_minute_topic_and_severity(node: Node) -> None:
    async with await node.live("alice") as alice, await node.live("bob", topic="payments.*") as bob:
        topics, severities = ("payments.eu", "payments.us", "search"), ("info", "critical")
        alerts = [{"topic": topics[n % 3] if n < 50 else "late", "severity": severities[n % 2]} for n in range(60)]
        await node.post_all(alerts)
        for frame in await alice.events(60):
            if frame["seq"] % 7 == 0 and frame["seq"] < 40:  # the last ones are never acknowledged
                await alice.ack(frame["seq"])
        await bob.events(34)
        await node.flushed(60)
        await eventually(lambda: node.sql("SELECT FROM receipts WHERE seq = 35"))
        # Spread over three minutes, so that there is something to tell apart.
        await node.sql("UPDATE events SET occurred_at = occurred_at - make_interval(mins => (seq % 3)::int)")
        rows = await node.sql("SELECT * FROM audit.latency")
        deliveries = await node.sql("SELECT * FROM audit.deliveries")
        of_search = await node.sql(
            "SELECT * FROM audit.latency WHERE minute >= now() - interval '1 hour' AND topic = 'search'"
        )
    expected = defaultdict(list)
    for row in deliveries:
        expected[row["occurred_at"].replace(second=0, microsecond=0), row["topic"], row["severity"]].append(row)
    assert {(row["minute"], row["topic"], row["severity"]) for row in rows} == set(expected)
    assert len(rows) >= 6
    for row in rows:
        group = expected[row["minute"], row["topic"], row["severity"]]
        received = [one for one in group if one["received_at"]]
        assert (row["deliveries"], row["received"]) == (len(group), len(received))
        sent = [(one["sent_at"] - one["occurred_at"]).total_seconds() for one in group]
        took = [(one["received_at"] - one["sent_at"]).total_seconds() for one in received]
        for kind, values in (("sent", sent), ("received", took)):
            for name, fraction in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
                value = percentile(values, fraction)
                assert row[f"{kind}_{name}"] == (None if value is None else pytest.approx(value, abs=2e-6))
    assert any(row["received"] for row in rows)
    assert any(row["received_p50"] is None for row in rows)
    assert sorted(map(tuple, of_search)) == sorted(tuple(row) for row in rows if row["topic"] == "search")
    assert all(row["minute"] <= datetime.now(UTC) for row in rows)
