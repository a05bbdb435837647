"""The database of the commands: the configured one, or the embedded one in the data folder."""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.cli.invocation import suggest
from service.database.durability import POOLER, encoding_refusal, leads_to_pooler
from service.database.embedded import embedded_postgres, has_data
from service.database.engine import parse_url, shown_address, verify
from service.database.failures import Failure, classify, driver_error, is_database_error
from service.database.libpq import connect, within
from service.database.migrate import SchemaState, migrate, schema_state
from service.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import SecretStr
    from sqlalchemy import URL

    from service.settings import Settings, StorageSettings


@contextmanager
def database_url(settings: Settings, *, create: bool = False, restart: bool = False) -> Iterator[URL]:
    """Yield the address of the configured database, or of the embedded one, which runs meanwhile.

    With ``create`` the embedded one is made where there is none; with ``restart`` it is started again
    whenever it was killed. The address leads to PostgreSQL itself, and not through a pooler.

    Raises:
        CommandFailed: there is no database, it cannot be reached, or something in the block failed there.

    """
    storage = settings.storage
    if storage.database_url is None:
        if storage.listen_url is not None:
            raise CommandFailed("TOCSIN_LISTEN_URL needs TOCSIN_DATABASE_URL, the address of the pooler")
        if not create:
            _check_data(settings.server.data_dir)
        with embedded_postgres(settings.server.data_dir, restart=restart) as url, _said_in_one_line():
            yield parse_url(url.render_as_string(hide_password=False))
        return
    setting = "TOCSIN_DATABASE_URL" if storage.listen_url is None else "TOCSIN_LISTEN_URL"
    with probed_url(storage.listen_url or storage.database_url, setting, storage) as url:
        yield url


def _check_data(folder: Path) -> None:
    """Check that the data folder has a database, which a command that reads must not make.

    Raises:
        CommandFailed: it has none.

    """
    shown = folder.resolve()
    try:
        has_database = has_data(folder)
    except OSError as error:
        raise CommandFailed(
            f"the data folder {shown} cannot be read: {error.strerror}; run the command as the user of the service"
        ) from None
    if not has_database:
        raise CommandFailed(
            f"there is no database in the data folder {shown}: run the command where the service runs, or set"
            f" TOCSIN_DATA_DIR or TOCSIN_DATABASE_URL; {suggest('serve --dev')} makes a new one"
        )


def database_name(settings: Settings) -> str:
    """Return the name of the database in use, without what may be a secret."""
    storage = settings.storage
    address = storage.listen_url or storage.database_url
    if address is None:
        return f"the embedded one in {settings.server.data_dir.resolve()}"
    return shown_address(parse_url(address.get_secret_value()))


def say_database(settings: Settings) -> None:
    """Say on standard error which database has answered, where a person reads it."""
    if sys.stderr.isatty():
        print(f"tocsin: the database is {database_name(settings)}", file=sys.stderr)


@contextmanager
def probed_url(address: SecretStr, setting: str, storage: StorageSettings) -> Iterator[URL]:
    """Yield the address that a setting holds.

    Raises:
        CommandFailed: it cannot be reached, or something in the block failed there.

    """
    url = within(parse_url(address.get_secret_value(), setting), storage.database_connect_timeout_seconds)
    asyncio.run(_probe(url, setting))
    with _said_in_one_line():
        yield url


@contextmanager
def _said_in_one_line() -> Iterator[None]:
    """Turn an error of the database in the block into a line for the operator.

    Raises:
        CommandFailed: there was one.

    """
    try:
        yield
    except Exception as error:
        if not is_database_error(error):
            raise
        cause = driver_error(error)
        hint = "" if classify(error) is Failure.DEFECT else "; run the command again"
        why = " ".join(str(cause).split()) or type(cause).__name__
        raise CommandFailed(f"the database did not answer: {why}{hint}") from None


@contextmanager
def current_database_url(settings: Settings) -> Iterator[URL]:
    """Yield the address of the database, which has the schema of this version.

    Raises:
        CommandFailed: it has another, or cannot be reached.

    """
    with database_url(settings) as url:
        check_schema(url)
        yield url


def check_schema(url: URL) -> None:
    """Check that the database has the schema of this version.

    Raises:
        CommandFailed: it has another.

    """
    name, run_migrate = shown_address(url), f"run {suggest('migrate')}"
    match schema_state(url):
        case SchemaState.MISSING:
            raise CommandFailed(f"the database {name} has no schema of Tocsin: check the address, or {run_migrate}")
        case SchemaState.OLDER:
            raise CommandFailed(f"the database {name} has an older schema than this version needs: {run_migrate}")
        case SchemaState.UNKNOWN:
            raise CommandFailed(
                f"the database {name} has the schema of a newer version of Tocsin, or of another program:"
                " check the address, or install that version"
            )


def migrate_schema(url: URL) -> None:
    """Bring the database to the schema of this version.

    Raises:
        CommandFailed: it has the schema of a newer version, or of another program.

    """
    if schema_state(url) is SchemaState.UNKNOWN:
        check_schema(url)
    migrate(url)


def serving_url(settings: Settings, direct_url: URL) -> URL:
    """Return the address of the transactions of a node: a pooler's, where ``TOCSIN_LISTEN_URL`` is set.

    Raises:
        CommandFailed: alerts cannot be stored there, and why.

    """
    storage = settings.storage
    url = direct_url
    if storage.database_url is not None and storage.listen_url is not None:
        url = parse_url(storage.database_url.get_secret_value())
    try:
        asyncio.run(verify(url, storage))
    except Exception as error:
        if not is_database_error(error) and not isinstance(error, OSError):
            raise
        raise CommandFailed(f"no alert can be stored: {error or type(error).__name__}") from None
    return url


async def _probe(url: URL, setting: str) -> None:
    try:
        connection = await connect(url, statement_cache_size=0)
    except Exception as error:  # noqa: BLE001 - what asyncpg cannot read in the address raises anything, and quotes it
        is_known = is_database_error(error) or isinstance(error, OSError)  # such as a socket that is not there
        why = (is_known and " ".join(str(error).split())) or type(error).__name__
        raise CommandFailed(
            f"the database {shown_address(url)} cannot be used: {why}; check {setting} and that PostgreSQL runs"
        ) from None
    with _said_in_one_line():
        try:
            if await leads_to_pooler(connection):
                raise CommandFailed(POOLER)
            if (refusal := encoding_refusal(await connection.fetchval("SELECT getdatabaseencoding()"))) is not None:
                raise CommandFailed(refusal)
        finally:
            await connection.close()
