"""``tocsin sql``: psql on the database in use."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import asyncpg
import typer

from service.cli.environment import database_url
from service.cli.invocation import suggest
from service.database.embedded import BINARIES
from service.database.engine import address_of
from service.errors import CommandFailed
from service.settings import load

if TYPE_CHECKING:
    from sqlalchemy import URL

AUDITOR = "tocsin_auditor"


def sql(
    *,
    command: Annotated[str | None, typer.Option("-c", "--command", help="Run this statement and exit.")] = None,
    auditor: Annotated[
        bool, typer.Option("--auditor", help=f"As the role {AUDITOR}: the views of the schema audit, and to read only.")
    ] = False,
) -> None:
    """Open psql on the database that the service uses."""
    psql = BINARIES / "psql"
    if not psql.exists():
        raise CommandFailed("the embedded PostgreSQL brings no psql on this platform: install PostgreSQL's client")
    with database_url(load()) as url:
        environment = dict(os.environ)
        if url.password:  # it goes by the environment: everybody may read a command line
            environment["PGPASSWORD"] = str(url.password)
        if auditor:
            asyncio.run(_become_auditor(url))
            options = f"-c role={AUDITOR} -c default_transaction_read_only=on -c search_path=audit"
            environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} {options}"
        address = url.set(drivername="postgresql")._replace(password=None).render_as_string()
        arguments = [str(psql), "-X", "-v", "ON_ERROR_STOP=1", address]
        if command is not None:
            arguments += ["-c", command]
        code = subprocess.run(arguments, check=False, env=environment).returncode  # noqa: S603 - psql of the wheel, no shell
    if code:
        sys.exit(1)


async def _become_auditor(url: URL) -> None:
    """Try to become the auditor, because psql would only say that a parameter is invalid.

    Raises:
        CommandFailed: there is no such role, or the user of the database may not become it.

    """
    try:
        connection = await asyncpg.connect(address_of(url), server_settings={"role": AUDITOR})
    except asyncpg.InvalidParameterValueError:
        raise CommandFailed(
            f"the database has no role {AUDITOR}: run {suggest('migrate')} as a user that may create roles"
        ) from None
    except asyncpg.InsufficientPrivilegeError:
        raise CommandFailed(
            f"{url.username} may not become {AUDITOR}: have a superuser run GRANT {AUDITOR} TO {url.username}"
        ) from None
    await connection.close()
