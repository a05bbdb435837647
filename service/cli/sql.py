"""``tocsin sql``: psql on the database in use, as the service's role or as an auditor.

An auditor's session has nothing to escape to. It is a login of its own, and not the service's login
in another role, so ``SET ROLE NONE`` leads nowhere. psql is in restricted mode: it takes SQL and no
backslash commands, which could connect again, run a shell or read files.
"""

from __future__ import annotations

import asyncio
import os
import secrets
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
from service.database.engine import address_of
from service.database.privileges import AUDITOR
from service.errors import CommandFailed
from service.settings import PREFIX, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from service.settings import Settings

PSQL = BINARIES / "psql"
_ONLY_READS = "-c default_transaction_read_only=on -c search_path=audit"
_SECRETS = ("password", "sslpassword")
"""Parameters of an address that are on no command line; psql asks for the second one."""
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
    if not PSQL.exists():
        raise CommandFailed("the embedded PostgreSQL brings no psql on this platform: install PostgreSQL's client")
    if (_run_as_auditor if auditor else _run)(load(), command):
        sys.exit(1)


def _run(settings: Settings, command: str | None) -> int:
    with database_url(settings) as url:
        return _psql(url, command, ["-X"], dict(os.environ))


def _run_as_auditor(settings: Settings, command: str | None) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} {_ONLY_READS}"
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "psqlrc"
        start.write_text(f"\\restrict {secrets.token_hex(16)}\n")
        environment["PSQLRC"] = str(start)
        options = ["-P", "pager=off"]  # a pager opens a shell
        with _auditor_url(settings) as url:
            return _psql(url, command, options, environment)


@contextmanager
def _auditor_url(settings: Settings) -> Iterator[URL]:
    """Yield the address with which an auditor logs in.

    Raises:
        CommandFailed: PostgreSQL refuses the login, or the login may do more than read.

    """
    if settings.storage.auditor_url is not None:
        with probed_url(settings.storage.auditor_url, "TOCSIN_AUDITOR_URL", settings.storage) as url:
            asyncio.run(_check_login(url))
            yield url
    else:
        with database_url(settings) as owner:
            asyncio.run(_check_role(owner))
            url = owner.set(username=AUDITOR)._replace(password=None).difference_update_query(("user", "password"))
            asyncio.run(_check_login(url))
            yield url


def _psql(url: URL, command: str | None, options: list[str], environment: dict[str, str]) -> int:
    if (password := url.password or url.query.get("password")) is not None:
        environment["PGPASSWORD"] = str(password)  # everybody may read a command line
    public = url.set(drivername="postgresql")._replace(password=None).difference_update_query(_SECRETS)
    address = public.render_as_string()
    arguments = [str(PSQL), *options, "-v", "ON_ERROR_STOP=1", address]
    if command is not None:
        arguments += ["-c", command]
    return subprocess.run(arguments, check=False, env=environment).returncode  # noqa: S603 - psql of the wheel, no shell


async def _check_role(owner: URL) -> None:
    """Check that there is the role.

    Raises:
        CommandFailed: there is none.

    """
    connection = await asyncpg.connect(address_of(owner), statement_cache_size=0)
    try:
        if not await connection.fetch(_ROLE, AUDITOR):
            raise CommandFailed(
                f"the database has no role {AUDITOR}: run {suggest('migrate')} as a user that may create roles"
            )
    finally:
        await connection.close()


async def _check_login(url: URL) -> None:
    """Log in as psql will, because psql cannot say what to set.

    Raises:
        CommandFailed: PostgreSQL refuses the login, or the login may do more than read.

    """
    try:
        connection = await asyncpg.connect(address_of(url), statement_cache_size=0)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InterfaceError):
        raise CommandFailed(
            f"{url.username} cannot log in without a password: run ALTER ROLE {AUDITOR} LOGIN PASSWORD '…', and set"
            f" TOCSIN_AUDITOR_URL to postgresql://{AUDITOR}:…@host/database"
        ) from None
    try:
        if await connection.fetchval(_MAY_MORE):
            raise CommandFailed(f"{url.username} may do more than read: set TOCSIN_AUDITOR_URL to an auditor's login")
    finally:
        await connection.close()
