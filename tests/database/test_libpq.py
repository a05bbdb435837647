"""What becomes of each parameter of an address that people paste, and which of several hosts is used."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import asyncpg
import pytest

from service.database import libpq
from service.database.engine import Database, parse_url
from service.database.libpq import SESSION, command_line_address, connect, connect_session, for_psql, within
from service.errors import ConfigurationError
from service.settings import StorageSettings
from tests.fixtures.postgres_cluster import Server, own, wheel
from tests.harness import memory_folder, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL

AT = "postgresql://tocsin:hunter2@db/tocsin?"
PASTED = {
    "Neon": "sslmode=require&options=endpoint%3Dep-cool-1",
    "Supabase": "sslmode=require&connect_timeout=10&application_name=tocsin-eu",
    "Azure": "sslmode=verify-full&sslrootcert=system",
    "Amazon": "sslmode=verify-full&sslrootcert={file}&keepalives=1&keepalives_idle=30&keepalives_count=3",
    "Heroku": "sslmode=require&gssencmode=disable&client_encoding=utf8",
    "Patroni": "target_session_attrs=read-write&channel_binding=prefer&load_balance_hosts=random&tcp_user_timeout=3000",
    "JDBC": "ssl=true",
}
REFUSED = {
    "channel_binding=require": "channel_binding cannot be required: write sslmode=verify-full&sslrootcert=system",
    "require_auth=scram-sha-256": "require_auth is not supported",
    "gssencmode=require": "gssencmode must be disable or prefer",
    "sslmode=no-verify": "sslmode must be disable, allow, prefer, require, verify-ca or verify-full",
    "sslmode=require&sslrootcert=system": "sslrootcert=system needs sslmode=verify-full",
    "sslrootcert=/nowhere/hunter2.crt": "sslrootcert names a file that cannot be read",
    "target_session_attrs=standby": "target_session_attrs must be primary, read-write or any",
    "target_session_attrs=prefer-standby": "target_session_attrs must be primary, read-write or any",
    "target_session_attrs=master": "target_session_attrs must be any, read-write,",
    "connect_timeout=hunter2": "connect_timeout must be a whole number",
    "keepalives_idle=30s": "keepalives_idle must be a whole number",
    "sslmode=require&sslmode=disable": "sslmode is there more than once",
    "sslrootcert=%00": "sslrootcert must be",
    "hostaddr=10.0.0.1": "hostaddr is not supported: write the address as the host",
    "client_encoding=LATIN1": "client_encoding must be UTF8",
    "replication=database": "replication must be off",
    "pgbouncer=true": "pgbouncer is not supported: remove it, and set TOCSIN_LISTEN_URL",
    "schema=app": "schema is not supported: remove it, as the tables are in the schema public",
    "options=-c%20search_path%3Dapp": "options sets search_path: remove that",
    "ssl=false": "ssl must be true: write sslmode",
    "sslmode=require&hunter2=on": "parameter 2 of its query is not supported",
    "password=a&hunter2=hunter2": "parameter 1 of its query is not supported",
    "service=hunter2": "service is not supported: write the host, the user and all else into the address",
    "servicefile=/hunter2": "servicefile is not supported: write the host",
    "passfile=/nowhere/hunter2": "passfile names a file that cannot be read",
    "passfile=/etc/passwd": "passfile names a file that others may read: run chmod 600",
    "pgbouncer": "pgbouncer has no value: write one, or remove it",
    "sslmode=require&channel_binding=": "channel_binding has no value",
    "sslmode=require&hunter2": "parameter 2 of its query has no value",
    "password=": "parameter 1 of its query has no value",
    "statement_timeout=5s": "statement_timeout is not supported: set TOCSIN_DATABASE_TIMEOUT_SECONDS",
    "options=-c%20Statement_Timeout%3D5s": "options sets statement_timeout: remove that",
}


@pytest.mark.unit
@pytest.mark.parametrize("query", PASTED.values(), ids=PASTED)
def test_what_providers_show_is_read(query: str) -> None:
    assert parse_url(AT + query.format(file=quote(__file__))).database == "tocsin"


@pytest.mark.unit
@pytest.mark.parametrize("query", REFUSED)
def test_what_is_not_honoured_is_refused_in_a_line_that_says_what_to_write(query: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_url(AT + query)
    assert str(raised.value).startswith(f"TOCSIN_DATABASE_URL: {REFUSED[query]}")
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.unit
def test_a_service_file_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICE", "hunter2")
    with pytest.raises(ConfigurationError, match=r"^PGSERVICE is not supported: .* in TOCSIN_DATABASE_URL, and unset"):
        parse_url("postgresql://db/tocsin")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("address", "password"),
    [
        ("postgresql://db/tocsin?password=a+b%2Bc%20d", "a+b+c d"),
        ("postgresql://one,two/tocsin?password=a+b", "a+b"),
        ("postgresql+asyncpg://u:a?b+c@db/tocsin?application_name=x", "a?b+c"),
    ],
)
def test_a_plus_is_read_as_itself(address: str, password: str) -> None:
    assert parse_url(address).password == password


@pytest.mark.unit
def test_an_auditor_may_read_at_a_standby() -> None:
    url = parse_url(f"{AT}target_session_attrs=prefer-standby", "TOCSIN_AUDITOR_URL")
    assert url.query["target_session_attrs"] == "prefer-standby"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("postgresql://[::1]:5432,[fd00::2]/tocsin", "host=::1,fd00::2&port=5432,5432"),
        ("postgresql+asyncpg://one:1,two:2/tocsin", "host=one,two&port=1,2"),
        ("postgresql:///tocsin?host=one,two&port=6432", "host=one,two&port=6432"),
    ],
)
def test_several_hosts_are_read_in_each_form(address: str, hosts: str) -> None:
    query = parse_url(address).query
    assert f"host={query['host']}&port={query['port']}" == hosts
    assert query["target_session_attrs"] == "primary"


@pytest.mark.unit
def test_the_user_and_the_password_may_be_parameters() -> None:
    url = parse_url("postgresql://db/tocsin?user=alice&password=hunter2&dbname=other")
    assert (url.username, url.password, url.database, dict(url.query)) == ("alice", "hunter2", "other", {})


@pytest.mark.unit
def test_the_command_line_of_psql_has_no_secret_and_no_plus_for_a_blank() -> None:
    query = "password=hunter2&sslpassword=hunter2&options=-c%20work_mem%3D64MB"
    shown = command_line_address(parse_url(f"postgresql://alice:x@db/tocsin?{query}"))
    assert shown == "postgresql://alice@db/tocsin?options=-c%20work_mem%3D64MB"


@pytest.mark.unit
def test_the_authorities_of_the_machine_verify_the_certificate_and_the_name() -> None:
    context = libpq._system_trust({"ssl_min_protocol_version": "TLSv1.3"})
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


# Connections.


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with a TCP port."""
    with tempfile.TemporaryDirectory(prefix="tocsin-tests-", dir=memory_folder()) as folder:
        own(Path(folder))
        one = Server.create(Path(folder) / "server", wheel())
        one.start()
        try:
            yield one
        finally:
            one.stop()


@asynccontextmanager
async def connected(url: str | URL, **options: float) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(parse_url(url) if isinstance(url, str) else url, **options)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def at(server: Server) -> str:
    return with_database(server.url, "postgres")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a host that accepts connections, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("query", ["", "?connect_timeout=1", "?connect_timeout=0"])
async def test_a_host_that_does_not_answer_does_not_hide_the_next(server: Server, silent: int, query: str) -> None:
    hosts = f"127.0.0.1:{silent},127.0.0.1:{server.port}"
    async with asyncio.timeout(20), connected(f"postgresql://tocsin@{hosts}/postgres{query}", timeout=2) as connection:
        assert await connection.fetchval("SELECT inet_server_port()") == server.port


@pytest.mark.parametrize("query", ["", "?sslmode=disable"])
async def test_a_host_that_closes_at_once_does_not_hide_the_next(server: Server, query: str) -> None:
    closing = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    hosts = f"127.0.0.1:{closing.sockets[0].getsockname()[1]},127.0.0.1:{server.port}"
    async with closing, connected(f"postgresql://tocsin@{hosts}/postgres{query}") as connection:
        assert await connection.fetchval("SELECT inet_server_port()") == server.port


@pytest.mark.parametrize(
    ("query", "limit"),
    [("", 1.5), ("?target_session_attrs=prefer-standby", 0.75), ("?connect_timeout=0", 1.5), ("?connect_timeout=7", 7)],
)
def test_the_hosts_share_the_limit_unless_the_address_has_one(query: str, limit: float) -> None:
    url = within(parse_url(f"postgresql://one,two/tocsin{query}", "TOCSIN_AUDITOR_URL"), 3)
    assert float(str(url.query["connect_timeout"])) == limit
    assert within(url, 60) == url


async def test_a_session_begins_within_the_limit_of_its_address(server: Server, silent: int) -> None:
    url = within(parse_url(f"postgresql://tocsin@127.0.0.1:{silent},127.0.0.1:{server.port}/postgres"), 2)
    async with asyncio.timeout(20):
        await (await connect_session(url)).close()


async def test_psql_is_given_what_each_version_knows(at: str) -> None:
    new = "load_balance_hosts=random&max_protocol_version=latest&min_protocol_version=3.0&sslcertmode=allow"
    url = within(parse_url(f"{at}?{new}&application_name=x"), 1.5)
    async with connected(url) as connection:
        assert dict(for_psql(url, connection).query) == {"application_name": "x", "connect_timeout": "2"}


async def test_where_no_host_answers_the_last_error_is_raised(silent: int) -> None:
    with pytest.raises(TimeoutError):
        await connect(parse_url(f"postgresql://tocsin@127.0.0.1:{silent},127.0.0.1:{silent}/c"), timeout=0.2)


async def test_a_host_that_is_no_primary_is_left_out(server: Server, at: str) -> None:
    async with connected(at) as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
    try:
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
            await connect(parse_url(f"{at}?target_session_attrs=read-write"))
    finally:
        async with connected(f"{at}?options=-c%20default_transaction_read_only%3Doff") as connection:
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")


async def test_names_options_and_keepalives_of_the_address_count(at: str) -> None:
    query = "application_name=tocsin-eu&options=-c%20work_mem%3D7MB&keepalives_idle=17&tcp_user_timeout=4000"
    async with connected(f"{at}?{query}") as connection:
        shown = await connection.fetchrow("SELECT current_setting('application_name'), current_setting('work_mem')")
        assert tuple(shown) == ("tocsin-eu", "7MB")
        used = connection._transport.get_extra_info("socket")
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 17
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000
    async with connected(f"{at}?keepalives=0") as connection:
        used = connection._transport.get_extra_info("socket")
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


async def test_a_session_has_its_settings_whatever_the_role_has(at: str) -> None:
    weak = {"search_path": "nowhere", "standard_conforming_strings": "off", "idle_in_transaction_session_timeout": "9s"}
    weak |= {"statement_timeout": "9s", "transaction_timeout": "9s"}
    async with connected(at) as connection:
        for name, value in weak.items():
            await connection.execute(f"ALTER ROLE tocsin SET {name} = '{value}'")
    session = await connect_session(parse_url(at))
    database = Database(parse_url(at), StorageSettings(database_timeout_seconds=10))
    node = await database.connect()
    expected = {**SESSION, "statement_timeout": "0", "transaction_timeout": "0"}
    try:
        for connection, idle in ((session, "0"), (node, "10s")):
            for name, value in {**expected, "idle_in_transaction_session_timeout": idle}.items():
                assert await connection.fetchval("SELECT current_setting($1)", name) == value, name
    finally:
        await session.execute("ALTER ROLE tocsin RESET ALL")
        await session.close()
        await node.close()
        await database.close()


async def test_a_node_is_known_by_the_name_in_the_address(at: str) -> None:
    database = Database(parse_url(f"{at}?application_name=tocsin-eu"), StorageSettings())
    connection = await database.connect()
    assert await connection.fetchval("SELECT current_setting('application_name')") == "tocsin-eu"
    await connection.close()
    await database.close()
