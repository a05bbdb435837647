from __future__ import annotations

import asyncio
import json
import uuid
from itertools import chain, product
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.database.engine import Database, parse_url
from service.database.ids import random_ids, uuid7
from service.events.filter import EventFilter, is_for
from service.events.idempotency import IdempotencyKey
from service.events.log import (
    EVENTS_CHANNEL,
    PARTITIONS_AHEAD_MAX,
    ROOM_AHEAD,
    append_alerts,
    ensure_partitions,
    read_first,
    read_head,
    read_matching,
    read_position,
    read_tail,
)
from service.events.position import ORIGIN, HistoryChanged, Position
from service.settings import StorageSettings
from tests import harness
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.events.log import Appended, Event


def item(key: str | None = None, digest: str = "00", **changes: Any) -> dict[str, Any]:
    """Return one item of an append."""
    alert: dict[str, Any] = {
        "id": str(uuid7()),
        "source": "billing",
        "topic": "default",
        "severity": "info",
        "title": "It happened",
        "body": None,
        "attributes": {},
        "links": [],
        "recipients": None,
        "dedup_key": None,
        "created_at": "2026-11-21T09:41:07.123456Z",
        "expires_at": None,
    }
    return {"key": key, "hash": digest if key else None, "alert": alert | changes}


async def append(connection: asyncpg.Connection, *items: dict[str, Any]) -> list[Appended]:
    keys = [IdempotencyKey(item["key"], item["hash"]) if item["key"] else None for item in items]
    alerts = [json.dumps(item["alert"]).encode() for item in items]
    return await harness.append(connection, alerts, keys)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(parse_url(database_url), StorageSettings())
    yield opened
    await opened.close()


async def test_an_empty_log_begins_at_one(connection: asyncpg.Connection, database: Database) -> None:
    async with database.transaction() as tx:
        assert (await read_head(tx), await read_first(tx), await read_tail(tx, ORIGIN, 10)) == (ORIGIN, 1, [])
    assert [result.seq for result in await append(connection, item(), item())] == [1, 2]
    async with database.transaction() as tx:
        events = await read_tail(tx, ORIGIN, 10)
        assert (await read_head(tx), await read_first(tx)) == (events[1].position, 1)


async def test_a_batch_is_numbered_in_its_order(connection: asyncpg.Connection, database: Database) -> None:
    results = await append(connection, *(item(title=f"{number}") for number in range(50)))
    assert results == [(seq, False, False, None) for seq in range(1, 51)]
    async with database.transaction() as tx:
        events = await read_tail(tx, ORIGIN, 100)
    assert [json.loads(event.body)["title"] for event in events] == [f"{number}" for number in range(50)]


async def test_the_log_keeps_the_text_of_an_alert_as_it_was_written(
    connection: asyncpg.Connection, database: Database
) -> None:
    alert = item()["alert"] | {"topic": "payments.eu", "severity": "error", "recipients": ["alice", "Zoë"]}
    text = json.dumps(alert, ensure_ascii=False, indent=1).encode()
    await harness.append(connection, [text])
    async with database.transaction() as tx:
        (event,) = await read_tail(tx, ORIGIN, 10)
    assert event.body == text
    assert (event.seq, str(event.alert_id), event.kind, event.actor) == (1, alert["id"], "alert.created", "billing")
    assert (event.topic, event.severity) == ("payments.eu", "error")
    assert event.recipients == frozenset({"alice", "Zoë"})
    assert event.occurred_at.isoformat() == "2026-11-21T09:41:07.123456+00:00"


async def test_a_known_key_gets_the_first_answer_and_takes_no_number(connection: asyncpg.Connection) -> None:
    (first,) = await append(connection, item("k", title="first"))
    again, new, other = await append(connection, item("k"), item(), item("k", "ff"))
    assert (again.seq, again.replayed, again.mismatch) == (first.seq, True, False)
    assert again.body is not None
    assert json.loads(again.body)["title"] == "first"
    assert (new.seq, new.body) == (2, None)
    assert (other.replayed, other.mismatch) == (True, True)


async def test_a_key_that_comes_twice_in_one_batch_is_stored_once(connection: asyncpg.Connection) -> None:
    batch = [item("k", title="first"), item(), item("k", title="second"), item("k", "ff"), item("k", source="shop")]
    results = await append(connection, *batch)
    assert [result.seq for result in results] == [1, 2, 1, 1, 3]
    assert [(result.replayed, result.mismatch) for result in results] == [
        (False, False),
        (False, False),
        (True, False),
        (True, True),
        (False, False),
    ]
    assert results[2].body is not None
    assert json.loads(results[2].body)["title"] == "first"
    assert await connection.fetchval("SELECT count(*) FROM alerts") == 3


async def test_an_append_that_fails_leaves_no_hole(connection: asyncpg.Connection) -> None:
    await append(connection, item())
    with pytest.raises(asyncpg.PostgresError):
        await append(connection, item(), item(severity="fatal"))
    assert [result.seq for result in await append(connection, item())] == [2]


async def test_whatever_appends_at_once_the_log_has_no_hole_at_any_moment(database_url: str) -> None:
    writers = [await asyncpg.connect(database_url) for _ in range(4)]
    reader = await asyncpg.connect(database_url)

    async def write(connection: asyncpg.Connection) -> list[int]:
        places = []
        for size in range(40):
            places += [result.seq for result in await append(connection, *(item() for _ in range(size % 4 + 1)))]
        return places

    writing = [asyncio.create_task(write(writer)) for writer in writers]
    cursor = 0
    while not all(task.done() for task in writing):
        seen = [row[0] for row in await reader.fetch("SELECT seq FROM events WHERE seq > $1 ORDER BY seq", cursor)]
        assert seen == list(range(cursor + 1, cursor + 1 + len(seen)))
        cursor += len(seen)
    places = [await task for task in writing]
    assert sorted(chain(*places)) == list(range(1, 401))
    assert all(own == sorted(own) for own in places)
    for opened in (*writers, reader):
        await opened.close()


async def test_an_append_wakes_those_who_listen(database_url: str, connection: asyncpg.Connection) -> None:
    payloads: list[str] = []
    listener = await asyncpg.connect(database_url)
    await listener.add_listener(EVENTS_CHANNEL, lambda *message: payloads.append(message[3]))
    await append(connection, item(), item("k"), item())
    await append(connection, item("k"))  # stores nothing, and says nothing
    await append(connection, item())
    await eventually(lambda: len(payloads) == 2)
    assert payloads == ["3", "4"]
    await listener.close()


async def partitions(connection: asyncpg.Connection) -> list[tuple[int, int]]:
    rows = await connection.fetch("SELECT begins, ends FROM event_partitions() ORDER BY begins")
    return [(row[0], row[1]) for row in rows]


async def move_to(connection: asyncpg.Connection, head: int) -> None:
    """Pretend that the one event of the log is the last of many."""
    await connection.execute("UPDATE events SET seq = $1", head)
    await connection.execute("UPDATE log_chain SET last_seq = $1", head)


async def test_the_log_goes_on_in_the_next_partition(connection: asyncpg.Connection, database: Database) -> None:
    size = 1_000_000
    await append(connection, item())
    await move_to(connection, size - 2)
    for _ in range(2):
        async with database.transaction() as tx:
            await ensure_partitions(tx, size)
    assert [result.seq for result in await append(connection, item(), item(), item())] == [size - 1, size, size + 1]
    async with database.transaction() as tx:
        await ensure_partitions(tx, size)
        before = await read_position(tx, size - 1)
        assert before is not None
        assert [event.seq for event in await read_tail(tx, before, 10)] == [size, size + 1]
    assert await partitions(connection) == [(n * size, (n + 1) * size) for n in range(5)]


async def test_a_new_size_is_that_of_the_next_partitions(connection: asyncpg.Connection, database: Database) -> None:
    before = await partitions(connection)
    assert before[-1] == (3_000_000, 4_000_000)
    await append(connection, item())
    for head, size, expected in (
        (900_000, 50_000, []),
        (1_050_000, 50_000, [(4_000_000, 4_050_000), (4_050_000, 4_100_000)]),
        (1_100_000, 1_000_000, [(4_100_000, 5_100_000)]),
    ):
        await move_to(connection, head)
        async with database.transaction() as tx:
            await ensure_partitions(tx, size)
        after = await partitions(connection)
        assert after[len(before) :] == expected
        assert after[-1][1] > head + ROOM_AHEAD
        before = after


async def test_of_small_partitions_only_so_many_are_ahead(connection: asyncpg.Connection, database: Database) -> None:
    for name in [row["name"] for row in await connection.fetch("SELECT name FROM event_partitions()")]:
        await connection.execute(f"DROP TABLE {name}")
    for expected in (PARTITIONS_AHEAD_MAX, PARTITIONS_AHEAD_MAX):
        async with database.transaction() as tx:
            await ensure_partitions(tx, 10_000)
        assert await partitions(connection) == [(n * 10_000, (n + 1) * 10_000) for n in range(1 + expected)]
    await append(connection, item())
    await move_to(connection, 20_000)
    async with database.transaction() as tx:
        await ensure_partitions(tx, 10_000)
    assert len(await partitions(connection)) == 1 + PARTITIONS_AHEAD_MAX + 2


# Reading through a filter.


@pytest.fixture
async def log(connection: asyncpg.Connection, database: Database) -> list[Event]:
    """A log of 30 events: every other of topic a, every third for alice alone, bodies of about a kilobyte."""
    await append(
        connection,
        *(
            item(topic="ab"[number % 2], recipients=["alice"] if number % 3 == 0 else None, title="x" * 600)
            for number in range(30)
        ),
    )
    async with database.transaction() as tx:
        return await read_tail(tx, ORIGIN, 100)


async def test_a_replay_is_the_part_of_the_log_that_one_may_see(log: list[Event], database: Database) -> None:
    ranges = [(0, 30), (0, 12), (7, 25), (29, 30), (30, 30), (30, 99), (5, 5)]
    for (after, up_to), recipient, topic in product(ranges, ["alice", "bob"], ["*", "a", "nothing"]):
        through = EventFilter((topic,))
        expected = [
            event for event in log if after < event.seq <= up_to and is_for(recipient, event) and through.matches(event)
        ]
        async with database.transaction() as tx:
            whole = await read_matching(tx, after, up_to, through, recipient, limit=100, max_bytes=10**9)
            parts: list[Event] = []
            complete = False
            while not complete:
                cursor = parts[-1].seq if parts else after
                found, complete = await read_matching(tx, cursor, up_to, through, recipient, limit=4, max_bytes=2500)
                assert len(found) <= 4
                assert sum(len(event.body) for event in found[:-1]) < 2500
                assert found or complete
                parts += found
        assert whole == (expected, True)
        assert parts == expected


async def test_an_event_larger_than_the_bound_is_read_alone(log: list[Event], database: Database) -> None:
    async with database.transaction() as tx:
        found = await read_matching(tx, 0, 30, EventFilter(), "alice", limit=100, max_bytes=1)
    assert found == (log[:1], False)


@pytest.mark.unit
def test_ids_sort_by_the_time_they_were_made() -> None:
    made = [uuid7() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {identity.version for identity in made} == {7}
    assert {identity.variant for identity in made} == {uuid.RFC_4122}
    assert [identity.int >> 80 for identity in made] == sorted(identity.int >> 80 for identity in made)


# Positions.


async def test_the_log_holds_its_own_positions_and_no_other(connection: asyncpg.Connection, database: Database) -> None:
    await append(connection, *(item() for _ in range(5)))
    async with database.transaction() as tx:
        events = await read_tail(tx, ORIGIN, 10)
        head = await read_head(tx)
        found = [await read_position(tx, seq) for seq in range(7)]
    assert found == [ORIGIN, *(event.position for event in events), None]
    assert head == events[-1].position
    assert len({event.id for event in events}) == 5

    async def holds(seq: int, event_id: int) -> bool:
        return bool(await connection.fetchval("SELECT log_holds($1, $2)", seq, event_id))

    assert [await holds(*event.position) for event in events] == [True] * 5
    assert await holds(*ORIGIN)
    assert not await holds(3, events[3].id)
    assert not await holds(6, events[4].id)


async def test_the_tail_is_read_only_after_a_position_that_the_log_holds(
    connection: asyncpg.Connection, database: Database
) -> None:
    await append(connection, *(item() for _ in range(5)))
    async with database.transaction() as tx:
        events = await read_tail(tx, ORIGIN, 10)
        assert await read_tail(tx, events[1].position, 2) == events[2:4]
        assert await read_tail(tx, events[4].position, 2) == []
        for position in (Position(2, events[1].id + 1), Position(6, events[4].id), Position(3, events[1].id)):
            with pytest.raises(HistoryChanged, match=position.cursor):
                await read_tail(tx, position, 10)


async def test_an_append_says_which_position_it_found(connection: asyncpg.Connection, database: Database) -> None:
    found = []
    for _ in range(3):
        alert = json.dumps(item()["alert"]).encode()
        before, _ = await append_alerts(connection, [alert], random_ids(1), [bytes(32)], [None], attempt=1)
        found.append(before)
    async with database.transaction() as tx:
        events = await read_tail(tx, ORIGIN, 10)
    assert found == [ORIGIN, events[0].position, events[1].position]
