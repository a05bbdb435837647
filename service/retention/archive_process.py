"""The archive process: writes the archive of a partition, in a child process.

Hashing and compressing a million events takes most of a minute of one core. In the node's process,
even in a thread, it would delay requests; so a child process does it, with a low priority. The child
gets its task on standard input: the address of the database contains a password, and anybody may
read a command line.

An archive is written under a temporary name, synced and renamed: a file with the name of an archive
is complete.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from service.database.engine import address_of
from service.database.failures import is_database_error
from service.database.libpq import connect_session
from service.errors import ArchiveFailed, TocsinError
from service.events.hash_chain import LINK_GRID, NO_HASH
from service.retention.archive_file import ArchivedEvent, ArchivedLink, ArchiveHeader, ArchiveWriter, file_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    import asyncpg
    from sqlalchemy import URL

PREFETCH = 100
"""Events that are read at a time; each may be as large as a request."""
CHILD_STOP_TIMEOUT_SECONDS = 5
NICENESS = 10
"""The child gets a tenth of the time of a core that a node keeps busy; with 19 it would get a seventieth."""

_PREVIOUS = """
SELECT coalesce(
    (SELECT hash FROM log_chain WHERE last_seq = $1), (SELECT log_hash FROM retention_runs WHERE last_seq = $1)
)
"""
_LINKS = """
SELECT last_seq, first_seq, last_id, linked_at, hash FROM log_chain WHERE last_seq BETWEEN $1 AND $2 ORDER BY last_seq
"""
_EVENTS = """
SELECT seq, id, alert_id, kind, topic, severity::text, recipients, actor, occurred_at, body::text, details::text
FROM events WHERE seq BETWEEN $1 AND $2 ORDER BY seq
"""


async def run_archive_process(url: URL, first_seq: int, last_seq: int, folder: Path) -> Path:
    """Archive the events of whole links, in a child process, and return the file.

    Raises:
        ArchiveFailed: it cannot be written, or the log was altered; an earlier file is kept.

    """
    task = {"address": address_of(url), "first_seq": first_seq, "last_seq": last_seq, "folder": str(folder)}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.retention.archive_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await child.communicate(orjson.dumps(task))
    finally:
        if child.returncode is None:
            child.terminate()
            await asyncio.wait_for(child.wait(), CHILD_STOP_TIMEOUT_SECONDS)
    if child.returncode:
        reason = stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ArchiveFailed(f"the events {first_seq} to {last_seq} were not archived: {reason}")
    return Path(os.fsdecode(stdout))


async def write_archive(connection: asyncpg.Connection, first_seq: int, last_seq: int, folder: Path) -> Path:
    """Write the archive of these events, and return the file.

    Raises:
        ArchiveDamaged: the log was altered.
        OSError: the folder cannot be written to.

    """
    path = folder / file_name(first_seq, last_seq)
    header = ArchiveHeader(first_seq, last_seq, await connection.fetchval(_PREVIOUS, first_seq - 1) or NO_HASH)
    with _atomic_file(path) as file, ArchiveWriter(file, header) as writer:
        first = first_seq
        while first <= last_seq:
            last = min(last_seq, (first // LINK_GRID + 1) * LINK_GRID - 1)  # no link crosses the grid
            await _copy(connection, writer, first, last)
            first = last + 1
        writer.finish()
    return path


@contextmanager
def _atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file, renamed to ``path`` if the block succeeds, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{path.name}.*"):
        left_over.unlink(missing_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(number)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def _copy(connection: asyncpg.Connection, writer: ArchiveWriter, first_seq: int, last_seq: int) -> None:
    links = [ArchivedLink(*row) for row in await connection.fetch(_LINKS, first_seq, last_seq)]
    links.reverse()
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(_EVENTS, first_seq, last_seq, prefetch=PREFETCH):
            writer.write_event(ArchivedEvent(*row))
            while links and links[-1].last_seq <= row["seq"]:
                writer.write_link(links.pop())


async def _archive(task: dict[str, Any]) -> Path:
    connection = await connect_session(task["address"], server_settings={"application_name": "tocsin archive"})
    try:
        return await write_archive(connection, task["first_seq"], task["last_seq"], Path(task["folder"]))
    finally:
        await connection.close()


def main() -> int:
    """Read the task from standard input, and write the path of the archive to standard output."""
    os.nice(NICENESS)
    try:
        path = asyncio.run(_archive(orjson.loads(sys.stdin.buffer.read())))
    except Exception as error:
        if not isinstance(error, TocsinError | OSError) and not is_database_error(error):
            raise
        print(error, file=sys.stderr)  # noqa: T201 - the parent reads it
        return 1
    sys.stdout.buffer.write(os.fsencode(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
