"""Retention beside those who publish, read and follow, and retention that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.database.leases import AdvisoryLock
from service.integrity import verifier
from service.settings import LimitSettings, RetentionSettings, Settings
from tests.fixtures.small_log import SIZE
from tests.harness import ROOT, WRITE, eventually, serving
from tests.http_streams import EventSource, Poller
from tests.retention.test_archive_process import proved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from service.integrity.link_checks import Misfit
    from tests.fixtures.open_ledger import OpenLedger
    from tests.fixtures.small_log import Log
    from tests.harness import Node

WAITS = (
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tocsin'"
    " AND wait_event_type = 'Lock'"
)
EVERY = "1000000/second"
ALL, KEY = {"title": "all of it"}, {"Idempotency-Key": "k"}


@pytest.fixture
def nodes(log: Log) -> Iterator[Callable[[], Node]]:
    """Start nodes that let nothing go by themselves, and look often at what another did."""
    settings = Settings(
        retention=RetentionSettings(retention_interval_seconds=0.2, partition_events=SIZE),
        limits=LimitSettings(write_limit=EVERY, read_limit=EVERY),
    )
    with ExitStack() as stack:
        yield lambda: stack.enter_context(serving(log.url, settings))


@asynccontextmanager
async def reading(log: Log) -> AsyncIterator[asyncpg.Connection]:
    """An operator whose report is long: their transaction has read the log, and stays open."""
    operator = await asyncpg.connect(log.url, server_settings={"default_transaction_isolation": "repeatable read"})
    transaction = operator.transaction()
    await transaction.start()
    await operator.fetch("SELECT count(*) FROM audit.deliveries")
    yield operator
    await transaction.rollback()
    await operator.close()


async def test_a_purge_that_waits_for_a_long_report_disturbs_neither_it_nor_those_who_publish(
    log: Log, nodes: Callable[[], Node]
) -> None:
    await log.fill(2 * SIZE + 5)
    node = nodes()
    posted: list[int] = []
    stop = asyncio.Event()

    async def publish() -> None:
        async with node.http() as client:
            while not stop.is_set():
                answer = await client.post("/v1/alerts", json={"title": "It happened"})
                assert answer.status_code == 201, answer.text
                posted.append(answer.json()["seq"])

    async def many_more() -> None:
        so_far = len(posted)
        await eventually(lambda: len(posted) >= so_far + 50)

    publishers = [asyncio.create_task(publish()) for _ in range(4)]
    await many_more()
    async with reading(log) as operator:
        before = await operator.fetchval("SELECT count(*) FROM events")
        purging = asyncio.create_task(log.let_go(await log.now()))
        await eventually(lambda: log.value(WAITS))
        await many_more()
        await log.connection.execute("SELECT ensure_event_partitions(10000, 200000, 64)")
        await eventually(lambda: log.value("SELECT bool_or(detaching) FROM event_partitions()"))
        await many_more()
        assert not purging.done()
        assert await operator.fetchval("SELECT count(*) FROM events") == before
    await many_more()
    await purging
    await many_more()
    stop.set()
    await asyncio.gather(*publishers)
    assert sorted(posted) == list(range(2 * SIZE + 6, 2 * SIZE + 6 + len(posted)))
    assert await log.rows("SELECT min(seq), max(seq), count(*) FROM events") == [
        (2 * SIZE, max(posted), max(posted) - 2 * SIZE + 1)
    ]
    assert await log.rows("SELECT first_seq, events, dropped_at IS NOT NULL FROM audit.retention_runs ORDER BY 1") == [
        (1, SIZE - 1, True),
        (SIZE, SIZE, True),
    ]


# Killed.


async def hold(connection: asyncpg.Connection, statement: str) -> None:
    await connection.execute("BEGIN")
    await connection.execute(statement)


POINTS = {
    "before it is noted": "LOCK TABLE retention_runs IN SHARE MODE",
    "while keys are forgotten": AdvisoryLock.LOG.lock,
    "while links of the log are deleted": "SELECT FROM log_chain WHERE last_seq = 9999 FOR UPDATE",
    "while it is detached": "SELECT count(*) FROM events",
    "while alerts are deleted": AdvisoryLock.SEARCH_INDEX.lock,
    "while the ledger is deleted": "SELECT FROM ledger_chain WHERE ledger_link_id = 2 FOR UPDATE",
    "while refused handshakes are deleted": "SELECT FROM handshake_rejections FOR UPDATE",
}


@pytest.mark.parametrize(
    ("point", "ends"), [*((point, "killed") for point in POINTS), ("while it is detached", "its backend ended as well")]
)
async def test_a_purge_that_was_killed_is_carried_on_by_the_next_and_is_in_the_books_once(
    log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]], tmp_path: Path, point: str, ends: str
) -> None:
    opened = await open_ledger()
    await log.fill(SIZE - 1)
    for number in range(4):
        entry = opened.connection(after_seq=0)
        opened.ledger.dispatched(number, number + 1, to_anybody=True)
        opened.ledger.received(entry, number + 1)
        opened.ledger.closed(entry, 1000, "client")
        await opened.ledger.flush()
    await log.connection.execute(
        "INSERT INTO idempotency_keys (source, key, request_hash, seq, created_at)"
        " SELECT 'billing', n, '', n, now() FROM generate_series(1, 300) AS n"
    )
    await log.connection.execute(
        "INSERT INTO handshake_rejections (id, at, node_id, path, reason)"
        " VALUES (gen_random_uuid(), now(), gen_random_uuid(), '/v1/ws', 'token_expired')"
    )
    old = await log.now()
    await log.fill(SIZE + 5)
    blocker = await asyncpg.connect(log.url)
    await hold(blocker, POINTS[point])
    process = start_purge(log.url, old, tmp_path)
    await eventually(lambda: log.value(WAITS))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if ends == "its backend ended as well":
        await log.value(
            "SELECT bool_and(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'tocsin' AND wait_event_type = 'Lock'"
        )
    await blocker.close()
    assert await asyncio.to_thread(misfits, log.url) == []
    await log.let_go(old, tmp_path)
    assert await asyncio.to_thread(misfits, log.url) == []
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
        "SELECT sum(alerts), sum(unresolved_alerts), sum(connections), sum(dispatches), sum(receipts), sum(rejections),"
        " sum(idempotency_keys) FROM audit.retention_runs"
    ) == [(SIZE - 1, SIZE - 1, 3, 3, 3, 1, 300)]
    for first_seq, path, log_hash in await log.rows(
        "SELECT first_seq, archive, log_hash FROM retention_runs WHERE events > 0 ORDER BY 1"
    ):
        found = proved(path)
        assert (found.header.first_seq, found.last_hash) == (first_seq, log_hash)


def misfits(url: str) -> list[Misfit]:
    """Verify both chains as ``tocsin audit verify`` does."""
    verdicts = [
        verifier.verify(url, chain, purged=verifier.purged_from(url, chain))
        for chain in (verifier.LOG, verifier.LEDGER)
    ]
    return [verdict.misfit for verdict in verdicts if verdict.misfit is not None]


def start_purge(url: str, before: datetime, folder: Path) -> subprocess.Popen[bytes]:
    """Start ``tocsin purge`` in a process that can be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "service", "purge", "--before", before.isoformat()],
        cwd=ROOT,
        env={**os.environ, "TOCSIN_DATABASE_URL": url, "TOCSIN_ARCHIVE_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


async def test_a_partition_that_was_detached_and_not_dropped_is_dropped(log: Log) -> None:
    await log.fill(SIZE + 5)
    now = await log.now()
    await log.let_go(now)
    await log.connection.execute("CREATE TABLE events_p0 (LIKE events)")
    await log.connection.execute("UPDATE retention_runs SET dropped_at = NULL")
    await log.let_go(None)
    assert await log.partitions() == ["events_p10000"]
    assert await log.value("SELECT count(*) FROM retention_runs WHERE dropped_at IS NOT NULL") == 1


# Those who ask for what is gone.


async def test_who_resumes_before_what_was_purged_is_told_of_the_gap_on_every_transport_and_node(
    log: Log, nodes: Callable[[], Node]
) -> None:
    remembers = nodes()
    await log.fill(SIZE + 20)
    assert await eventually(lambda: first_poll(remembers, SIZE + 15)) == (None, SIZE + 16)
    live = await remembers.live("alice", after=SIZE)
    assert await first_poll(remembers, 5) == (None, 6)
    forgets = nodes()
    await log.let_go(await log.now())
    # It learns what another let go when it looks the next time; until then it has them in memory and shows them.
    await eventually(lambda: log_began_at(remembers, SIZE))
    for name, node in (("remembers", remembers), ("forgets", forgets)):
        gap = {"type": "gap", "from": 6, "to": SIZE - 1, "reason": "purged"}
        stream = await node.stream(f"ws {name}", after=5)
        await stream.next_of("welcome")
        assert await stream.next() == gap
        assert [event["seq"] for event in await stream.events(21)] == list(range(SIZE, SIZE + 21))
        await stream.close()
        async with EventSource(node, f"sse {name}") as source:
            await source.open(after=5)
            await source.next_of("welcome")
            assert await source.next() == gap
            assert [event["seq"] for event in await source.events(21)] == list(range(SIZE, SIZE + 21))
        async with Poller(node, f"poll {name}") as poller:
            answer = await poller.poll(after=5)
            assert answer["gap"] == gap
            assert [event["seq"] for event in answer["events"]] == list(range(SIZE, SIZE + 21))
        stream = await node.stream(f"just {name}", after=SIZE - 1)
        assert [(await stream.next())["type"] for _ in range(2)] == ["welcome", "event"]
        await stream.close()
    seq = (await remembers.post())["seq"]
    while (frame := await live.next_of("event"))["seq"] < seq:
        pass
    assert frame["seq"] == seq
    await live.close()


async def first_poll(node: Node, after: int) -> tuple[Any, int] | None:
    """Return the gap that a poll is told of, and its first event."""
    async with Poller(node, "bob") as poller:
        answer = await poller.poll(after=after)
    return (answer["gap"], answer["events"][0]["seq"]) if answer["events"] else None


async def log_began_at(node: Node, seq: int) -> bool:
    answer = await first_poll(node, 5)
    return answer is not None and answer[1] == seq


async def test_rest_answers_well_for_what_is_purged_and_what_is_half_purged(
    log: Log, nodes: Callable[[], Node]
) -> None:
    node = nodes()
    half = await node.post("half of it", attributes={"half": True})
    async with node.http() as client:
        gone = (await client.post("/v1/alerts", json=ALL, headers=KEY)).json()
    reader = await node.live("alice")
    await log.fill(SIZE + 5)
    async with node.http("alice", "alerts:read alerts:manage audit:read") as alice:
        acknowledged = (await alice.post(f"/v1/alerts/{half['id']}/acknowledge")).json()
        while (frame := await reader.next_of("event"))["alert"]["id"] != half["id"]:
            pass
        await reader.ack(frame["seq"])
        await node.flushed(frame["seq"])
        await log.index()
        await eventually(lambda: log.value("SELECT count(*) > 0 FROM receipts"))
        deliveries = f"/v1/alerts/{half['id']}/deliveries"
        before = (await alice.get(deliveries)).json()
        await log.let_go(await log.now())
        assert await log.value("SELECT min(seq) FROM events") == SIZE
        assert (await alice.get(deliveries)).json() == before
        assert [item["kind"] for item in before["deliveries"]] == ["alert.acknowledged"]
        timeline = (await alice.get(f"/v1/alerts/{half['id']}/timeline")).json()
        assert [event["kind"] for event in timeline["events"]] == ["alert.acknowledged"]
        assert (await alice.get(f"/v1/alerts/{half['id']}")).json()["status"] == acknowledged["status"]
        for query in ({"q": "half"}, {"attributes": '{"half": true}'}, {"status": "acknowledged"}):
            found = (await alice.get("/v1/alerts", params=query)).json()
            assert [alert["id"] for alert in found["alerts"]] == [half["id"]], query
        assert (await alice.get("/v1/alerts", params={"q": "all of it"})).json()["alerts"] == []
        for path in ("", "/timeline", "/deliveries"):
            assert (await alice.get(f"/v1/alerts/{gone['id']}{path}")).status_code == 404
        assert (await alice.post(f"/v1/alerts/{gone['id']}/acknowledge")).status_code == 404
    async with node.http("billing", WRITE) as client:
        again = await client.post("/v1/alerts", json=ALL, headers=KEY)
    assert (again.status_code, "Idempotency-Replayed" in again.headers) == (201, False)
    await reader.close()
