from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import orjson
import pytest

from service.alerts.alert_record import FIELDS
from service.alerts.commands import AddComment, ChangeStatus, Command, PostAlert, apply_all
from service.alerts.dedup import EVERYBODY, NO_GROUPS, DedupGroups, DedupIdentity, KeyOfSource, audience_of
from service.alerts.ingest import accept
from service.alerts.lifecycle import Action
from service.alerts.queue_items import PendingAlert, Stored
from service.alerts.statements import DUE_MAX, KEYS_MAX, load_unit_of_work, settle_attempt, write_unit_of_work
from service.alerts.unit_of_work import FIRST_ID, FirstAnswer, Lookup, UnitOfWork
from service.database.engine import Database, parse_url
from service.database.ids import random_ids, uuid7
from service.events.idempotency import IdempotencyKey
from service.events.log import append_alerts, read_tail
from service.events.position import ORIGIN
from service.settings import StorageSettings
from tests.alerts.examples import BILLING, EVERY_FIELD, NOW, bearer, posted, stored
from tests.harness import append

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.alerts.queue_items import Outcome
    from service.events.log import Event

KEY = IdempotencyKey.of("key", "request")
IDLE_SECONDS = 10
ZOE = bearer("Zoë")  # one of the recipients
LATER = NOW + timedelta(minutes=5)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def load(connection: asyncpg.Connection, lookup: Lookup, groups: DedupGroups = NO_GROUPS) -> UnitOfWork:
    async with connection.transaction():
        return await load_unit_of_work(connection, random_ids(1)[0], lookup, IDLE_SECONDS, groups)


async def commit(connection: asyncpg.Connection, *commands: Command) -> tuple[UnitOfWork, list[Outcome]]:
    async with connection.transaction():
        lookup = Lookup.union(command.lookup() for command in commands)
        unit = await load_unit_of_work(connection, random_ids(1)[0], lookup, IDLE_SECONDS)
        outcomes = apply_all(commands, unit)
        await write_unit_of_work(connection, unit)
    return unit, outcomes


async def log_of(database_url: str) -> list[Event]:
    database = Database(parse_url(database_url), StorageSettings())
    async with database.transaction() as tx:
        events = await read_tail(tx, ORIGIN, 100)
    await database.close()
    return events


async def test_a_plain_alert_is_stored_as_its_state(connection: asyncpg.Connection) -> None:
    fields = EVERY_FIELD | {"dedup_key": None, "escalate_after": None}
    items = [accept(posted(**some), BILLING, NOW) for some in (fields, {})]
    plain = [item for item in items if isinstance(item, PendingAlert)]
    await append(connection, [item.wire for item in plain])
    unit = await load(connection, Lookup(ids=[item.id for item in plain]))
    for seq, (item, made) in enumerate(zip(plain, (fields, {}), strict=True), 1):
        alert = unit.alerts[item.id]
        assert orjson.loads(alert.wire()) == orjson.loads(item.wire)  # jsonb has an order of its own
        other = accept(posted(**made | {"escalate_after": 1}), BILLING, NOW)  # a command, which has the whole state
        assert isinstance(other, PostAlert)
        assert alert == replace(other.alert, id=item.id, seq=seq, escalate_after=None, escalate_at=None)
    assert unit.start.seq == 2


async def test_what_a_unit_of_work_writes_is_what_the_next_one_reads(
    connection: asyncpg.Connection, database_url: str
) -> None:
    command = accept(posted(**EVERY_FIELD), BILLING, NOW, KEY)
    assert isinstance(command, PostAlert)
    unit, [outcome] = await commit(connection, command)
    assert isinstance(outcome, Stored)
    lookup = Lookup(ids=[outcome.id], idempotency=[("billing", "key"), ("billing", "other")])
    found = await load(connection, lookup)
    assert found.alerts == unit.changed
    assert found.answers == {("billing", "key"): FirstAnswer(KEY.content, outcome)}
    assert (found.start, found.head) == (unit.events[0].position, 1)

    again, _ = await commit(
        connection,
        PostAlert(BILLING, LATER, replace(command.alert, id=uuid7())),
        PostAlert(BILLING, LATER, replace(command.alert, id=uuid7())),
        ChangeStatus(ZOE, LATER, outcome.id, Action.ACKNOWLEDGE),
        AddComment(ZOE, LATER, outcome.id, uuid7(), "Looking."),
    )
    assert again.changed[outcome.id].occurrences == 3
    assert (await load(connection, lookup)).alerts == again.changed
    assert await log_of(database_url) == unit.events + again.events


async def test_a_transaction_of_commands_that_was_committed_settles_as_committed(
    connection: asyncpg.Connection,
) -> None:
    [attempt] = random_ids(1)
    async with connection.transaction():
        await load_unit_of_work(connection, attempt, Lookup(), IDLE_SECONDS)
    for _ in range(2):
        assert await settle_attempt(connection, attempt, [], IDLE_SECONDS) == (True, frozenset(), ORIGIN)


async def test_an_attempt_that_was_given_up_can_no_longer_be_made(connection: asyncpg.Connection) -> None:
    attempt, event_id = random_ids(2)
    for _ in range(2):
        assert not (await settle_attempt(connection, attempt, [], IDLE_SECONDS)).committed
    with pytest.raises(asyncpg.TransactionRollbackError):
        async with connection.transaction():
            await load_unit_of_work(connection, attempt, Lookup(), IDLE_SECONDS)
    item = accept(posted(), BILLING, NOW)
    assert isinstance(item, PendingAlert)
    with pytest.raises(asyncpg.TransactionRollbackError):
        await append_alerts(connection, [item.wire], [event_id], [item.digest(event_id)], [None], attempt=attempt)
    assert await connection.fetchval("SELECT count(*) FROM events") == 0


async def test_an_append_is_settled_by_the_alerts_that_it_stored(
    connection: asyncpg.Connection, database_url: str
) -> None:
    items = [accept(posted(), BILLING, NOW) for _ in range(4)]
    await append(connection, [item.wire for item in items[:1] if isinstance(item, PendingAlert)])
    plain = [item for item in items[1:3] if isinstance(item, PendingAlert)]
    await append(connection, [item.wire for item in plain])
    settled = await settle_attempt(connection, random_ids(1)[0], [item.id for item in plain], IDLE_SECONDS)
    assert settled.alert_ids == {item.id for item in plain}
    assert settled.before == (await log_of(database_url))[0].position


async def test_every_field_that_may_change_is_written_and_no_other(connection: asyncpg.Connection) -> None:
    first = stored(seq=1, **{name: value for name, value in EVERY_FIELD.items() if name != "expires_at"})
    changes = {
        "title": "Other",
        "body": "Other",
        "attributes": {"other": 1},
        "links": [],
        "severity": "error",
        "recipients": ["ann"],
        "status": "acknowledged",
        "status_by": "ann",
        "occurrences": 9,
    }
    times = dict.fromkeys(
        [
            *("status_at", "updated_at", "expires_at", "escalate_at"),
            *("last_repeat_event_at", "repeat_event_due_at", "occurred_at"),
        ],
        LATER,
    )
    second = stored(id=first.id, seq=7, **changes, **times)
    async with connection.transaction():
        for alert in (first, second):
            await write_unit_of_work(connection, UnitOfWork(ORIGIN, changed={alert.id: alert}))
    [row] = (await load(connection, Lookup(ids=[first.id]))).alerts.values()
    kept = ("id", "seq", "source", "topic", "dedup_key", "created_at")
    for name in FIELDS:
        expected = first if name in (*kept, "escalate_after", "dedup_audience") else second
        assert getattr(row, name) == getattr(expected, name), name


async def test_a_lookup_finds_holders_of_keys_and_due_alerts(connection: asyncpg.Connection) -> None:
    old = stored(seq=1, dedup_key="k", status="resolved")
    new, other = stored(seq=2, dedup_key="k"), stored(seq=3, dedup_key="k", topic="another")
    due, later = stored(seq=4, expires_at=NOW), stored(seq=5, expires_at=LATER)
    over, older = stored(seq=6, expires_at=NOW, status="resolved"), stored(seq=7, dedup_key="k", status="expired")
    late = stored(seq=10, repeat_event_due_at=NOW, expires_at=LATER, status="resolved")
    named, peers = stored(seq=8, dedup_key="k", recipients=["ann"]), stored(seq=9, dedup_key="k", source="shop")
    alerts = {alert.id: alert for alert in (old, new, other, due, later, over, older, named, peers, late)}
    async with connection.transaction():
        await write_unit_of_work(connection, UnitOfWork(ORIGIN, changed=alerts))

    async def found(lookup: Lookup, groups: DedupGroups = NO_GROUPS) -> set[int]:
        return {alert.seq for alert in (await load(connection, lookup, groups)).alerts.values()}

    key = KeyOfSource("billing", "default", "k")
    repeated = Lookup(repeated=[DedupIdentity(key, EVERYBODY), DedupIdentity(key._replace(key="none"), EVERYBODY)])
    shared = DedupGroups({"payments": ["shop", "billing"]})

    assert await found(Lookup()) == set()
    assert await found(repeated) == {2}
    assert await found(repeated, shared) == {2, 9}
    assert await found(Lookup(repeated=[DedupIdentity(key, audience_of(["ann"]))])) == {8}
    assert await found(Lookup(keys=[(key, FIRST_ID)])) == {2, 8}
    assert await found(Lookup(keys=[(key, FIRST_ID)]), shared) == {2, 8, 9}
    assert await found(Lookup(ids=[old.id])) == {1, 2}  # who holds its key, in case it is to be reopened
    assert await found(Lookup(ids=[old.id]), shared) == {1, 2, 9}
    assert await found(Lookup(ids=[other.id, uuid7()])) == {3}
    assert await found(Lookup(due_at=NOW)) == {4, 10}
    assert await found(Lookup(due_at=LATER, ids=[due.id])) == {4, 5, 10}


async def test_one_transaction_reads_a_bounded_number_of_due_alerts(connection: asyncpg.Connection) -> None:
    alerts = [stored(seq=number, expires_at=NOW) for number in range(1, DUE_MAX + 2)]
    async with connection.transaction():
        await write_unit_of_work(connection, UnitOfWork(ORIGIN, changed={alert.id: alert for alert in alerts}))
    assert len((await load(connection, Lookup(due_at=LATER))).alerts) == DUE_MAX


async def test_one_transaction_reads_a_bounded_number_of_alerts_with_a_key_and_says_so(
    connection: asyncpg.Connection,
) -> None:
    alerts = [stored(seq=number, dedup_key="k", recipients=[f"{number}"]) for number in range(1, KEYS_MAX + 1)]
    ids = sorted(alert.id for alert in alerts)
    key = KeyOfSource("billing", "default", "k")
    for some, read_to in ((alerts[1:], None), (alerts[:1], ids[-1])):
        async with connection.transaction():
            await write_unit_of_work(connection, UnitOfWork(ORIGIN, changed={alert.id: alert for alert in some}))
        assert (await load(connection, Lookup(keys=[(key, FIRST_ID)]))).keys_read_to == read_to
    after = await load(connection, Lookup(keys=[(key, ids[-3])]))
    assert (sorted(after.alerts), after.keys_read_to) == (ids[-2:], None)
    both = await load(connection, Lookup(keys=[(key, FIRST_ID), (key, ids[-3])]))
    assert (sorted(both.alerts), both.keys_read_to) == (ids, ids[-1])
