from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from service.database.locks import AdvisoryLock
from service.settings import StorageSettings
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.ledger.flusher import LedgerFlusher
    from tests.fixtures.open_ledger import OpenLedger

LEASE = 0.3
INSERT_KEY = (
    "INSERT INTO idempotency_keys (source, key, request_hash, seq, created_at)"
    " VALUES ('billing', $1, '', 1, now() - make_interval(secs => $2))"
)
LOST = "SELECT id FROM nodes WHERE ended_at IS NOT NULL"


@pytest.fixture
async def two_nodes(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> tuple[OpenLedger, OpenLedger]:
    """A node that has flushed for longer than the lease, so that it may judge, and another."""
    judge = await open_ledger(node_lease_seconds=LEASE)
    other = await open_ledger(node_lease_seconds=LEASE)
    await eventually(lambda: has_flushed_for_a_lease(judge.flusher))
    await other.flusher.flush()
    return judge, other


async def has_flushed_for_a_lease(flusher: LedgerFlusher) -> bool:
    await flusher.flush()
    return flusher.is_punctual


async def test_a_node_that_was_silent_for_its_lease_is_lost_and_its_connections_end_at_what_it_flushed(
    two_nodes: tuple[OpenLedger, OpenLedger],
) -> None:
    judge, other = two_nodes
    keeping_up, lagging, closed = (other.connection(name) for name in ("keeping up", "lagging", "closed"))
    other.ledger.record_dispatch(0, 7, to_anybody=True)
    other.ledger.record_position(lagging, 4)
    other.ledger.record_closing(closed, 1000, "client")
    await other.flusher.flush()
    other.ledger.record_dispatch(7, 9, to_anybody=True)
    living = judge.connection("living")
    await judge.flusher.flush()
    await other.age(other.ledger.node_id, 2 * LEASE)
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == [(other.ledger.node_id,)]
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


async def test_a_node_whose_lease_holds_is_left_alone(two_nodes: tuple[OpenLedger, OpenLedger]) -> None:
    judge, other = two_nodes
    connection = other.connection()
    await other.flusher.flush()
    await other.age(other.ledger.node_id, 0.0)
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == []
    assert await judge.rows("SELECT id FROM connections WHERE closed_at IS NULL") == [(connection.id,)]


async def test_a_node_that_has_just_begun_judges_nobody(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    young, other = await open_ledger(), await open_ledger()
    await other.age(other.ledger.node_id, 1000)
    await young.housekeeping.run_once()
    assert await young.rows(LOST) == []


async def test_a_node_whose_own_lease_has_lapsed_judges_nobody(two_nodes: tuple[OpenLedger, OpenLedger]) -> None:
    judge, other = two_nodes
    for node in (judge, other):
        await node.age(node.ledger.node_id, 2 * LEASE)
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == []


async def test_a_node_whose_flush_failed_judges_nobody_before_it_has_flushed_for_a_lease(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    judge = await open_ledger(node_lease_seconds=LEASE, storage=StorageSettings(database_timeout_seconds=LEASE / 2))
    other = await open_ledger(node_lease_seconds=LEASE)
    await eventually(lambda: has_flushed_for_a_lease(judge.flusher))
    judge.connection()
    async with judge.locked():
        with pytest.raises(Exception, match="PostgreSQL cannot be reached"):
            await judge.flusher.flush()
    await judge.flusher.flush()
    await other.age(other.ledger.node_id, 2 * LEASE)
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == []
    await eventually(lambda: has_flushed_for_a_lease(judge.flusher))
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == [(other.ledger.node_id,)]


async def test_a_node_that_was_held_up_for_a_lease_judges_nobody_who_was_held_up_with_it(
    two_nodes: tuple[OpenLedger, OpenLedger],
) -> None:
    judge, other = two_nodes
    judge.connection()
    async with judge.locked():
        flush = asyncio.create_task(judge.flusher.flush())
        await asyncio.sleep(1.5 * LEASE)  # time is what this is about
        assert not flush.done()
    await flush
    judge.connection()
    await judge.flusher.flush()
    await other.age(other.ledger.node_id, 1.5 * LEASE)
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == []


async def test_housekeeping_leaves_the_work_to_a_node_that_is_at_it(
    two_nodes: tuple[OpenLedger, OpenLedger],
) -> None:
    judge, other = two_nodes
    await other.age(other.ledger.node_id, 2 * LEASE)
    await other.database.execute(f"SELECT pg_advisory_lock({AdvisoryLock.HOUSEKEEPING:d})")
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == []
    await other.database.execute(f"SELECT pg_advisory_unlock({AdvisoryLock.HOUSEKEEPING:d})")
    await judge.flusher.flush()
    await judge.housekeeping.run_once()
    assert await judge.rows(LOST) == [(other.ledger.node_id,)]


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
