"""Slow queries of auditors: they delay only one another, are refused clearly, and end when nobody waits."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import httpx2
import pytest

from service.settings import LedgerSettings, LimitSettings, Settings, StorageSettings
from tests.harness import PATIENCE, PLAIN, READ, eventually, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.harness import Node

AUDIT = "audit:read"
UNRECEIVED = "/v1/audit/unreceived"
TIMEOUT_SECONDS = 4
LEASE_SECONDS = 2
UNDER_WAY = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def node(database_url: str) -> Iterator[Node]:
    settings = Settings(
        storage=StorageSettings(database_timeout_seconds=TIMEOUT_SECONDS),
        limits=LimitSettings(read_limit="10000/second", write_limit="10000/second"),
        ledger=LedgerSettings(node_lease_seconds=LEASE_SECONDS, housekeeping_interval_seconds=0.2),
    )
    with serving(database_url, settings) as running:
        yield running


@asynccontextmanager
async def slow_audits(node: Node) -> AsyncIterator[None]:
    """Let every query of the view wait, and nothing else."""
    connection = await asyncpg.connect(node.database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("ALTER VIEW audit.unreceived RENAME TO unreceived_soon")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def test_sixteen_slow_audits_delay_no_post_no_stream_no_lease_and_no_other_auditor(node: Node) -> None:
    async with (
        slow_audits(node),
        await node.live("alice") as alice,
        node.http("mallory", AUDIT) as mallory,
        node.http("trent", f"{READ} {AUDIT}") as trent,
        httpx2.AsyncClient(base_url=node.base, **PLAIN) as anybody,
    ):
        audits = [asyncio.create_task(mallory.get(UNRECEIVED, timeout=PATIENCE)) for _ in range(16)]
        await eventually(lambda: node.sql(UNDER_WAY))
        begun = time.monotonic()
        while not all(audit.done() for audit in audits):
            alert = await node.post()
            [event] = await alice.events(1)
            assert event["seq"] == alert["seq"]
            for path in ("/readyz", "/healthz"):
                assert (await anybody.get(path)).status_code == 200
            for path in ("/v1/alerts", "/v1/audit/connections?limit=1"):
                assert (await trent.get(path)).status_code == 200
        assert time.monotonic() - begun > LEASE_SECONDS
        await node.flushed(alert["seq"])
        answers = await asyncio.gather(*audits)
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} == {"too_many_queries", "query_timeout"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert await node.sql("SELECT FROM nodes WHERE ended_at IS NULL")
    assert not await node.sql("SELECT FROM connections WHERE close_reason = 'node_lost'")


async def test_a_handshake_that_finds_no_connection_is_closed_overloaded_and_keeps_nobody_out(node: Node) -> None:
    holder = await asyncpg.connect(node.database_url)
    async with holder.transaction(), AsyncExitStack() as streams:
        await holder.execute("LOCK TABLE recipients IN EXCLUSIVE MODE")  # resume points are written there
        opening = [await streams.enter_async_context(await node.stream("mallory")) for _ in range(5)]
        assert await opening[-1].closed() == (1013, "overloaded")
        async with node.http("trent", READ) as trent:
            assert (await trent.get("/v1/alerts")).status_code == 200
    await holder.close()


async def test_a_query_that_takes_too_long_is_canceled_and_its_answer_says_what_to_do(node: Node) -> None:
    async with slow_audits(node), node.http("trent", AUDIT) as trent:
        answer = await trent.get(UNRECEIVED, timeout=PATIENCE)
        assert (answer.status_code, answer.json()["code"]) == (503, "query_timeout")
        assert "shorter period" in answer.json()["detail"]
        await eventually(lambda: _nothing_waits(node))
    async with node.http("trent", AUDIT) as trent:
        assert (await trent.get(UNRECEIVED)).status_code == 200


async def test_a_report_may_take_longer_than_a_read(node: Node) -> None:
    async with node.http("trent", AUDIT) as trent, node.http("mallory", AUDIT) as mallory:
        async with slow_audits(node):
            asked = asyncio.create_task(trent.get("/v1/audit/report", timeout=PATIENCE))
            await eventually(lambda: node.sql(UNDER_WAY))
            read = await mallory.get(UNRECEIVED, timeout=PATIENCE)
            assert (read.status_code, read.json()["code"]) == (503, "query_timeout")
            assert not asked.done()
        assert (await asked).status_code == 200


async def test_a_query_whose_client_has_gone_is_canceled(node: Node) -> None:
    async with slow_audits(node):
        async with node.http("trent", AUDIT) as trent:
            asked = asyncio.create_task(trent.get(UNRECEIVED, timeout=PATIENCE))
            await eventually(lambda: node.sql(UNDER_WAY))
            asked.cancel()
            await asyncio.wait([asked])
        begun = time.monotonic()
        await eventually(lambda: _nothing_waits(node))
        assert time.monotonic() - begun < TIMEOUT_SECONDS, "long before it would have been canceled anyway"


async def _nothing_waits(node: Node) -> bool:
    return not await node.sql(UNDER_WAY)
