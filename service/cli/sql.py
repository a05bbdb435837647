"""``tocsin sql``: psql on the database in use, as the service's role or as an auditor.

An auditor's session has nothing to escape to. It is a login of its own, and not the service's login
in another role, so ``SET ROLE NONE`` leads nowhere. psql is in restricted mode: it takes SQL and no
backslash commands, which could connect again, run a shell or read files.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import asyncpg
import typer

from service.cli.environment import database_url, probed_url
from service.cli.invocation import suggest
from service.database.embedded import BINARIES
from service.database.libpq import SYSTEM, TLS_REQUIRED, command_line_address, connect, for_psql
from service.database.privileges import AUDITOR
from service.errors import CommandFailed
from service.settings import PREFIX, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from service.settings import Settings

PSQL = BINARIES / "psql"
_ONLY_READS = "-c default_transaction_read_only=on -c search_path=audit"
_NEEDED = {("sslrootcert", SYSTEM): 16, ("sslnegotiation", "direct"): 17}
"""The first version of psql that knows a value."""
_ROLE = "SELECT FROM pg_roles WHERE rolname = $1"
_MAY_MORE = "SELECT pg_has_role(relowner, 'MEMBER') FROM pg_class WHERE oid = 'audit.deliveries'::regclass"


def sql(
    *,
    command: Annotated[str | None, typer.Option("-c", "--command", help="Run this statement and exit.")] = None,
    auditor: Annotated[
        bool,
        typer.Option(
            "--auditor", help=f"As the role {AUDITOR}: the views of the schema audit, to read only, and SQL only."
        ),
    ] = False,
) -> None:
    """Open psql on the database that the service uses."""
    if (_run_as_auditor if auditor else _run)(load(), command):
        sys.exit(1)


def _run(settings: Settings, command: str | None) -> int:
    with database_url(settings) as url:
        return _psql(asyncio.run(_for_psql(url)), command, ["-X"], dict(os.environ))


def _run_as_auditor(settings: Settings, command: str | None) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "psqlrc"
        start.write_text(f"\\restrict {secrets.token_hex(16)}\n")
        environment["PSQLRC"] = str(start)
        options = ["-P", "pager=off"]  # a pager opens a shell
        with _auditor_url(settings) as url:
            # Not in PGOPTIONS, which options of the address would replace.
            given = url.query.get("options") or environment.get("PGOPTIONS", "")
            reading = url.update_query_dict({"options": f"{given} {_ONLY_READS}".lstrip()})
            return _psql(reading, command, options, environment)


@contextmanager
def _auditor_url(settings: Settings) -> Iterator[URL]:
    """Yield the address with which an auditor logs in.

    Raises:
        CommandFailed: PostgreSQL refuses the login, or the login may do more than read.

    """
    if settings.storage.auditor_url is not None:
        with probed_url(settings.storage.auditor_url, "TOCSIN_AUDITOR_URL", settings.storage) as url:
            yield asyncio.run(_check_login(url))
    else:
        with database_url(settings) as owner:
            asyncio.run(_check_role(owner))
            url = owner.set(username=AUDITOR)._replace(password=None)
            yield asyncio.run(_check_login(url))


def _psql(url: URL, command: str | None, options: list[str], environment: dict[str, str]) -> int:
    if url.password:
        environment["PGPASSWORD"] = url.password
    program = _program(url, restricted="-X" not in options)
    arguments = [program, *options, "-v", "ON_ERROR_STOP=1", command_line_address(url)]
    if command is not None:
        arguments += ["-v", "VERBOSITY=terse", "-c", command]  # an error is one line
    return subprocess.run(arguments, check=False, env=environment).returncode  # noqa: S603 - psql of the wheel, no shell


def _program(url: URL, *, restricted: bool) -> str:
    """Return the path of psql: the wheel's, which has no TLS, or where that is required, the machine's.

    Raises:
        CommandFailed: there is none, or it is too old: for the address, or to be ``restricted``.

    """
    if PSQL.exists() and url.query.get("sslmode") not in TLS_REQUIRED:
        return str(PSQL)
    found = shutil.which("psql")
    if found is None:
        raise CommandFailed(
            "the psql of Tocsin has no TLS, or is missing on this platform: install PostgreSQL's client"
        )
    if restricted:
        help_text = subprocess.run([found, "--help=commands"], check=False, capture_output=True, text=True).stdout  # noqa: S603 - no shell
        if "\\restrict" not in help_text:
            raise CommandFailed(f"{found} has no restricted mode: install a newer minor version of it")
    for (name, value), version in _NEEDED.items():
        if url.query.get(name) == value and _version(found) < version:
            raise CommandFailed(f"{name}={value} needs psql {version}, and {found} is older: install a newer one")
    return found


def _version(program: str) -> int:
    shown = subprocess.run([program, "--version"], check=False, capture_output=True, text=True).stdout  # noqa: S603 - no shell
    return int(found[0]) if (found := re.search(r"\d+", shown)) is not None else 0


async def _for_psql(url: URL) -> URL:
    connection = await connect(url, statement_cache_size=0)
    try:
        return for_psql(url, connection)
    finally:
        await connection.close()


async def _check_role(owner: URL) -> None:
    """Check that there is the role.

    Raises:
        CommandFailed: there is none.

    """
    connection = await connect(owner, statement_cache_size=0)
    try:
        if not await connection.fetch(_ROLE, AUDITOR):
            raise CommandFailed(
                f"the database has no role {AUDITOR}: run {suggest('migrate')} as a user that may create roles"
            )
    finally:
        await connection.close()


async def _check_login(url: URL) -> URL:
    """Log in as psql will, because psql cannot say what to set, and return the address for it.

    Raises:
        CommandFailed: PostgreSQL refuses the login, or the login may do more than read.

    """
    try:
        connection = await connect(url, statement_cache_size=0)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InterfaceError):
        raise CommandFailed(
            f"{url.username} cannot log in without a password: run ALTER ROLE {AUDITOR} LOGIN PASSWORD '…', and set"
            f" TOCSIN_AUDITOR_URL to postgresql://{AUDITOR}:…@host/database"
        ) from None
    try:
        if await connection.fetchval(_MAY_MORE):
            raise CommandFailed(f"{url.username} may do more than read: set TOCSIN_AUDITOR_URL to an auditor's login")
        return for_psql(url, connection)
    finally:
        await connection.close()
