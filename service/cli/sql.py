"""``tocsin sql``: psql into the database in use."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from service.cli.place import database_url
from service.database.embedded import BINARIES
from service.errors import CommandFailed
from service.settings import load


def sql(
    *,
    command: Annotated[str | None, typer.Option("-c", "--command", help="Run this and leave.")] = None,
) -> None:
    """Open psql on the database that the service uses."""
    psql = BINARIES / "psql"
    if not psql.exists():
        raise CommandFailed("the embedded PostgreSQL brings no psql on this platform: install PostgreSQL's client")
    with database_url(load()) as url:
        # The password goes by the environment: everybody may read a command line.
        environment = {**os.environ, "PGPASSWORD": url.password} if url.password else None
        address = url.set(drivername="postgresql")._replace(password=None).render_as_string()
        arguments = [str(psql), "-X", "-v", "ON_ERROR_STOP=1", address]
        if command is not None:
            arguments += ["-c", command]
        code = subprocess.run(arguments, check=False, env=environment).returncode  # noqa: S603 - psql of the wheel, no shell
    if code:
        sys.exit(1)
