"""Fixtures: a database that holds what the service wrote while admins came, acknowledged, acted and dropped."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from service.settings import LedgerSettings, Settings
from tests.harness import eventually, new_database, serving, start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness import Node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lived(server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The name of the database, which nobody is connected to: tests copy theirs from it."""
    name = f"lived_{uuid.uuid4().hex}"
    async with new_database(server_url, name, template) as url:
        with serving(url, Settings(ledger=LedgerSettings(receipt_resolution_seconds=1e-9))) as node:
            await live(node)
        await leave_open(url, tmp_path_factory.mktemp("node"))
        yield name


@pytest.fixture
async def altered_url(server_url: str, lived: str) -> AsyncIterator[str]:
    """A copy of it, for one test to alter."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", lived) as url:
        yield url


_CLOSED = "SELECT count(*) FROM connections WHERE closed_at IS NOT NULL HAVING count(*) >= $1"


async def live(node: Node) -> None:
    """Let everything happen that the chains cover."""
    async with await node.live("alice") as alice, node.http("alice", "alerts:read alerts:manage") as console:
        for round_ in range(4):
            bob = await node.live("bob", topics="payments.*", min_severity="warning")
            alert = await node.post(f'Ümläut "{round_}" \\', topic="payments.eu", severity="critical", body="a\nb")
            async with node.http() as client:
                many = [{"title": f"{n}", "topic": "search", "recipients": ["carol", "alice"]} for n in range(5)]
                await client.post("/v1/alerts/batch", json=many)
            await node.post_all([{"topic": "search", "dedup_key": "k", "recipients": ["bob", "alice"]}])
            await console.post(f"/v1/alerts/{alert['id']}/acknowledge")
            await console.post(f"/v1/alerts/{alert['id']}/comments", json={"text": 'I have "it"\n'})
            for frame in await alice.events(8):
                await alice.ack(frame["seq"])
            last = (await bob.events(3))[-1]["seq"]
            await bob.ack(last)
            await eventually(partial(node.sql, "SELECT FROM receipts WHERE seq = $1", last))
            bob.connection.transport.abort()
            await eventually(partial(node.sql, _CLOSED, round_ + 1))


async def leave_open(url: str, folder: Path) -> None:
    """Let a node crash that has a connection."""
    node = start_process(url, folder)
    try:
        stream = await node.live("dave")
        await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NULL"))
    finally:
        node.kill()
        if node.process.stdout:
            node.process.stdout.close()
    await stream.close()
