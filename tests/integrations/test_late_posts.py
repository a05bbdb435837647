"""Webhooks that overtake one another: what is late opens no alert, and what is new does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import IntegrationSettings, Settings
from tests.harness import READ, WRITE, serving

if TYPE_CHECKING:
    from tests.harness import Node

START = datetime.now(UTC) - timedelta(hours=1)
NEVER = "0001-01-01T00:00:00Z"


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat().replace("+00:00", "123Z")  # nanoseconds, as Go writes


async def alertmanager(
    node: Node,
    status: str,
    start: float | str,
    end: float | str = NEVER,
    *,
    summary: str = "s",
    subject: str = "billing",
    severity: str = "warning",
) -> dict[str, int]:
    alert = {
        "status": status,
        "fingerprint": "f",
        "labels": {"alertname": "DiskFull", "severity": severity},
        "annotations": {"summary": summary},
        "startsAt": start if isinstance(start, str) else at(start),
        "endsAt": end if isinstance(end, str) else at(end),
    }
    async with node.http(subject) as client:
        answer = await client.post("/v1/integrations/alertmanager", json={"alerts": [alert]})
    assert answer.status_code == 200, answer.text
    counts: dict[str, int] = answer.json()
    return counts


async def cloudevent(
    node: Node, number: int, time: datetime | str | None, title: str = "t", severity: str = "info"
) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": f"{number}", "source": "s", "type": "t", "dedupkey": "k", "severity": severity}
    event |= {"time": time if isinstance(time, str) else time.isoformat()} if time is not None else {}
    async with node.http() as client:
        answer = await client.post(
            "/v1/integrations/cloudevents",
            json={**event, "data": {"title": title}},
            headers={"Content-Type": "application/cloudevents+json"},
        )
    assert answer.status_code in {200, 201}, answer.text
    alert: dict[str, Any] = answer.json()
    return alert


async def act(node: Node, index: int, action: str) -> None:
    rows = await node.sql("SELECT id FROM alerts ORDER BY seq")
    async with node.http("ann", f"{READ} {WRITE} alerts:manage") as client:
        assert (await client.post(f"/v1/alerts/{rows[index]['id']}/{action}")).status_code == 200


async def resolve(node: Node, alert_id: str) -> None:
    async with node.http("billing", WRITE) as client:
        assert (await client.post(f"/v1/alerts/{alert_id}/resolve")).status_code == 200


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


async def test_of_a_firing_that_goes_on_the_last_post_is_shown_whichever_replica_saw_the_start(node: Node) -> None:
    for number, start in enumerate((20, 0, 20, 0), 1):
        await alertmanager(node, "firing", start, summary=f"{number}")
        [row] = await node.sql("SELECT title, occurrences FROM alerts")
        assert tuple(row) == (f"{number}", number)
    assert (await alertmanager(node, "resolved", 0, 10))["resolved"] == 0  # before the latest start


@pytest.mark.parametrize("action", [None, "acknowledge"])
async def test_a_late_firing_changes_nothing_of_a_newer_alert(node: Node, action: str | None) -> None:
    await alertmanager(node, "firing", 0, severity="critical")
    await alertmanager(node, "resolved", 0, 10)
    await alertmanager(node, "firing", 10.1, summary="new")
    await node.sql("UPDATE alerts SET expires_at = '2999-01-01Z' WHERE status = 'open'")
    if action is not None:
        await act(node, 1, action)
    fields = "SELECT status::text, severity::text, title, occurrences, expires_at FROM alerts ORDER BY seq"
    _, before = await node.sql(fields)
    assert (await alertmanager(node, "firing", 0, severity="critical"))["repeated"] == 1
    first, second = await node.sql(fields)
    assert (first["status"], first["occurrences"]) == ("resolved", 2)
    assert tuple(second) == tuple(before)


@pytest.mark.parametrize("minutes", [-100_000, 70, 24 * 60])
async def test_only_the_clock_of_the_source_matters(node: Node, minutes: float) -> None:
    await alertmanager(node, "firing", minutes)
    assert (await alertmanager(node, "resolved", minutes, minutes + 10))["resolved"] == 1
    assert (await alertmanager(node, "firing", minutes))["repeated"] == 1
    assert (await alertmanager(node, "firing", minutes + 10.1))["stored"] == 1
    assert (await alertmanager(node, "resolved", minutes, minutes + 10))["resolved"] == 0  # tried again
    assert await alerts(node) == [("resolved", 2), ("open", 1)]


@pytest.mark.parametrize("end", [NEVER, -20.0, -0.5, "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon"])
async def test_a_resolved_ends_what_a_replica_saw_begin_later_and_what_it_gives_no_end_for(
    node: Node, end: float | str
) -> None:
    await alertmanager(node, "firing", 0)
    assert (await alertmanager(node, "resolved", -0.6, end))["resolved"] == 1
    assert (await alertmanager(node, "firing", 0))["repeated"] == 1
    assert (await alertmanager(node, "firing", 0.1))["stored"] == 1


async def test_a_resolved_without_an_end_is_remembered(node: Node) -> None:
    for times in ([NEVER], [NEVER, NEVER], ["", 20.0], [0.0, NEVER], [0.0, 0.0]):
        await node.sql("TRUNCATE alerts, resolutions")
        assert (await alertmanager(node, "resolved", *times))["resolved"] == 0
        assert (await alertmanager(node, "firing", 0))["stored"] == 1
        assert await alerts(node) == [("resolved", 1)]


async def test_a_resolved_without_an_end_that_is_tried_again_does_not_swallow_what_began_since(node: Node) -> None:
    for start, again in ((0.0, 0.0), (10.0, NEVER)):
        assert (await alertmanager(node, "firing", start))["stored"] == 1
        assert (await alertmanager(node, "resolved", start))["resolved"] == 1
        assert (await alertmanager(node, "resolved", again))["resolved"] == 0
    assert (await alertmanager(node, "firing", 20))["stored"] == 1


ODD_TIMES = [
    "1970-01-01T00:00:00+01:00",
    "1969-12-31T23:59:59.999999Z",
    "1900-01-01T00:00:00Z",
    "0002-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:00",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59-23:00",
]


@pytest.mark.parametrize("odd", ODD_TIMES)
async def test_times_that_no_clock_shows_count_as_absent(node: Node, odd: str) -> None:
    assert (await alertmanager(node, "firing", odd))["stored"] == 1
    assert (await alertmanager(node, "resolved", odd, odd))["resolved"] == 1
    assert (await alertmanager(node, "firing", odd))["stored"] == 1
    assert await alerts(node) == [("resolved", 1), ("open", 1)]
    for number in (1, 2):
        posted = await cloudevent(node, number, odd)
        assert (posted["status"], posted["occurrences"]) == ("open", 1)
        await resolve(node, posted["id"])


async def test_an_alert_that_a_person_reopens_and_resolves_keeps_the_end_that_its_source_gave(node: Node) -> None:
    await alertmanager(node, "firing", 0)
    await alertmanager(node, "resolved", 0, 10)
    await act(node, 0, "reopen")
    assert (await alertmanager(node, "firing", 0))["repeated"] == 1
    assert await alerts(node) == [("open", 2)]
    await act(node, 0, "resolve")
    assert (await alertmanager(node, "firing", 0))["repeated"] == 1
    assert await alerts(node) == [("resolved", 3)]


async def test_an_alert_that_a_person_resolved_and_that_still_fires_fires_again(node: Node) -> None:
    await alertmanager(node, "firing", 0)
    await act(node, 0, "resolve")
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


@pytest.mark.parametrize("ahead", [timedelta(), timedelta(hours=10), timedelta(days=-9_999)])
async def test_a_cloudevent_of_before_what_was_resolved_is_counted_and_changes_nothing(
    node: Node, ahead: timedelta
) -> None:
    clock = datetime.now(UTC) + ahead
    first = await cloudevent(node, 1, clock)
    await cloudevent(node, 2, None, "untimed")
    await resolve(node, first["id"])
    late = await cloudevent(node, 3, clock - timedelta(seconds=1), "late", "critical")
    assert (late["id"], late["status"], late["occurrences"]) == (first["id"], "resolved", 3)
    new = await cloudevent(node, 4, clock + timedelta(seconds=1), "new", "warning")
    assert (await cloudevent(node, 5, clock - timedelta(seconds=1), "late", "critical"))["id"] == first["id"]
    assert (await cloudevent(node, 6, clock + timedelta(seconds=2), "newest"))["id"] == new["id"]
    rows = await node.sql("SELECT status::text, title, severity::text, occurrences FROM alerts ORDER BY seq")
    assert [tuple(row) for row in rows] == [("resolved", "untimed", "info", 4), ("open", "newest", "warning", 2)]


@pytest.mark.parametrize("time", [None, "1970-01-01T00:00:00Z", START, START + timedelta(hours=9)])
async def test_a_cloudevent_is_new_if_the_clock_of_its_source_does_not_say_that_it_is_old(
    node: Node, time: datetime | str | None
) -> None:
    for number in range(3):
        posted = await cloudevent(node, number, time)
        assert (posted["status"], posted["occurrences"]) == ("open", 1)
        await resolve(node, posted["id"])


async def test_of_cloudevents_that_overtake_one_another_the_newest_is_shown(node: Node) -> None:
    now = datetime.now(UTC)
    for number, (minutes, title) in enumerate([(3, "97 %"), (5, "80 %"), (1, "99 %"), (2, "98 %")]):
        await cloudevent(node, number, now - timedelta(minutes=minutes), title)
    [row] = await node.sql("SELECT title, occurrences FROM alerts")
    assert tuple(row) == ("99 %", 4)
