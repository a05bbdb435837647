"""A purge that is interrupted, wherever it is, is finished by the next one, and is in the purge log once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest

from service.database.locks import TableLock
from service.integrity import verifier
from service.integrity.chain_sources import LEDGER, LOG
from tests.fixtures.small_log import SIZE, log_head
from tests.harness import PATIENCE, ROOT, eventually
from tests.retention.test_archive_process import verified

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from pathlib import Path

    from service.integrity.link_checks import Mismatch
    from tests.fixtures.open_ledger import OpenLedger
    from tests.fixtures.small_log import Log

WAITS = (
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tocsin'"
    " AND wait_event_type = 'Lock'"
)
POINTS = {
    "before it is recorded": "LOCK TABLE retention_runs IN SHARE MODE",
    "while keys are deleted": TableLock.LOG.lock,
    "while links of the log are deleted": "SELECT FROM log_chain WHERE last_seq = 9999 FOR UPDATE",
    "while it is detached": "SELECT count(*) FROM events",
    "while alerts are deleted": TableLock.SEARCH_INDEX.lock,
    "while the ledger is deleted": "SELECT FROM ledger_chain WHERE ledger_link_id = 2 FOR UPDATE",
    "while rejections are deleted": "SELECT FROM handshake_rejections FOR UPDATE",
}
"""What another transaction holds, so that a purge waits there."""


@pytest.fixture
async def mixed(log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]]) -> Log:
    """A log whose first partition is due, with something of every kind that is purged with it."""
    opened = await open_ledger()
    for number in range(4):
        entry = opened.connection(after_seq=0)
        await opened.dispatch(number, number + 1)
        opened.ledger.record_receipt(entry, number + 1)
        alert = UUID(await log.value("SELECT id::text FROM alerts WHERE seq = $1", number + 1))
        opened.ledger.record_sightings("alice", ("*",), [alert])
        opened.ledger.record_closing(entry, 1000, "client")
        await opened.flusher.flush()
    await log.connection.execute(
        "INSERT INTO idempotency_keys (source, key, request_hash, seq, created_at)"
        " SELECT 'billing', n, '', n, now() FROM generate_series(1, 300) AS n"
    )
    await log.connection.execute(
        "INSERT INTO handshake_rejections (id, at, node_id, path, reason)"
        " VALUES (gen_random_uuid(), now(), gen_random_uuid(), '/v1/ws', 'token_expired')"
    )
    return log


async def block(url: str, point: str) -> asyncpg.Connection:
    """Make purges wait at a point, until the connection is closed."""
    blocker = await asyncpg.connect(url)
    await blocker.execute("BEGIN")
    await blocker.execute(POINTS[point])
    return blocker


@log_head(SIZE - 1)
@pytest.mark.parametrize("point", POINTS)
async def test_an_interrupted_purge_is_finished_by_the_next_and_recorded_once(mixed: Log, point: str) -> None:
    old = await mixed.now()
    await mixed.fill(SIZE + 5)
    blocker = await block(mixed.url, point)
    purging = asyncio.create_task(mixed.try_purge(old))
    await eventually(lambda: mixed.value(WAITS))
    purging.cancel()
    with suppress(asyncio.CancelledError):
        await purging
    await blocker.close()
    await check_finished(mixed, old, None)


@pytest.mark.long
@log_head(SIZE - 1)
@pytest.mark.parametrize(
    ("point", "ends"), [*((point, "killed") for point in POINTS), ("while it is detached", "its backend ended as well")]
)
async def test_a_killed_purge_is_finished_by_the_next_and_recorded_once(
    mixed: Log, tmp_path: Path, point: str, ends: str
) -> None:
    old = await mixed.now()
    await mixed.fill(SIZE + 5)
    blocker = await block(mixed.url, point)
    process = start_purge(mixed.url, old, tmp_path)
    await eventually(lambda: mixed.value(WAITS), 4 * PATIENCE)  # the archive process yields to everything else
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if ends == "its backend ended as well":
        await mixed.value(
            "SELECT bool_and(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'tocsin' AND wait_event_type = 'Lock'"
        )
    await blocker.close()
    await check_finished(mixed, old, tmp_path)
    for first_seq, path, log_hash in await mixed.rows(
        "SELECT first_seq, archive, log_hash FROM retention_runs WHERE events > 0 ORDER BY 1"
    ):
        found = verified(path)
        assert (found.header.first_seq, found.last_hash) == (first_seq, log_hash)


async def check_finished(log: Log, old: datetime, folder: Path | None) -> None:
    """Purge, and check that what is left fits, and that the purge log has everything once."""
    assert await asyncio.to_thread(mismatches, log.url) == []
    await log.purge(old, folder)
    assert await asyncio.to_thread(mismatches, log.url) == []
    assert await log.partitions() == ["events_p10000"]
    assert await log.rows("SELECT min(seq), count(*) FROM events") == [(SIZE, 6)]
    assert await log.rows("SELECT min(seq), count(*) FROM alerts") == [(SIZE, 6)]
    assert await log.value("SELECT min(first_seq) FROM log_chain") == SIZE
    assert await log.rows("SELECT ledger_link_id FROM ledger_chain") == [(4,)]
    assert await log.rows(
        "SELECT first_seq, last_seq, events FROM audit.retention_runs WHERE events > 0 ORDER BY run"
    ) == [
        (1, SIZE - 1, SIZE - 1),
    ]
    assert await log.rows(
        "SELECT sum(alerts), sum(unresolved_alerts), sum(connections), sum(dispatches), sum(receipts), sum(sightings),"
        " sum(rejections), sum(idempotency_keys) FROM audit.retention_runs"
    ) == [(SIZE - 1, SIZE - 1, 3, 3, 3, 3, 1, 300)]


def mismatches(url: str) -> list[Mismatch]:
    """Verify both chains as ``tocsin audit verify`` does."""
    results = [verifier.verify(url, chain, purged=verifier.purged_prefix(url, chain)) for chain in (LOG, LEDGER)]
    return [result.mismatch for result in results if result.mismatch is not None]


def start_purge(url: str, before: datetime, folder: Path) -> subprocess.Popen[bytes]:
    """Start ``tocsin purge`` in a process that can be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "service", "purge", "--before", before.isoformat()],
        cwd=ROOT,
        env={**os.environ, "TOCSIN_DATABASE_URL": url, "TOCSIN_ARCHIVE_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@log_head(SIZE + 5)
async def test_a_partition_that_was_detached_and_not_dropped_is_dropped(log: Log) -> None:
    now = await log.now()
    await log.purge(now)
    await log.connection.execute("CREATE TABLE events_p0 (LIKE events)")
    await log.connection.execute("UPDATE retention_runs SET dropped_at = NULL")
    await log.purge(None)
    assert await log.partitions() == ["events_p10000"]
    assert await log.value("SELECT count(*) FROM retention_runs WHERE dropped_at IS NOT NULL") == 1
