"""A small scenario whose numbers are known, against every place that states them."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from service.metrics import DELIVERIES, HANDSHAKES_REJECTED, REPLAYED_DELIVERIES
from service.settings import LimitSettings, Settings
from tests.harness import eventually, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness import Node

REJECTED = 50
METRICS = {"sent": DELIVERIES, "replayed": REPLAYED_DELIVERIES, "rejected": HANDSHAKES_REJECTED.labels("scope_missing")}


@dataclass
class Scenario:
    """Two nodes, and what happened on them."""

    node: Node
    first: dict[str, Any]
    restricted: dict[str, Any]
    metrics: dict[str, float]
    """What was counted meanwhile."""


@asynccontextmanager
async def scenario(url: str) -> AsyncIterator[Scenario]:
    """Alice is there, bob comes late, carol went before, dave comes when all is over, erin was deactivated.

    Events: 1 the first alert, 2 one for alice and zoe only, 3 its acknowledgement, 4 a third alert.
    """
    limits = Settings(limits=LimitSettings(auth_failure_limit="5/hour"))
    before = {name: metric._value.get() for name, metric in METRICS.items()}
    async with AsyncExitStack() as stack:
        one = stack.enter_context(serving(url, limits))
        other = stack.enter_context(serving(url, limits))
        for name in ("carol", "erin"):
            await (await one.live(name)).close()
            await eventually(lambda name=name: one.sql("SELECT FROM recipients WHERE id = $1", name))  # type: ignore[misc]
        async with one.http("root", "admin") as root:
            assert (await root.post("/v1/recipients/erin/deactivate", json={})).status_code == 200
        alice = await stack.enter_async_context(await one.live("alice"))
        first = await one.post("First", severity="critical", topic="payments.eu")
        restricted = await other.post("For two", recipients=["alice", "zoe"])
        async with other.http("alice", "alerts:read alerts:manage") as desk:
            assert (await desk.post(f"/v1/alerts/{restricted['id']}/acknowledge")).status_code == 200
        await alice.events(3)
        await alice.ack(3)
        await eventually(lambda: one.sql("SELECT FROM receipts WHERE seq = 3"))
        await other.flushed(3)
        bob = await stack.enter_async_context(await other.live("bob", after=0))
        third = await one.post("Third", topic="search")
        for stream in (alice, bob):
            await stream.events(1)
        await bob.ack(third["seq"])
        await eventually(lambda: one.sql("SELECT FROM receipts WHERE seq = 4"))
        for _ in range(REJECTED):
            await (await one.stream("mallory", scope="alerts:write")).closed()
        async with one.http() as source:
            assert (await source.post("/v1/alerts", json={})).status_code == 422
        await one.flushed(4)
        dave = await stack.enter_async_context(await one.live("dave", after="latest"))
        for done in (
            f"SELECT FROM audit.rejection_counts WHERE rejections = {REJECTED}",
            "SELECT FROM audit.presence OFFSET 2",
            "SELECT FROM connections WHERE closed_at IS NOT NULL OFFSET 1",
            "SELECT FROM audit.sources WHERE refused = 1 AND alerts = 3",
            "SELECT FROM connections WHERE recipient = 'dave' AND live_seq IS NOT NULL",
        ):
            await eventually(lambda done=done: one.sql(done))  # type: ignore[misc]
        counted = {name: metric._value.get() - before[name] for name, metric in METRICS.items()}
        yield Scenario(one, first, restricted, counted)
        await dave.close()


@pytest_asyncio.fixture
async def happened(database_url: str) -> AsyncIterator[Scenario]:
    async with scenario(database_url) as given:
        yield given


async def test_the_views_the_report_and_the_metrics_say_what_happened(happened: Scenario) -> None:
    node = happened.node
    deliveries = await node.sql("SELECT recipient, seq, replayed, received_at IS NOT NULL FROM audit.deliveries")
    assert sorted(map(tuple, deliveries)) == [
        ("alice", 1, False, True),
        ("alice", 2, False, True),
        ("alice", 3, False, True),
        ("alice", 4, False, False),
        ("bob", 1, True, True),
        ("bob", 4, False, True),
    ]
    unreceived = await node.sql("SELECT recipient, seq FROM audit.unreceived")
    assert sorted(map(tuple, unreceived)) == [("alice", 4), ("carol", 1), ("carol", 4), ("zoe", 2)]
    latency = await node.sql("SELECT sum(deliveries), sum(replayed), sum(received) FROM audit.latency")
    assert tuple(latency[0]) == (6, 1, 5)
    alerts = await node.sql("SELECT title, status, acknowledged_by FROM audit.alerts ORDER BY seq")
    assert list(map(tuple, alerts)) == [
        ("First", "open", None),
        ("For two", "acknowledged", "alice"),
        ("Third", "open", None),
    ]
    present = await node.sql("SELECT recipient, connections FROM audit.presence ORDER BY recipient")
    assert list(map(tuple, present)) == [("alice", 1), ("bob", 1), ("dave", 1)]
    steps = await node.sql("SELECT action, count(*)::int FROM audit.timeline GROUP BY action ORDER BY action")
    assert dict(map(tuple, steps)) == {"alert.acknowledged": 1, "alert.created": 3, "received": 5, "sent": 6}
    async with node.http("auditor", "audit:read") as auditor:
        report = (await auditor.get("/v1/audit/report")).json()
        alert = (await auditor.get(f"/v1/audit/alerts/{happened.first['id']}")).json()
        rejections = (await auditor.get("/v1/audit/rejections")).json()
    assert [(each["severity"], each["alerts"], each["unresolved"]) for each in report["alerts"]] == [
        ("critical", 1, 1),
        ("info", 2, 2),
    ]
    assert [report["deliveries"][name] for name in ("sent", "replayed", "received")] == [6, 1, 5]
    missing = {each["recipient"]: each["alerts"] for each in report["unreceived"]}
    assert missing == {"alice": 1, "carol": 2, "zoe": 1}
    assert report["connections"] == {"opened": 5, "open_now": 3}
    assert [(each["reason"], each["connections"]) for each in report["closes"]] == [("client", 2)]
    counts = [{"reason": "scope_missing", "rejections": REJECTED}]
    assert report["rejections"] == rejections["counts"] == counts
    assert len(rejections["rejections"]) == 5
    assert [(each["source"], each["alerts"], each["refused"]) for each in report["sources"]] == [("billing", 3, 1)]
    assert alert["counts"] == {"recipients": 3, "sent_to": 2, "received_by": 2, "seen_by": 0}
    assert {each["recipient"] for each in alert["recipients"]} == {"alice", "bob", "carol"}
    assert happened.metrics == {"sent": 6, "replayed": 1, "rejected": REJECTED}
