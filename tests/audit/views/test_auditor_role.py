"""The role ``tocsin_auditor``: a member of it reads every view of ``audit``, and whatever else it tries fails.

What is tried is taken from the catalog, so that tables, views and functions that come later are tried too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from alembic import command
from service.database.embedded import embedded_postgres
from service.database.engine import parse_url
from service.database.locks import TableLock
from service.database.migrate import configuration, migrate
from tests.harness import ROOT, memory_folder, new_database, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIEWS = "SELECT relname FROM pg_class WHERE relnamespace = 'audit'::regnamespace ORDER BY 1"
TABLES = """
SELECT c.oid::regclass::text AS name, c.relkind::text AS kind, min(quote_ident(a.attname)) AS column
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    AND a.attnum > 0 AND a.attidentity = '' AND a.attgenerated = '' AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') GROUP BY c.oid
"""
SEQUENCES = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"
FUNCTIONS = """
SELECT format('%s(%s)', oid::regproc, (
    SELECT string_agg(format('NULL::%s', type::regtype), ', ' ORDER BY place)
    FROM unnest(proargtypes) WITH ORDINALITY AS a (type, place))) AS call
FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname <> ALL ($1::text[])
"""
PURE = ["event_matches", "is_addressed", "log_blocks", "topic_like", "topic_likes"]
"""What views call, with the rights of whoever reads them."""
ELSEWHERE = [
    "CREATE TABLE audit.mine (a int)",
    "CREATE TABLE public.mine (a int)",
    "CREATE VIEW audit.mine AS SELECT 1",
    "CREATE VIEW public.mine AS SELECT 1",
    "CREATE FUNCTION audit.mine() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "ALTER ROLE tocsin_auditor LOGIN",
    "ALTER SCHEMA audit RENAME TO mine",
    "DROP SCHEMA audit CASCADE",
    "GRANT tocsin_auditor TO CURRENT_USER",
    "SET log_statement = 'none'",
    "SET session_preload_libraries = 'mine'",
    "SET session_replication_role = 'replica'",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SELECT pg_reload_conf()",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_read_binary_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT pg_stat_file('postgresql.conf')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_hba_file_rules()",
    "SELECT FROM pg_authid",
    "SELECT FROM pg_shadow",
    "SELECT FROM pg_statistic",
    "SELECT FROM pg_largeobject",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/mine'",
    "LOCK TABLE public.events IN ACCESS SHARE MODE",
    *(f"LOCK TABLE locks.{lock.value} IN {mode} MODE" for lock in TableLock for mode in ("ACCESS SHARE", "EXCLUSIVE")),
    "CREATE TEMPORARY TABLE mine (a int)",
    "CREATE TEMPORARY SEQUENCE mine",
    "CREATE TEMPORARY VIEW mine AS SELECT 1",
    "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql RETURN 1",
    "SELECT 1 INTO TEMPORARY mine",
    "CREATE TYPE public.mine AS (a int)",
    "CREATE DOMAIN public.mine AS text",
    "CREATE OPERATOR public.=== (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)",
    'CREATE COLLATION public.mine FROM "C"',
    "CREATE PUBLICATION mine",
    "CREATE FOREIGN DATA WRAPPER mine",
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'mine')",
    "SELECT lo_export(1, '/tmp/mine')",
    "COMMENT ON ROLE tocsin_auditor IS 'mine'",
    "ALTER ROLE tocsin_auditor CONNECTION LIMIT -1",
    "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "ALTER ROLE tocsin_auditor SET statement_timeout = 0",
    "ALTER ROLE ALL SET statement_timeout = 1",
    "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON TABLES TO PUBLIC",
    "SET temp_file_limit = -1",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT pg_stat_reset()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
    "SELECT pg_get_backend_memory_contexts()",
]


@asynccontextmanager
async def auditor_of(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Make a login that belongs to the role, and connect with it."""
    owner = await asyncpg.connect(database_url)
    await owner.execute("SELECT revoke_from_public()")  # a node does so at its start: this database is a copy
    name = f"auditor_{uuid.uuid4().hex}"
    await owner.execute(f"CREATE ROLE {name} LOGIN IN ROLE tocsin_auditor")
    try:
        connection = await asyncpg.connect(
            make_url(database_url).set(username=name).render_as_string(hide_password=False)
        )
        try:
            assert await connection.fetchval("SELECT session_user || ' ' || current_user") == f"{name} {name}"
            yield connection
        finally:
            await connection.close()
    finally:
        await owner.execute(f"DROP ROLE {name}")
        await owner.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auditor(shared_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with auditor_of(shared_url) as connection:
        yield connection


async def asked(database_url: str, query: str, *arguments: Any) -> list[Any]:
    """Ask as the owner."""
    connection = await asyncpg.connect(database_url)
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


NO_TABLE = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.WrongObjectTypeError,
)


async def refused(
    auditor: asyncpg.Connection,
    statement: str,
    refusals: type[Exception] | tuple[type[Exception], ...] = asyncpg.InsufficientPrivilegeError,
) -> None:
    """Try a statement; it must fail for want of a privilege, and for nothing else unless it is said."""
    transaction = auditor.transaction()
    await transaction.start()
    try:
        with pytest.raises(refusals):
            await auditor.execute(statement)
    except pytest.fail.Exception:
        pytest.fail(f"an auditor may: {statement}")
    finally:
        await transaction.rollback()


async def test_an_auditor_reads_every_view(auditor: asyncpg.Connection, shared_url: str) -> None:
    views = [row[0] for row in await asked(shared_url, VIEWS)]
    assert {"deliveries", "unreceived", "timeline", "latency", "connections", "presence", "rejections", "tokens"} < {
        *views
    }
    for view in views:
        await auditor.fetch(f"SELECT * FROM audit.{view}")
        comment = await auditor.fetchval("SELECT obj_description($1::text::regclass)", f"audit.{view}")
        assert comment, "an auditor asks what a view is"


async def test_an_auditor_changes_no_view_and_locks_none(auditor: asyncpg.Connection, shared_url: str) -> None:
    columns = "SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attnum = 2 AND attrelid IN ({})"
    oids = "SELECT oid FROM pg_class WHERE relnamespace = 'audit'::regnamespace"
    for view, column in await asked(shared_url, columns.format(oids)):
        for statement in (
            f"INSERT INTO {view} DEFAULT VALUES",
            f"UPDATE {view} SET {column} = NULL",
            f"DELETE FROM {view}",
        ):  # most views cannot be changed by anybody
            await refused(
                auditor,
                statement,
                (
                    asyncpg.InsufficientPrivilegeError,
                    asyncpg.ObjectNotInPrerequisiteStateError,
                    asyncpg.FeatureNotSupportedError,  # of a column that is computed
                ),
            )
        for statement in (
            f"SELECT * FROM {view} FOR UPDATE",
            f"LOCK TABLE {view} IN SHARE MODE",
            f"ALTER VIEW {view} RENAME TO mine",
            f"ALTER VIEW {view} OWNER TO CURRENT_USER",
            f"CREATE OR REPLACE VIEW {view} AS SELECT 1 AS {column}",
            f"DROP VIEW {view}",
            f"COMMENT ON VIEW {view} IS 'mine'",
        ):
            await refused(auditor, statement)


async def test_an_auditor_touches_no_table(auditor: asyncpg.Connection, shared_url: str) -> None:
    tables = await asked(shared_url, TABLES)
    assert {"events", "events_p0", "alerts", "receipts", "alembic_version"} < {row["name"] for row in tables}
    for table, kind, column in tables:
        for statement in (
            f"SELECT FROM {table}",
            f"SELECT {column} FROM {table}",
            f"SELECT FROM {table} FOR UPDATE",
            f"INSERT INTO {table} DEFAULT VALUES",
            f"UPDATE {table} SET {column} = NULL",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"COPY {table} TO STDOUT",
            f"ALTER TABLE {table} ADD COLUMN mine int",
            f"CREATE TRIGGER mine BEFORE DELETE ON {table} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            f"DROP TABLE {table}",
        ):
            # PostgreSQL finds that a view is not a table, or cannot be written to, before it checks privileges.
            is_checked_before = kind == "v" and not statement.startswith(("SELECT", "COPY"))
            await refused(auditor, statement, NO_TABLE if is_checked_before else asyncpg.InsufficientPrivilegeError)
    for (sequence,) in await asked(shared_url, SEQUENCES):
        for statement in (f"SELECT nextval('{sequence}')", f"SELECT setval('{sequence}', 1)", f"TABLE {sequence}"):
            await refused(auditor, statement)


async def test_an_auditor_calls_no_function_of_ours_but_those_that_views_call(
    auditor: asyncpg.Connection, shared_url: str
) -> None:
    calls = [row["call"] for row in await asked(shared_url, FUNCTIONS, PURE)]
    assert len(calls) >= 20
    for call in calls:
        await refused(auditor, f"SELECT {call}")
    granted = await asked(
        shared_url,
        "SELECT proname::text, provolatile FROM pg_proc WHERE proname = ANY ($1::text[])"
        " AND pronamespace = 'public'::regnamespace ORDER BY 1",
        PURE,
    )
    assert granted == [(name, b"i") for name in PURE], "they only compute"


@pytest.mark.parametrize("statement", ELSEWHERE)
async def test_an_auditor_may_nothing_else(auditor: asyncpg.Connection, statement: str) -> None:
    await refused(auditor, statement)


async def test_an_auditor_does_not_set_up_the_server(auditor: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):  # outside a transaction, where it could work at all
        await auditor.execute("ALTER SYSTEM SET log_statement = 'none'")


async def test_an_auditor_hands_the_views_to_nobody(auditor: asyncpg.Connection, shared_url: str) -> None:
    acls = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'audit'::regnamespace ORDER BY 1"
    before = await asked(shared_url, acls)
    await auditor.execute("GRANT SELECT ON audit.deliveries TO PUBLIC")  # a warning, and nothing more
    assert await asked(shared_url, acls) == before


async def test_a_view_of_a_later_migration_can_be_read_and_its_function_cannot_be_called(database_url: str) -> None:
    owner = await asyncpg.connect(database_url)
    await owner.execute("CREATE VIEW audit.later AS SELECT count(*) AS events FROM events")
    await owner.execute("CREATE FUNCTION later() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM events; END")
    assert not await owner.fetchval("SELECT has_function_privilege('public', 'later()', 'EXECUTE')")
    await owner.close()
    async with auditor_of(database_url) as auditor:
        assert await auditor.fetchval("SELECT events FROM audit.later") == 0
        await refused(auditor, "SELECT later()")


# A server of its own, on which the role does not exist yet.


@pytest.fixture(scope="module")
def bare_server() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="tocsin-tests-", dir=memory_folder()))
    try:
        with embedded_postgres(folder) as url:
            yield url.render_as_string(hide_password=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def role_exists(server_url: str) -> bool:
    return bool(await asked(server_url, "SELECT FROM pg_roles WHERE rolname = 'tocsin_auditor'"))


async def test_two_databases_of_a_server_are_migrated_at_once_and_share_the_role(bare_server: str) -> None:
    async with (
        new_database(bare_server, "one", "template0") as one,
        new_database(bare_server, "two", "template0") as two,
    ):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        migrations = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service", "migrate"), env={**inherited, "TOCSIN_DATABASE_URL": url}, cwd=ROOT
            )
            for url in (one, two)
        ]
        assert [await migration.wait() for migration in migrations] == [0, 0]
        for url in (one, two):
            async with auditor_of(url) as auditor:
                await auditor.fetch("SELECT * FROM audit.deliveries")
        command.downgrade(configuration(parse_url(one)), "base")
        assert await role_exists(bare_server), "the other database uses it"
        async with auditor_of(two) as auditor:
            await auditor.fetch("SELECT * FROM audit.deliveries")
        command.downgrade(configuration(parse_url(two)), "base")
        assert not await role_exists(bare_server)


async def test_a_user_who_may_not_create_roles_migrates_and_learns_what_is_missing(
    bare_server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = await asyncpg.connect(bare_server)
    await server.execute("CREATE ROLE humble LOGIN")
    await server.execute("CREATE DATABASE humble OWNER humble TEMPLATE template0")
    url = make_url(with_database(bare_server, "humble")).set(username="humble").render_as_string(hide_password=False)
    migrate(parse_url(url))
    assert "tocsin_auditor" in capfd.readouterr().out
    assert not await role_exists(bare_server)
    assert await asked(url, "SELECT grant_audit()") == [(False,)]
    await server.execute("CREATE ROLE tocsin_auditor NOLOGIN")
    assert await asked(url, "SELECT grant_audit()") == [(True,)]
    await server.execute("CREATE ROLE reader LOGIN IN ROLE tocsin_auditor")
    reader = await asyncpg.connect(make_url(url).set(username="reader").render_as_string(hide_password=False))
    assert await reader.fetch("SELECT * FROM audit.unreceived") == []
    await reader.close()
    for drop in ("DATABASE humble", "ROLE reader", "ROLE tocsin_auditor", "ROLE humble"):
        await server.execute(f"DROP {drop}")
    await server.close()
