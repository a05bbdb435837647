"""The service behind PgBouncer, which gives each transaction whatever session is free."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import text

from service.database.durability import UnsafeServer
from service.database.engine import Database, parse_url
from service.database.libpq import connect
from service.database.locks import TableLock
from service.retention.runner import Retention
from service.settings import RetentionSettings, StorageSettings
from tests.fixtures.pooler import MODES, pooling, serving_through
from tests.harness import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.mark.parametrize("mode", MODES)
async def test_nodes_that_share_two_sessions_store_and_send_everything(database_url: str, mode: str) -> None:
    """A session pooler needs one for each connection, so there they have what they need."""
    sessions = {"default_pool_size": "2"} if mode == "transaction" else {}
    with (
        serving_through(database_url, mode, **sessions) as node,
        serving_through(database_url, mode, **sessions) as other,
    ):
        async with await node.live("alice") as alice, await other.live("bob") as bob:
            posts = [
                n.post_all([{"dedup_key": "same"} if k % 5 == 0 else {} for k in range(30)]) for n in (node, other)
            ]
            await asyncio.gather(*posts)
            [(head,)] = await node.sql("SELECT max(last_seq) FROM log_chain")
            for stream in (alice, bob):
                assert [event["seq"] for event in await stream.events(head)] == list(range(1, head + 1))
                await stream.ack(head)
            query = "SELECT FROM receipts r JOIN connections c ON c.id = r.connection_id WHERE recipient = $1"
            for subject in ("alice", "bob"):
                await eventually(partial(node.sql, query, subject))
        async with node.http("alice", "audit:read alerts:read") as client:
            assert (await client.get("/v1/presence")).status_code == 200


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database behind a pooler with one session, which all its clients share."""
    with pooling(database_url, "transaction", default_pool_size="1") as pooler:
        settings = StorageSettings.model_validate({"listen_url": database_url})
        database = Database(parse_url(pooler), settings)
        yield database
        await database.close()


async def test_nothing_of_a_transaction_is_left_in_the_session(database: Database, database_url: str) -> None:
    settings = (
        "synchronous_commit",
        "TimeZone",
        "idle_in_transaction_session_timeout",
        "default_transaction_isolation",
    )
    direct = await asyncpg.connect(database_url)
    before = [await direct.fetchval(f"SHOW {name}") for name in settings]
    await direct.close()
    async with database.transaction(snapshot=True) as tx:
        await tx.execute(text("SELECT 1"))
    async with database.transaction(autocommit=True) as tx:
        await tx.execute(text("SELECT severity FROM alerts"))
    connection = await database.connect_for_transactions()
    assert await connection.fetchval("SELECT 'info'::severity::text") == "info"
    assert await connection.execute("SELECT 1; SELECT 2") == "SELECT 1"
    await connection.close()
    stranger = await connect(database.url, statement_cache_size=0)
    assert [await stranger.fetchval(f"SHOW {name}") for name in settings] == before
    assert await stranger.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    await stranger.close()


async def test_a_transaction_has_no_limit_of_the_role(database: Database) -> None:
    direct = await database.connect()
    name = await direct.fetchval("SELECT current_database()")
    for setting in ("statement_timeout", "transaction_timeout"):
        await direct.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '90s'")
    await direct.close()
    async with database.transaction() as tx:
        for setting in ("statement_timeout", "transaction_timeout"):
            assert await tx.scalar(text(f"SHOW {setting}")) == "0"


async def test_one_retention_run_at_a_time(database: Database, database_url: str) -> None:
    retention = Retention(database, RetentionSettings(), lambda _seq: None)
    holder = await asyncpg.connect(database_url)
    await holder.execute(f"BEGIN; {TableLock.RETENTION.lock}")
    old = datetime.now(UTC) - timedelta(days=1)
    assert not await retention.purge(old)
    await holder.close()
    await eventually(lambda: retention.purge(old), PATIENCE)


async def test_a_restarted_server_is_another_one_until_the_node_has_looked(database: Database) -> None:
    connection = await database.connect_for_transactions()
    assert await connection.fetchval("SELECT 1") == 1
    database._server.identity = "1/2"  # as if the server had been another one when it was met
    with pytest.raises(UnsafeServer, match="does not lead to the database of TOCSIN_LISTEN_URL"):
        await connection.fetchval("SELECT 1")
    assert connection.is_closed()
    again = await database.connect_for_transactions()
    assert await again.fetchval("SELECT 1") == 1
    await again.close()
