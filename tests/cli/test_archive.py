from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.database.locks import TableLock
from tests.fixtures.small_log import SIZE
from tests.harness import new_database

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fixtures.small_log import LogTemplates

FAR = "2999-01-01"


@pytest.fixture
async def filled(server_url: str, log_templates: LogTemplates) -> AsyncIterator[str]:
    """A database whose log fills a small partition, and a bit of the next."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", await log_templates.name(SIZE + 4)) as url:
        yield url


@pytest.mark.long
async def test_partitions_are_archived_listed_proved_and_restored_by_hand(
    tocsin: Callable[..., subprocess.CompletedProcess[str]],
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]],
    filled: str,
) -> None:
    async def run(*arguments: str) -> str:
        command = tocsin_process if arguments[0] == "purge" else tocsin
        done = await asyncio.to_thread(
            command, *arguments, TOCSIN_DATABASE_URL=filled, TOCSIN_ARCHIVE_DIR="kept", TOCSIN_RETENTION_DAYS="1"
        )
        assert done.returncode == 0, done
        return done.stdout

    assert await run("archive", "--before", "2001-01-01") == "No whole partition of the log is older than that.\n"
    path = (await run("archive", "--before", FAR)).strip()
    assert path.endswith("kept/events-000000000000001-000000000009999.jsonl.gz")
    assert "1 to           9,999" in await run("archive")
    assert await run("archive", "--dir", "/") == "There are no archives in /.\n"
    said = await run("archive", "--verify", path)
    assert "the events 1 to 9,999, and they fit their chain" in said
    foreseen = await run("purge", "--dry-run", "--before", FAR)
    assert [line.split(None, 1) for line in foreseen.splitlines()] == [
        ["1", "partitions of the log"],
        ["9,999", "events"],
        ["9,999", "alerts"],
        ["9,999", "of them unresolved"],
        ["0", "connections"],
        ["0", "dispatches"],
        ["0", "receipts"],
        ["0", "sightings"],
        ["0", "rejections"],
        ["0", "hours of rejections"],
        ["0", "idempotency keys"],
        ["0", "hours of sources"],
    ]
    assert "0  events" in await run("purge", "--dry-run")  # nothing is a day old
    assert await run("purge", "--before", FAR) == "Done: SELECT * FROM audit.retention_runs says what was deleted.\n"
    connection = await asyncpg.connect(filled)
    log_hash, events, alerts = await connection.fetchrow("SELECT log_hash, events, alerts FROM audit.retention_runs")
    assert (events, alerts) == (9_999, 9_999)
    assert f"and ends   {log_hash.hex()}" in said
    restored = await run("archive", "--restore", path)
    assert restored == "9,999 events were restored into archive.events; the log is as it was.\n"
    assert await connection.fetchval("SELECT count(*) FROM archive.events") == 9_999
    assert await connection.fetchval("SELECT min(seq) FROM events") == 10_000
    await connection.close()


def test_what_is_no_archive_is_named_in_one_line(
    refused: Callable[..., str], tmp_path: Path, database_url: str
) -> None:
    (tmp_path / "text").write_text("no archive")
    for option in ("--verify", "--restore"):
        said = refused("archive", option, "text", TOCSIN_DATABASE_URL=database_url)
        assert "text: it is no archive of Tocsin, or was damaged" in said
    assert "nowhere cannot be read: No such file or directory" in refused("archive", "--verify", "nowhere")
    assert "nowhere cannot be read: No such file or directory" in refused("archive", "--dir", "nowhere")


@pytest.mark.parametrize(
    "arguments",
    [
        ["archive"],
        ["archive", "--before", "soon"],
        ["archive", "--before", FAR, "--verify", "file"],
        ["purge"],
        ["purge", "--dry-run"],
        ["purge", "--before", "2026-13-01"],
    ],
)
def test_what_is_asked_for_wrongly_is_refused_with_two(
    tocsin: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str]
) -> None:
    run = tocsin(*arguments)
    assert (run.returncode, run.stdout) == (2, ""), run


async def test_only_one_purges_at_a_time(filled: str, refused_process: Callable[..., str]) -> None:
    connection = await asyncpg.connect(filled)
    await connection.execute(f"BEGIN; {TableLock.RETENTION.lock}")
    said = await asyncio.to_thread(refused_process, "purge", "--before", FAR, TOCSIN_DATABASE_URL=filled)
    assert "another process is purging" in said
    await connection.close()
