"""``audit.alerts``: what became of each alert, and which have been open for too long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.fixtures.small_log import fill
from tests.harness import eventually

if TYPE_CHECKING:
    from tests.harness import Node

OPEN_TOO_LONG = "SELECT * FROM audit.alerts WHERE status = 'open' AND open_for > interval '10 minutes'"


async def changed(node: Node, alert: dict[str, Any], *actions: str, by: str = "bob") -> None:
    async with node.http(by, "alerts:manage") as desk:
        for action in actions:
            assert (await desk.post(f"/v1/alerts/{alert['id']}/{action}")).status_code == 200


async def test_an_alert_says_what_became_of_it_by_whom_and_when(node: Node) -> None:
    fields = {"topic": "payments.eu", "severity": "error", "dedup_key": "x", "recipients": ["alice", "bob"]}
    new, taken, done, again = [
        await node.post(f"Alert {number}", **fields | {"dedup_key": f"{number}"}) for number in range(4)
    ]
    async with node.http() as source:
        answer = await source.post("/v1/alerts", json={"title": "Alert 0, again", **fields, "dedup_key": "0"})
    assert answer.status_code == 200
    await changed(node, taken, "acknowledge")
    await changed(node, done, "acknowledge")
    await changed(node, done, "resolve", by="alice")
    await changed(node, again, "resolve", "reopen")
    rows = {str(row["alert_id"]): dict(row) for row in await node.sql("SELECT * FROM audit.alerts")}
    row = rows[new["id"]]
    shown = [row[name] for name in ("seq", "topic", "source", "severity", "title", "status", "recipients", "dedup_key")]
    assert shown == [1, "payments.eu", "billing", "error", "Alert 0, again", "open", ["alice", "bob"], "0"]
    assert (row["occurrences"], row["created_at"]) == (2, datetime.fromisoformat(new["created_at"]))
    assert (row["acknowledged_at"], row["acknowledged_by"], row["resolved_at"], row["resolved_by"]) == (None,) * 4
    assert row["open_for"] > timedelta()
    acknowledged = await node.sql("SELECT occurred_at FROM events WHERE kind = 'alert.acknowledged' ORDER BY seq")
    row = rows[taken["id"]]
    assert (row["acknowledged_at"], row["acknowledged_by"]) == (acknowledged[0][0], "bob")
    assert (row["status_at"], row["resolved_at"], row["open_for"]) == (acknowledged[0][0], None, None)
    row = rows[done["id"]]
    assert (row["acknowledged_at"], row["acknowledged_by"]) == (acknowledged[1][0], "bob")
    assert (row["resolved_at"], row["resolved_by"], row["open_for"]) == (row["status_at"], "alice", None)
    row = rows[again["id"]]
    assert (row["status"], row["status_by"], row["resolved_at"], row["resolved_by"]) == ("open", "bob", None, None)
    assert row["open_for"] < rows[new["id"]]["open_for"], "since it was reopened"


async def test_what_has_been_open_for_more_than_ten_minutes_is_one_query(node: Node) -> None:
    old, taken, reopened, _fresh = [await node.post(f"Alert {number}") for number in range(4)]
    await changed(node, taken, "acknowledge")
    await changed(node, reopened, "resolve")
    an_hour = "UPDATE alerts SET created_at = created_at - interval '1 hour', status_at = status_at - interval '1 hour'"
    await node.sql(f"{an_hour} WHERE title <> 'Alert 3'")
    await changed(node, reopened, "reopen")
    assert [str(row["alert_id"]) for row in await node.sql(OPEN_TOO_LONG)] == [old["id"]]
    assert [str(row["alert_id"]) for row in await node.sql(OPEN_TOO_LONG.replace("status = 'open' AND", ""))] == [
        old["id"]
    ]


async def test_an_alert_that_its_own_source_reopens_is_open_since_then(node: Node) -> None:
    resolved = await node.post()
    expired = await node.post(expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    risen = await node.post(severity="warning", dedup_key="x")
    await changed(node, resolved, "resolve", by="billing")
    await changed(node, risen, "acknowledge")
    await node.an_hour_passes()
    await eventually(lambda: node.sql("SELECT FROM alerts WHERE status = 'expired'"))
    await node.sql("UPDATE alerts SET created_at = created_at - interval '1 hour'")
    for alert in (resolved, expired):
        await changed(node, alert, "reopen", by="billing")
    async with node.http() as source:
        repeated = {"title": "Worse", "severity": "critical", "dedup_key": "x"}
        assert (await source.post("/v1/alerts", json=repeated)).status_code == 200
    rows = await node.sql("SELECT status, status_by, open_for FROM audit.alerts ORDER BY seq")
    assert [(row["status"], row["status_by"]) for row in rows] == [("open", "billing")] * 3
    assert all(row["open_for"] < timedelta(minutes=10) for row in rows)


async def test_open_alerts_are_found_by_an_index_however_many_are_resolved(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection, 4_000)
        await connection.execute("UPDATE alerts SET status = 'resolved' WHERE seq % 1000 <> 0")
        await connection.execute("VACUUM ANALYZE alerts")
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN ANALYZE {OPEN_TOO_LONG}"))
        assert "ix_alerts_unresolved" in plan
        assert "Seq Scan on alerts" not in plan
        narrow = await connection.fetch(f"EXPLAIN {OPEN_TOO_LONG.replace('*', 'alert_id, title')}")
        assert "events" not in "\n".join(row[0] for row in narrow), "nobody asked who acknowledged them"
    finally:
        await connection.close()
