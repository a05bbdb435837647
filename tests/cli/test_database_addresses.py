"""Addresses of databases that cannot be used: commands say in one line what to do."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import make_url

from service.cli import environment
from service.cli.sql import PSQL, _program
from service.database.durability import UnsafeServer
from service.database.engine import Database, parse_url
from service.errors import CommandFailed
from service.settings import StorageSettings
from tests.auth.test_private_authority import Authority
from tests.fixtures.postgres_cluster import Server, own, programs, wheel
from tests.harness import memory_folder, with_database
from tests.requirements import missing

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator


@pytest.mark.parametrize("setting", ["TOCSIN_DATABASE_URL", "TOCSIN_LISTEN_URL", "TOCSIN_AUDITOR_URL"])
def test_a_parameter_that_is_not_honoured_is_named(refused: Callable[..., str], setting: str) -> None:
    variables = {"TOCSIN_DATABASE_URL": "postgresql://tocsin@127.0.0.1:1/tocsin"}
    variables[setting] = "postgresql://tocsin:hunter2@127.0.0.1:1/tocsin?channel_binding=require"
    said = refused("sql", *(["--auditor"] if "AUDITOR" in setting else []), "-c", "SELECT 1", **variables)
    assert said.startswith(f"tocsin: {setting}: channel_binding cannot be required: write sslmode=verify-full")


def test_an_authority_that_is_missing_is_said_in_one_line(refused: Callable[..., str]) -> None:
    url = "postgresql://tocsin:hunter2@127.0.0.1:1/tocsin?sslmode=verify-full"
    assert "root certificate" in refused("migrate", TOCSIN_DATABASE_URL=url, HOME="/nowhere")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
async def test_an_encoding_that_cannot_hold_every_alert_is_refused(
    server_url: str, refused: Callable[..., str], encoding: str
) -> None:
    name = f"test_{uuid.uuid4().hex}"
    server = await asyncpg.connect(server_url)
    await server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    url = with_database(server_url, name)
    try:
        said = refused("migrate", TOCSIN_DATABASE_URL=url)
        assert f"the database has the encoding {encoding}" in said
        assert "ENCODING 'UTF8'" in said
        database = Database(parse_url(url), StorageSettings())
        with pytest.raises(UnsafeServer, match=encoding):
            await database.connect()
    finally:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


def test_an_auditor_only_reads_whatever_the_options_of_the_address_are(
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]], database_url: str
) -> None:
    address = f"{database_url}&options=-c%20work_mem%3D7MB"
    show = "SHOW default_transaction_read_only"
    run = tocsin_process("sql", "--auditor", "-c", show, TOCSIN_DATABASE_URL=address)
    assert " on" in run.stdout, run


def test_where_tls_is_required_the_psql_of_the_machine_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tls, plain = (parse_url(f"postgresql://db/tocsin?sslmode={mode}") for mode in ("require", "prefer"))
    assert _program(plain, restricted=True) == str(PSQL)
    with pytest.raises(CommandFailed, match="install PostgreSQL's client"):
        _program(tls, restricted=False)
    found = tmp_path / "psql"
    found.write_text("#!/bin/sh\necho '\\\\copy'\n")
    found.chmod(0o755)
    assert _program(tls, restricted=False) == str(found)
    with pytest.raises(CommandFailed, match="has no restricted mode"):
        _program(tls, restricted=True)
    found.write_text("#!/bin/sh\necho '\\\\restrict KEY'\n")
    assert _program(tls, restricted=True) == str(found)


@pytest.mark.parametrize(("parameter", "version"), [("sslnegotiation=direct", 17), ("sslrootcert=system", 16)])
def test_a_psql_that_is_too_old_for_the_address_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameter: str, version: int
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = tmp_path / "psql"
    found.write_text(f"#!/bin/sh\necho 'psql (PostgreSQL) {version - 1}.18 (Debian)'\n")
    found.chmod(0o755)
    url = parse_url(f"postgresql://db/tocsin?sslmode=verify-full&{parameter}")
    with pytest.raises(CommandFailed, match=f"{parameter} needs psql {version}"):
        _program(url, restricted=False)
    found.write_text(f"#!/bin/sh\necho 'psql (PostgreSQL) {version}beta1'\n")
    assert _program(url, restricted=False) == str(found)


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of servers."""
    with tempfile.TemporaryDirectory(prefix="tocsin-tests-", dir=memory_folder()) as name:
        own(Path(name))
        yield Path(name)


@pytest.fixture
def server_with_tls(folder: Path, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server that refuses connections without TLS, and the certificate of its authority."""
    if (binaries := programs(15)) is None:
        missing("there is no PostgreSQL 15: run python -m scripts.system_packages")
        raise AssertionError
    authority = Authority(tmp_path, "authority")
    authority.server("127.0.0.1")
    server = Server.create(folder / "server", binaries)
    identity = str(shutil.copy(tmp_path / "server-127.0.0.1.pem", server.folder))
    Path(identity).chmod(0o600)
    own(Path(identity))
    (server.folder / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
    server.configure({"ssl": "on", "ssl_cert_file": identity, "ssl_key_file": identity})
    server.start()
    try:
        yield server, authority.file
    finally:
        server.stop()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?sslmode=allow&load_balance_hosts=random&max_protocol_version=latest&min_protocol_version=3.0",
        "?sslmode=verify-full&sslrootcert=system&sslcertmode=allow",
        "?sslmode=require&sslnegotiation=postgres",
    ],
)
@pytest.mark.skipif(shutil.which("psql") is None, reason="the machine has no psql")
def test_psql_connects_as_the_service_does(
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]], server_with_tls: tuple[Server, Path], query: str
) -> None:
    server, authority = server_with_tls
    address = with_database(server.url, "postgres") + query
    asked = "SELECT 'TLS is ' || ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    run = tocsin_process("sql", "-c", asked, TOCSIN_DATABASE_URL=address, SSL_CERT_FILE=str(authority))
    assert "TLS is true" in run.stdout, run.stderr


@pytest.mark.parametrize("arguments", [("migrate",), ("audit", "report"), ("archive", "--before", "1d"), ("sql",)])
async def test_a_host_that_says_nothing_delays_no_command(
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]],
    database_url: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
) -> None:
    """Without a limit of its own, each connection waits for it for 30 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = make_url(database_url)
        hosts = {"host": f"127.0.0.1,{url.query['host']}", "port": f"{silent.getsockname()[1]},5432"}
        address = url.update_query_dict(hosts).render_as_string(hide_password=False)
        limits = {"TOCSIN_DATABASE_CONNECT_TIMEOUT_SECONDS": "2", "TOCSIN_ARCHIVE_DIR": str(tmp_path)}
        started = time.monotonic()
        run = tocsin_process(*arguments, TOCSIN_DATABASE_URL=address, **limits)
    assert run.returncode == 0, run.stderr
    assert time.monotonic() - started < 25


def test_a_connection_that_is_lost_at_once_is_said_in_one_line(
    refused: Callable[..., str], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(_: object) -> bool:
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    monkeypatch.setattr(environment, "leads_to_pooler", lost)
    assert "the database did not answer: connection was closed" in refused("migrate", TOCSIN_DATABASE_URL=database_url)


def test_a_standby_is_not_migrated(refused: Callable[..., str], folder: Path) -> None:
    primary = Server.create(folder / "primary", wheel())
    primary.start()
    standby = primary.replica(folder / "standby", primary.port)
    standby.start()
    try:
        said = refused("migrate", TOCSIN_DATABASE_URL=with_database(standby.url, "postgres"))
    finally:
        standby.stop()
        primary.stop()
    assert said == "tocsin: PostgreSQL is a standby: give the address of the primary\n"
