"""``tocsin purge``: delete what is old now, or preview it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from service import logs
from service.cli.environment import current_database_url, say_database
from service.cli.time_options import moment
from service.database.engine import Database, close_quietly
from service.errors import CommandFailed
from service.retention.preview import preview_purge
from service.retention.runner import Retention
from service.settings import load

if TYPE_CHECKING:
    from sqlalchemy import URL

    from service.settings import Settings


def purge(
    *,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Delete what is older; default: TOCSIN_RETENTION_DAYS ago.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be deleted.")] = False,
) -> None:
    """Delete what is older than the retention.

    Old events, alerts and rows of the ledger go, in whole partitions of the log. The
    service does this by itself where TOCSIN_RETENTION_DAYS is set.
    """
    settings = load()
    older_than = moment(before, "--before")
    if older_than is None:
        if settings.retention.retention_days is None:
            raise typer.BadParameter("give --before, or set TOCSIN_RETENTION_DAYS")
        older_than = datetime.now(UTC) - timedelta(days=settings.retention.retention_days)
    logs.configure(settings.server.log_level, settings.server.log_format)
    with current_database_url(settings) as url:
        asyncio.run((_preview if dry_run else _purge)(settings, url, older_than))
        if dry_run:
            say_database(settings)


async def _purge(settings: Settings, url: URL, older_than: datetime) -> None:
    database = Database(url, settings.storage)
    try:
        if not await Retention(database, settings.retention, lambda _seq: None).purge(older_than):
            raise CommandFailed("another process is purging: wait until it has finished")
    finally:
        await database.close()
    print("Done: SELECT * FROM audit.retention_runs says what was deleted.")


async def _preview(settings: Settings, url: URL, older_than: datetime) -> None:
    database = Database(url, settings.storage)
    connection = await database.connect(statement_timeout=3600)
    try:
        counts = await preview_purge(connection, older_than)
    finally:
        await close_quietly(connection)
        await database.close()
    for name, count in counts.items():
        print(f"{count:>15,}  {name}")
