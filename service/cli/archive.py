"""``tocsin archive``: archive old partitions by hand, and list, verify and restore archives."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - typer reads it when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.environment import current_database_url
from service.cli.time_options import moment
from service.database.libpq import connect_session
from service.errors import ArchiveDamaged, CommandFailed
from service.retention.archive_file import find_archives, open_archive
from service.retention.archive_process import run_archive_process
from service.retention.partition_purge import due_partitions
from service.retention.restore import restore_archive
from service.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import URL

    from service.retention.archive_file import ArchiveReader


def archive(
    *,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Archive the partitions whose events are all older.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="The folder of the archives; default: TOCSIN_ARCHIVE_DIR.")
    ] = None,
    verify: Annotated[Path | None, typer.Option(metavar="FILE", help="Verify an archive against its chain.")] = None,
    restore_file: Annotated[
        Path | None,
        typer.Option("--restore", metavar="FILE", help="Load an archive into the schema archive, beside the log."),
    ] = None,
) -> None:
    """Archive, list, verify and restore partitions of the log.

    Archived partitions stay in the log. Without an option, the archives are listed.
    """
    if sum(given is not None for given in (before, verify, restore_file)) > 1:
        raise typer.BadParameter("give one of --before, --verify and --restore")
    settings = load()
    if verify is not None:
        _verify(verify)
    elif restore_file is not None:
        with current_database_url(settings) as url:
            rows = asyncio.run(_restore(url, restore_file))
        print(f"{rows:,} events were restored into archive.events; the log is as it was.")
    else:
        archives = folder or settings.retention.archive_dir
        if archives is None:
            raise typer.BadParameter("give --dir, or set TOCSIN_ARCHIVE_DIR")
        older_than = moment(before, "--before")
        if older_than is None:
            _list(archives)
        else:
            with current_database_url(settings) as url:
                asyncio.run(_archive(url, older_than, archives))


async def _archive(url: URL, older_than: datetime, folder: Path) -> None:
    connection = await connect_session(url)
    try:
        due = await due_partitions(connection, older_than)
    finally:
        await connection.close()
    for partition in due:
        print(await run_archive_process(url, partition.first_seq, partition.last_seq, folder), flush=True)
    if not due:
        print("No whole partition of the log is older than that.")


def _verify(path: Path) -> None:
    with _opened(path) as found:
        for _ in found.items():
            pass
    header = found.header
    print(f"{path.name} holds the events {header.first_seq:,} to {header.last_seq:,}, and they fit their chain.")
    print(f"It follows {header.previous_hash.hex()}")
    print(f"and ends   {found.last_hash.hex()}")
    print(
        "Compare the last with log_hash in its row of audit.retention_runs, and the first with that of the row before."
    )


def _list(folder: Path) -> None:
    try:
        found = find_archives(folder)
    except OSError as error:
        raise CommandFailed(f"{folder} cannot be read: {error.strerror}") from None
    for first_seq, last_seq, path in found:
        print(f"{first_seq:>15,} to {last_seq:>15,}  {path.stat().st_size:>15,} bytes  {path}")
    if not found:
        print(f"There are no archives in {folder}.")


async def _restore(url: URL, path: Path) -> int:
    connection = await connect_session(url)
    try:
        with _opened(path) as found:
            return await restore_archive(connection, found)
    finally:
        await connection.close()


@contextmanager
def _opened(path: Path) -> Iterator[ArchiveReader]:
    """Open an archive, and name it in what is wrong with it.

    Raises:
        CommandFailed: it cannot be read, or was damaged.

    """
    try:
        with open_archive(path) as found:
            yield found
    except ArchiveDamaged as error:
        raise CommandFailed(f"{path}: {error}") from None
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}") from None
