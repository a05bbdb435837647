"""What an answered alert depends on, whatever the server, the role, the database or a pooler says."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import make_url

from service.database import budgets
from service.database.durability import UnsafeServer
from tests.fixtures.pooler import MODES, serving_through
from tests.fixtures.weak_servers import execute
from tests.harness import eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.fixtures.weak_servers import Weaken
    from tests.harness import Node

WEAK = (
    "ALTER ROLE {role} SET synchronous_commit = off",
    "ALTER ROLE {role} SET synchronous_commit = local",
    "ALTER ROLE {role} SET synchronous_commit = remote_write",
    "ALTER DATABASE {database} SET synchronous_commit = off",
    "ALTER SYSTEM SET synchronous_commit = off",
    "ALTER ROLE {role} SET default_transaction_isolation = 'serializable'",
    "ALTER ROLE {role} SET default_transaction_isolation = 'repeatable read'",
    "ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'",
)
RECORD = """
CREATE TABLE settings_seen AS SELECT '' AS at, '' AS synchronous_commit, '' AS isolation WITH NO DATA;
CREATE FUNCTION see_settings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO settings_seen
    SELECT TG_TABLE_NAME, current_setting('synchronous_commit'), current_setting('transaction_isolation');
    RETURN NULL;
END $$;
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['log_chain', 'alerts', 'ledger_chain', 'nodes', 'recipients', 'revocations'] LOOP
        EXECUTE format('CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE ON %I DEFERRABLE INITIALLY DEFERRED'
                       ' FOR EACH ROW EXECUTE FUNCTION see_settings()', name);
    END LOOP;
END $$;
"""
"""At the very end of each transaction, which is what the commit goes by."""


@pytest.mark.parametrize("mode", ["", *MODES])
@pytest.mark.parametrize("weakness", WEAK)
async def test_every_commit_is_durable_and_read_committed(
    role_url: str, weaken: Weaken, mode: str, weakness: str
) -> None:
    await execute(role_url, RECORD)
    await weaken(weakness)
    with node_through(role_url, mode) as node:
        await use(node)
        seen = await node.sql("SELECT DISTINCT at, synchronous_commit, isolation FROM settings_seen")
    assert {row["at"] for row in seen} == {"log_chain", "alerts", "ledger_chain", "nodes", "recipients", "revocations"}
    assert {(row["synchronous_commit"], row["isolation"]) for row in seen} == {("on", "read committed")}


@pytest.mark.parametrize("mode", ["", "transaction"])
async def test_a_stronger_commit_is_kept(role_url: str, weaken: Weaken, mode: str) -> None:
    await execute(role_url, RECORD)
    await weaken("ALTER ROLE {role} SET synchronous_commit = remote_apply")
    with node_through(role_url, mode) as node:
        await node.post()
        seen = await node.sql("SELECT DISTINCT synchronous_commit FROM settings_seen WHERE at = 'log_chain'")
    assert [row[0] for row in seen] == ["remote_apply"]


async def test_the_configuration_that_is_read_again_weakens_no_open_connection(role_url: str, weaken: Weaken) -> None:
    await execute(role_url, RECORD)
    with serving(role_url) as node:
        await node.post()
        await weaken("ALTER SYSTEM SET synchronous_commit = off")
        await node.post(dedup_key="a")
        await node.post()
        seen = await node.sql("SELECT DISTINCT synchronous_commit FROM settings_seen WHERE at IN ('log_chain')")
    assert [row[0] for row in seen] == ["on"]


def node_through(url: str, mode: str) -> AbstractContextManager[Node]:
    """Return a node on the database: directly, or through PgBouncer in a mode."""
    return serving_through(url, mode) if mode else serving(url)


async def use(node: Node) -> None:
    """Have each kind of transaction that writes."""
    async with await node.live() as stream:
        await node.post()
        for _ in range(2):
            await node.post_all([{"dedup_key": "a"}])
        for event in await stream.events(2):
            await stream.ack(event["seq"])
        async with node.http("root", "admin") as admin:
            assert (await admin.post("/v1/revocations", json={"jti": "stolen"})).status_code == 201
        await eventually(partial(node.sql, "SELECT FROM receipts WHERE seq = 2"))


# Where nothing may be stored.


async def test_nothing_is_stored_while_the_database_is_read_only_and_the_answer_says_why(
    role_url: str, weaken: Weaken
) -> None:
    with serving(role_url) as node:
        await node.post()
        await weaken("ALTER ROLE {role} SET default_transaction_read_only = on")
        await end_sessions(node.database_url)
        async with node.http() as client:
            answer = await client.post("/v1/alerts", json={"title": "not stored"})
            ready = await client.get("/readyz")
        for refused in (answer, ready):
            assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
            assert "read-only" in refused.json()["detail"]
            assert refused.headers["retry-after"]
        await weaken("ALTER ROLE {role} RESET default_transaction_read_only")
        await eventually(lambda: stores(node))


async def stores(node: Node) -> bool:
    async with node.http() as client:
        return (await client.post("/v1/alerts", json={"title": "stored"})).status_code == 201


async def end_sessions(url: str) -> None:
    """End all sessions of the user of ``url``."""
    await execute(
        url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
        " AND usename = current_user AND pid <> pg_backend_pid()",
    )


@pytest.mark.parametrize(
    ("beginning", "reason"),
    [
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "not READ COMMITTED"),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", "not READ COMMITTED"),
        ("BEGIN READ ONLY", "PostgreSQL is read-only"),
    ],
)
@pytest.mark.parametrize("function", ["append_alerts", "lock_log", "settle_attempt", "write_ledger"])
async def test_the_functions_that_write_refuse_another_transaction(
    database_url: str, beginning: str, reason: str, function: str
) -> None:
    connection = await asyncpg.connect(database_url)
    arguments = await connection.fetchval(
        "SELECT repeat('NULL, ', pronargs - 1) || 'NULL' FROM pg_proc WHERE proname = $1", function
    )
    with pytest.raises((UnsafeServer, asyncpg.ReadOnlySQLTransactionError), match=reason):
        await connection.execute(f"{beginning}; SELECT {function}({arguments})")
    await connection.close()


@pytest.mark.parametrize("weak", ["off", "local", "remote_write"])
async def test_a_transaction_that_appends_is_made_durable(database_url: str, weak: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings={"synchronous_commit": weak})
    async with connection.transaction():
        await connection.execute("SELECT require_durability()")
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    assert await connection.fetchval("SHOW synchronous_commit") == weak
    await connection.close()


# Where an address leads.


async def test_of_several_hosts_the_primary_is_used(standby_url: str, database_url: str) -> None:
    hosts = ",".join(str(make_url(url).query["host"]) for url in (standby_url, database_url))
    both = make_url(database_url).set(query={"host": hosts}).render_as_string(hide_password=False)
    with serving(both) as node:
        node.database_url = database_url
        assert (await node.post())["seq"] == 1


@pytest.fixture
def link() -> Iterator[Path]:
    """The path of a link that everybody may follow."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-pooled-"))
    folder.chmod(0o755)
    yield folder / "socket"
    shutil.rmtree(folder)


async def test_nothing_is_stored_while_a_pooler_leads_to_a_standby(
    database_url: str, standby_url: str, link: Path
) -> None:
    primary, standby = (str(make_url(url).query["host"]) for url in (database_url, standby_url))
    point(link, primary)
    pooled = make_url(database_url).set(query={"host": str(link)}).render_as_string(hide_password=False)
    with serving_through(database_url, "transaction", pooled) as node:
        await node.post()
        point(link, standby)
        await end_sessions(node.database_url)
        await eventually(lambda: refused_because(node, "in recovery"))
        assert not await stores(node)
        point(link, primary)
        await end_sessions(standby_url)
        await eventually(lambda: stores(node))


async def test_a_node_follows_its_address_to_another_server_with_all_connections(
    database_url: str, standby_url: str, link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "RECYCLE_SECONDS", 0.2)
    primary, standby = (str(make_url(url).query["host"]) for url in (database_url, standby_url))
    point(link, primary)
    linked = make_url(database_url).set(query={"host": str(link)}).render_as_string(hide_password=False)
    with serving(linked) as node:
        await node.post()
        await eventually(lambda: has_alerts(standby_url, 1))
        await execute(standby_url, "SELECT pg_promote()")
        point(link, standby)  # nobody stops the server before
        await eventually(lambda: sessions(database_url, 0))
        await eventually(lambda: stores(node))
        assert await has_alerts(database_url, 1)
        assert await has_alerts(standby_url, 2)
        point(link, primary)
        await end_sessions(standby_url)
        await eventually(lambda: refused_because(node, "leads to two servers in turn"))
        assert not await stores(node)
    assert await has_alerts(database_url, 1)


async def has_alerts(url: str, count: int) -> bool:
    return await answer(url, "SELECT count(*) FROM alerts") == count


async def sessions(url: str, count: int) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tocsin'"
    return await answer(url, query) == count


async def answer(url: str, query: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        number: int = await connection.fetchval(query)
    finally:
        await connection.close()
    return number


def point(link: Path, folder: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(folder)


async def refused_because(node: Node, reason: str) -> bool:
    async with node.http() as client:
        answer = await client.get("/readyz")
    return answer.status_code == 503 and reason in answer.json()["detail"]
