from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from service.database.locks import TableLock
from service.ledger.lost_nodes import LostNodes
from service.settings import StorageSettings
from tests.fixtures.audit_verify import assert_untampered
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger

LEASE = 0.3
LONG = 60.0
INSERT_KEY = (
    "INSERT INTO idempotency_keys (source, key, request_hash, seq, created_at)"
    " VALUES ('billing', $1, '', 1, now() - make_interval(secs => $2))"
)
LOST = "SELECT id FROM nodes WHERE ended_at IS NOT NULL"


@pytest.fixture
async def two_nodes(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> tuple[OpenLedger, OpenLedger]:
    """Two nodes; what they record is flushed only by the test."""
    return await open_ledger(node_lease_seconds=LEASE), await open_ledger(node_lease_seconds=LEASE)


async def watch(judge: OpenLedger, seconds: float = 2 * LEASE) -> None:
    """Let a node flush and do its housekeeping for some time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await judge.flusher.flush()
        await judge.housekeeping.run_once()
        await asyncio.sleep(LEASE / 10)


async def has_lost(judge: OpenLedger, other: OpenLedger) -> bool:
    await watch(judge, LEASE / 10)
    return await judge.rows(LOST) == [(other.ledger.node_id,)]


async def lost_after_a_while(judge: OpenLedger) -> LostNodes:
    """Let a node observe the others for two leases, and end none of them yet."""
    lost_nodes = LostNodes(judge.flusher)
    until = time.monotonic() + 2 * LEASE
    while time.monotonic() < until:
        await judge.flusher.flush()
        async with judge.pool.transaction() as tx:
            await lost_nodes.observe(tx)
        await asyncio.sleep(LEASE / 10)
    return lost_nodes


async def test_a_node_that_was_silent_for_its_lease_is_lost_and_its_connections_end_at_what_it_flushed(
    two_nodes: tuple[OpenLedger, OpenLedger],
) -> None:
    judge, other = two_nodes
    keeping_up, lagging, closed = (other.connection(name) for name in ("keeping up", "lagging", "closed"))
    await other.dispatch(0, 7)
    other.ledger.record_position(lagging, 4)
    other.ledger.record_closing(closed, 1000, "client")
    await other.flusher.flush()
    await other.dispatch(7, 9)
    living = judge.connection("living")
    await judge.flusher.flush()
    await eventually(lambda: has_lost(judge, other))
    rows = await judge.rows(
        "SELECT c.id, c.sent_seq, close_reason, closed_at = seen_at FROM connections c JOIN nodes n ON n.id = node_id"
    )
    assert sorted(rows) == sorted(
        [
            (keeping_up.id, 7, "node_lost", True),
            (lagging.id, 4, "node_lost", True),
            (closed.id, 7, "client", False),
            (living.id, None, None, None),
        ]
    )
    await assert_untampered(judge.url)


async def test_a_node_is_judged_by_the_lease_that_it_declared(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    judge, patient, other = [await open_ledger(node_lease_seconds=seconds) for seconds in (LEASE, LONG, LEASE)]
    connection = patient.connection()
    await patient.flusher.flush()
    await eventually(lambda: has_lost(judge, other))
    await watch(judge)
    assert await judge.rows(LOST) == [(other.ledger.node_id,)]
    assert await judge.rows("SELECT id FROM connections WHERE closed_at IS NULL") == [(connection.id,)]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_set_by_an_hour_ends_no_lease_and_keeps_none(
    open_ledger: Callable[..., Awaitable[OpenLedger]], hours: int
) -> None:
    judge, patient, other = [await open_ledger(node_lease_seconds=seconds) for seconds in (LEASE, LONG, LEASE)]
    patient.connection()
    await patient.flusher.flush()
    for node in (judge, patient, other):
        await judge.age(node.ledger.node_id, hours * 3600)
    await eventually(lambda: has_lost(judge, other))
    await patient.flusher.flush()
    assert await judge.rows("SELECT id FROM connections WHERE closed_at IS NOT NULL") == []


async def test_a_node_that_renews_its_lease_at_the_last_moment_is_not_lost(
    two_nodes: tuple[OpenLedger, OpenLedger],
) -> None:
    judge, other = two_nodes
    connection = other.connection()
    await other.flusher.flush()
    lost_nodes = await lost_after_a_while(judge)
    async with judge.pool.transaction() as tx:
        await other.age(other.ledger.node_id, 0)
        await lost_nodes.end(tx)
    assert await judge.rows(LOST) == []
    assert await judge.rows("SELECT id FROM connections WHERE closed_at IS NULL") == [(connection.id,)]


async def test_a_node_whose_flush_failed_judges_nobody_before_it_has_flushed_for_a_lease(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    judge = await open_ledger(node_lease_seconds=LEASE)
    other = await open_ledger(node_lease_seconds=3 * LEASE)
    await watch(judge, 2 * LEASE)
    judge.connection()
    async with judge.locked():
        await judge.time_out(judge.flusher.flush())
    await watch(judge, 2 * LEASE)
    assert await judge.rows(LOST) == []
    await eventually(lambda: has_lost(judge, other))


async def test_a_node_that_was_declared_lost_judges_nobody(two_nodes: tuple[OpenLedger, OpenLedger]) -> None:
    judge, other = two_nodes
    lost_nodes = await lost_after_a_while(judge)
    async with judge.pool.transaction() as tx:
        await judge.database.execute("SELECT end_nodes(ARRAY[$1::uuid], 'node_lost')", judge.ledger.node_id)
        await lost_nodes.end(tx)
    assert await judge.rows(LOST) == [(judge.ledger.node_id,)]
    assert await judge.rows("SELECT id FROM nodes WHERE ended_at IS NULL") == [(other.ledger.node_id,)]


async def test_housekeeping_leaves_the_work_to_a_node_that_is_at_it(
    two_nodes: tuple[OpenLedger, OpenLedger],
) -> None:
    judge, other = two_nodes
    await other.database.execute(f"BEGIN; {TableLock.HOUSEKEEPING.lock}")
    await watch(judge)
    assert await judge.rows(LOST) == []
    await other.database.execute("COMMIT")
    await judge.housekeeping.run_once()  # it has observed meanwhile
    assert await judge.rows(LOST) == [(other.ledger.node_id,)]


async def test_attempts_to_commit_are_forgotten_when_none_can_still_be_under_way(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    await opened.database.execute(
        "INSERT INTO commit_attempts SELECT n, n % 2 = 0, now() - n * interval '50 min' FROM generate_series(0, 3) n"
    )
    await opened.housekeeping.run_once()
    assert await opened.rows("SELECT id FROM commit_attempts ORDER BY 1") == [(0,), (1,)]


async def test_idempotency_keys_are_forgotten_when_they_are_old_enough(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger(storage=StorageSettings(idempotency_key_ttl_hours=24))
    for key, hours in (("old", 24.1), ("young", 23.9)):
        await opened.database.execute(
            INSERT_KEY,
            key,
            hours * 3600,
        )
    await opened.housekeeping.run_once()
    assert await opened.rows("SELECT key FROM idempotency_keys") == [("young",)]


async def test_partitions_are_made_ahead_of_the_log(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    opened = await open_ledger()
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass"
    before = await opened.rows(partitions)
    await opened.housekeeping.run_once()
    assert await opened.rows(partitions) == before
    await opened.database.execute(
        "INSERT INTO log_chain (last_seq, first_seq, last_id, linked_at, hash) VALUES (2500000, 1, 1, now(), '')"
    )
    await opened.housekeeping.run_once()
    assert await opened.rows("SELECT to_regclass('events_p5000000') IS NOT NULL") == [(True,)]


async def test_housekeeping_goes_on_after_the_database_could_not_be_reached(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger(
        housekeeping_interval_seconds=0.05, storage=StorageSettings(database_timeout_seconds=0.2)
    )
    await opened.database.execute(INSERT_KEY, "old", 9 * 24 * 3600)
    working = asyncio.create_task(opened.housekeeping.task.run())
    try:
        async with opened.database.transaction():
            await opened.database.execute("LOCK TABLE idempotency_keys")
            attempts = set[Any]()
            await eventually(lambda: attempt(opened, attempts))
        await eventually(lambda: all_forgotten(opened))
        assert not working.done()
    finally:
        working.cancel()
        await asyncio.wait([working])


async def attempt(opened: OpenLedger, attempts: set[Any]) -> bool:
    """Note the transaction that waits for the table, and say whether it is the second one."""
    waiting = "SELECT virtualtransaction FROM pg_locks WHERE NOT granted AND relation = 'idempotency_keys'::regclass"
    attempts |= set(await opened.rows(waiting))
    return len(attempts) > 1


async def all_forgotten(opened: OpenLedger) -> bool:
    return not await opened.rows("SELECT key FROM idempotency_keys")
