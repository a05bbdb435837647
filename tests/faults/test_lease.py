from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import text

from service.database.engine import Database, parse_url
from service.errors import DatabaseUnavailable
from service.maintenance.abandoned_transactions import AbandonedTransactions
from service.settings import StorageSettings
from tests.faults.load import UNLIMITED, Admin, Load, assert_ledger_within, received_all
from tests.fixtures.pooler import pooling
from tests.harness import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

SHORT = {
    **UNLIMITED,
    "TOCSIN_NODE_LEASE_SECONDS": "4",
    "TOCSIN_HOUSEKEEPING_INTERVAL_SECONDS": "0.2",
    "TOCSIN_DATABASE_TIMEOUT_SECONDS": "2",
}


@pytest.mark.parametrize("pause", [0.05, pytest.param(0, marks=pytest.mark.long)])
async def test_a_node_that_froze_for_longer_than_its_lease_starts_over_and_its_clients_miss_nothing(
    start: Callable[..., Process], pause: float
) -> None:
    node, frozen = start(**SHORT), start(**SHORT)
    on_frozen = [Admin(frozen, "alice"), Admin(frozen, "bob", topics=("payments.*",))]
    elsewhere = Admin(node, "carol")
    load = Load(pause)
    async with AsyncExitStack() as stack:
        for admin in (*on_frozen, elsewhere):
            await stack.enter_async_context(admin)
        await eventually(lambda: all(admin.sessions for admin in (*on_frozen, elsewhere)))
        posting = asyncio.create_task(load.run(node))
        await eventually(lambda: len(load.stored) > 100)
        # A slow start may have cost a node its first lease, and with it that id.
        [current] = await node.sql("SELECT id FROM nodes WHERE pid = $1 AND ended_at IS NULL", frozen.process.pid)
        both_written = "SELECT FROM connections WHERE node_id = $1 HAVING count(*) = 2"
        await eventually(lambda: node.sql(both_written, current["id"]))
        frozen.process.send_signal(signal.SIGSTOP)
        [head] = (await node.sql("SELECT max(seq) FROM events"))[0]
        try:
            await eventually(lambda: len(load.stored) > head + 100)
            load.finish()  # a node that is too busy to keep its own lease judges no other
            lost = await eventually(
                lambda: node.sql(
                    "SELECT id, sent_seq FROM nodes WHERE ended_at IS NOT NULL AND id = $1", current["id"]
                ),
                4 * PATIENCE,
            )
            await eventually(lambda: all_closed(node, lost[0]["id"]))
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        await posting
        await eventually(await received_all((*on_frozen, elsewhere)))
        await eventually(lambda: all(len(admin.sessions) >= 2 for admin in on_frozen))
        await node.flushed(load.count)
    for admin in (*on_frozen, elsewhere):
        assert admin.seqs == await admin.expected()
    for admin in on_frozen:
        assert (admin.sessions[0].code, admin.sessions[0].reason) == (1012, "shutting_down")
    # A node without its lease sends no event, because nobody could say that it did; it may have frozen amid a pass.
    assert load.count > head + 100
    assert max(seq for admin in on_frozen for seq in admin.sessions[0].seqs) <= head
    assert len(elsewhere.sessions) == 1
    await assert_ledger_within((*on_frozen, elsewhere))
    closed = await node.sql(
        "SELECT id::text, sent_seq, close_reason FROM connections WHERE node_id = $1", lost[0]["id"]
    )
    assert {row["id"] for row in closed} == {admin.sessions[0].id for admin in on_frozen}
    assert {row["close_reason"] for row in closed} == {"node_lost"}
    assert all(row["sent_seq"] <= lost[0]["sent_seq"] for row in closed)
    serving = await node.sql("SELECT pid FROM nodes WHERE ended_at IS NULL")
    assert {row["pid"] for row in serving} == {node.process.pid, frozen.process.pid}


async def all_closed(node: Process, lost: object) -> bool:
    rows = await node.sql("SELECT bool_and(closed_at IS NOT NULL) FROM connections WHERE node_id = $1", lost)
    return bool(rows[0][0])


@pytest.mark.parametrize("mode", [None, "transaction"])
@pytest.mark.parametrize("where", ["between statements", "within a statement"])
async def test_a_transaction_that_its_node_leaves_open_is_ended_and_lets_its_locks_go(
    database_url: str, where: str, mode: str | None
) -> None:
    settings = StorageSettings.model_validate(
        {"database_timeout_seconds": 0.5, "listen_url": database_url if mode else None}
    )
    other = await asyncpg.connect(database_url)
    with pooling(database_url, mode) if mode else nullcontext(database_url) as url:
        database, elsewhere = Database(parse_url(url), settings), Database(parse_url(url), settings)
        abandoned = AbandonedTransactions(elsewhere, 0.5)

        async def freeze() -> None:
            async with database.transaction() as tx:
                await tx.execute(text("LOCK TABLE alerts IN SHARE MODE"))
                if where == "within a statement":  # PostgreSQL waits for its parameters
                    raw: Any = (await tx.get_raw_connection()).driver_connection
                    await raw.prepare("SELECT $1::int")
                await abandoned.end()  # it may still go on
                assert await is_locked(other, 0.1)
                await asyncio.sleep(0.6)
                await abandoned.end()
                if await is_locked(other, 5):
                    pytest.fail("the lock was kept")
                await tx.execute(text("SELECT 1"))

        with pytest.raises(DatabaseUnavailable):
            await freeze()
        await abandoned.close()
        await database.close()
        await elsewhere.close()
    await other.close()


async def is_locked(connection: asyncpg.Connection, seconds: float) -> bool:
    """Say whether somebody holds the lock for ``seconds``."""
    try:
        await connection.execute(f"SET lock_timeout = '{seconds}s'; LOCK TABLE alerts IN SHARE ROW EXCLUSIVE MODE")
    except asyncpg.LockNotAvailableError:
        return True
    return False


async def test_handshakes_of_a_node_that_froze_do_not_keep_an_admin_from_the_others(
    start: Callable[..., Process], database_url: str
) -> None:
    node = start(**UNLIMITED, TOCSIN_DATABASE_TIMEOUT_SECONDS="60")
    other = await asyncpg.connect(database_url)
    async with AsyncExitStack() as stack:
        async with other.transaction():
            await other.execute(
                "INSERT INTO recipients (id, topics, first_seen_at, last_seen_at) VALUES ('alice', '{*}', now(), now())"
            )
            for _ in range(3):
                await stack.enter_async_context(await node.stream("alice"))
            query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'begin_resume_point'"
            await eventually(lambda: three_wait(node, query))
            node.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE):
                await other.execute("UPDATE recipients SET last_seen_at = last_seen_at WHERE id = 'alice'")
                await other.execute("UPDATE resume_points SET used_at = used_at WHERE recipient = 'alice'")
        finally:
            node.process.send_signal(signal.SIGCONT)
    await other.close()


async def three_wait(node: Process, query: str) -> bool:
    return len(await node.sql(query)) == 3
