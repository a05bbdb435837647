from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.database.engine import Database, parse_url
from service.events.hash_chain import LINK_GRID, NO_HASH, digest, link
from service.events.log import read_tail
from service.events.position import ORIGIN
from service.settings import StorageSettings
from tests import harness
from tests.events.test_log import item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness import Node


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def links(connection: asyncpg.Connection) -> list[Any]:
    rows: list[Any] = await connection.fetch("SELECT * FROM log_chain ORDER BY last_seq")
    return rows


async def check(database_url: str) -> list[Any]:
    """Compute each link again from what the log holds, and return them."""
    connection = await asyncpg.connect(database_url)
    rows = await links(connection)
    await connection.close()
    database = Database(parse_url(database_url), StorageSettings())
    async with database.transaction() as tx:
        events = await read_tail(tx, ORIGIN, 100_000)
    await database.close()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    before, covered = NO_HASH, 0
    for row in rows:
        assert row["first_seq"] == covered + 1
        batch = events[covered : row["last_seq"]]
        before = link(before, row["first_seq"], row["linked_at"], [digest(event.line) for event in batch])
        assert row["hash"] == before
        covered = row["last_seq"]
    assert covered == len(events)
    return rows


async def append(connection: asyncpg.Connection, count: int) -> None:
    alerts = [json.dumps(item()["alert"]).encode() for _ in range(count)]
    await harness.append(connection, alerts)


async def test_all_that_happens_to_alerts_is_linked(node: Node) -> None:
    alert = await node.post('Ümläute and "quotes" \\ and more', body="line\nline")
    await node.post_all([{"topic": "payments.eu", "recipients": ["alice", "bob"]}] * 20)
    await node.post(dedup_key="k")
    async with node.http("alice", "alerts:read alerts:manage") as alice:
        await alice.post(f"/v1/alerts/{alert['id']}/acknowledge")
        await alice.post(f"/v1/alerts/{alert['id']}/comments", json={"text": 'I have "it"\n'})
    rows = await check(node.database_url)
    assert rows[0]["first_seq"] == 1
    assert all(a["linked_at"] <= b["linked_at"] for a, b in pairwise(rows))


async def test_what_a_known_key_repeats_is_not_linked_again(node: Node) -> None:
    async with node.http() as client:
        batch = [{"title": f"{n}", "idempotency_key": f"k{n % 3}"} for n in range(8)]
        for _ in range(2):
            await client.post("/v1/alerts/batch", json=batch)
    rows = await check(node.database_url)
    assert rows[-1]["last_seq"] == 3


async def test_no_link_crosses_a_multiple_of_the_grid(connection: asyncpg.Connection, database_url: str) -> None:
    """Whole partitions of the log, whose size is a multiple of it, hold whole links."""
    for count in (4_000, 4_000, 1_998, 1, 1, 1, 4_000):
        await append(connection, count)
    rows = await check(database_url)
    assert [row["last_seq"] for row in rows] == [4_000, 8_000, 9_998, 9_999, 10_000, 10_001, 14_001]
    await append(connection, 5_000)
    await append(connection, 5_000)
    rows = await check(database_url)
    assert [row["last_seq"] for row in rows[-3:]] == [19_001, 2 * LINK_GRID - 1, 24_001]
