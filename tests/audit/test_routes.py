from __future__ import annotations

import base64
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from tests.harness import WRITE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.harness import Node, Stream

AUDIT = "audit:read"
LISTS = ("recipients/alice", "unreceived", "connections", "rejections", "sources")
ABOUT_ALERTS = ("recipients/alice", "unreceived")
NOT_ABOUT_ALERTS = ("connections", "rejections", "sources", "report")
EVERY = ("alerts/01a1fd87-65c3-71a6-ba06-3929d3197295", *LISTS, "report")
PAGES_MAX = 50
NOBODY = uuid.UUID(int=0)


def name() -> str:
    return f"admin-{uuid.uuid4().hex}"


async def asked(client: httpx2.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"/v1/audit/{path}", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def all_pages(client: httpx2.AsyncClient, path: str, *lists: str, **query: Any) -> list[list[Any]]:
    """Return the lists of all pages, put together."""
    page = await asked(client, path, **query)
    whole = [page[name] for name in lists]
    pages = 1
    while page["next"] is not None:
        pages += 1
        assert pages <= PAGES_MAX, "the pages do not end"
        page = await asked(client, path, **query, cursor=page["next"])
        whole = [rows + page[name] for rows, name in zip(whole, lists, strict=True)]
    return whole


@asynccontextmanager
async def admins(node: Node, *names: str) -> AsyncIterator[list[Stream]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await node.live(each)) for each in names]


async def received(node: Node, alert: dict[str, Any], count: int) -> None:
    """Wait until the ledger has so many receipts of an alert, and all that it was sent."""
    await node.flushed(alert["seq"])
    query = "SELECT FROM audit.deliveries WHERE seq = $1 AND received_at IS NOT NULL"

    async def there() -> bool:
        return len(await node.sql(query, alert["seq"])) >= count

    await eventually(there)


# Of an alert.


async def test_an_alert_has_its_recipients_counts_and_timeline(lenient: Node) -> None:
    alice, bob, carol = sorted(name() for _ in range(3))
    async with admins(lenient, alice, bob) as streams:
        alert = await lenient.post("Card acceptance", topic="payments.eu", recipients=[alice, bob, carol])
        for stream in streams:
            await stream.next_of("event")
        await streams[0].ack(alert["seq"])
        await received(lenient, alert, 1)
    async with lenient.http("auditor", AUDIT) as client:
        page = await asked(client, f"alerts/{alert['id']}")
    assert page["next"] is None
    head = {key: page["alert"][key] for key in ("id", "seq", "source", "topic", "title", "status", "recipients")}
    assert head == {key: alert[key] for key in head}
    assert page["counts"] == {"recipients": 3, "sent_to": 2, "received_by": 1, "seen_by": 0}
    assert [row["recipient"] for row in page["recipients"]] == [alice, bob, carol]
    first, second, third = page["recipients"]
    assert [(row["sent"], row["received"]) for row in page["recipients"]] == [(1, 1), (1, 0), (0, 0)]
    assert first["waiting"] is None
    assert second["waiting"] > 0
    assert third["waiting"] > 0
    assert first["first_sent_at"] < first["first_received_at"]
    assert (second["first_received_at"], third["first_sent_at"]) == (None, None)
    steps = [(step["action"], step["actor"]) for step in page["timeline"]]
    assert steps[0] == ("alert.created", "billing")
    assert sorted(steps[1:]) == sorted([("sent", alice), ("sent", bob), ("received", alice)])
    assert [step["at"] for step in page["timeline"]] == sorted(step["at"] for step in page["timeline"])
    assert {step["connection"] for step in page["timeline"]} == {
        None,
        *(stream.seen[0]["connection"] for stream in streams),
    }


async def test_the_pages_of_an_alert_go_on_with_both_of_its_lists(lenient: Node) -> None:
    names = sorted(name() for _ in range(5))
    async with admins(lenient, *names) as streams:
        alert = await lenient.post(recipients=names)
        for stream in streams:
            await stream.next_of("event")
            await stream.ack(alert["seq"])
        await received(lenient, alert, 5)
    async with lenient.http("auditor", AUDIT) as client:
        path, lists = f"alerts/{alert['id']}", ("recipients", "timeline")
        people, steps = await all_pages(client, path, *lists)
        assert ([row["recipient"] for row in people], len(steps)) == (names, 11)
        for limit in (1, 2, 5, 11):
            assert await all_pages(client, path, *lists, limit=limit) == [people, steps], limit


async def test_no_alert_is_not_found(lenient: Node) -> None:
    async with lenient.http(scope=AUDIT) as client:
        for unknown in (uuid.uuid4(), "x"):
            answer = await client.get(f"/v1/audit/alerts/{unknown}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


# Of an admin.


async def test_a_recipient_has_what_they_were_sent_and_when_they_received_it(lenient: Node) -> None:
    alice, topic = name(), f"t-{uuid.uuid4().hex}"
    async with admins(lenient, alice) as [stream]:
        alerts = [await lenient.post(f"{number}", topic=topic) for number in range(3)]
        await stream.events(3)
        await stream.ack(alerts[1]["seq"])
        await received(lenient, alerts[1], 1)
        await lenient.flushed(alerts[2]["seq"])
    async with lenient.http("auditor", AUDIT) as client:
        page = await asked(client, f"recipients/{alice}")
        until = alerts[2]["created_at"]
        before = await asked(client, f"recipients/{alice}", since=alerts[1]["created_at"], until=until)
    assert page["recipient"] == alice
    assert datetime.fromisoformat(page["until"]) - datetime.fromisoformat(page["since"]) == timedelta(days=1)
    assert [row["alert_id"] for row in page["deliveries"]] == [alert["id"] for alert in reversed(alerts)]
    last, second, _ = page["deliveries"]
    assert (last["received_at"], last["latency"]) == (None, None)
    taken = datetime.fromisoformat(second["received_at"]) - datetime.fromisoformat(second["sent_at"])
    assert second["latency"] == pytest.approx(taken.total_seconds())
    assert [row["alert_id"] for row in before["deliveries"]] == [alerts[1]["id"]]
    assert (before["since"], before["until"]) == (alerts[1]["created_at"], until)


async def test_an_admin_may_have_a_slash_in_their_name(lenient: Node) -> None:
    alice = f"team/{name()}"
    async with admins(lenient, alice) as [stream]:
        alert = await lenient.post(recipients=[alice])
        await stream.next_of("event")
        await lenient.flushed(alert["seq"])
    async with lenient.http("auditor", AUDIT) as client:
        for path in (alice, alice.replace("/", "%2F")):
            assert len((await asked(client, f"recipients/{path}"))["deliveries"]) == 1


async def test_an_unknown_recipient_was_sent_nothing(lenient: Node) -> None:
    async with lenient.http("auditor", AUDIT) as client:
        assert (await asked(client, f"recipients/{name()}"))["deliveries"] == []


# Of what was not received.


async def test_what_was_not_received_is_listed_and_narrowed(lenient: Node) -> None:
    absent, other, topic = name(), name(), f"t-{uuid.uuid4().hex}"
    alerts = [
        await lenient.post("a", topic=topic, severity="critical", recipients=[absent, other]),
        await lenient.post("b", topic=f"{topic}.eu", severity="info", recipients=[absent]),
    ]
    async with lenient.http("operator", f"{WRITE} alerts:read alerts:manage") as client:
        assert (await client.post(f"/v1/alerts/{alerts[0]['id']}/resolve")).status_code in {200, 404}
    async with lenient.http("auditor", AUDIT) as client:

        async def found(**query: Any) -> list[tuple[str, str]]:
            rows = (await asked(client, "unreceived", **{"recipient": [absent, other], **query}))["unreceived"]
            return [(row["title"], row["recipient"]) for row in rows]

        first, second = sorted([absent, other], reverse=True)
        assert await found() == [("b", absent), ("a", first), ("a", second)]
        assert await found(topic=topic, recipient=absent) == [("a", absent)]
        assert await found(topic=f"{topic}.*") == [("b", absent)]
        assert await found(severity="critical", recipient=[absent]) == [("a", absent)]
        assert await found(status="expired") == []
        assert await found(since=alerts[1]["created_at"]) == [("b", absent)]
        assert await found(until=alerts[0]["created_at"]) == []
        (row,) = (await asked(client, "unreceived", recipient=other))["unreceived"]
    assert (row["alert_id"], row["seq"], row["sent_at"]) == (alerts[0]["id"], alerts[0]["seq"], None)
    assert row["waiting"] > 0


# Of connections, rejections and sources.


async def test_connections_are_listed_open_and_closed(lenient: Node) -> None:
    alice = name()
    async with lenient.http("auditor", AUDIT) as client:

        async def found(**query: Any) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = (await asked(client, "connections", recipient=alice, **query))["connections"]
            return rows

        async def opened() -> bool:
            return len(await found(open=True)) == 2

        async def closed() -> bool:
            return len(await found(open=False)) == 1

        async with admins(lenient, alice) as [stays]:
            goes = await lenient.live(alice)
            await eventually(opened)
            await goes.close()
            await eventually(closed)
            newest, oldest = await found()
            assert [row["connection"] for row in await found(open="true")] == [oldest["connection"]]
        assert [newest["connection"], oldest["connection"]] == [s.seen[0]["connection"] for s in (goes, stays)]
        assert (newest["transport"], newest["recipient"], newest["close_code"]) == ("websocket", alice, 1000)
        assert (oldest["closed_at"], oldest["close_reason"]) == (None, None)
        assert oldest["duration"] > 0
        assert [row["connection"] for row in await found(since=newest["opened_at"])] == [newest["connection"]]
        assert [row["connection"] for row in await found(until=newest["opened_at"])] == [oldest["connection"]]


async def refuse(node: Node, subject: str, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionClosed):
            await (await node.stream(subject, scope=WRITE)).next()


async def test_refused_streams_are_listed_with_the_reason(lenient: Node) -> None:
    alice = name()
    await refuse(lenient, alice)
    async with lenient.http("auditor", AUDIT) as client:

        async def found(**query: Any) -> list[dict[str, Any]]:
            rows = (await asked(client, "rejections", **query))["rejections"]
            return [row for row in rows if row["subject"] == alice]

        (row,) = await eventually(found)
        assert (row["reason"], row["path"]) == ("scope_missing", "/v1/ws")
        assert await found(reason="scope_missing", since=row["at"]) == [row]
        assert await found(reason="token_expired") == []
        assert await found(until=row["at"]) == []


async def test_sources_are_listed_by_the_hour(lenient: Node) -> None:
    source = name()
    async with lenient.http(source) as client:
        for body in ({"title": "a"}, {"title": ""}):
            await client.post("/v1/alerts", json=body)
    now = datetime.now(UTC)
    async with lenient.http("auditor", AUDIT) as client:

        async def found(**query: Any) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = (await asked(client, "sources", source=source, **query))["sources"]
            return rows if sum(row["alerts"] + row["refused"] for row in rows) == 2 else []

        rows = await eventually(found)
        assert {(row["source"], row["repeated"], row["replayed"]) for row in rows} == {(source, 0, 0)}
        assert await found(since=now.isoformat()) == rows[:1]  # the hour goes on
        assert await found(since=(now + timedelta(hours=1)).isoformat()) == []
        assert await found(until=rows[-1]["hour"]) == []


# Pages.


async def insert_connections(node: Node, recipient: str, count: int) -> None:
    """Open connections, two at each instant."""
    await node.sql(
        "INSERT INTO connections (id, node_id, recipient, transport, topics, min_severity, token_expires_at,"
        " opened_at, after_seq, sent_seq, closed_at) SELECT gen_random_uuid(), (SELECT id FROM nodes LIMIT 1), $1,"
        " 'websocket', '{*}', 'info', now(), now() - make_interval(secs => i / 2), 0, 0, now()"
        " FROM generate_series(1, $2::int) AS i",
        recipient,
        count,
    )


async def insert_rejections(node: Node, reason: str, count: int) -> None:
    """Refuse streams, three at each instant, two of which differ in nothing but their id."""
    await node.sql(
        "INSERT INTO handshake_rejections (id, at, node_id, path, reason, subject) SELECT gen_random_uuid(),"
        " '2026-11-21T09:41:07Z'::timestamptz - make_interval(secs => i / 3), $3, '/v1/ws', $1,"
        " CASE i % 3 WHEN 0 THEN 'alice' END FROM generate_series(0, $2::int - 1) AS i",
        reason,
        count,
        NOBODY,
    )


async def insert_sources(node: Node, count: int) -> None:
    """Count two sources an hour, in a time of their own."""
    await node.sql(
        "INSERT INTO source_hours SELECT CASE i % 2 WHEN 0 THEN '' ELSE 'billing' END,"
        " '2020-11-21T09:00:00Z'::timestamptz - make_interval(hours => i / 2), i, 0, 0, 0, now(), now()"
        " FROM generate_series(0, $1::int - 1) AS i",
        count,
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 11, 12, 1000])
@pytest.mark.parametrize("what", ["recipient", "unreceived", "connections", "rejections", "sources"])
async def test_pages_lose_nothing_and_repeat_nothing(lenient: Node, what: str, limit: int) -> None:
    who, count = name(), 12
    async with lenient.http("auditor", AUDIT) as client:
        match what:
            case "recipient":
                path, rows, query = f"recipients/{who}", "deliveries", {"until": "2999-01-01T00:00:00Z"}
                query["since"] = "2026-01-01T00:00:00Z"
                async with admins(lenient, who, who) as streams:
                    seqs = await lenient.post_all([{"recipients": [who]}] * 6)
                    for stream in streams:
                        await stream.events(6)
                    await lenient.flushed(max(seqs))
            case "unreceived":
                path, rows, query = "unreceived", "unreceived", {"topic": who}
                names = sorted(name() for _ in range(3))
                await lenient.post_all([{"recipients": names, "topic": who}] * 4)
            case "connections":
                path, rows, query = "connections", "connections", {"recipient": who}
                await insert_connections(lenient, who, count)
            case "rejections":
                path, rows, query = "rejections", "rejections", {"reason": who}
                await insert_rejections(lenient, who, count)
            case _:
                path, rows, query = "sources", "sources", {"until": "2020-11-21T10:00:00Z"}
                await lenient.sql("DELETE FROM source_hours WHERE hour < '2021-01-01'")
                await insert_sources(lenient, count)
        [whole] = await all_pages(client, path, rows, limit=1000, **query)
        assert len(whole) == count
        [paged] = await all_pages(client, path, rows, limit=limit, **query)
    if what == "unreceived":
        for row in (*whole, *paged):  # it goes on
            del row["waiting"]
    assert paged == whole


# The report.


async def test_the_report_counts_all_and_measures_live_deliveries_or_some_of_them(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.post_all([{"topic": "a" if number % 2 else "b"} for number in range(40)])
    await node.flushed(40)
    async with await node.live("alice", after=0) as alice, await node.live("bob") as bob:
        await node.post_all([{"topic": "a" if number % 2 else "b"} for number in range(60)])
        await alice.events(60)
        await bob.events(60)
        await alice.ack(70)
        await eventually(lambda: node.sql("SELECT FROM receipts WHERE seq = 70"))
        await node.flushed(100)
        live = "SELECT max(sent_at - occurred_at) FROM audit.deliveries WHERE NOT replayed"
        (slowest,) = await node.sql(live)
        (sampled,) = await node.sql(f"{live} AND seq % 3 = 0")
        async with node.http("auditor", AUDIT) as client:
            whole = await asked(client, "report")
            monkeypatch.setattr("service.audit.report.MEASURED_DELIVERIES", 40)
            part = await asked(client, "report")
    for report, every, most in ((whole, 1, slowest[0]), (part, 3, sampled[0])):
        deliveries = report["deliveries"]
        assert report["measured_every"] == every
        assert [deliveries[name] for name in ("sent", "replayed", "received")] == [160, 40, 70]
        assert sorted((topic["topic"], topic["sent"], topic["replayed"]) for topic in report["slowest_topics"]) == [
            ("a", 80, 20),
            ("b", 80, 20),
        ]
        assert 0 < deliveries["sent_p99"] <= most.total_seconds()


async def test_the_report_sums_up_a_period(node: Node) -> None:
    await node.sql(
        "INSERT INTO recipients (id, topics, first_seen_at, last_seen_at)"
        " VALUES ('erin', '{*}', now() - interval '1 day', now())"
    )
    async with admins(node, "alice") as [alice]:
        since = datetime.now(UTC)
        first = await node.post("a", topic="payments.eu", severity="critical")
        second = await node.post("b", topic="search")
        await node.post("c", topic="search", recipients=["bob"])
        await alice.events(2)
        await alice.ack(second["seq"])
        await received(node, first, 1)
        await received(node, second, 1)
        await refuse(node, "carol", 2)
        await (await node.live("dave")).close()
        async with node.http("billing") as client:
            await client.post("/v1/alerts", json={"title": ""})
        query = "SELECT (SELECT count(*) FROM audit.rejections) = 2 AND EXISTS (SELECT FROM audit.connections WHERE"
        query += " close_code = 1000) AND (SELECT sum(refused) FROM audit.sources) = 1 AS done"

        async def done() -> bool:
            return bool((await node.sql(query))[0]["done"])

        await eventually(done)
        async with node.http("auditor", AUDIT) as client:
            report = await asked(client, "report", since=since.isoformat())
            earlier = await asked(client, "report", since="2020-01-01T00:00:00Z", until="2020-01-02T00:00:00Z")
    assert datetime.fromisoformat(report["since"]) == since
    assert report["alerts"] == [
        {"severity": "critical", "alerts": 1, "unresolved": 1},
        {"severity": "info", "alerts": 2, "unresolved": 2},
    ]
    deliveries = report["deliveries"]
    assert (deliveries["sent"], deliveries["received"]) == (2, 2)
    assert 0 < deliveries["sent_p50"] <= deliveries["sent_p95"] <= deliveries["sent_p99"]
    assert 0 < deliveries["received_p50"] <= deliveries["received_p95"] <= deliveries["received_p99"]
    assert {topic["topic"]: topic["sent"] for topic in report["slowest_topics"]} == {"payments.eu": 1, "search": 1}
    slowest = [topic["sent_p95"] for topic in report["slowest_topics"]]
    assert slowest == sorted(slowest, reverse=True)
    missing = {row["recipient"]: (row["alerts"], row["max_severity"]) for row in report["unreceived"]}
    assert missing == {"bob": (1, "info"), "erin": (2, "critical")}, "dave came later"
    assert report["connections"] == {"opened": 1, "open_now": 1}
    assert [(close["code"], close["connections"]) for close in report["closes"]] == [(1000, 1)]
    assert report["rejections"] == [{"reason": "scope_missing", "rejections": 2}]
    assert report["sources"] == [{"source": "billing", "alerts": 3, "repeated": 0, "replayed": 0, "refused": 1}]
    assert report["log_gaps"] == []
    assert earlier["alerts"] == earlier["slowest_topics"] == earlier["unreceived"] == earlier["sources"] == []
    assert earlier["deliveries"] == dict.fromkeys(deliveries) | {"sent": 0, "received": 0, "replayed": 0}


async def test_a_period_may_end_when_time_began(lenient: Node) -> None:
    async with lenient.http("auditor", AUDIT) as client:
        assert (await asked(client, "report", until="0001-01-01T12:00:00Z"))["alerts"] == []
        assert (await asked(client, "unreceived", until="0001-01-01T12:00:00Z"))["unreceived"] == []


async def test_the_report_shows_a_hole_in_the_log(node: Node) -> None:
    await node.post_all([{}] * 3, at_once=1)
    await node.sql("DELETE FROM events WHERE seq = 2")
    async with node.http("auditor", AUDIT) as client:
        assert (await asked(client, "report"))["log_gaps"] == [{"after_seq": 1, "before_seq": 3, "missing": 1}]


# Who may ask, and how.


@pytest.mark.parametrize("path", EVERY)
async def test_the_audit_needs_its_scope(lenient: Node, path: str) -> None:
    for scope in ("", "alerts:read alerts:write alerts:manage admin"):
        async with lenient.http(scope=scope) as client:
            answer = await client.get(f"/v1/audit/{path}")
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    async with lenient.http(scope=AUDIT) as client:
        answer = await client.get(f"/v1/audit/{path}", headers={"Authorization": "Bearer nothing"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


@pytest.mark.parametrize("path", NOT_ABOUT_ALERTS)
async def test_what_is_not_about_alerts_needs_a_token_for_every_topic(lenient: Node, path: str) -> None:
    for topics, status in ((["payments.*"], 403), ([], 403), (["a", "*"], 200)):
        async with lenient.http(scope=AUDIT, topics=topics) as client:
            answer = await client.get(f"/v1/audit/{path}")
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["code"] == "topic_forbidden"


async def test_a_token_for_some_topics_sees_their_alerts_only(lenient: Node) -> None:
    alice, bob, topic = name(), name(), f"t-{uuid.uuid4().hex}"
    async with admins(lenient, alice) as [stream]:
        inside = await lenient.post("inside", topic=f"{topic}.eu", recipients=[alice, bob])
        outside = await lenient.post("outside", topic=f"{topic}_", recipients=[alice, bob])
        await stream.events(2)
        await lenient.flushed(outside["seq"])
    for topics, count in (([f"{topic}.*"], 1), ([f"{topic}.*", f"{topic}_"], 2), ([topic], 0), ([], 0), (["*"], 2)):
        async with lenient.http(scope=AUDIT, topics=topics) as client:
            assert len((await asked(client, f"recipients/{alice}"))["deliveries"]) == count
            assert len((await asked(client, "unreceived", recipient=bob))["unreceived"]) == count
            answers = [await client.get(f"/v1/audit/alerts/{alert['id']}") for alert in (inside, outside)]
            assert sum(answer.status_code == 200 for answer in answers) == count
            assert {answer.status_code for answer in answers} <= {200, 404}


def cursor(*places: Any) -> str:
    return encoded(orjson.dumps(places))


def encoded(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "bad",
    [
        "x",
        "é",
        encoded(b"1"),
        encoded(b"null"),
        cursor(),
        cursor(None),
        cursor("x"),
        cursor(["x"]),
        cursor([1]),
        cursor([{}, {}]),
        cursor([-1, str(NOBODY)]),
        cursor([2**63, str(NOBODY)]),
        cursor([True, str(NOBODY)]),
        cursor(["2026-11-21T09:41:07", "alice"]),
        cursor(["2026-11-21T09:41:07Z", "a\0"]),
        cursor([1, 2], [1, 2]),
        cursor(["0001-01-01T00:00:00+14:00", str(NOBODY)]),
        cursor(["0001-01-01T00:00:00+14:00", 0]),
        "A" * 4001,
    ],
)
async def test_a_cursor_of_somebody_else_is_refused(lenient: Node, path: str, bad: str) -> None:
    async with lenient.http(scope=AUDIT) as client:
        answer = await client.get(f"/v1/audit/{path}", params={"cursor": bad})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert "cursor" in answer.json()["detail"]


@pytest.mark.parametrize("bad", [cursor([]), cursor(None, None), cursor(["a"], [1]), cursor([1], None), "x"])
async def test_a_cursor_of_an_alert_has_both_of_its_places(lenient: Node, bad: str) -> None:
    alert = await lenient.post()
    async with lenient.http(scope=AUDIT) as client:
        answer = await client.get(f"/v1/audit/alerts/{alert['id']}", params={"cursor": bad})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("report", {"since": "24h"}),
        ("unreceived", {"since": "2026-11-21"}),
        ("unreceived", {"severity": "bad"}),
        ("unreceived", {"topic": "No Topic"}),
        ("unreceived", {"recipient": " "}),
        ("connections", {"open": "perhaps"}),
        ("rejections", {"limit": 0}),
        ("sources", {"limit": 1001}),
        ("recipients/%20", {}),
        ("sources", {"since": "0001-01-01T00:00:00+14:00"}),
    ],
)
async def test_a_question_that_cannot_be_understood_is_refused(lenient: Node, path: str, query: Any) -> None:
    async with lenient.http(scope=AUDIT) as client:
        answer = await client.get(f"/v1/audit/{path}", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
