from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.cli.sql import sql
from service.database.embedded import embedded_postgres
from service.database.engine import parse_url
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    Tocsin = Callable[..., subprocess.CompletedProcess[str]]


def test_a_statement_is_asked_of_the_database_in_use(tocsin_process: Tocsin, database_url: str) -> None:
    run = tocsin_process(
        "sql", "-c", "SELECT 'the log holds ' || count(*) FROM events", TOCSIN_DATABASE_URL=database_url
    )
    assert run.returncode == 0, run.stderr
    assert "the log holds 0" in run.stdout


def test_the_command_fails_where_the_statement_does(tocsin_process: Tocsin, database_url: str) -> None:
    run = tocsin_process("sql", "-c", "SELECT nothing", TOCSIN_DATABASE_URL=database_url)
    assert run.returncode == 1
    assert "nothing" in run.stderr
    assert run.stderr.count("\n") == 1


def test_the_auditor_reads_the_views_and_nothing_else(tocsin_process: Tocsin, database_url: str) -> None:
    run = tocsin_process(
        "sql", "--auditor", "-c", "SELECT session_user, count(*) FROM deliveries", TOCSIN_DATABASE_URL=database_url
    )
    assert run.returncode == 0, run.stderr
    assert "tocsin_auditor" in run.stdout
    run = tocsin_process("sql", "--auditor", "-c", "SELECT FROM public.events", TOCSIN_DATABASE_URL=database_url)
    assert run.returncode == 1
    assert "permission denied" in run.stderr
    run = tocsin_process("sql", "--auditor", "-c", "CREATE TEMPORARY TABLE mine ()", TOCSIN_DATABASE_URL=database_url)
    assert run.returncode == 1
    assert "read-only transaction" in run.stderr


RESTRICTED = "backslash commands are restricted"
ESCAPES = {
    **dict.fromkeys(
        (
            "SET ROLE NONE",
            "RESET ROLE",
            "SET SESSION AUTHORIZATION DEFAULT",
            "RESET SESSION AUTHORIZATION",
            "RESET ALL",
        ),
        "permission denied for table events",
    ),
    "SET ROLE postgres": "permission denied to set role",
    "SET SESSION AUTHORIZATION postgres": "permission denied to set session authorization",
    **dict.fromkeys(
        (
            *("\\c - postgres", "\\connect postgresql:///", "\\! id", "\\i /etc/passwd", "\\o |id", "\\set x `id`"),
            *("\\getenv x PGPASSWORD", "\\copy (SELECT 1) TO PROGRAM 'id'", "\\e", "\\setenv PAGER id"),
        ),
        RESTRICTED,
    ),
    "\\unrestrict x": "wrong key",
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_auditor_has_nothing_to_escape_to(
    escape: str, database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOCSIN_DATABASE_URL", database_url)
    with pytest.raises(SystemExit):
        sql(command=escape if escape.startswith("\\") else f"{escape}; SELECT 1 FROM public.events", auditor=True)
    said = capfd.readouterr()
    assert ESCAPES[escape] in said.err
    assert "uid=" not in said.out


def test_an_auditor_has_nothing_to_escape_to_on_standard_input_either(database_url: str) -> None:
    for line in ("\\c - postgres", "SELECT 1 \\g |id"):
        run = subprocess.run(
            [sys.executable, "-m", "service", "sql", "--auditor"],
            input=f"SELECT 1;\n{line}\nSELECT session_user;\n",
            env={**os.environ, "TOCSIN_DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (run.returncode, RESTRICTED in run.stderr) == (1, True)
        assert "postgres" not in run.stdout
        assert "uid=" not in run.stdout


async def test_the_auditor_of_another_server_logs_in_with_an_address_of_its_own(
    tocsin_process: Tocsin, refused: Callable[..., str], database_url: str, server_url: str
) -> None:
    name = f"anna_{uuid.uuid4().hex}"
    server = await asyncpg.connect(server_url)
    await server.execute(f"CREATE ROLE {name} LOGIN IN ROLE tocsin_auditor")
    try:
        url = parse_url(database_url).set(drivername="postgresql", username=name).render_as_string()
        run = await asyncio.to_thread(
            tocsin_process, "sql", "--auditor", "-c", "SELECT session_user FROM deliveries", TOCSIN_AUDITOR_URL=url
        )
        assert run.returncode == 0, run.stderr  # without the address of the service's login
        await server.execute(f"ALTER ROLE {name} NOLOGIN")
        said = refused("sql", "--auditor", "-c", "SELECT 1", TOCSIN_AUDITOR_URL=url)
        assert "not permitted to log in" in said
        assert "check TOCSIN_AUDITOR_URL" in said
    finally:
        await server.execute(f"DROP ROLE {name}")
        await server.close()


def test_an_auditor_who_may_do_more_than_read_is_refused(refused: Callable[..., str], database_url: str) -> None:
    said = refused("sql", "--auditor", "-c", "SELECT 1", TOCSIN_AUDITOR_URL=database_url)
    assert "may do more than read" in said


def test_a_server_without_the_role_of_auditors_is_distinguished(refused: Callable[..., str], tmp_path: Path) -> None:
    with embedded_postgres(tmp_path / "another") as url:
        address = url.render_as_string(hide_password=False)
        said = refused("sql", "--auditor", "-c", "SELECT 1", TOCSIN_DATABASE_URL=address)
    assert "no role tocsin_auditor" in said
    assert "tocsin migrate" in said


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="command lines are read from /proc")
@pytest.mark.parametrize("in_query", [False, True], ids=["beside the user", "in the query"])
async def test_the_password_is_on_no_command_line(database_url: str, *, in_query: bool) -> None:
    url = parse_url(database_url).set(drivername="postgresql", password=None if in_query else "hunter2")
    if in_query:
        url = url.update_query_dict({"password": "hunter2", "sslpassword": "hunter2"})
    mark = uuid.uuid4().hex
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "sql", "-c", f"SELECT pg_sleep(30), '{mark}'"),
        env={**os.environ, "TOCSIN_DATABASE_URL": url.render_as_string(hide_password=False)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        lines = await eventually(lambda: [line for line in command_lines() if "psql" in line and mark in line])
        assert not [line for line in lines if "hunter2" in line]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.wait()


def command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return lines
