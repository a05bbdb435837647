from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.faults.load import UNLIMITED, Admin, Load, assert_ledger_within, ledger_knows, received_all
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

JUDGED_SOON = {"TOCSIN_NODE_LEASE_SECONDS": "2", "TOCSIN_HOUSEKEEPING_INTERVAL_SECONDS": "0.2"}


@pytest.mark.parametrize("pause", [0.05, pytest.param(0, marks=pytest.mark.long)])
async def test_a_node_killed_under_load_loses_nothing_and_its_ledger_claims_nothing_that_was_not_sent(
    start: Callable[..., Process], pause: float
) -> None:
    node = start(**UNLIMITED, **JUDGED_SOON)
    # They do not acknowledge: a kernel that closes a socket with unread messages throws away what it has yet to send.
    silent = [
        Admin(node, "alice"),
        Admin(node, "bob", topics=("payments.*",)),
        Admin(node, "carol", min_severity="error"),
    ]
    acknowledging = Admin(node, "dave", acks=True)
    load = Load(pause)
    async with AsyncExitStack() as stack:
        for admin in (*silent, acknowledging):
            await stack.enter_async_context(admin)
        await eventually(lambda: all(admin.sessions for admin in (*silent, acknowledging)))
        posting = asyncio.create_task(load.run(node))
        await eventually(lambda: ledger_knows((*silent, acknowledging)))
        node.kill()
        await asyncio.to_thread(start, urlsplit(node.base).port, **UNLIMITED, **JUDGED_SOON)
        load.finish()
        await posting
        await eventually(await received_all((*silent, acknowledging)))
        await node.flushed(load.count)
        await eventually(lambda: node_lost(node))
    await load.assert_stored_once(node)
    for admin in (*silent, acknowledging):
        assert len(admin.sessions) == 2
        assert admin.seqs == await admin.expected()
    await assert_ledger_within(silent)
    acked = {session.id: session.acked for session in acknowledging.sessions}
    receipts = await node.sql("SELECT connection_id::text, seq FROM receipts")
    assert receipts
    assert all(seq <= acked[connection] for connection, seq in receipts)
    lost = {admin.sessions[0].id for admin in (*silent, acknowledging)}
    closed = await node.sql("SELECT id::text, sent_seq FROM connections WHERE close_reason = 'node_lost'")
    assert {row[0] for row in closed} == lost
    assert all(row[1] > 0 for row in closed)


async def node_lost(node: Process) -> bool:
    rows = await node.sql("SELECT count(*) FROM nodes WHERE ended_at IS NOT NULL")
    return bool(rows[0][0])


async def test_a_batch_that_a_crash_interrupts_is_stored_once_when_it_is_sent_again(
    start: Callable[..., Process],
) -> None:
    settings = {**UNLIMITED, "TOCSIN_COMMIT_BATCH_SIZE": "2"}
    node = start(**settings)
    batch = [{"title": "repeated", "dedup_key": "k"}] * 300 + [{"title": f"alert {number}"} for number in range(600)]
    key = {"Idempotency-Key": "nightly"}

    async def stored() -> list[str]:
        return [row[0] for row in await node.sql("SELECT title FROM alerts ORDER BY title")]

    async with node.http() as client:
        posting = asyncio.create_task(client.post("/v1/alerts/batch", json=batch, headers=key))
        await eventually(stored)
        node.kill()
        await asyncio.gather(posting, return_exceptions=True)
    await asyncio.to_thread(start, urlsplit(node.base).port, **settings)
    async with node.http() as client:
        first = await client.post("/v1/alerts/batch", json=batch, headers=key)
        again = await client.post("/v1/alerts/batch", json=batch, headers=key)
        other = await client.post("/v1/alerts/batch", json=batch[1:], headers=key)
    assert {result["status"] for result in first.json()["results"]} <= {200, 201}
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert other.status_code == 422
    titles = await stored()
    assert len(titles) == len(set(titles)) == 601
    [[occurrences]] = await node.sql("SELECT occurrences FROM alerts WHERE dedup_key IS NOT NULL")
    assert occurrences == 300
