from __future__ import annotations

import asyncio
import gzip
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from service.database.engine import parse_url
from service.errors import ArchiveDamaged, ArchiveFailed
from service.retention import archive_process
from service.retention.archive_file import Row, find_archives, read_archive
from service.retention.restore import restore
from tests.events.test_hash_chain import check
from tests.fixtures.small_log import SIZE
from tests.harness import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from service.retention.archive_file import ArchiveReader
    from tests.fixtures.small_log import Log
    from tests.harness import Node

EVENTS = "SELECT seq, alert_id, kind, topic, severity, recipients, actor, occurred_at, body::text, details::text FROM "
LINKS = "SELECT last_seq, first_seq, linked_at, hash FROM "


@pytest.fixture
async def lively(log: Log, node: Node) -> Log:
    """A log of all kinds of events, of a node that serves, and then many."""
    alert = await node.post(
        'Ümläute, "quotes" \\ and more', body="line\nline\u2028", attributes={"n": 1e29, "z": "\u2028"}
    )
    await node.post_all([{"topic": "payments.eu", "recipients": ['al"ice', "bob"]}] * 20)
    async with node.http() as billing:
        repeated = [{"title": "again", "dedup_key": "k", "severity": severity} for severity in ("info", "critical")]
        await billing.post("/v1/alerts/batch", json=repeated)
    async with node.http("alice", "alerts:read alerts:manage") as alice:
        await alice.post(f"/v1/alerts/{alert['id']}/acknowledge")
        await alice.post(f"/v1/alerts/{alert['id']}/comments", json={"text": 'I have "it"\n,"body":"{}"'})
    await log.fill(2 * SIZE + 5)
    return log


def proved(path: Path) -> ArchiveReader:
    with read_archive(path) as found:
        assert (
            sum(isinstance(item, Row) for item in found.items()) == found.header.last_seq - found.header.first_seq + 1
        )
    return found


async def test_what_is_purged_is_in_its_archive_to_the_byte(lively: Log, tmp_path: Path) -> None:
    events, links = await lively.rows(EVENTS + "events ORDER BY seq"), await lively.rows(LINKS + "log_chain ORDER BY 1")
    await lively.let_go(await lively.now(), tmp_path / "new" / "folder")
    purges = await lively.rows("SELECT first_seq, last_seq, log_hash, archive FROM audit.retention_runs ORDER BY run")
    found = find_archives(tmp_path / "new" / "folder")
    assert [(first, last, str(path)) for first, last, path in found] == [(a, b, path) for a, b, _, path in purges]
    assert [(purge[0], purge[1]) for purge in purges] == [(1, SIZE - 1), (SIZE, 2 * SIZE - 1)]
    previous = bytes(32)
    connection = lively.connection
    for (_, _, path), purge in zip(found, purges, strict=True):
        reader = proved(path)
        assert (reader.header.previous_hash, reader.last_hash) == (previous, purge[2])
        previous = reader.last_hash
        for _ in range(2):  # again: in place of what was restored
            with read_archive(path) as reader:
                assert await restore(connection, reader) == purge[1] - purge[0] + 1
    gone = 2 * SIZE - 1
    assert await lively.rows(EVENTS + "archive.events ORDER BY seq") == [row for row in events if row[0] <= gone]
    assert await lively.rows(LINKS + "archive.log_chain ORDER BY 1") == [row for row in links if row[0] <= gone]
    assert await lively.value("SELECT min(seq) FROM events") == 2 * SIZE
    assert await lively.value("SELECT count(*) FROM pg_inherits WHERE inhrelid = 'archive.events'::regclass") == 0


async def archived(log: Log, folder: Path) -> Path:
    return await archive_process.archive(parse_url(log.url), 1, SIZE - 1, folder)


async def test_an_archive_is_the_same_each_time(lively: Log, tmp_path: Path) -> None:
    one, other = [await archived(lively, tmp_path / name) for name in ("one", "other")]
    assert one.read_bytes() == other.read_bytes()


async def test_whatever_is_changed_in_an_archive_is_found(lively: Log, tmp_path: Path) -> None:
    path = await archived(lively, tmp_path)
    whole = gzip.decompress(path.read_bytes())
    lines = whole.splitlines(keepends=True)
    events = [n for n, line in enumerate(lines) if line.startswith(b'{"seq"')]
    links = [n for n, line in enumerate(lines) if line.startswith(b'{"link"')]
    a, b, last = events[3], events[4], events[-1]

    def changed(number: int, old: bytes, new: bytes) -> bytes:
        assert old in lines[number]
        return b"".join([*lines[:number], lines[number].replace(old, new, 1), *lines[number + 1 :]])

    damaged = {
        "a title": changed(last, b"It happened", b"It happenes"),
        "a time": changed(last, b"41:07.123456", b"41:07.123457"),
        "a topic": changed(last, b'"topic":"default"', b'"topic":"defaults"'),
        "the recipients": changed(last, b'"recipients":null', b'"recipients":["bob"]'),
        "an actor": changed(last, b'"actor":"billing"', b'"actor":"nobody_"'),
        "what was said": changed(next(n for n in events if b"comment" in lines[n]), b"I have", b"I had "),
        "two in another order": b"".join([*lines[:a], lines[b], lines[a], *lines[b + 1 :]]),
        "one left out": b"".join([*lines[:a], *lines[b:]]),
        "one twice": b"".join([*lines[:b], lines[a], *lines[b:]]),
        "the time of a link": changed(links[-1], b'"linked_at":"2', b'"linked_at":"1'),
        "a link left out": b"".join([*lines[: links[0]], *lines[links[0] + 1 :]]),
        "the last link": b"".join(lines[: links[-1]]),
        "cut off": b"".join(lines[: links[0] + 1]),
        "the hash before it": changed(0, b'"previous_hash":"00', b'"previous_hash":"01'),
        "more events than there are": changed(0, b'"last_seq":9999', b'"last_seq":9998'),
        "no JSON": changed(last, b"{", b""),
        "a member": changed(last, b'"kind"', b'"kine"'),
        "nothing": b"",
    }
    for what, content in damaged.items():
        path.write_bytes(gzip.compress(content))
        with pytest.raises(ArchiveDamaged):
            proved(path)
        assert content != whole, what


async def test_a_flipped_byte_of_the_file_is_found(lively: Log, tmp_path: Path) -> None:
    path = await archived(lively, tmp_path)
    whole = path.read_bytes()
    for place in (0, 11, len(whole) // 3, len(whole) // 2, len(whole) - 6):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ArchiveDamaged):
            proved(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveDamaged):
        proved(path)


async def test_nothing_of_a_damaged_archive_is_restored(lively: Log, tmp_path: Path) -> None:
    path = await archived(lively, tmp_path)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-3])))
    with read_archive(path) as found, pytest.raises(ArchiveDamaged):
        await restore(lively.connection, found)
    assert await lively.value("SELECT to_regclass('archive.events')") is None


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE events SET body = json_build_object('id', alert_id) WHERE seq = 7000",
        "UPDATE events SET severity = 'critical' WHERE seq = 7000",
        "DELETE FROM events WHERE seq = 7000",
        "DELETE FROM log_chain WHERE last_seq = (SELECT min(last_seq) FROM log_chain)",
        "UPDATE log_chain SET hash = sha256(hash) WHERE last_seq = 9999",
    ],
)
async def test_a_log_that_was_altered_is_neither_archived_nor_purged(log: Log, tmp_path: Path, tampering: str) -> None:
    await log.fill(SIZE + 5)
    await log.connection.execute(tampering)
    before = await log.value("SELECT count(*) FROM events")
    with pytest.raises(ArchiveFailed):
        await log.let_go(await log.now(), tmp_path)
    assert find_archives(tmp_path) == []
    assert await log.rows("SELECT * FROM audit.retention_runs") == []
    assert await log.value("SELECT count(*) FROM events") == before


async def test_what_cannot_be_archived_is_not_purged(log: Log, tmp_path: Path) -> None:
    await log.fill(SIZE + 5)
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with pytest.raises(ArchiveFailed, match=r"the events 1 to 9999 were not archived: .*a file"):
        await log.let_go(await log.now(), blocked)
    assert await log.rows("SELECT * FROM audit.retention_runs") == []
    assert await log.value("SELECT count(*) FROM events") == SIZE + 5
    await check(log.url)
    await log.let_go(await log.now(), tmp_path)
    assert await log.value("SELECT min(seq) FROM events") == SIZE


def with_little_disk(*arguments: str, folder: Path, url: str) -> str:
    """Run the command, which may write files of 100 kB: more is refused with an error of the kind of a full disk."""
    run = subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env={**os.environ, "TOCSIN_DATABASE_URL": url, "TOCSIN_ARCHIVE_DIR": str(folder)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return run.stdout + run.stderr


async def test_a_disk_that_is_full_leaves_neither_a_hole_nor_half_an_archive(log: Log, tmp_path: Path) -> None:
    await log.fill(SIZE + 5)
    folder = tmp_path / "archives"
    for command in ("purge", "archive"):
        said = await asyncio.to_thread(with_little_disk, command, "--before", "2999-01-01", folder=folder, url=log.url)
        assert "File too large" in said
    assert list(folder.iterdir()) == []
    assert await log.rows("SELECT * FROM audit.retention_runs") == []
    assert await log.value("SELECT count(*) FROM events") == SIZE + 5


async def test_what_a_crash_left_of_an_archive_is_cleared_away(log: Log, tmp_path: Path) -> None:
    await log.fill(SIZE + 5)
    (tmp_path / ".events-000000000000001-000000000009999.jsonl.gz.abc").write_bytes(b"half")
    path = await archived(log, tmp_path)
    assert await asyncio.to_thread(os.listdir, tmp_path) == [path.name]
    proved(path)
