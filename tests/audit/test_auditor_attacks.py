"""An auditor who wants to disturb the service, logged in as the role itself, on two versions of PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from service.auth.revocations import REVOCATIONS_CHANNEL
from service.dashboard.node_stats import ANSWER_CHANNEL, REQUEST_CHANNEL
from service.database.engine import Database, parse_url
from service.database.migrate import migrate
from service.database.privileges import AUDITOR
from service.events.log import EVENTS_CHANNEL
from service.ledger.statements import PRESENCE_CHANNEL
from service.metrics import LOG_READS
from service.retention.runner import Retention
from service.settings import LedgerSettings, RetentionSettings, Settings, StorageSettings
from tests.fixtures.postgres_cluster import DEBIAN, Server, own, wheel
from tests.harness import PATIENCE, READ, ROOT, Node, eventually, memory_folder, serving, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHANNELS = (EVENTS_CHANNEL, REVOCATIONS_CHANNEL, PRESENCE_CHANNEL, REQUEST_CHANNEL, ANSWER_CHANNEL, "tocsin_unknown")
PAYLOADS = ("", "x", "-1", "9223372036854775807", "9" * 7000, '{"node": "forged", "connections": 1000000}', "٣", "null")
MODES = (
    *("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE"),
    *("EXCLUSIVE", "ACCESS EXCLUSIVE"),
)
FORMER_KEYS = range(7_405_001, 7_405_009)
RELATIONS = """
SELECT oid, format('%I.%I', relnamespace::regnamespace, relname) AS name, relkind = 'v' AS is_view FROM pg_class
WHERE relnamespace IN ('public'::regnamespace, 'audit'::regnamespace, 'locks'::regnamespace)
  AND relkind IN ('r', 'p', 'v')
"""
OFTEN = Settings(ledger=LedgerSettings(ledger_flush_seconds=0.05, housekeeping_interval_seconds=0.1))


@pytest.fixture(scope="module", params=[wheel(), DEBIAN], ids=["newest", "oldest"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own, whose queue of notifications is small where PostgreSQL lets it be."""
    if not request.param.is_dir():
        pytest.skip("no PostgreSQL 15 of Debian")
    with tempfile.TemporaryDirectory(prefix="tocsin-tests-", dir=memory_folder()) as folder:
        Path(folder).chmod(0o755)
        own(Path(folder))
        one = Server.create(Path(folder) / "server", request.param)
        if request.param == wheel():
            one.configure({"max_notify_queue_pages": "64"})
        one.start()
        try:
            yield one
        finally:
            one.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(server: Server) -> str:
    connection = await asyncpg.connect(with_database(server.url, "postgres"))
    await connection.execute("CREATE DATABASE tocsin")
    await connection.close()
    await asyncio.to_thread(migrate, parse_url(server.url))
    return server.url


@pytest.fixture(scope="module")
def node(url: str) -> Iterator[Node]:
    with serving(url, OFTEN) as running:
        yield running


@asynccontextmanager
async def logged_in(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Log in as the role, and lift the limits that it can lift."""
    connection = await asyncpg.connect(make_url(url).set(username=AUDITOR).render_as_string(hide_password=False))
    try:
        for name in ("default_transaction_read_only", "statement_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(f"SET {name} = 0")
        yield connection
    finally:
        await connection.close()


async def test_the_role_logs_in_as_itself_and_has_limits(url: str) -> None:
    connection = await asyncpg.connect(make_url(url).set(username=AUDITOR).render_as_string(hide_password=False))
    assert await connection.fetchval("SELECT session_user || ' ' || current_user") == f"{AUDITOR} {AUDITOR}"
    limits = {
        "default_transaction_read_only": "on",
        "statement_timeout": "5min",
        "idle_in_transaction_session_timeout": "1min",
        "temp_file_limit": "2GB",
    }
    assert {name: await connection.fetchval(f"SHOW {name}") for name in limits} == limits
    assert await connection.fetchval("SELECT rolconnlimit FROM pg_roles WHERE rolname = $1", AUDITOR) == 20
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        *("RESET ROLE", "SET ROLE NONE", "RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION DEFAULT"),
        "DISCARD ALL",
    ],
)
async def test_there_is_no_other_role_behind_it(url: str, statement: str) -> None:
    async with logged_in(url) as auditor:
        await auditor.execute(statement)
        assert await auditor.fetchval("SELECT session_user || ' ' || current_user") == f"{AUDITOR} {AUDITOR}"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await auditor.execute("SELECT FROM public.events")


@pytest.mark.parametrize(
    "statement",
    [
        *("CREATE TEMPORARY TABLE mine ()", "CREATE TABLE public.mine ()", "CREATE SCHEMA mine"),
        *("SELECT lo_create(0)", "SELECT lo_creat(-1)", "SELECT lo_from_bytea(0, '')", "SET temp_file_limit = -1"),
        *("ALTER ROLE CURRENT_USER CONNECTION LIMIT -1", "SELECT FROM message_key", "SELECT try_lock('log')"),
        *("SELECT topic_like('*') FROM public.alerts", "SELECT microseconds(now())", "SELECT FROM locks.log"),
        *("SELECT * FROM audit.deliveries FOR UPDATE", "SELECT * FROM audit.deliveries FOR KEY SHARE"),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> CURRENT_USER",
    ],
)
async def test_it_may_nothing_but_read(url: str, node: Node, statement: str) -> None:
    assert node.base
    async with logged_in(url) as auditor:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await auditor.execute(statement)


async def test_it_sees_the_queries_of_no_other_role(url: str, node: Node) -> None:
    assert node.base
    async with logged_in(url) as auditor:
        texts = await auditor.fetch("SELECT query FROM pg_stat_activity WHERE usename <> CURRENT_USER")
        assert {text for (text,) in texts} == {"<insufficient privilege>"}


async def hold_everything(auditor: asyncpg.Connection, url: str) -> set[tuple[str, str]]:
    """Take all locks that the auditor can, and keep them; return those of relations, with their modes."""
    owner = await asyncpg.connect(url)
    relations = await owner.fetch(RELATIONS)
    await owner.close()
    for key in FORMER_KEYS:
        await auditor.execute(f"SELECT pg_advisory_lock({key}), pg_advisory_lock(0, {key})")
    await auditor.transaction().start()
    taken = set()
    for oid, name, is_view in relations:
        for mode in MODES:
            try:
                async with auditor.transaction():
                    await auditor.execute(f"LOCK TABLE {name} IN {mode} MODE")
                taken.add((name, mode))
            except asyncpg.InsufficientPrivilegeError:
                pass
        await auditor.fetch(
            "SELECT count(*) FROM pg_partition_tree($1::oid::regclass)", oid
        )  # locks without asking for a privilege
        if is_view and name.startswith("audit."):
            await auditor.fetch(f"SELECT * FROM {name}")
    return taken


async def test_the_service_works_while_it_holds_all_that_it_can_lock(url: str, node: Node) -> None:
    async with logged_in(url) as auditor, await node.live("alice") as stream:
        taken = await hold_everything(auditor, url)
        assert {mode for _, mode in taken} == {"ACCESS SHARE"}
        assert all(name.startswith("audit.") for name, _ in taken)

        async with asyncio.timeout(PATIENCE):
            await node.sql("INSERT INTO commit_attempts VALUES (1, true, now() - interval '2 h')")
            alert = await node.post("plain")
            keyed = await node.post("keyed", dedup_key="k")  # by a transaction of commands, not by the append
            async with node.http("alice", f"{READ} alerts:manage") as client:
                assert (await client.post(f"/v1/alerts/{keyed['id']}/acknowledge")).status_code == 200
            async with node.http("root", "admin") as client:
                assert (await client.post("/v1/revocations", json={"jti": "lost"})).status_code == 201
            assert [event["seq"] for event in await stream.events(3)] == [alert["seq"] + n for n in range(3)]
            await stream.ack(alert["seq"])
            await eventually(partial(node.sql, "SELECT FROM receipts WHERE seq = $1", alert["seq"]))
            await eventually(lambda: _is_gone(node))
            await eventually(partial(node.sql, "SELECT FROM alert_search WHERE seq = $1", alert["seq"]))
            await asyncio.to_thread(migrate, parse_url(url))
            await _purge(url)
        with serving(url, OFTEN) as another:
            assert (await another.post("of a new node"))["seq"] == alert["seq"] + 3
        assert (await stream.next_of("event"))["seq"] == alert["seq"] + 3


async def _is_gone(node: Node) -> bool:
    return not await node.sql("SELECT FROM commit_attempts WHERE id = 1")


async def _purge(url: str) -> None:
    database = Database(parse_url(url), StorageSettings())
    retention = Retention(database, RetentionSettings(), lambda _seq: None)
    older_than = (await _fetch(url, "SELECT now()"))[0][0]
    assert await retention.purge(older_than)
    await database.close()


async def _fetch(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


# A login of one's own.


def recipe(version: int) -> list[str]:
    """Return the statements of docs/audit.md that make a login, for a version of PostgreSQL."""
    page = (ROOT / "docs" / "audit.md").read_text()
    [script] = re.findall(r"```sql\n(CREATE ROLE anna .+?)```", page, re.DOTALL)
    if version < 160_000:
        [grant] = re.findall(r"`(GRANT tocsin_auditor TO anna;)`", page)
        script = re.sub(r"GRANT .+", grant, script)
    return [statement for statement in script.splitlines() if statement]


async def test_a_login_of_ones_own_has_the_limits_of_the_role_and_cannot_change_it(url: str) -> None:
    superuser = await asyncpg.connect(url)
    version = superuser.get_server_version().major * 10_000
    for statement in recipe(version):
        await superuser.execute(statement)
    anna = await asyncpg.connect(make_url(url).set(username="anna").render_as_string(hide_password=False))
    try:
        limits = await limits_of(superuser, AUDITOR)
        assert {name: await anna.fetchval(f"SHOW {name}") for name in limits} == limits
        assert await anna.fetchval("SELECT count(*) FROM audit.deliveries") >= 0
        await anna.execute("SET default_transaction_read_only = off")
        for statement in (
            "SELECT FROM public.events",
            "SET temp_file_limit = -1",
            "ALTER ROLE anna CONNECTION LIMIT 9",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await anna.execute(statement)
        change = f"SET ROLE {AUDITOR}; ALTER ROLE {AUDITOR} PASSWORD 'anna'"
        if version >= 160_000:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="set role"):
                await anna.execute(change)
        else:
            await anna.execute(change)
            await superuser.execute(f"ALTER ROLE {AUDITOR} PASSWORD NULL; ALTER ROLE {AUDITOR} NOLOGIN")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await anna.execute(f"ALTER ROLE {AUDITOR} LOGIN")
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await asyncpg.connect(make_url(url).set(username=AUDITOR).render_as_string(hide_password=False))
    finally:
        await anna.close()
        await superuser.execute(f"ALTER ROLE {AUDITOR} LOGIN; DROP ROLE anna")
        await superuser.close()


async def limits_of(superuser: asyncpg.Connection, role: str) -> dict[str, str]:
    """Return the settings of a role."""
    settings = await superuser.fetchval("SELECT rolconfig FROM pg_roles WHERE rolname = $1", role)
    return dict(setting.split("=") for setting in settings)


# Forged notifications.


async def test_forged_notifications_change_nothing_and_cost_little(
    url: str, node: Node, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)
    async with logged_in(url) as auditor, await node.live("bob") as stream:
        capfd.readouterr()
        before, began = LOG_READS._value.get(), time.monotonic()
        for channel in CHANNELS:
            for payload in PAYLOADS:
                await auditor.execute("SELECT pg_notify($1, $2)", channel, payload)
            for _ in range(20):
                await auditor.execute(
                    "SELECT count(pg_notify($1, (n * 1000000007::bigint)::text)) FROM generate_series(1, 100) AS n",
                    channel,
                )
        reads, elapsed = LOG_READS._value.get() - before, time.monotonic() - began
        assert reads <= 5 + elapsed * (10 + 1), "ten a second, and the polls"
        alert = await node.post("genuine")
        assert (await stream.next_of("event"))["seq"] == alert["seq"]
    assert not caplog.records
    assert "Traceback" not in "".join(capfd.readouterr())


async def _fill(flooder: asyncpg.Connection) -> None:
    while True:
        await flooder.execute("SELECT pg_notify('mine', repeat('x', 7900))")


# Before PostgreSQL 17 the queue has eight gigabytes, and no setting.
@pytest.mark.parametrize("server", [pytest.param(wheel(), id="newest")], indirect=True)
@pytest.mark.long
async def test_a_full_queue_of_notifications_stops_no_post(url: str, node: Node) -> None:
    """A session that listens, and stays in a transaction, keeps the queue from being emptied."""
    async with logged_in(url) as listener, logged_in(url) as flooder, await node.live("carol") as stream:
        await listener.execute("LISTEN mine; BEGIN")
        with pytest.raises(asyncpg.ProgramLimitExceededError, match="NOTIFY"):
            await _fill(flooder)
        alert = await node.post("nobody is woken")
        keyed = await node.post("nor by a command", dedup_key="full")
        assert [event["seq"] for event in await stream.events(2)] == [alert["seq"], keyed["seq"]]
        with serving(url, OFTEN) as another:
            assert (await another.post("of another node"))["seq"] == keyed["seq"] + 1
        assert (await stream.next_of("event"))["seq"] == keyed["seq"] + 1, "by the poll"
        async with node.http("root", "admin") as client:
            assert (await client.post("/v1/revocations", json={"jti": "full"})).status_code == 201


async def test_what_a_superuser_takes_away_disturbs_no_node(url: str, node: Node) -> None:
    """The statements of docs/audit.md. This is the last test, because they stay in force."""
    page = (ROOT / "docs" / "audit.md").read_text()
    [script] = re.findall(r"Here `tocsin` is the service's role:\n\n```sql\n(.+?)ALTER SYSTEM", page, re.DOTALL)
    superuser = await asyncpg.connect(url)
    await superuser.execute(script)
    async with logged_in(url) as auditor:
        for call in (
            *("pg_advisory_lock(1)", "pg_try_advisory_xact_lock_shared(1, 2)", "pg_export_snapshot()"),
            *("pg_current_xact_id()", "txid_current()"),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await auditor.execute(f"SELECT {call}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await auditor.execute("SELECT pg_logical_emit_message(false, 'x', 'y')")
        assert await auditor.fetchval("SELECT count(*) FROM audit.deliveries") >= 0
    assert (await node.post("afterwards"))["status"] == "open"
    await superuser.close()
