from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from service.http.pagination import encode_cursor
from tests.harness import eventually

if TYPE_CHECKING:
    import httpx2

    from tests.harness import Node

AUDIT = "audit:read"
MANAGE = "alerts:read alerts:manage"


async def deliveries(client: httpx2.AsyncClient, identity: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"/v1/alerts/{identity}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_the_deliveries_of_an_alert_say_who_was_sent_it_and_who_received_it(lenient: Node) -> None:
    topic = f"t-{uuid.uuid4().hex}"
    alice, bob, carol = [await lenient.live(name) for name in ("alice", "bob", "carol")]
    alert = await lenient.post(topic=topic, recipients=["alice", "bob"])
    for stream in (alice, bob):
        assert (await stream.next_of("event"))["seq"] == alert["seq"]
    await alice.ack(alert["seq"])
    async with lenient.http("auditor", AUDIT) as client:

        async def received() -> dict[str, Any] | None:
            page = await deliveries(client, alert["id"])
            return page if [row for row in page["deliveries"] if row["received_at"]] else None

        page = await eventually(received)
    rows = {row["recipient"]: row for row in page["deliveries"]}
    assert page["next"] is None
    assert sorted(rows) == ["alice", "bob"]
    for name, stream in (("alice", alice), ("bob", bob)):
        assert (rows[name]["seq"], rows[name]["kind"]) == (alert["seq"], "alert.created")
        assert rows[name]["connection"] == stream.seen[0]["connection"]
        assert datetime.fromisoformat(rows[name]["sent_at"]) >= datetime.fromisoformat(alert["created_at"])
    assert (rows["bob"]["received_at"], rows["bob"]["latency"]) == (None, None)
    sent, took = (datetime.fromisoformat(rows["alice"][name]) for name in ("sent_at", "received_at"))
    assert rows["alice"]["latency"] == pytest.approx((took - sent).total_seconds())
    for stream in (alice, bob, carol):
        await stream.close()


async def test_the_pages_of_deliveries_have_no_hole_and_no_repeat(lenient: Node) -> None:
    streams = [await lenient.live(f"admin-{number}") for number in range(5)]
    alert = await lenient.post(recipients=[f"admin-{number}" for number in range(5)])
    await lenient.flushed(alert["seq"])
    async with lenient.http("auditor", AUDIT) as client:
        whole = await deliveries(client, alert["id"])
        assert len(whole["deliveries"]) == 5
        page = await deliveries(client, alert["id"], limit=2)
        rows = page["deliveries"]
        while page["next"] is not None:
            page = await deliveries(client, alert["id"], limit=2, cursor=page["next"])
            rows += page["deliveries"]
        assert rows == whole["deliveries"]
        exact = await deliveries(client, alert["id"], limit=5)
        assert exact == whole
    for stream in streams:
        await stream.close()


@pytest.mark.parametrize("part", ["deliveries", "receipts"])
@pytest.mark.parametrize("scope", ["", "alerts:read", "alerts:write", "admin"])
async def test_deliveries_and_receipts_need_the_scope_to_manage_or_to_audit(
    lenient: Node, scope: str, part: str
) -> None:
    alert = await lenient.post()
    async with lenient.http(scope=scope) as client:
        answer = await client.get(f"/v1/alerts/{alert['id']}/{part}")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


@pytest.mark.parametrize("part", ["deliveries", "receipts"])
async def test_who_may_manage_an_alert_may_see_who_received_it(lenient: Node, part: str) -> None:
    alert = await lenient.post(topic="payments.eu", recipients=["alice", "bob"])
    for subject, scope, topics, status in (
        ("alice", MANAGE, ["payments.*"], 200),
        ("alice", MANAGE, ["search"], 404),  # the alert names her, but her token does not cover its topic
        ("alice", MANAGE, [], 404),
        ("carol", MANAGE, ["*"], 404),  # the alert is not for her
        ("carol", f"{MANAGE} {AUDIT}", ["*"], 200),
        ("auditor", AUDIT, ["payments.eu"], 200),
        ("auditor", AUDIT, ["search"], 404),
    ):
        async with lenient.http(subject, scope, topics=topics) as client:
            answer = await client.get(f"/v1/alerts/{alert['id']}/{part}")
            nothing = await client.get(f"/v1/alerts/{uuid.uuid4()}/{part}")
        assert answer.status_code == status, (subject, scope, topics)
        assert nothing.status_code == 404
        if status == 404:
            hidden = {**answer.json(), "detail": answer.json()["detail"].replace(alert["id"], "")}
            assert hidden["code"] == nothing.json()["code"]


async def test_deliveries_are_bound_to_the_topics_of_the_token(lenient: Node) -> None:
    alert = await lenient.post(topic="payments.eu")
    for topics, status in ((["payments.*"], 200), (["*", "a"], 200), (["payments"], 404), ([], 404)):
        async with lenient.http(scope=AUDIT, topics=topics) as client:
            answer = await client.get(f"/v1/alerts/{alert['id']}/deliveries")
        assert answer.status_code == status


async def test_the_deliveries_of_no_alert_are_not_found(lenient: Node) -> None:
    async with lenient.http(scope=AUDIT) as client:
        answer = await client.get(f"/v1/alerts/{uuid.uuid4()}/deliveries")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("bad", ["x", "é", encode_cursor((4711,)), encode_cursor((4711, 17)), "A" * 4001])
async def test_a_cursor_of_somebody_else_is_refused(lenient: Node, bad: str) -> None:
    alert = await lenient.post()
    async with lenient.http(scope=AUDIT) as client:
        answer = await client.get(f"/v1/alerts/{alert['id']}/deliveries", params={"cursor": bad})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "cursor" in answer.json()["detail"]


async def test_presence_lists_who_is_connected_and_since_when(lenient: Node) -> None:
    async with lenient.http("dave", "alerts:read") as client:

        async def connections_of(name: str) -> int:
            answer = (await client.get("/v1/presence")).json()["present"]
            assert [row["recipient"] for row in answer] == sorted(row["recipient"] for row in answer)
            return sum(row["connections"] for row in answer if row["recipient"] == name)

        async def delivered_to(count: int) -> bool:
            return await connections_of("erin") == count

        first, second = await lenient.live("erin"), await lenient.live("erin")
        await eventually(lambda: delivered_to(2))
        await first.close()
        await eventually(lambda: delivered_to(1))
        (row,) = [row for row in (await client.get("/v1/presence")).json()["present"] if row["recipient"] == "erin"]
        assert datetime.fromisoformat(row["since"]).tzinfo is not None
        await second.close()
        await eventually(lambda: delivered_to(0))


async def test_presence_needs_the_scope_to_read(lenient: Node) -> None:
    async with lenient.http(scope=f"{AUDIT} admin alerts:write") as client:
        assert (await client.get("/v1/presence")).status_code == 403
