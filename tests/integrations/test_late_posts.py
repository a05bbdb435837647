"""Webhooks that overtake one another: what is late opens no alert, and what is new does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from service.settings import IntegrationSettings, Settings
from tests.harness import READ, WRITE, serving

if TYPE_CHECKING:
    from tests.harness import Node

START = datetime.now(UTC) - timedelta(hours=1)
NEVER = "0001-01-01T00:00:00Z"


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat().replace("+00:00", "123Z")  # nanoseconds, as Go writes


async def alertmanager(
    node: Node, status: str, start: float, end: float | None = None, *, summary: str = "s", subject: str = "billing"
) -> dict[str, int]:
    alert = {
        "status": status,
        "fingerprint": "f",
        "labels": {"alertname": "DiskFull"},
        "annotations": {"summary": summary},
        "startsAt": at(start),
        "endsAt": NEVER if end is None else at(end),
    }
    async with node.http(subject) as client:
        answer = await client.post("/v1/integrations/alertmanager", json={"alerts": [alert]})
    assert answer.status_code == 200, answer.text
    counts: dict[str, int] = answer.json()
    return counts


async def cloudevent(node: Node, number: int, time: datetime | None, title: str = "t") -> dict[str, Any]:
    event = {"specversion": "1.0", "id": f"{number}", "source": "s", "type": "t", "dedupkey": "k"}
    event |= {"time": time.isoformat()} if time is not None else {}
    async with node.http() as client:
        answer = await client.post(
            "/v1/integrations/cloudevents",
            json={**event, "data": {"title": title}},
            headers={"Content-Type": "application/cloudevents+json"},
        )
    assert answer.status_code in {200, 201}, answer.text
    alert: dict[str, Any] = answer.json()
    return alert


async def alerts(node: Node) -> list[tuple[str, int]]:
    return [tuple(row) for row in await node.sql("SELECT status::text, occurrences FROM alerts ORDER BY seq")]


async def test_a_firing_that_arrives_after_its_resolved_is_counted_and_opens_nothing(node: Node) -> None:
    await alertmanager(node, "firing", 0)
    assert (await alertmanager(node, "resolved", 0, 10))["resolved"] == 1
    assert await alertmanager(node, "firing", 0) == {"stored": 0, "repeated": 1, "resolved": 0, "refused": 0}
    assert await alerts(node) == [("resolved", 2)]
    assert (await alertmanager(node, "firing", 11))["stored"] == 1  # it fires again
    assert await alerts(node) == [("resolved", 2), ("open", 1)]


async def test_a_firing_whose_resolved_was_first_is_stored_as_resolved(node: Node) -> None:
    assert (await alertmanager(node, "resolved", 0, 10))["resolved"] == 0
    assert (await alertmanager(node, "resolved", 0, 10))["resolved"] == 0  # tried again
    assert (await alertmanager(node, "firing", 0))["stored"] == 1
    assert await alerts(node) == [("resolved", 1)]
    assert (await alertmanager(node, "firing", 0))["repeated"] == 1
    assert await alerts(node) == [("resolved", 2)]
    kinds = [row[0] for row in await node.sql("SELECT kind FROM events ORDER BY seq")]
    assert kinds == ["alert.created", "alert.resolved", "alert.repeated"]


async def test_a_resolved_that_arrives_late_does_not_end_what_began_after_it(node: Node) -> None:
    await alertmanager(node, "firing", 20)
    assert (await alertmanager(node, "resolved", 0, 10))["resolved"] == 0
    assert await alerts(node) == [("open", 1)]
    assert (await alertmanager(node, "resolved", 20, 30))["resolved"] == 1


async def test_a_late_firing_repeats_a_new_one_and_does_not_replace_what_it_says(node: Node) -> None:
    await alertmanager(node, "firing", 20, summary="new")
    await alertmanager(node, "firing", 0, summary="old")
    await alertmanager(node, "firing", 20, summary="newest")
    [row] = await node.sql("SELECT title, occurrences FROM alerts")
    assert tuple(row) == ("newest", 3)


async def test_an_alert_that_a_person_resolved_and_that_still_fires_fires_again(node: Node) -> None:
    await alertmanager(node, "firing", 0)
    [row] = await node.sql("SELECT id FROM alerts")
    async with node.http("ann", f"{READ} {WRITE} alerts:manage") as client:
        assert (await client.post(f"/v1/alerts/{row['id']}/resolve")).status_code == 200
    assert (await alertmanager(node, "firing", 0))["stored"] == 1


async def test_the_time_in_which_a_firing_is_late_can_be_set(database_url: str) -> None:
    settings = Settings(integrations=IntegrationSettings(alertmanager_late_seconds=0.001))
    with serving(database_url, settings) as node:
        await alertmanager(node, "firing", 0)
        await alertmanager(node, "resolved", 0, 10)
        assert (await alertmanager(node, "firing", 0))["stored"] == 1


async def test_a_firing_is_late_after_the_resolved_of_its_group_only(database_url: str) -> None:
    settings = Settings.model_validate({"alerts": {"dedup_groups": {"am": ["am-a", "am-b"]}}})
    with serving(database_url, settings) as node:
        await alertmanager(node, "firing", 0, subject="am-a")
        await alertmanager(node, "resolved", 0, 10, subject="am-b")
        assert (await alertmanager(node, "firing", 0, subject="am-b"))["repeated"] == 1
        assert (await alertmanager(node, "firing", 0, subject="other"))["stored"] == 1


async def test_a_cloudevent_of_before_the_resolution_is_counted_and_opens_nothing(node: Node) -> None:
    now = datetime.now(UTC)
    first = await cloudevent(node, 1, now - timedelta(minutes=3))
    async with node.http("billing", WRITE) as client:
        await client.post(f"/v1/alerts/{first['id']}/resolve")
    late = await cloudevent(node, 2, now - timedelta(minutes=2))
    assert (late["id"], late["status"], late["occurrences"]) == (first["id"], "resolved", 2)
    assert (await cloudevent(node, 3, datetime.now(UTC) + timedelta(seconds=1)))["status"] == "open"
    assert await alerts(node) == [("resolved", 2), ("open", 1)]


async def test_a_cloudevent_without_a_time_is_never_late(node: Node) -> None:
    first = await cloudevent(node, 1, datetime.now(UTC))
    async with node.http("billing", WRITE) as client:
        await client.post(f"/v1/alerts/{first['id']}/resolve")
    assert (await cloudevent(node, 2, None))["id"] != first["id"]


async def test_of_cloudevents_that_overtake_one_another_the_newest_is_shown(node: Node) -> None:
    now = datetime.now(UTC)
    for number, (minutes, title) in enumerate([(3, "97 %"), (5, "80 %"), (1, "99 %"), (2, "98 %")]):
        await cloudevent(node, number, now - timedelta(minutes=minutes), title)
    [row] = await node.sql("SELECT title, occurrences FROM alerts")
    assert tuple(row) == ("99 %", 4)
