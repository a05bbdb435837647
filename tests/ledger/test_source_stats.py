from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.errors import DatabaseUnavailable
from service.ledger.source_stats import SourceStats
from tests.harness import READ, WRITE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger
    from tests.harness import Node

BAD = {"title": ""}


async def counted(node: Node, source: str, **expected: int) -> None:
    """Wait until the view says of a source what is expected, and nothing more of it."""
    every = {"alerts": 0, "repeated": 0, "replayed": 0, "refused": 0, **expected}

    async def counts() -> dict[str, int]:
        (row,) = await node.sql(
            "SELECT sum(alerts)::int AS alerts, sum(repeated)::int AS repeated, sum(replayed)::int AS replayed,"
            " sum(refused)::int AS refused FROM audit.sources WHERE source = $1",
            source,
        )
        return dict(row)

    async def complete() -> bool:
        return sum(value or 0 for value in (await counts()).values()) >= sum(every.values())

    await eventually(complete)
    assert await counts() == every


async def test_what_becomes_of_single_alerts_is_counted_by_their_source(lenient: Node) -> None:
    async with lenient.http("singles") as client:
        for _ in range(2):
            await client.post("/v1/alerts", json={"title": "a", "dedup_key": "singles"})
        for headers in ({}, {"Idempotency-Key": "k"}, {"Idempotency-Key": "k"}):
            await client.post("/v1/alerts", json={"title": "b"}, headers=headers)
        mismatch = await client.post("/v1/alerts", json={"title": "c"}, headers={"Idempotency-Key": "k"})
        assert mismatch.status_code == 422
        assert (await client.post("/v1/alerts", json=BAD)).status_code == 422
        assert (await client.post("/v1/alerts", content=b"x" * 300_000)).status_code in {413, 415}
    await counted(lenient, "singles", alerts=3, repeated=1, replayed=1, refused=3)


async def test_the_items_of_a_batch_are_counted_each_and_a_batch_that_is_refused_once(lenient: Node) -> None:
    alerts = [{"title": "a"}, BAD, {"title": "b", "dedup_key": "batches"}, {"title": "b", "dedup_key": "batches"}]
    async with lenient.http("batches") as client:
        assert (await client.post("/v1/alerts/batch", json=[*alerts, {"title": "c", "topic": "é"}])).status_code == 200
        assert (await client.post("/v1/alerts/batch", json=[])).status_code == 422
    await counted(lenient, "batches", alerts=2, repeated=1, refused=3)


async def test_what_integrations_post_is_counted(lenient: Node) -> None:
    events = [
        {"specversion": "1.0", "id": "1", "source": "/callers", "type": "t"},
        {"specversion": "1.0", "id": "1", "source": "/callers", "type": "t"},
        {"specversion": "0.3"},
    ]
    async with lenient.http("others") as client:
        batch = {"Content-Type": "application/cloudevents-batch+json"}
        answer = await client.post("/v1/integrations/cloudevents", content=json.dumps(events), headers=batch)
        assert answer.status_code == 200
        assert (await client.post("/v1/integrations/apprise", json={"title": "a", "message": "b"})).status_code == 201
        notification = {
            "alerts": [{"status": "firing", "labels": {"alertname": "callers"}, "startsAt": "2026-11-21T09:41:07Z"}]
        }
        for _ in range(2):
            assert (await client.post("/v1/integrations/alertmanager", json=notification)).status_code == 200
        assert (await client.post("/v1/integrations/alertmanager", json={})).status_code == 422
    await counted(lenient, "others", alerts=3, repeated=1, replayed=1, refused=2)


async def test_refusals_have_a_source_only_with_a_valid_token(lenient: Node) -> None:
    async with lenient.http("reader", READ) as client:
        assert (await client.post("/v1/alerts", json={"title": "a"})).status_code == 403
        await client.post("/v1/alerts", json={"title": "a"}, headers={"Authorization": "Bearer nothing"})
        await client.get("/v1/alerts/019aa000-0000-7000-8000-000000000000")  # a refusal, but of no alert
    async with lenient.http("bound", topics=["search"]) as client:
        assert (await client.post("/v1/alerts", json={"title": "a", "topic": "billing"})).status_code == 403
    await counted(lenient, "bound", refused=1)
    await counted(lenient, "reader", refused=1)
    assert await lenient.sql("SELECT FROM audit.sources WHERE source = ''") == []


async def test_actions_are_no_alerts(lenient: Node) -> None:
    async with lenient.http("actors", f"{WRITE} alerts:read alerts:manage") as client:
        alert = (await client.post("/v1/alerts", json={"title": "a"})).json()
        for action in ("acknowledge", "resolve", "reopen"):
            assert (await client.post(f"/v1/alerts/{alert['id']}/{action}")).status_code == 200
        assert (await client.post(f"/v1/alerts/{alert['id']}/reopen")).status_code in {200, 409}
        await client.post("/v1/alerts", json={"title": "b"})
    await counted(lenient, "actors", alerts=2)


async def test_the_hour_and_the_times_are_those_of_the_calls(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    opened = await open_ledger()
    before = datetime.now(UTC)
    for _ in range(2):
        opened.ledger.source_stats.count("billing", "alerts", 2)
        await opened.flusher.flush()
    after = datetime.now(UTC)
    rows = await opened.rows("SELECT hour, alerts, first_at, last_at FROM audit.sources ORDER BY hour")
    assert sum(row[1] for row in rows) == 4
    assert before <= rows[0][2] <= rows[-1][3] <= after
    assert all(row[0] <= row[2] <= row[3] < row[0] + timedelta(hours=1) for row in rows)


async def test_two_nodes_add_up(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    for opened in (await open_ledger(), await open_ledger()):
        opened.ledger.source_stats.count("billing", "alerts")
        await opened.flusher.flush()
    assert await opened.rows("SELECT sum(alerts)::int FROM audit.sources") == [(2,)]


async def test_sources_beyond_the_limit_are_counted_together(open_ledger: Callable[..., Awaitable[OpenLedger]]) -> None:
    opened = await open_ledger(source_stats_max=2)
    for source in ("a", "b", "c", "d", "a"):
        opened.ledger.source_stats.count(source, "refused")
    await opened.flusher.flush()
    rows = await opened.rows("SELECT source, sum(refused)::int FROM audit.sources GROUP BY 1 ORDER BY 1")
    assert rows == [("", 2), ("a", 2), ("b", 1)]
    opened.ledger.source_stats.count("c", "refused")  # those that are written make room
    await opened.flusher.flush()
    assert ("c", 1) in await opened.rows("SELECT source, sum(refused)::int FROM audit.sources GROUP BY 1")


async def test_what_could_not_be_written_is_written_later_and_once(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    opened.ledger.source_stats.count("billing", "alerts")
    async with opened.locked():
        await opened.time_out(opened.flusher.flush())
    opened.ledger.source_stats.count("billing", "alerts")
    await opened.flusher.flush()
    await opened.flusher.flush()
    assert await opened.rows("SELECT sum(alerts)::int FROM audit.sources") == [(2,)]


@asynccontextmanager
async def commits_unheard_of(opened: OpenLedger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Let commits succeed without the node's hearing of it, as when the network breaks just then."""
    whole = opened.ledger._database.ledger.transaction

    @asynccontextmanager
    async def transaction(**options: Any) -> AsyncIterator[Any]:
        async with whole(**options) as tx:
            yield tx
        raise DatabaseUnavailable("the answer to the commit was lost")

    with monkeypatch.context() as patch:
        patch.setattr(opened.ledger._database.ledger, "transaction", transaction)
        yield


async def test_counts_whose_commit_was_not_confirmed_are_not_written_twice(
    open_ledger: Callable[..., Awaitable[OpenLedger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await open_ledger()
    opened.ledger.source_stats.count("billing", "alerts")
    async with commits_unheard_of(opened, monkeypatch):
        with pytest.raises(DatabaseUnavailable):
            await opened.flusher.flush()
    await opened.flusher.flush()
    assert await opened.rows("SELECT sum(alerts)::int FROM audit.sources") == [(1,)]


async def test_nothing_is_counted_of_a_transaction_that_was_not_committed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(node.database_url)
    await connection.execute("ALTER TABLE alerts ADD CONSTRAINT no_room CHECK (title <> 'no room')")
    await connection.close()
    async with node.http("billing") as client:
        assert (await client.post("/v1/alerts", json={"title": "no room"})).status_code == 500
        assert (await client.post("/v1/alerts", json={"title": "room"})).status_code == 201
    await counted(node, "billing", alerts=1, refused=1)


@pytest.mark.unit
def test_counts_that_are_put_back_add_up() -> None:
    stats = SourceStats(10)
    stats.count("a", "alerts", 2)
    older = stats.take()
    stats.count("a", "alerts")
    stats.count("a", "replayed")
    stats.put_back(older)
    hours = stats.take()
    assert sum(one.alerts for one in hours) == 3
    assert min(one.first_at for one in hours) == older[0].first_at
    assert len(stats) == 0
