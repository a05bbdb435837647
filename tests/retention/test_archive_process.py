from __future__ import annotations

import resource
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest
import pytest_asyncio

from service.database.engine import parse_url
from service.database.libpq import connect_session
from service.errors import ArchiveDamaged, ArchiveFailed
from service.retention import runner
from service.retention.archive_file import ArchivedEvent, find_archives, open_archive
from service.retention.archive_process import run_archive_process, write_archive
from service.retention.restore import restore_archive
from tests.events.test_hash_chain import check
from tests.fixtures.small_log import SIZE, fill, log_head, make_partitions_small, open_log
from tests.harness import new_database, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sqlalchemy import URL

    from service.retention.archive_file import ArchiveReader
    from tests.fixtures.small_log import Log

EVENTS = (
    "SELECT seq, id, alert_id, kind, topic, severity, recipients, actor, occurred_at, body::text, details::text FROM "
)
LINKS = "SELECT last_seq, first_seq, last_id, linked_at, hash FROM "


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def diverse_template(server_url: str, template: str) -> AsyncIterator[str]:
    """The name of a database whose log begins with all kinds of events, and fills two partitions."""
    name = f"diverse_{uuid.uuid4().hex}"
    async with new_database(server_url, name, template) as url:
        connection = await asyncpg.connect(url)
        await make_partitions_small(connection)
        with serving(url) as node:
            alert = await node.post(
                'Ümläute, "quotes" \\ and more', body="line\nline\u2028", attributes={"n": 1e29, "z": "\u2028"}
            )
            await node.post_all([{"topic": "payments.eu", "recipients": ['al"ice', "bob"]}] * 20)
            async with node.http() as billing:
                repeated = [{"title": "again", "dedup_key": "k", "severity": level} for level in ("info", "critical")]
                await billing.post("/v1/alerts/batch", json=repeated)
            async with node.http("alice", "alerts:read alerts:manage") as alice:
                await alice.post(f"/v1/alerts/{alert['id']}/acknowledge")
                await alice.post(f"/v1/alerts/{alert['id']}/comments", json={"text": 'I have "it"\n,"body":"{}"'})
        await fill(connection, 2 * SIZE + 5)
        await connection.close()
        yield name


@pytest.fixture
async def diverse(server_url: str, diverse_template: str) -> AsyncIterator[Log]:
    async with (
        new_database(server_url, f"test_{uuid.uuid4().hex}", diverse_template) as url,
        open_log(url) as log,
    ):
        yield log


@pytest.fixture
def archives_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retention archive without a child, which has a low priority, and waits for a busy machine."""

    async def archive(url: URL, first_seq: int, last_seq: int, folder: Path) -> Path:
        connection = await connect_session(url)
        try:
            return await write_archive(connection, first_seq, last_seq, folder)
        finally:
            await connection.close()

    monkeypatch.setattr(runner, "run_archive_process", archive)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def verified(path: Path) -> ArchiveReader:
    """Read a whole archive, and return what read it."""
    with open_archive(path) as found:
        events = sum(isinstance(item, ArchivedEvent) for item in found.items())
        assert events == found.header.last_seq - found.header.first_seq + 1
    return found


@pytest.mark.usefixtures("archives_in_this_process")
@pytest.mark.long
async def test_what_is_purged_is_in_its_archive_to_the_byte(diverse: Log, tmp_path: Path) -> None:
    events, links = (
        await diverse.rows(EVENTS + "events ORDER BY seq"),
        await diverse.rows(LINKS + "log_chain ORDER BY 1"),
    )
    await diverse.purge(await diverse.now(), tmp_path / "new" / "folder")
    purges = await diverse.rows("SELECT first_seq, last_seq, log_hash, archive FROM audit.retention_runs ORDER BY run")
    found = find_archives(tmp_path / "new" / "folder")
    assert [(first, last, str(path)) for first, last, path in found] == [(a, b, path) for a, b, _, path in purges]
    assert [(purge[0], purge[1]) for purge in purges] == [(1, SIZE - 1), (SIZE, 2 * SIZE - 1)]
    previous = bytes(32)
    connection = diverse.connection
    for (_, _, path), purge in zip(found, purges, strict=True):
        reader = verified(path)
        assert (reader.header.previous_hash, reader.last_hash) == (previous, purge[2])
        previous = reader.last_hash
        for _ in range(2):  # again: in place of what was restored
            with open_archive(path) as reader:
                assert await restore_archive(connection, reader) == purge[1] - purge[0] + 1
    last = 2 * SIZE - 1
    assert await diverse.rows(EVENTS + "archive.events ORDER BY seq") == [row for row in events if row[0] <= last]
    assert await diverse.rows(LINKS + "archive.log_chain ORDER BY 1") == [row for row in links if row[0] <= last]
    assert await diverse.value("SELECT min(seq) FROM events") == 2 * SIZE
    assert await diverse.value("SELECT count(*) FROM pg_inherits WHERE inhrelid = 'archive.events'::regclass") == 0


async def test_an_archive_is_the_same_whoever_writes_it(diverse: Log, tmp_path: Path) -> None:
    one = await write_archive(diverse.connection, 1, SIZE - 1, tmp_path / "one")
    other = await run_archive_process(parse_url(diverse.url), 1, SIZE - 1, tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


async def test_nothing_of_a_damaged_archive_is_restored(diverse: Log, tmp_path: Path) -> None:
    path = await write_archive(diverse.connection, 1, SIZE - 1, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with open_archive(path) as found, pytest.raises(ArchiveDamaged):
        await restore_archive(diverse.connection, found)
    assert await diverse.value("SELECT to_regclass('archive.events')") is None


TAMPERING = [
    "UPDATE events SET body = json_build_object('id', alert_id) WHERE seq = 7000",
    "UPDATE events SET severity = 'critical' WHERE seq = 7000",
    "DELETE FROM events WHERE seq = 7000",
    "DELETE FROM log_chain WHERE last_seq = (SELECT min(last_seq) FROM log_chain)",
    "UPDATE log_chain SET hash = sha256(hash) WHERE last_seq = 9999",
]


@log_head(SIZE + 5)
@pytest.mark.parametrize("tampering", TAMPERING)
async def test_a_log_that_was_altered_is_not_archived(log: Log, tmp_path: Path, tampering: str) -> None:
    await log.connection.execute(tampering)
    with pytest.raises(ArchiveDamaged):
        await write_archive(log.connection, 1, SIZE - 1, tmp_path)
    assert names(tmp_path) == []


@log_head(SIZE + 5)
async def test_what_is_not_archived_is_not_purged(log: Log, tmp_path: Path) -> None:
    await log.connection.execute("UPDATE events SET actor = 'mallory' WHERE seq = 7000")
    with pytest.raises(ArchiveFailed, match=r"the events 1 to 9999 were not archived: the link of the chain"):
        await log.purge(await log.now(), tmp_path)
    assert find_archives(tmp_path) == []
    assert await log.rows("SELECT * FROM audit.retention_runs") == []
    assert await log.value("SELECT count(*) FROM events") == SIZE + 5


@contextmanager
def little_disk() -> Iterator[None]:
    """Let this process, and those that it starts, write files of 100 kB at most: more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@log_head(SIZE + 5)
async def test_a_full_disk_leaves_neither_a_gap_nor_half_an_archive_until_there_is_room(
    log: Log, tmp_path: Path
) -> None:
    folder = tmp_path / "archives"
    with little_disk(), pytest.raises(ArchiveFailed, match=r"the events 1 to 9999 were not archived: .*File too large"):
        await log.purge(await log.now(), folder)
    assert names(folder) == []
    assert await log.rows("SELECT * FROM audit.retention_runs") == []
    assert await log.value("SELECT count(*) FROM events") == SIZE + 5
    await check(log.url)
    await log.purge(await log.now(), folder)
    assert await log.value("SELECT min(seq) FROM events") == SIZE


async def test_a_folder_that_cannot_be_written_to_is_named(log: Log, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with pytest.raises(OSError, match="a file"):
        await write_archive(log.connection, 1, SIZE - 1, blocked)


@log_head(SIZE + 5)
async def test_what_a_crash_left_of_an_archive_is_removed(log: Log, tmp_path: Path) -> None:
    (tmp_path / ".events-000000000000001-000000000009999.jsonl.gz.abc").write_bytes(b"half")
    path = await write_archive(log.connection, 1, SIZE - 1, tmp_path)
    assert names(tmp_path) == [path.name]
    verified(path)
