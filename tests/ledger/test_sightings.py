"""Who saw which alert: what clients report, and what the ledger makes of it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.database.locks import TableLock
from service.integrity.chain_sources import LEDGER
from service.integrity.verifier import verify
from service.stream.protocol import SEEN_MAX
from tests.fixtures.small_log import fill
from tests.harness import READ, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fixtures.open_ledger import OpenLedger
    from tests.harness import Node

AUDIT = "audit:read"
TOPIC = "payments.eu"


def name() -> str:
    return f"admin-{uuid.uuid4().hex}"


async def sightings(node: Node, alert: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows = await node.sql(
        "SELECT recipient, seq, seen_at FROM audit.sightings WHERE alert_id = $1 ORDER BY recipient", alert["id"]
    )
    return [tuple(row) for row in rows]


async def seen_by(node: Node, alert: dict[str, Any], *recipients: str) -> list[tuple[Any, ...]]:
    """Wait until the ledger says that these saw the alert."""

    async def found() -> list[tuple[Any, ...]] | None:
        rows = await sightings(node, alert)
        return rows if {row[0] for row in rows} >= {*recipients} else None

    rows: list[tuple[Any, ...]] = await eventually(found)
    return rows


async def asked(node: Node, path: str, **query: Any) -> dict[str, Any]:
    async with node.http("auditor", AUDIT) as client:
        answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


# What is read in a list.


async def test_an_alert_that_was_read_in_the_list_is_seen_and_not_received(lenient: Node) -> None:
    alice, bob = name(), name()
    alert = await lenient.post(topic=TOPIC, recipients=[alice, bob])
    async with await lenient.live(alice, after=alert["seq"]) as stream:  # as after loading the list
        await stream.send({"type": "seen", "alerts": [alert["id"]]})
        [(who, seq, seen_at)] = await seen_by(lenient, alert, alice)
        assert (who, seq) == (alice, alert["seq"])
        assert seen_at >= datetime.fromisoformat(alert["created_at"])

        receipts = await asked(lenient, f"/v1/alerts/{alert['id']}/receipts")
        assert receipts["counts"] == {"recipients": 2, "sent_to": 0, "received_by": 0, "seen_by": 1}
        rows = {row["recipient"]: row for row in receipts["recipients"]}
        assert datetime.fromisoformat(rows[alice]["seen_at"]) == seen_at
        assert (rows[alice]["first_sent_at"], rows[alice]["first_received_at"]) == (None, None)
        assert rows[alice]["waiting"] > 0
        assert rows[bob]["seen_at"] is None

        [row] = (await asked(lenient, f"/v1/alerts/{alert['id']}/deliveries"))["deliveries"]
        assert (row["recipient"], row["seq"]) == (alice, alert["seq"])
        assert (row["connection"], row["sent_at"], row["received_at"]) == (None, None, None)
        assert datetime.fromisoformat(row["seen_at"]) == seen_at

        waiting = (await asked(lenient, "/v1/audit/unreceived", recipient=[alice, bob]))["unreceived"]
        assert {row["recipient"]: row["seen_at"] is not None for row in waiting} == {alice: True, bob: False}
        audit = await asked(lenient, f"/v1/audit/alerts/{alert['id']}")
        assert audit["counts"] == receipts["counts"]
        [timed] = [entry for entry in audit["timeline"] if entry["action"] == "seen"]
        assert (timed["actor"], timed["seq"], timed["connection"]) == (alice, alert["seq"], None)
    rows_of = (
        "SELECT (SELECT count(*) FROM receipts r JOIN connections c ON c.id = r.connection_id WHERE recipient = $1)"
    )
    assert [tuple(row) for row in await lenient.sql(rows_of, alice)] == [(0,)]
    async with await lenient.stream(alice) as again:  # where she resumes has not moved
        assert (await again.next_of("welcome"))["after"] <= alert["seq"]


async def test_what_happened_after_the_report_was_not_seen_however_late_it_is_written(lenient: Node) -> None:
    alice = name()
    async with await lenient.live(alice) as stream:
        alert = await lenient.post(topic=TOPIC, recipients=[alice])
        await stream.next_of("event")
        blocker = await asyncpg.connect(lenient.database_url)
        async with blocker.transaction():
            await blocker.execute(TableLock.LEDGER.lock)
            await stream.send({"type": "seen", "alerts": [alert["id"]]})
            await stream.send({"type": "ping"})
            await stream.next_of("pong")
            async with lenient.http(alice, f"{READ} alerts:manage") as client:
                await client.post(f"/v1/alerts/{alert['id']}/comments", json={"text": "later"})
            await stream.next_of("event")
        await blocker.close()
        [(_, seq, _)] = await seen_by(lenient, alert, alice)
        assert seq == alert["seq"]


async def test_an_alert_that_was_sent_and_seen_has_both_in_its_delivery(lenient: Node) -> None:
    alice = name()
    async with await lenient.live(alice) as stream:
        alert = await lenient.post(recipients=[alice])
        await stream.next_of("event")
        await stream.send({"type": "seen", "alerts": [alert["id"]]})
        [(_, _, seen_at)] = await seen_by(lenient, alert, alice)
        await lenient.flushed(alert["seq"])
        async with lenient.http(alice, f"{READ} alerts:manage") as client:
            await client.post(f"/v1/alerts/{alert['id']}/acknowledge")
        later = await stream.next_of("event")
        await lenient.flushed(later["seq"])
        rows = (await asked(lenient, f"/v1/alerts/{alert['id']}/deliveries"))["deliveries"]
    assert [(row["kind"], row["received_at"]) for row in rows] == [
        ("alert.created", None),
        ("alert.acknowledged", None),
    ]
    assert datetime.fromisoformat(rows[0]["seen_at"]) == seen_at
    assert rows[0]["sent_at"] < rows[0]["seen_at"]
    assert rows[1]["seen_at"] is None  # it happened after she saw the alert
    views = await lenient.sql("SELECT seq, seen_at FROM audit.deliveries WHERE alert_id = $1 ORDER BY seq", alert["id"])
    assert [tuple(row) for row in views] == [(alert["seq"], seen_at), (later["seq"], None)]


async def test_where_there_are_several_pages_those_who_only_saw_it_are_on_them_too(lenient: Node) -> None:
    names = sorted(name() for _ in range(5))
    alert = await lenient.post(recipients=names)
    for who in names:
        async with lenient.http(who, READ) as client:
            assert (await client.post("/v1/events/seen", json={"alerts": [alert["id"]]})).status_code == 204
    await seen_by(lenient, alert, *names)
    found, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = await asked(lenient, f"/v1/alerts/{alert['id']}/deliveries", **query)
        found += [row["recipient"] for row in page["deliveries"]]
        if (cursor := page["next"]) is None:
            break
    assert found == names


@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_the_first_time_counts(lenient: Node, transport: str) -> None:
    alice = name()
    alert = await lenient.post(recipients=[alice])
    async with await lenient.live(alice) as stream, lenient.http(alice, READ) as client:
        for _ in range(2):
            if transport == "rest":
                await client.post("/v1/events/seen", json={"alerts": [alert["id"]]})
            else:
                await stream.send({"type": "seen", "alerts": [alert["id"], alert["id"]]})
            first = await seen_by(lenient, alert, alice)
        later = await lenient.post(recipients=[alice])
        await stream.send({"type": "seen", "alerts": [alert["id"], later["id"]]})
        await seen_by(lenient, later, alice)
    assert await sightings(lenient, alert) == first


# What nobody learns.


async def test_alerts_that_the_admin_may_not_see_or_that_do_not_exist_are_ignored_alike(lenient: Node) -> None:
    alice = name()
    hidden = [
        await lenient.post(topic="search", recipients=[alice]),  # of a topic that her token does not cover
        await lenient.post(topic=TOPIC, recipients=["somebody else"]),
    ]
    visible = await lenient.post(topic=TOPIC)
    unknown = str(uuid.uuid4())
    async with (
        await lenient.live(alice, claims={"topics": ["payments.*"]}) as stream,
        lenient.http(alice, READ, topics=["payments.*"]) as client,
    ):
        answers = []
        for alert_id in (*(alert["id"] for alert in hidden), unknown, visible["id"]):
            await stream.send({"type": "seen", "alerts": [alert_id]})
            answer = await client.post("/v1/events/seen", json={"alerts": [alert_id]})
            answers.append((answer.status_code, answer.content))
        assert {*answers} == {(204, b"")}
        await stream.send({"type": "ping", "data": 1})
        read = len(stream.seen)
        await stream.next_of("pong")
        assert {frame["type"] for frame in stream.seen[read:]} <= {"pong", "heartbeat", "presence", "event"}
        await seen_by(lenient, visible, alice)
    assert [await sightings(lenient, alert) for alert in hidden] == [[], []]
    assert await lenient.sql("SELECT FROM sightings WHERE alert_id = $1", unknown) == []


async def test_a_report_over_rest_needs_the_scope_to_read_and_names_a_bounded_number_of_ids(lenient: Node) -> None:
    ids = [str(uuid.uuid4()) for _ in range(SEEN_MAX + 1)]
    async with lenient.http(name(), "alerts:write") as client:
        answer = await client.post("/v1/events/seen", json={"alerts": ids[:1]})
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    async with lenient.http(name(), READ) as client:
        assert (await client.post("/v1/events/seen", json={"alerts": ids[:-1]})).status_code == 204
        for body in ({"alerts": ids}, {"alerts": ["x"]}, {}, {"alerts": "x"}):
            answer = await client.post("/v1/events/seen", json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


# How they are written.


async def alerts_of(opened: OpenLedger) -> list[uuid.UUID]:
    return [uuid.UUID(row[0]) for row in await opened.rows("SELECT id::text FROM alerts ORDER BY seq")]


async def test_what_is_ignored_makes_no_link_and_what_is_written_fits_the_chain(
    database_url: str, open_ledger: Callable[..., Awaitable[OpenLedger]]
) -> None:
    opened = await open_ledger()
    await fill(opened.database, 3)
    alerts = await alerts_of(opened)
    links = "SELECT count(*) FROM ledger_chain"
    opened.ledger.record_sightings("alice", ("search",), alerts)
    opened.ledger.record_sightings("alice", (), alerts)
    opened.ledger.record_sightings("alice", ("*",), [uuid.uuid4()])
    await opened.flusher.flush()
    assert await opened.rows(links) == [(0,)]
    written = opened.ledger.pending
    opened.ledger.record_sightings("alice", ("*",), alerts)
    opened.ledger.record_sightings('é\\"', ("*",), alerts[:1])
    await opened.flusher.flush()
    assert await opened.rows(links) == [(1,)]
    opened.ledger.pending.put_back(written)  # as after a commit whose outcome is unknown
    await opened.flusher.flush()
    assert await opened.rows(links) == [(1,)]
    assert await opened.rows("SELECT recipient, seq FROM sightings ORDER BY seq, recipient") == [
        ("alice", 1),
        ('é\\"', 1),
        ("alice", 2),
        ("alice", 3),
    ]
    found = await asyncio.to_thread(verify, database_url, LEDGER)
    assert (found.mismatch, found.links, found.rows) == (None, 1, 4)


async def test_an_alert_whose_events_were_purged_can_still_be_seen(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    await fill(opened.database, 2)
    await opened.database.execute("DELETE FROM events")  # as retention does, before it deletes their alerts
    opened.ledger.record_sightings("alice", ("*",), await alerts_of(opened))
    await opened.flusher.flush()
    assert await opened.rows("SELECT seq FROM sightings ORDER BY seq") == [(1,), (2,)]


async def test_a_flush_that_failed_is_repeated_and_the_first_sighting_counts(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger()
    await fill(opened.database, 1)
    [alert] = await alerts_of(opened)
    opened.ledger.record_sightings("alice", ("*",), [alert])
    [first] = opened.ledger.pending.sightings.values()
    async with opened.locked():
        flush = asyncio.create_task(opened.flusher.flush())
        await eventually(lambda: opened.ledger.in_flight.sightings)
        opened.ledger.record_sightings("alice", ("*",), [alert])
        await opened.time_out(flush)
    await opened.flusher.flush()
    assert await opened.rows("SELECT seen_at FROM sightings") == [(first.seen_at,)]


async def test_sightings_beyond_the_limit_are_dropped_and_keep_no_stream_away(
    open_ledger: Callable[..., Awaitable[OpenLedger]],
) -> None:
    opened = await open_ledger(ledger_pending_max=2)
    await fill(opened.database, 4)
    alerts = await alerts_of(opened)
    opened.ledger.record_sightings("alice", ("*",), alerts)
    assert not opened.ledger.is_full
    await opened.flusher.flush()
    assert await opened.rows("SELECT seq FROM sightings ORDER BY 1") == [(1,), (2,)]
