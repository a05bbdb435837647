"""Addresses of databases that cannot be used: commands say in one line what to do."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.cli.sql import PSQL, _program
from service.database.durability import UnsafeServer
from service.database.engine import Database, parse_url
from service.errors import CommandFailed
from service.settings import StorageSettings
from tests.harness import with_database

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path


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
