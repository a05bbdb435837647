from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import UNLIMITED, Admin, Load, assert_ledger_is_complete, received_all
from tests.harness import eventually, start_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.conftest import Postgres
    from tests.harness import Process

ALERTS = 2_000
LEASE = 1.5


@pytest.fixture
def two_nodes(own_database: str, tmp_path: Path) -> Iterator[list[Process]]:
    variables = {
        **UNLIMITED,
        "TOCSIN_NODE_LEASE_SECONDS": str(LEASE),
        "TOCSIN_JANITOR_SECONDS": "0.2",
        "TOCSIN_SETTLE_SECONDS": "1",
    }
    nodes = [start_process(own_database, tmp_path, 0, **variables) for _ in range(2)]
    yield nodes
    for node in nodes:
        node.stop()
        assert node.process.stdout is not None
        node.process.stdout.close()


@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_postgres_stops_under_load_and_comes_back(
    own_postgres: Postgres, two_nodes: list[Process], mode: str
) -> None:
    node, other = two_nodes
    admins = [Admin(node, "alice"), Admin(other, "bob", topics=("payments.*",)), Admin(other, "carol")]
    load = Load(ALERTS)
    async with AsyncExitStack() as stack:
        for admin in admins:
            await stack.enter_async_context(admin)
        await eventually(lambda: all(admin.sessions for admin in admins))
        posting = asyncio.create_task(load.run(node))
        await eventually(lambda: len(load.stored) > ALERTS // 3)
        await asyncio.to_thread(own_postgres.stop, mode)
        stopped = time.monotonic()
        await eventually(lambda: load.refusals and time.monotonic() > stopped + LEASE + 0.5)
        assert len(load.stored) < ALERTS
        await asyncio.to_thread(own_postgres.start)
        await posting
        await eventually(await received_all(admins))
        await node.flushed(ALERTS)
        started = time.monotonic()
        await eventually(lambda: time.monotonic() > started + LEASE + 0.5)  # the janitors may judge again
    await load.assert_stored_once(node)
    assert {refusal.document["code"] for refusal in load.refusals} <= {"database_unavailable", "outcome_unknown"}
    for refusal in load.refusals:
        assert refusal.headers["content-type"] == "application/problem+json"
        assert int(refusal.headers["retry-after"]) >= 1
    for admin in admins:
        assert len(admin.sessions) == 1
        assert admin.seqs == await admin.expected()
    await assert_ledger_is_complete(admins)
    nodes = await node.sql("SELECT ended_at FROM nodes")
    assert [row[0] for row in nodes] == [None, None]
