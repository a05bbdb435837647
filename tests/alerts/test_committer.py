from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import make_url

from service.alerts.committer import Committer
from service.alerts.ingest import accept, idempotency_key
from service.alerts.queue_items import PendingAlert, Stored
from service.database.engine import Database, parse_url
from service.database.locks import TableLock
from service.errors import (
    DatabaseUnavailable,
    IdempotencyMismatch,
    InternalError,
    OutcomeUnknown,
    Overloaded,
    TokenExpired,
)
from service.ledger.source_stats import SourceStats
from service.settings import Settings, StorageSettings
from tests.alerts.examples import BILLING, posted
from tests.alerts.proxy import Cut, Proxy, proxy_to
from tests.fixtures.revocations import KnownRevocations
from tests.harness import Node, eventually, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from service.events.log import Event
    from service.events.position import Position


# What a client sees when PostgreSQL goes away in the middle of a commit.


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(database_url) as proxy:
        yield proxy


@pytest.fixture
async def node_behind(proxy: Proxy, database_url: str) -> AsyncIterator[Node]:
    url = make_url(database_url).update_query_dict({"host": str(proxy.folder)}).render_as_string(hide_password=False)
    running = serving(url, Settings(storage=StorageSettings(commit_recovery_timeout_seconds=1)))
    node = await asyncio.to_thread(running.__enter__)
    try:
        yield replace(node, database_url=database_url)
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def post(node: Node, title: str, key: str = "a key") -> tuple[int, dict[str, str], dict[str, Any]]:
    async with node.http() as client:
        answer = await client.post("/v1/alerts", json={"title": title}, headers={"Idempotency-Key": key})
    return answer.status_code, dict(answer.headers), answer.json()


async def stored(node: Node) -> list[tuple[int, str]]:
    return [
        tuple(row)
        for row in await node.sql("SELECT e.seq, title FROM events e JOIN alerts a ON a.id = alert_id ORDER BY 1")
    ]


async def test_an_alert_whose_commit_was_not_recordd_of_is_answered_as_stored_and_reaches_the_stream_once(
    node_behind: Node, proxy: Proxy
) -> None:
    stream = await node_behind.live()
    proxy.cut_at("cut here", cut=Cut.ANSWERED)
    status, headers, alert = await post(node_behind, "cut here")
    assert (status, alert["seq"]) == (201, 1)
    assert "idempotency-replayed" not in headers
    assert await stored(node_behind) == [(1, "cut here")]
    status, headers, again = await post(node_behind, "cut here")
    assert (status, headers["idempotency-replayed"], again) == (201, "true", alert)
    await post(node_behind, "afterwards", "another key")
    assert [event["seq"] for event in await stream.events(2)] == [1, 2]
    await stream.close()


async def test_an_alert_whose_connection_was_cut_in_the_middle_of_the_commit_is_answered_as_what_became_of_it(
    node_behind: Node, proxy: Proxy
) -> None:
    proxy.cut_at("cut here", cut=Cut.SENT)
    status, _, document = await post(node_behind, "cut here")
    assert status == 201 or (status, document["code"]) == (503, "database_unavailable")
    assert len(await stored(node_behind)) == (status == 201)
    assert (await post(node_behind, "cut here"))[0] == 201
    assert await stored(node_behind) == [(1, "cut here")]


async def test_an_alert_that_was_lost_on_the_way_to_postgres_is_refused_and_a_retry_stores_it(
    node_behind: Node, proxy: Proxy
) -> None:
    proxy.cut_at("cut here", cut=Cut.LOST)
    status, headers, problem = await post(node_behind, "cut here")
    assert (status, problem["code"], headers["retry-after"]) == (503, "database_unavailable", "1")
    assert await stored(node_behind) == []
    status, headers, _ = await post(node_behind, "cut here")
    assert (status, "idempotency-replayed" in headers) == (201, False)
    assert await stored(node_behind) == [(1, "cut here")]


async def test_an_append_that_reaches_postgres_after_it_was_refused_cannot_commit(
    node_behind: Node, proxy: Proxy
) -> None:
    proxy.cut_at("cut here", cut=Cut.HELD)
    status, _, problem = await post(node_behind, "cut here")
    assert (status, problem["code"]) == (503, "database_unavailable")
    assert (await post(node_behind, "next", "another key"))[2]["seq"] == 1
    assert b"the attempt was given up" in await proxy.deliver()
    assert (await post(node_behind, "last", "a third key"))[2]["seq"] == 2
    assert await stored(node_behind) == [(1, "next"), (2, "last")]


async def test_recovery_comes_after_an_append_that_still_waits_for_the_lock(node_behind: Node, proxy: Proxy) -> None:
    stream = await node_behind.live()
    async with append_lock(node_behind.database_url) as waiting:
        proxy.cut_at("cut here", cut=Cut.BY_HAND)
        posting = asyncio.create_task(post(node_behind, "cut here"))
        await eventually(waiting)
        proxy.cut_now()
    status, _, alert = await posting
    assert status == 201 or alert["code"] == "database_unavailable"  # where PostgreSQL noticed the cut
    assert await stored(node_behind) == [(1, "cut here")] * (status == 201)
    assert (await post(node_behind, "cut here"))[2]["seq"] == 1
    assert [event["seq"] for event in await stream.events(1)] == [1]
    await stream.close()


async def test_an_outcome_is_unknown_while_the_log_is_locked_and_a_retry_stores_it_once(
    node_behind: Node, proxy: Proxy
) -> None:
    async with append_lock(node_behind.database_url) as waiting:
        proxy.cut_at("cut here", cut=Cut.BY_HAND)
        posting = asyncio.create_task(post(node_behind, "cut here"))
        await eventually(waiting)
        proxy.cut_now()
        status, _, problem = await posting
        assert (status, problem["code"]) == (503, "outcome_unknown")
    assert (await post(node_behind, "cut here"))[2]["seq"] == 1
    assert await stored(node_behind) == [(1, "cut here")]


async def test_an_outcome_that_cannot_be_asked_for_in_time_is_called_unknown_and_a_retry_finds_it(
    node_behind: Node, proxy: Proxy
) -> None:
    await post(node_behind, "before", "another key")
    proxy.is_open = False
    proxy.cut_at("cut here", cut=Cut.SENT)
    status, headers, problem = await post(node_behind, "cut here")
    assert (status, problem["code"], headers["retry-after"]) == (503, "outcome_unknown", "1")
    assert headers["content-type"] == "application/problem+json"
    proxy.is_open = True
    status, headers, alert = await post(node_behind, "cut here")
    assert (status, headers["idempotency-replayed"], alert["seq"]) == (201, "true", 2)
    assert await stored(node_behind) == [(1, "before"), (2, "cut here")]


async def test_a_node_whose_session_was_ended_but_not_yet_its_connection_answers_and_goes_on(
    node_behind: Node, proxy: Proxy
) -> None:
    await post(node_behind, "before", "first key")
    proxy.ends_pass.clear()
    ended = await node_behind.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'tocsin' AND datname = current_database()"
    )
    assert ended
    status, _, problem = await post(node_behind, "between")
    proxy.ends_pass.set()
    assert status == 201 or problem["code"] == "database_unavailable"
    await eventually(lambda: is_stored(node_behind, "between"))
    assert [title for _, title in await stored(node_behind)] == ["before", "between"]


async def is_stored(node: Node, title: str) -> bool:
    return (await post(node, title))[0] == 201


# The same for changes, whose transaction takes more than one message.


@pytest.mark.parametrize("cut", [Cut.LOST, Cut.SENT, Cut.ANSWERED])
@pytest.mark.parametrize("then", [(), ("COMMIT",)])
async def test_a_change_whose_connection_was_cut_is_answered_as_what_became_of_it_and_is_made_once(
    node_behind: Node, proxy: Proxy, then: tuple[str, ...], cut: Cut
) -> None:
    body = {"title": "again and again", "dedup_key": "k"}
    stream = await node_behind.live()
    async with node_behind.http("ann", "alerts:write alerts:read alerts:manage") as client:
        alert = (await client.post("/v1/alerts", json=body)).raise_for_status().json()

        async def occurrences() -> int:
            count: int = (await client.get(f"/v1/alerts/{alert['id']}")).json()["occurrences"]
            return count

        proxy.cut_at("alert.repeated", *then, cut=cut)
        first = await client.post("/v1/alerts", json=body)
        if cut is Cut.LOST or (cut is Cut.ANSWERED and not then):
            assert first.json()["code"] == "database_unavailable"
        if cut is Cut.ANSWERED and then:
            assert first.status_code == 200
        assert await occurrences() == 1 + first.is_success
        proxy.cut_at("alert.acknowledged", *then, cut=cut)
        acknowledged = await client.post(f"/v1/alerts/{alert['id']}/acknowledge")
        again = await client.post(f"/v1/alerts/{alert['id']}/acknowledge")
        assert again.status_code == 200
        assert not acknowledged.is_success or acknowledged.content == again.content
        timeline = (await client.get(f"/v1/alerts/{alert['id']}/timeline")).json()["events"]
    kinds = ["alert.created", *(["alert.repeated"] if first.is_success else []), "alert.acknowledged"]
    assert [event["kind"] for event in timeline] == kinds
    assert [event["kind"] for event in await stream.events(len(kinds))] == kinds
    await stream.close()


@pytest.mark.parametrize("cut", [Cut.LOST, Cut.ANSWERED])
async def test_a_repetition_without_an_event_is_counted_as_often_as_it_is_answered(
    node_behind: Node, proxy: Proxy, cut: Cut
) -> None:
    async with node_behind.http() as client:
        body = {"title": "again and again", "dedup_key": "k"}
        for _ in range(2):
            (await client.post("/v1/alerts", json=body)).raise_for_status()
        proxy.cut_at('"occurrences":3', "COMMIT", cut=cut)
        third = await client.post("/v1/alerts", json=body)
        assert third.json().get("code") == (None if cut is Cut.ANSWERED else "database_unavailable")
        fourth = (await client.post("/v1/alerts", json=body)).raise_for_status().json()
    assert fourth["occurrences"] == 3 + third.is_success


# How the committer groups and bounds.


@asynccontextmanager
async def append_lock(database_url: str) -> AsyncIterator[Callable[[], Any]]:
    """Keep every append waiting, and yield the condition that one waits."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(f"BEGIN; {TableLock.LOG.lock}")

    async def waiting() -> bool:
        waits = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE relation = 'locks.log'::regclass AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return bool(waits)

    try:
        yield waiting
    finally:
        await connection.close()


class CommitterHarness:
    """A committer at work, what it committed, and the database."""

    def __init__(self, database: Database, settings: StorageSettings) -> None:
        self.committed: list[Event] = []
        self.source_stats = SourceStats(10)
        self.database = database
        self.stop_after: int | None = None
        self.revocations = KnownRevocations()
        self.committer = Committer(database, settings, self._record, self.source_stats, self.revocations)
        self.running = asyncio.create_task(self.committer.run())

    def _record(self, before: Position, events: Sequence[Event]) -> None:
        assert before.seq + 1 == events[0].seq
        if self.committed and before.seq == self.committed[-1].seq:
            assert before == self.committed[-1].position
        self.committed.extend(events)
        if len(self.committed) == self.stop_after:
            self.running.cancel()

    async def stop(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])

    async def transactions(self) -> list[int]:
        """Return how many events each transaction stored."""
        connection = await self.database.connect()
        rows = await connection.fetch("SELECT count(*) FROM events GROUP BY xmin::text ORDER BY min(seq)")
        await connection.close()
        return [row[0] for row in rows]


@pytest.fixture
async def committer(database_url: str) -> AsyncIterator[Callable[..., CommitterHarness]]:
    async with AsyncExitStack() as stack:

        def start(**settings: Any) -> CommitterHarness:
            storage = StorageSettings(**settings)
            database = Database(parse_url(database_url), storage)
            stack.push_async_callback(database.close)
            harness = CommitterHarness(database, storage)
            stack.push_async_callback(harness.stop)
            return harness

        yield start


@pytest.fixture
def lock(database_url: str) -> AbstractAsyncContextManager[Callable[[], Any]]:
    return append_lock(database_url)


def new_alert(title: str, key: str | None = None) -> PendingAlert:
    alert = posted(title=title)
    pending = accept(alert, BILLING, datetime.now(UTC), idempotency_key(key, alert))
    assert isinstance(pending, PendingAlert)
    return pending


def poisoned_alert() -> PendingAlert:
    """Make an alert that validation would never let through and that PostgreSQL refuses."""
    alert = new_alert("poison")
    alert.wire = alert.wire.replace(b'"poison"', b'"\\u0000"')
    return alert


async def store_while_locked(
    harness: CommitterHarness, lock: AbstractAsyncContextManager[Callable[[], Any]], alerts: Sequence[PendingAlert]
) -> list[Any]:
    """Store the first alert, the others while its commit waits, and return their outcomes."""
    async with lock as waiting:
        first = asyncio.create_task(harness.committer.store(alerts[0]))
        await eventually(waiting)
        others = [asyncio.create_task(harness.committer.store(alert)) for alert in alerts[1:]]
        await asyncio.sleep(0)
    return await asyncio.gather(first, *others, return_exceptions=True)


async def test_alerts_that_come_during_a_commit_share_the_next_one(
    committer: Callable[..., CommitterHarness], lock: AbstractAsyncContextManager[Callable[[], Any]]
) -> None:
    harness = committer()
    alerts = [new_alert(f"alert {number}") for number in range(50)]
    results = await store_while_locked(harness, lock, alerts)
    assert [result.seq for result in results] == list(range(1, 51))
    assert [event.alert_id for event in harness.committed] == [alert.id for alert in alerts]
    assert await harness.transactions() == [1, 49]


async def test_no_transaction_stores_more_than_the_batch_size(
    committer: Callable[..., CommitterHarness], lock: AbstractAsyncContextManager[Callable[[], Any]]
) -> None:
    harness = committer(commit_batch_size=3)
    results = await store_while_locked(harness, lock, [new_alert(f"alert {number}") for number in range(8)])
    assert [result.seq for result in results] == list(range(1, 9))
    assert await harness.transactions() == [1, 3, 3, 1]


async def test_an_alert_beyond_the_queue_is_refused_at_once(
    committer: Callable[..., CommitterHarness], lock: AbstractAsyncContextManager[Callable[[], Any]]
) -> None:
    harness = committer(commit_queue_size=2)
    results = await store_while_locked(harness, lock, [new_alert(f"alert {number}") for number in range(4)])
    assert [result.seq for result in results[:3]] == [1, 2, 3]
    assert isinstance(results[3], Overloaded)
    assert results[3].retry_after == 1
    assert await harness.transactions() == [1, 2]


async def test_an_alert_that_postgres_refuses_fails_alone(
    committer: Callable[..., CommitterHarness], lock: AbstractAsyncContextManager[Callable[[], Any]]
) -> None:
    harness = committer()
    alerts = [new_alert("first"), new_alert("second"), poisoned_alert(), new_alert("third"), new_alert("fourth")]
    first, second, poisoned, third, fourth = await store_while_locked(harness, lock, alerts)
    assert [result.seq for result in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert isinstance(poisoned, InternalError)
    assert [event.seq for event in harness.committed] == [1, 2, 3, 4]


async def test_requests_with_one_key_in_one_batch_store_one_alert(
    committer: Callable[..., CommitterHarness], lock: AbstractAsyncContextManager[Callable[[], Any]]
) -> None:
    harness = committer()
    alerts = [new_alert("first"), new_alert("same", "key"), new_alert("same", "key"), new_alert("other", "key")]
    _, original, repeated, mismatched = await store_while_locked(harness, lock, alerts)
    assert original == Stored(alerts[1].id, 2, alerts[1].wire, replayed=False)
    assert repeated == Stored(alerts[1].id, 2, alerts[1].wire, replayed=True)
    assert isinstance(mismatched, IdempotencyMismatch)
    assert [event.alert_id for event in harness.committed] == [alerts[0].id, alerts[1].id]
    assert await harness.transactions() == [1, 1]


async def test_alerts_that_come_together_are_each_answered_by_what_became_of_them(
    committer: Callable[..., CommitterHarness],
) -> None:
    harness = committer()
    alerts = [new_alert("same", "key"), poisoned_alert(), new_alert("same", "key"), new_alert("other", "key")]
    first, poisoned, repeated, mismatched = await harness.committer.store_all(alerts)
    assert first == Stored(alerts[0].id, 1, alerts[0].wire, replayed=False)
    assert isinstance(poisoned, InternalError)
    assert repeated == Stored(alerts[0].id, 1, alerts[0].wire, replayed=True)
    assert isinstance(mismatched, IdempotencyMismatch)
    assert [event.seq for event in harness.committed] == [1]


async def test_alerts_that_come_together_are_refused_together_where_there_is_no_room(
    committer: Callable[..., CommitterHarness],
) -> None:
    harness = committer(commit_queue_size=4)
    with pytest.raises(Overloaded):
        await harness.committer.store_all([new_alert(f"alert {number}") for number in range(5)])
    outcomes = await harness.committer.store_all([new_alert(f"alert {number}") for number in range(4)])
    assert [outcome.seq for outcome in outcomes if isinstance(outcome, Stored)] == [1, 2, 3, 4]


async def test_alerts_that_have_their_answer_keep_it_when_the_committer_stops_between_them(
    committer: Callable[..., CommitterHarness],
) -> None:
    harness = committer()
    harness.stop_after = 1
    poisoned, first, second = await harness.committer.store_all(
        [poisoned_alert(), new_alert("first"), new_alert("second")]
    )
    assert isinstance(poisoned, InternalError)
    assert isinstance(first, Stored)
    assert isinstance(second, OutcomeUnknown)


async def test_a_committer_that_stopped_refuses(committer: Callable[..., CommitterHarness]) -> None:
    harness = committer()
    await harness.committer.store(new_alert("before"))
    await harness.stop()
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(harness.committer.store(new_alert("after")), 5)


async def test_overload_is_answered_503_with_a_time_to_come_back(database_url: str) -> None:
    settings = Settings(storage=StorageSettings(commit_queue_size=1, commit_batch_size=1))
    with serving(database_url, settings) as node:
        async with append_lock(database_url) as waiting:
            first = asyncio.create_task(post(node, "first", "key 1"))
            await eventually(waiting)
            others = [asyncio.create_task(post(node, f"other {n}", f"key of {n}")) for n in range(2)]
            done, pending = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            status, headers, problem = done.pop().result()
            assert (status, problem["code"], headers["retry-after"]) == (503, "overloaded", "1")
            assert headers["content-type"] == "application/problem+json"
        assert [(await task)[0] for task in (first, *pending)] == [201, 201]
        assert len(await stored(node)) == 2


async def test_what_a_token_asked_for_that_has_expired_meanwhile_is_refused(
    committer: Callable[..., CommitterHarness],
) -> None:
    late = replace(BILLING, expires_at=time.time())
    harness = committer()
    for item in (
        accept(posted(title="t"), late, datetime.now(UTC)),
        accept(posted(title="t", dedup_key="k"), late, datetime.now(UTC)),
    ):
        with pytest.raises(TokenExpired):
            await harness.committer.store(item)
    assert harness.committed == []
