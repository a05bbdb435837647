"""A purge beside requests: it disturbs neither posts nor readers, and clients learn what was purged."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.settings import LimitSettings, RetentionSettings, Settings
from tests.fixtures.small_log import SIZE, log_head
from tests.harness import WRITE, eventually, serving
from tests.http_streams import EventSource, Poller
from tests.retention.test_interrupted_purge import WAITS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.fixtures.small_log import Log
    from tests.harness import Node

EVERY = "1000000/second"
ALL, KEY = {"title": "all of it"}, {"Idempotency-Key": "k"}


@pytest.fixture
def nodes(log: Log) -> Iterator[Callable[[], Node]]:
    """Start nodes that purge nothing by themselves, and look often at what was purged."""
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


@log_head(2 * SIZE + 5)
@pytest.mark.parametrize("posts", [5, pytest.param(100, marks=pytest.mark.long)])
async def test_a_purge_that_waits_for_a_long_report_disturbs_neither_it_nor_those_who_publish(
    log: Log, nodes: Callable[[], Node], posts: int
) -> None:
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
        await eventually(lambda: len(posted) >= so_far + posts)

    publishers = [asyncio.create_task(publish()) for _ in range(4)]
    await many_more()
    async with reading(log) as operator:
        before = await operator.fetchval("SELECT count(*) FROM events")
        purging = asyncio.create_task(log.purge(await log.now()))
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


# Clients that ask for what was purged.


@log_head(SIZE - 20)
async def test_who_resumes_before_what_was_purged_learns_of_the_gap_on_every_transport_and_node(
    log: Log, nodes: Callable[[], Node]
) -> None:
    remembers = nodes()
    await log.fill(SIZE + 20)
    assert await eventually(lambda: first_poll(remembers, SIZE + 15)) == (None, SIZE + 16)
    live = await remembers.live("alice", after=SIZE)
    assert await first_poll(remembers, SIZE - 15) == (None, SIZE - 14)
    other = nodes()
    await log.purge(await log.now())
    # It learns what was purged when it looks the next time; until then it has them in memory and sends them.
    await eventually(lambda: log_began_at(remembers, SIZE))
    for name, node in (("remembers", remembers), ("other", other)):
        gap = {"type": "gap", "from": SIZE - 14, "to": SIZE - 1, "reason": "purged"}
        stream = await node.stream(f"ws {name}", after=SIZE - 15)
        await stream.next_of("welcome")
        assert await stream.next() == gap
        assert [event["seq"] for event in await stream.events(21)] == list(range(SIZE, SIZE + 21))
        await stream.close()
        async with EventSource(node, f"sse {name}") as source:
            await source.open(after=SIZE - 15)
            await source.next_of("welcome")
            assert await source.next() == gap
            assert [event["seq"] for event in await source.events(21)] == list(range(SIZE, SIZE + 21))
        async with Poller(node, f"poll {name}") as poller:
            answer = await poller.poll(after=SIZE - 15)
            assert answer["gap"] == gap
            assert [event["seq"] for event in answer["events"]] == list(range(SIZE, SIZE + 21))
        stream = await node.stream(f"just {name}", after=SIZE - 1)
        assert [(await stream.next())["type"] for _ in range(2)] == ["welcome", "event"]
        await stream.events(20)  # a client that does not read does not see the server's close frame
        await stream.close()
    seq = (await remembers.post())["seq"]
    while (frame := await live.next_of("event"))["seq"] < seq:
        pass
    assert frame["seq"] == seq
    await live.close()


async def first_poll(node: Node, after: int) -> tuple[Any, int] | None:
    """Return the gap and the first event that a poll returns."""
    async with Poller(node, "bob") as poller:
        answer = await poller.poll(after=after)
    return (answer["gap"], answer["events"][0]["seq"]) if answer["events"] else None


async def log_began_at(node: Node, seq: int) -> bool:
    answer = await first_poll(node, SIZE - 15)
    return answer is not None and answer[1] == seq


@log_head(SIZE - 10)
async def test_rest_answers_well_for_what_is_purged_and_what_is_half_purged(
    log: Log, nodes: Callable[[], Node]
) -> None:
    node = nodes()
    half = await node.post("half of it", attributes={"half": True})
    async with node.http() as client:
        purged = (await client.post("/v1/alerts", json=ALL, headers=KEY)).json()
    reader = await node.live("alice", after=purged["seq"])  # the fan-out may not have got there yet
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
        await log.purge(await log.now())
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
            assert (await alice.get(f"/v1/alerts/{purged['id']}{path}")).status_code == 404
        assert (await alice.post(f"/v1/alerts/{purged['id']}/acknowledge")).status_code == 404
    async with node.http("billing", WRITE) as client:
        again = await client.post("/v1/alerts", json=ALL, headers=KEY)
    assert (again.status_code, "Idempotency-Replayed" in again.headers) == (201, False)
    await reader.close()
