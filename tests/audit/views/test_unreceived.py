"""``audit.unreceived``: each alert and each admin who may see it and has acknowledged no event of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.harness import HOUR, eventually

if TYPE_CHECKING:
    from tests.harness import Node, Stream

MANAGE = "alerts:manage"


async def unreceived(node: Node, alert: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of an alert by recipient."""
    rows = await node.sql("SELECT * FROM audit.unreceived WHERE alert_id = $1::text::uuid", alert["id"])
    by_name = {row["recipient"]: row for row in rows}
    assert len(rows) == len(by_name), "no admin is listed twice"
    return by_name


async def acknowledged(node: Node, stream: Stream, seq: int) -> None:
    """Acknowledge once it was sent, and wait until the ledger has it."""
    while all(frame.get("seq", 0) < seq for frame in stream.seen):
        await stream.next()
    await stream.ack(seq)
    query = "SELECT FROM receipts WHERE connection_id = $1::text::uuid AND seq = $2"
    await eventually(lambda: node.sql(query, stream.seen[0]["connection"], seq))


async def seen_before(node: Node, *names: str, **claims: Any) -> None:
    """Have admins connect, and leave."""
    for name in names:
        async with await node.live(name, claims=claims):
            pass
        await eventually(lambda name=name: node.sql("SELECT FROM recipients WHERE id = $1", name))  # type: ignore[misc]


async def test_who_was_sent_an_alert_and_did_not_acknowledge_it_is_listed_and_who_did_is_not(node: Node) -> None:
    async with await node.live("alice") as alice, await node.live("bob") as bob:
        alert = await node.post("Card acceptance below 80 %", topic="payments.eu", severity="error")
        await alice.events(1)
        await bob.events(1)
        await acknowledged(node, alice, alert["seq"])
        await node.flushed(alert["seq"])
        rows = await unreceived(node, alert)
        (sent,) = await node.sql("SELECT sent_at, occurred_at FROM audit.deliveries WHERE recipient = 'bob'")
    assert list(rows) == ["bob"]
    row = rows["bob"]
    assert (str(row["alert_id"]), row["seq"]) == (alert["id"], alert["seq"])
    shown = tuple(row[name] for name in ("topic", "severity", "title", "status"))
    assert shown == ("payments.eu", "error", "Card acceptance below 80 %", "open")
    assert row["occurred_at"] == sent["occurred_at"] == datetime.fromisoformat(alert["created_at"])
    assert timedelta() < row["waiting"] < datetime.now(UTC) - row["occurred_at"]
    assert row["sent_at"] == sent["sent_at"] is not None
    assert row["covered"] is True


async def test_who_was_away_is_listed_as_never_sent_it(node: Node) -> None:
    await seen_before(node, "alice")
    alert = await node.post()
    assert (await unreceived(node, alert))["alice"]["sent_at"] is None


async def test_whose_token_does_not_cover_the_topic_is_not_listed(node: Node) -> None:
    await seen_before(node, "alice", topics=["payments.*"])
    await seen_before(node, "bob", topics=["payments", "search"])
    await seen_before(node, "carol", topics=["pay_ents.eu", "*"])
    alert = await node.post(topic="payments.eu")
    assert sorted(await unreceived(node, alert)) == ["alice", "carol"]
    await seen_before(node, "carol", topics=["pay_ents.eu"])  # the last token counts; an underscore is itself
    await eventually(lambda: node.sql("SELECT FROM recipients WHERE id = 'carol' AND topics = '{pay_ents.eu}'"))
    assert sorted(await unreceived(node, alert)) == ["alice"]


async def test_of_an_alert_that_names_admins_these_are_listed_also_who_cannot_be_reached(node: Node) -> None:
    await seen_before(node, "alice", "bob")
    await seen_before(node, "carol", topics=["search"])
    alert = await node.post(topic="payments.eu", recipients=["bob", "carol", "dora"])
    rows = await unreceived(node, alert)
    assert {name: row["covered"] for name, row in rows.items()} == {"bob": True, "carol": False, "dora": None}
    async with await node.live("bob", after=0) as bob:
        await acknowledged(node, bob, alert["seq"])
        assert sorted(await unreceived(node, alert)) == ["carol", "dora"]


async def test_an_alert_that_escalated_waits_for_everybody_but_for_who_had_it_before(node: Node) -> None:
    await seen_before(node, "bob")
    async with await node.live("alice") as alice:
        alert = await node.post(recipients=["alice"], escalate_after=HOUR)
        await alice.events(1)
        await acknowledged(node, alice, alert["seq"])
        assert await unreceived(node, alert) == {}
        await node.an_hour_passes()
        assert (await alice.next_of("event"))["kind"] == "alert.escalated"
        rows = await unreceived(node, alert)
    assert sorted(rows) == ["bob"]
    assert rows["bob"]["seq"] == alert["seq"]


async def test_an_alert_that_escalated_still_waits_for_those_whom_it_named(node: Node) -> None:
    await seen_before(node, "alice")
    await seen_before(node, "carol", topics=["search"])
    names = ["alice", "carol", "dora"]
    alert = await node.post(topic="payments.eu", recipients=names, escalate_after=HOUR)
    before = await unreceived(node, alert)
    await node.an_hour_passes()
    await eventually(lambda: node.sql("SELECT FROM events WHERE kind = 'alert.escalated'"))
    rows = await unreceived(node, alert)
    assert {name: row["covered"] for name, row in rows.items()} == {"alice": True, "carol": False, "dora": None}
    assert before.keys() == rows.keys()
    async with node.http("auditor", "audit:read") as auditor:
        receipts = (await auditor.get(f"/v1/alerts/{alert['id']}/receipts")).json()
    assert [one["recipient"] for one in receipts["recipients"]] == names
    async with await node.live("alice", after=0) as alice:
        await acknowledged(node, alice, alert["seq"])
        assert sorted(await unreceived(node, alert)) == ["carol", "dora"]


async def test_it_is_received_on_whichever_connection(node: Node) -> None:
    async with await node.live("alice") as first:
        alert = await node.post()
        await first.events(1)
        await node.flushed(alert["seq"])
    (sent,) = await node.sql("SELECT sent_at FROM audit.deliveries")
    async with await node.live("alice", after=0) as second:
        await eventually(lambda: node.sql("SELECT FROM audit.deliveries OFFSET 1"))
        assert (await unreceived(node, alert))["alice"]["sent_at"] == sent["sent_at"], "the first time counts"
        await acknowledged(node, second, alert["seq"])
        assert await unreceived(node, alert) == {}


async def test_what_did_not_match_the_filter_is_not_received_by_an_ack_of_something_after_it(node: Node) -> None:
    async with await node.live("alice", topic="search", min_severity="warning") as narrow:
        elsewhere = await node.post(topic="payments.eu", severity="critical")
        too_mild = await node.post(topic="search", severity="info")
        for_others = await node.post(topic="search", severity="critical", recipients=["alice", "bob"])
        matching = await node.post(topic="search", severity="warning")
        await narrow.events(2)
        await acknowledged(node, narrow, matching["seq"])
        await node.flushed(matching["seq"])
        assert {name: row["sent_at"] for name, row in (await unreceived(node, elsewhere)).items()} == {"alice": None}
        assert sorted(await unreceived(node, too_mild)) == ["alice"]
        assert sorted(await unreceived(node, for_others)) == ["bob"]
        assert await unreceived(node, matching) == {}


async def test_any_event_of_the_alert_will_do(node: Node) -> None:
    await seen_before(node, "alice")
    alert = await node.post()
    await node.flushed(alert["seq"])  # so that the node's latest is after it
    async with await node.live("alice", after="latest") as alice, node.http("bob", MANAGE) as bob:
        assert sorted(await unreceived(node, alert)) == ["alice"]
        await bob.post(f"/v1/alerts/{alert['id']}/acknowledge")
        (event,) = await alice.events(1)
        assert (event["kind"], event["seq"]) == ("alert.acknowledged", alert["seq"] + 1)
        await node.flushed(event["seq"])
        row = (await unreceived(node, alert))["alice"]
        assert row["status"] == "acknowledged"
        assert row["sent_at"] is not None
        await acknowledged(node, alice, event["seq"])
        assert await unreceived(node, alert) == {}


async def test_what_lies_between_two_connections_is_not_received(node: Node) -> None:
    before = await node.post()
    async with await node.live("alice", after=0) as first:
        await acknowledged(node, first, before["seq"])
    missed = await node.post()
    await node.flushed(missed["seq"])  # so that the node's latest is after it
    async with await node.live("alice", after="latest") as second:
        after = await node.post()
        await second.events(1)
        await acknowledged(node, second, after["seq"])
    assert [sorted(await unreceived(node, alert)) for alert in (before, missed, after)] == [[], ["alice"], []]


async def test_what_was_created_before_an_admin_was_first_seen_waits_for_them_only_if_it_names_them(node: Node) -> None:
    before = await node.post()
    named = await node.post(recipients=["alice"])
    async with await node.live("alice", after="latest") as alice:
        during = await node.post()
        await alice.events(1)
        await node.flushed(during["seq"])
    await seen_before(node, "alice", topics=["search"])  # whatever the token covers: she was seen before
    await eventually(lambda: node.sql("SELECT FROM recipients WHERE topics = '{search}'"))
    since = await node.post(topic="search")
    listed = [sorted(await unreceived(node, alert)) for alert in (before, named, since)]
    assert listed == [[], ["alice"], ["alice"]]
    async with await node.live("alice", after="latest"):
        await eventually(lambda: node.sql("SELECT FROM recipients WHERE topics = '{*}'"))
        listed = [sorted(await unreceived(node, alert)) for alert in (before, during)]
    assert listed == [[], ["alice"]]
