from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest

from service.events.hash_chain import LINK_GRID, NO_HASH
from service.retention.row_purge import PAGES_PER_RANGE
from service.retention.runner import Retention
from service.settings import RetentionSettings
from tests.fixtures.small_log import SIZE, log_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger
    from tests.fixtures.small_log import Log

COUNTS = (
    "SELECT sum(events), sum(alerts), sum(unresolved_alerts), sum(connections), sum(dispatches), sum(receipts),"
    " sum(rejections), sum(idempotency_keys) FROM audit.retention_runs"
)


def test_partitions_hold_whole_links() -> None:
    fields = RetentionSettings.model_fields["partition_events"]
    assert fields.default % LINK_GRID == 0
    assert [getattr(rule, "multiple_of", None) for rule in fields.metadata][-1] == LINK_GRID


@pytest.mark.unit
@pytest.mark.parametrize(("days", "cutoff"), [(None, None), (30, datetime(2026, 10, 22, tzinfo=UTC))])
def test_the_cutoff_is_so_many_days_ago(days: int | None, cutoff: datetime | None) -> None:
    retention = Retention(cast("Any", None), RetentionSettings(retention_days=days), lambda _seq: None)
    assert retention.cutoff(datetime(2026, 11, 21, tzinfo=UTC)) == cutoff


# Partitions of the log.


@log_head(2 * SIZE + 5)
async def test_whole_partitions_that_are_older_are_purged_and_the_purge_log_says_which(log: Log) -> None:
    old = await log.time_of(SIZE - 1)
    hashes = dict(await log.rows("SELECT last_seq, hash FROM log_chain"))
    await log.purge(old)
    assert await log.rows("SELECT min(seq), max(seq), count(*) FROM events") == [(SIZE, 2 * SIZE + 5, SIZE + 6)]
    assert await log.partitions() == ["events_p10000", "events_p20000"]
    assert await log.rows(
        "SELECT first_seq, last_seq, older_than, events, log_hash, archive, dropped_at >= at FROM audit.retention_runs"
    ) == [(1, SIZE - 1, old, SIZE - 1, hashes[SIZE - 1], None, True)]
    assert await log.value("SELECT min(first_seq) FROM log_chain") == SIZE
    assert (await log.rows(COUNTS))[0][:3] == (SIZE - 1, SIZE - 1, SIZE - 1)
    assert await log.value("SELECT min(seq) FROM alerts") == SIZE


@log_head(SIZE + 5)
async def test_what_is_not_old_stays(log: Log) -> None:
    await log.purge(await log.value("SELECT min(linked_at) FROM log_chain"))
    assert await log.rows("SELECT * FROM audit.retention_runs") == []
    assert await log.value("SELECT count(*) FROM events") == SIZE + 5
    assert await log.value("SELECT count(*) FROM alerts") == SIZE + 5


@log_head(SIZE + 5)
async def test_the_position_before_the_oldest_event_is_known_after_a_purge(log: Log) -> None:
    last = await log.rows("SELECT last_seq, last_id FROM log_chain WHERE last_seq = $1", SIZE - 1)
    before = await log.value("SELECT id FROM events WHERE seq = $1", SIZE - 2)
    await log.purge(await log.now())
    assert await log.value("SELECT min(seq) FROM events") == SIZE
    assert await log.value("SELECT log_holds($1, $2)", *last[0])
    assert not await log.value("SELECT log_holds($1, $2)", last[0][0], last[0][1] + 1)
    assert not await log.value("SELECT log_holds($1, $2)", SIZE - 2, before)


@pytest.mark.parametrize(("head", "purged"), [(SIZE - 1, []), (SIZE, [(SIZE - 1,)]), (2 * SIZE - 1, [(SIZE - 1,)])])
async def test_the_partition_of_the_head_stays_however_old_it_is(log: Log, head: int, purged: list[tuple[int]]) -> None:
    await log.purge(await log.now() + timedelta(days=1))
    assert await log.value("SELECT max(seq) FROM events") == head
    assert await log.rows("SELECT last_seq FROM audit.retention_runs") == purged


@log_head(SIZE + 5)
async def test_the_log_and_its_chain_go_on_after_a_purge(log: Log) -> None:
    await log.purge(await log.now())
    await log.fill(SIZE + 10)
    rows = await log.rows("SELECT first_seq, last_seq FROM log_chain ORDER BY 1")
    assert rows[0][0] == SIZE
    assert rows[-1] == (SIZE + 6, SIZE + 10)
    assert await log.value("SELECT array_agg(seq ORDER BY seq) FROM events") == list(range(SIZE, SIZE + 11))


@log_head(2 * SIZE + 5)
async def test_two_nodes_at_once_purge_once(log: Log) -> None:
    now = await log.now()
    for _ in range(2):
        assert any(await asyncio.gather(*(log.try_purge(now) for _ in range(4))))
    assert await log.rows("SELECT first_seq, last_seq, events FROM audit.retention_runs") == [
        (1, SIZE - 1, SIZE - 1),
        (SIZE, 2 * SIZE - 1, SIZE),
    ]
    assert (await log.rows(COUNTS))[0][:2] == (2 * SIZE - 1, 2 * SIZE - 1)


@log_head(SIZE + 5)
async def test_without_a_retention_nothing_is_purged(log: Log) -> None:
    await log.purge(None)
    assert await log.value("SELECT count(*) FROM events") == SIZE + 5
    assert await log.rows("SELECT * FROM audit.retention_runs") == []


# What is purged with them.


@log_head(2 * SIZE + 5)
async def test_keys_are_deleted_with_the_events_that_they_answer_with(log: Log) -> None:
    old = await log.time_of(2 * SIZE - 1)
    for key, seq, answer in (("old", 7, None), ("answers itself", 7, "{}"), ("young", 2 * SIZE + 1, None)):
        await log.connection.execute(
            "INSERT INTO idempotency_keys (source, key, request_hash, seq, answer, created_at)"
            " VALUES ('billing', $1, '', $2, $3, now())",
            key,
            seq,
            answer,
        )
    await log.connection.execute(
        "INSERT INTO idempotency_keys (source, key, request_hash, seq, created_at)"
        " SELECT 'billing', 'many ' || n, '', n, now() FROM generate_series(1, 5500) AS n"
    )
    await log.purge(old)
    assert await log.rows("SELECT key FROM idempotency_keys ORDER BY key") == [("answers itself",), ("young",)]
    assert await log.rows("SELECT idempotency_keys FROM audit.retention_runs ORDER BY run") == [(5501,), (0,)]


@log_head(SIZE - 1)
async def test_alerts_are_deleted_with_their_last_event_whatever_their_status(log: Log) -> None:
    changes = "UPDATE alerts SET status = $2, updated_at = updated_at + make_interval(secs => $3) WHERE seq = $1"
    await log.connection.execute(changes, 1, "resolved", 1)
    await log.connection.execute(changes, 2, "acknowledged", 1)
    await log.connection.execute(changes, 3, "resolved", 1)  # the event of it is put into the next partition below
    await log.connection.execute("UPDATE alerts SET updated_at = now() + interval '1 h' WHERE seq = 4")
    old = await log.now()
    await log.fill(SIZE + 5)
    await log.connection.execute("UPDATE events SET alert_id = (SELECT id FROM alerts WHERE seq = 3) WHERE seq = 10001")
    await log.index()
    await log.purge(old)
    assert await log.rows("SELECT seq FROM alerts WHERE seq < $1 ORDER BY 1", SIZE) == [(3,), (4,)]
    assert await log.rows("SELECT seq FROM alert_search WHERE seq < $1 ORDER BY 1", SIZE) == [(3,), (4,)]
    assert await log.rows("SELECT alerts, unresolved_alerts FROM audit.retention_runs") == [(SIZE - 3, SIZE - 4)]
    await log.fill(2 * SIZE)
    await log.purge(await log.now())
    assert await log.rows("SELECT min(seq) FROM alerts WHERE seq <> 4") == [(2 * SIZE,)]


@log_head(SIZE + 5)
async def test_an_alert_that_somebody_changes_at_that_moment_stays(log: Log) -> None:
    async with log.connection.transaction():
        await log.connection.execute("SELECT FROM alerts WHERE seq = 7 FOR NO KEY UPDATE")
        await log.purge(await log.now())
    assert await log.rows("SELECT seq FROM alerts WHERE seq < $1", SIZE) == [(7,)]
    await log.purge(await log.now())
    assert await log.rows("SELECT seq FROM alerts WHERE seq < $1", SIZE) == []
    assert (await log.rows(COUNTS))[0][1] == SIZE - 1


DELIVERIES = "SELECT * FROM audit.deliveries WHERE seq >= $1 ORDER BY seq, connection"


@log_head(SIZE - 1)
async def test_deliveries_of_what_is_left_stay_as_they_were(
    log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]]
) -> None:
    """Connections that lie before the cut, across it and after it, that are open and closed, that keep up and lag."""
    opened = await open_ledger()
    ledger = opened.ledger
    ended_before = opened.connection("ended before", after_seq=0)
    idle = opened.connection("idle", after_seq=SIZE + 1, sent_seq=SIZE + 1)
    across = opened.connection("across", after_seq=5)
    lags = opened.connection("lags", after_seq=0, sent_seq=0)
    stays = opened.connection("stays", after_seq=0)
    await opened.dispatch(0, 500)
    ledger.record_receipt(ended_before, 400)
    ledger.record_receipt(across, 450)
    ledger.record_receipt(stays, 500)
    ledger.record_dispatch_to(lags, 0, 300)
    ledger.record_closing(ended_before, 1000, "client")
    ledger.record_closing(idle, 1000, "client")
    await opened.flusher.flush()
    await opened.dispatch(500, SIZE - 1)
    ledger.record_dispatch_to(lags, 300, SIZE + 3)
    await opened.flusher.flush()
    old = await log.now()
    await log.fill(SIZE + 20)
    await opened.dispatch(SIZE - 1, SIZE + 10)
    ledger.record_receipt(across, SIZE + 7)
    ledger.record_receipt(lags, SIZE + 2)
    ledger.record_closing(across, 1000, "client")
    ledger.record_closing(lags, 1000, "client")
    await opened.flusher.flush()
    before = await log.rows(DELIVERIES, SIZE)
    assert {row[5] for row in before} == {"across", "lags", "stays"}
    await log.purge(old)
    assert await log.rows(DELIVERIES, SIZE) == before
    assert await log.rows(DELIVERIES, 0) == before
    left = await log.rows("SELECT recipient FROM connections ORDER BY 1")
    assert left == [("across",), ("lags",), ("stays",)]
    assert (await log.rows(COUNTS))[0][3:6] == (2, 2, 3)


@log_head(SIZE - 1)
async def test_sightings_are_deleted_with_the_last_event_of_the_alert_by_then(
    log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]]
) -> None:
    opened = await open_ledger()
    alerts = [UUID(row[0]) for row in await log.rows("SELECT id::text FROM alerts WHERE seq IN (1, 2) ORDER BY seq")]
    opened.connection("bob", after_seq=0, sent_seq=SIZE + 20)
    opened.ledger.record_sightings("alice", ("*",), alerts)
    await opened.flusher.flush()
    await log.fill(SIZE + 20)
    await log.connection.execute("UPDATE events SET alert_id = $1 WHERE seq = $2", alerts[1], SIZE + 1)
    await opened.dispatch(SIZE - 1, SIZE + 20)
    opened.ledger.record_sightings("bob", ("*",), alerts)
    await opened.flusher.flush()
    opened.ledger.record_sightings("carol", ("*",), alerts)
    await opened.flusher.flush()
    everything = "SELECT alert_id, recipient, seq FROM sightings ORDER BY ledger_link_id, seq"
    before, deliveries = await log.rows(everything), await log.rows(DELIVERIES, SIZE)
    assert [row[2] for row in before] == [1, 2, 1, SIZE + 1, 1, SIZE + 1]
    assert [row[-1] for row in deliveries if row[0] == SIZE + 1] != [None]
    await log.purge(await log.now())
    assert await log.rows(everything) == before[2:]  # what is about an event that is there keeps its whole link
    assert await log.rows(DELIVERIES, SIZE) == deliveries
    assert await log.value("SELECT sum(sightings) FROM audit.retention_runs") == 2


@log_head(SIZE - 1)
async def test_the_rest_of_the_chain_of_the_ledger_can_be_verified(
    log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]]
) -> None:
    opened = await open_ledger()
    for number in range(5):
        entry = opened.connection(f"old {number}", after_seq=0)
        await opened.dispatch(number * 10, number * 10 + 10)
        opened.ledger.record_receipt(entry, number * 10 + 5)
        opened.ledger.record_closing(entry, 1000, "client")
        await opened.flusher.flush()
    old = await log.now()
    await log.fill(SIZE + 20)
    opened.ledger.record_closing(opened.connection("young", after_seq=SIZE, sent_seq=SIZE), 1000, "client")
    await opened.flusher.flush()
    hashes = dict(await log.rows("SELECT ledger_link_id, hash FROM ledger_chain"))
    assert list(hashes) == [1, 2, 3, 4, 5, 6]
    await log.purge(old)
    assert await log.rows("SELECT ledger_link_id, ledger_hash FROM audit.retention_runs") == [(5, hashes[5])]
    assert (await log.rows(COUNTS))[0][3:6] == (5, 5, 5)
    assert await log.rows("SELECT ledger_link_id FROM ledger_chain") == [(6,)]
    assert await log.value(LEDGER_HASH, hashes[5], 6) == hashes[6]


LEDGER_HASH = """
SELECT sha256($1 || int8send(chain.ledger_link_id) || int8send(microseconds(linked_at)) || convert_to((
    SELECT string_agg(line, E'\\n' ORDER BY line COLLATE "C") FROM (
        SELECT closing_line(c) FROM connections c WHERE ledger_link_id = chain.ledger_link_id
        UNION ALL SELECT dispatch_line(d) FROM dispatches d WHERE ledger_link_id = chain.ledger_link_id
        UNION ALL SELECT receipt_line(r) FROM receipts r WHERE ledger_link_id = chain.ledger_link_id
        UNION ALL SELECT sighting_line(s) FROM sightings s WHERE ledger_link_id = chain.ledger_link_id
    ) AS rows (line)
), 'UTF8')) FROM ledger_chain chain WHERE ledger_link_id = $2
"""


async def test_the_last_link_of_the_ledger_stays_so_that_the_next_one_follows_it(
    log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]]
) -> None:
    opened = await open_ledger()
    for _ in range(2):
        entry = opened.connection(after_seq=0, sent_seq=0)
        opened.ledger.record_closing(entry, 1000, "client")
        await opened.flusher.flush()
    await log.purge(await log.now())
    assert await log.rows("SELECT ledger_link_id FROM ledger_chain") == [(2,)]
    assert await log.rows("SELECT first_seq, last_seq, ledger_link_id, connections FROM audit.retention_runs") == [
        (None, None, 1, 1)
    ]
    hashes = dict(await log.rows("SELECT ledger_link_id, hash FROM ledger_chain"))
    opened.ledger.record_closing(opened.connection(), 1000, "client")
    await opened.flusher.flush()
    assert await log.value(LEDGER_HASH, hashes[2], 3) == await log.value(
        "SELECT hash FROM ledger_chain WHERE ledger_link_id = 3"
    )
    assert hashes[2] != NO_HASH


@log_head(SIZE - 1)
async def test_the_index_of_the_links_does_not_point_at_deleted_rows(
    log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]]
) -> None:
    """New rows fill the pages of old ones; who asks for links in between must not be sent to all of these pages."""
    opened = await open_ledger()

    async def flush_many(first: int) -> None:
        for link in range(20):
            for number in range(500):
                after = first + link * 500 + number
                opened.ledger.pending.add_dispatch(opened.ledger.node_id, after, after + 1)
            await opened.flusher.flush()

    await flush_many(-20_000)
    old = await log.now()
    await log.fill(SIZE + 20)
    await log.purge(old)
    assert await log.value("SELECT count(*) FROM dispatches") == 500
    await log.connection.execute("VACUUM dispatches")
    pages = await log.value("SELECT pg_relation_size('dispatches')")
    await flush_many(SIZE)
    assert await log.value("SELECT pg_relation_size('dispatches')") < 1.5 * pages
    await log.connection.execute("SET enable_seqscan = off")
    [(plan,)] = await log.rows(
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM dispatches WHERE ledger_link_id BETWEEN 5 AND 15"
    )
    scan = json.loads(plan)[0]["Plan"]["Plans"][0]
    assert scan["Node Type"] == "Bitmap Heap Scan"
    assert scan["Lossy Heap Blocks"] < PAGES_PER_RANGE < pages / 8192 / 2  # the last range has no summary yet


async def test_rejections_hours_of_sources_and_ended_nodes_are_deleted_by_age(
    log: Log, open_ledger: Callable[..., Awaitable[OpenLedger]]
) -> None:
    opened, other, serving = await open_ledger(), await open_ledger(), await open_ledger()
    await log.connection.execute(
        "INSERT INTO handshake_rejections (id, at, node_id, path, reason)"
        " SELECT gen_random_uuid(), now() - make_interval(hours => n), gen_random_uuid(), '/v1/ws', 'token_expired'"
        " FROM generate_series(1, 2500) AS n"
    )
    await log.connection.execute(
        "INSERT INTO source_hours SELECT 'billing', date_trunc('hour', now()) - make_interval(hours => n), 1, 0, 0, 0,"
        " now(), now() FROM generate_series(1, 1300) AS n"
    )
    await log.connection.execute(
        "INSERT INTO rejection_hours SELECT gen_random_uuid(), date_trunc('hour', now()) - make_interval(hours => n),"
        " 'token_expired', 7 FROM generate_series(1, 1300) AS n"
    )
    await log.connection.execute(
        "INSERT INTO subject_names SELECT 's' || n, 'Alice', now(), now() - make_interval(hours => n)"
        " FROM generate_series(1, 2500) AS n"
    )
    opened.connection(after_seq=0, sent_seq=0)
    await opened.flusher.sign_off()
    serving.connection("s2000")  # the token of a stream is not verified again
    await serving.flusher.flush()
    await other.flusher.sign_off()
    old = await log.now()
    late = await open_ledger()
    await late.flusher.sign_off()
    cutoff = old - timedelta(hours=100, minutes=30)
    await log.purge(cutoff)
    assert await log.value("SELECT count(*) FROM handshake_rejections") == 100
    assert await log.value("SELECT count(*) FROM subject_names") == 101
    assert await log.value("SELECT count(*) FROM subject_names WHERE subject = 's2000'") == 1
    assert (
        await log.value("SELECT count(*) FROM source_hours WHERE hour < $1", old - timedelta(hours=100, minutes=30))
        == 0
    )
    [(rejections, rejection_hours, source_hours, *others)] = await log.rows(
        "SELECT rejections, rejection_hours, source_hours, alerts, last_seq FROM audit.retention_runs"
    )
    assert (rejections, others) == (2400, [0, None])
    assert rejection_hours == 1300 - await log.value("SELECT count(*) FROM rejection_hours") >= 1199
    assert source_hours == 1300 - await log.value("SELECT count(*) FROM source_hours") >= 1199
    await log.purge(old)
    kept = {row[0] for row in await log.rows("SELECT id FROM nodes")}
    assert kept == {opened.ledger.node_id, serving.ledger.node_id, late.ledger.node_id}
