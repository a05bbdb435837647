from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node, Stream

MANAGE = "alerts:read alerts:manage"


class Desk:
    """A node as two admins and a backend use it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.backend = node.rest("billing", "alerts:read alerts:write")
        self.ann = node.rest("ann", MANAGE)
        self.bob = node.rest("bob", MANAGE)

    def post(self, **fields: Any) -> dict[str, Any]:
        """Post an alert as the backend."""
        answer = self.backend.post("/v1/alerts", json={"title": "It happened", **fields})
        assert answer.is_success, answer.text
        alert: dict[str, Any] = answer.json()
        return alert

    def kinds(self, alert: dict[str, Any]) -> list[str]:
        """Return what happened to an alert, without the prefix."""
        return [event["kind"].removeprefix("alert.") for event in self.timeline(alert)]

    def timeline(self, alert: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the timeline of an alert."""
        events: list[dict[str, Any]] = self.ann.get(f"/v1/alerts/{alert['id']}/timeline").json()["events"]
        return events


@pytest.fixture(scope="module")
def desk(lenient: Node) -> Iterator[Desk]:
    desk = Desk(lenient)
    yield desk
    for client in (desk.backend, desk.ann, desk.bob):
        client.close()


def act(client: httpx2.Client, alert: dict[str, Any], action: str) -> httpx2.Response:
    return client.post(f"/v1/alerts/{alert['id']}/{action}")


# Acknowledge, resolve, reopen.


def test_an_alert_goes_from_hand_to_hand_and_its_timeline_tells_how(desk: Desk) -> None:
    alert = desk.post()
    for client, action, status in (
        (desk.ann, "acknowledge", "acknowledged"),
        (desk.ann, "reopen", "open"),
        (desk.bob, "acknowledge", "acknowledged"),
        (desk.bob, "resolve", "resolved"),
        (desk.ann, "reopen", "open"),
        (desk.ann, "resolve", "resolved"),
    ):
        answer = act(client, alert, action)
        assert answer.status_code == 200
        assert answer.json()["status"] == status
    assert desk.ann.get(f"/v1/alerts/{alert['id']}").json() == answer.json()
    told = [(event["kind"], event["actor"], event["status"]) for event in desk.timeline(alert)]
    assert told == [
        ("alert.created", "billing", "open"),
        ("alert.acknowledged", "ann", "acknowledged"),
        ("alert.reopened", "ann", "open"),
        ("alert.acknowledged", "bob", "acknowledged"),
        ("alert.resolved", "bob", "resolved"),
        ("alert.reopened", "ann", "open"),
        ("alert.resolved", "ann", "resolved"),
    ]


def test_a_timeline_is_read_from_either_end(desk: Desk) -> None:
    alert = desk.post()
    for action in ("acknowledge", "reopen", "resolve"):
        act(desk.ann, alert, action)
    for order, kinds in (
        ("asc", ["alert.created", "alert.acknowledged", "alert.reopened", "alert.resolved"]),
        ("desc", ["alert.resolved", "alert.reopened", "alert.acknowledged", "alert.created"]),
    ):
        path = f"/v1/alerts/{alert['id']}/timeline?limit=3&order={order}"
        first = desk.ann.get(path).json()
        rest = desk.ann.get(f"{path}&cursor={first['next']}").json()
        assert [event["kind"] for event in first["events"] + rest["events"]] == kinds
        assert rest["next"] is None
    answer = desk.ann.get(f"/v1/alerts/{alert['id']}/timeline", params={"order": "random"})
    assert answer.json()["code"] == "invalid_request"


def test_the_second_to_acknowledge_is_told_who_has_it(desk: Desk) -> None:
    alert = desk.post()
    taken = act(desk.ann, alert, "acknowledge").json()
    answer = act(desk.bob, alert, "acknowledge")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "action_conflict")
    assert problem["detail"] == f"ann acknowledged the alert at {taken['status_at']}."
    assert problem["alert"] == taken


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_repeating_ones_own_action_changes_nothing(desk: Desk, action: str) -> None:
    alert = desk.post()
    first = act(desk.ann, alert, action)
    assert act(desk.ann, alert, action).content == first.content
    assert len(desk.timeline(alert)) == 2


@pytest.mark.parametrize(
    ("before", "action"),
    [([], "reopen"), (["resolve"], "acknowledge"), (["resolve"], "resolve"), (["acknowledge"], "acknowledge")],
)
def test_what_leads_nowhere_is_a_conflict(desk: Desk, before: list[str], action: str) -> None:
    alert = desk.post()
    for earlier in before:
        assert act(desk.ann, alert, earlier).status_code == 200
    answer = act(desk.bob, alert, action)
    assert (answer.status_code, answer.json()["code"]) == (409, "action_conflict")
    assert len(desk.timeline(alert)) == 1 + len(before)


def test_whoever_posted_an_alert_may_resolve_it_and_do_no_more(desk: Desk) -> None:
    alert = desk.post(recipients=["ann"])
    for action, status in (("acknowledge", 403), ("reopen", 403), ("resolve", 200)):
        assert act(desk.backend, alert, action).status_code == status
    with desk.node.rest("shipping", "alerts:write") as other:
        assert act(other, desk.post(), "resolve").json()["code"] == "scope_missing"


def test_what_one_may_not_see_is_not_there(desk: Desk) -> None:
    hidden = [desk.post(recipients=["bob"]), {"id": uuid.uuid4()}]
    for alert in hidden:
        for action in ("acknowledge", "resolve", "reopen"):
            assert act(desk.ann, alert, action).status_code == 404
        assert desk.ann.get(f"/v1/alerts/{alert['id']}/timeline").status_code == 404
        assert comment(desk.ann, alert, "hello").status_code == 404
    with desk.node.rest("ann", MANAGE, topics=["payments.*"]) as elsewhere:
        assert act(elsewhere, desk.post(topic="search"), "resolve").status_code == 404


async def test_an_action_is_pushed_and_replayed_like_any_event(desk: Desk) -> None:
    stream = await desk.node.live("carol", after=0)
    alert = desk.post(topic="pushed")
    act(desk.ann, alert, "acknowledge")
    comment(desk.ann, alert, "Looking.")
    live = await of(stream, alert, 3)
    assert [(event["kind"], event["actor"]) for event in live] == [
        ("alert.created", "billing"),
        ("alert.acknowledged", "ann"),
        ("alert.commented", "ann"),
    ]
    assert (live[1]["alert"]["status"], live[1]["alert"]["status_by"]) == ("acknowledged", "ann")
    assert live[2]["comment"]["text"] == "Looking."
    replayed = await desk.node.stream("dave", after=alert["seq"] - 1)
    assert await of(replayed, alert, 3) == live
    await stream.close()
    await replayed.close()


async def of(stream: Stream, alert: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the next events of an alert."""
    events: list[dict[str, Any]] = []
    while len(events) < count:
        event = await stream.next_of("event")
        if event["alert"]["id"] == alert["id"]:
            events.append(event)
    return events


async def test_of_many_who_acknowledge_at_once_one_has_it(desk: Desk) -> None:
    alert = desk.post()
    admins = [f"admin {number}" for number in range(12)]

    async def acknowledge(admin: str) -> int:
        async with desk.node.http(admin, MANAGE) as client:
            return (await client.post(f"/v1/alerts/{alert['id']}/acknowledge")).status_code

    answers = await asyncio.gather(*map(acknowledge, admins))
    assert sorted(answers) == [200] + [409] * 11
    winner = admins[answers.index(200)]
    assert desk.ann.get(f"/v1/alerts/{alert['id']}").json()["status_by"] == winner


# Comments.


def comment(client: httpx2.Client, alert: dict[str, Any], text: object, key: str | None = None) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(f"/v1/alerts/{alert['id']}/comments", json={"text": text}, headers=headers)


def test_a_comment_is_kept_whatever_became_of_the_alert(desk: Desk) -> None:
    alert = desk.post()
    act(desk.ann, alert, "resolve")
    answer = comment(desk.bob, alert, "It was the acquirer.\nAgain.")
    assert answer.status_code == 201
    told = answer.json()
    last = desk.timeline(alert)[-1]
    assert last["comment"] == {"id": told["id"], "text": "It was the acquirer.\nAgain."}
    assert (last["actor"], last["at"], last["status"]) == ("bob", told["at"], "resolved")


def test_a_comment_that_is_sent_again_with_its_key_is_made_once(desk: Desk) -> None:
    alert, key = desk.post(), uuid.uuid4().hex
    first = comment(desk.ann, alert, "Looking.", key)
    again = comment(desk.ann, alert, "Looking.", key)
    assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (201, first.content, "true")
    assert comment(desk.ann, alert, "Something else.", key).json()["code"] == "idempotency_mismatch"
    assert comment(desk.bob, alert, "Looking.", key).status_code == 201
    assert desk.kinds(alert) == ["created", "commented", "commented"]


@pytest.mark.parametrize("text", ["", " \n", "a\x00b", "ü" * 8193, None, 7, "a\ud800b"])
def test_a_comment_that_cannot_be_shown_is_refused(desk: Desk, text: object) -> None:
    alert = desk.post()
    headers = {"Content-Type": "application/json"}
    raw = b'{"text": "a\\ud800b"}' if text == "a\ud800b" else None
    path = f"/v1/alerts/{alert['id']}/comments"
    answer = desk.ann.post(path, content=raw, headers=headers) if raw else comment(desk.ann, alert, text)
    assert answer.status_code in (400, 422)
    assert desk.kinds(alert) == ["created"]


def test_a_long_timeline_comes_in_pages(desk: Desk) -> None:
    alert = desk.post()
    for number in range(5):
        assert comment(desk.ann, alert, f"comment {number}").status_code == 201
    path = f"/v1/alerts/{alert['id']}/timeline"
    pages: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        page = desk.ann.get(path, params={"limit": 2, **cursor}).json()
        pages.append(page["events"])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [event for page in pages for event in page] == desk.timeline(alert)


# Repetitions.


def fresh() -> str:
    return uuid.uuid4().hex


def test_an_alert_with_the_key_of_an_unresolved_one_repeats_it(desk: Desk) -> None:
    key = fresh()
    first = desk.post(dedup_key=key, topic="a")
    answer = desk.backend.post("/v1/alerts", json={"title": "Again", "dedup_key": key, "topic": "a"})
    again = answer.json()
    assert (answer.status_code, again["id"], again["seq"]) == (200, first["id"], first["seq"])
    assert (again["occurrences"], again["title"]) == (2, first["title"])
    assert again["updated_at"] > first["updated_at"]
    assert desk.post(dedup_key=key, topic="b")["id"] != first["id"]
    act(desk.ann, first, "resolve")
    anew = desk.post(dedup_key=key, topic="a")
    assert (anew["id"] != first["id"], anew["occurrences"]) == (True, 1)


def test_a_graver_repetition_raises_the_severity_and_reopens(desk: Desk) -> None:
    key = fresh()
    alert = desk.post(dedup_key=key, severity="warning")
    act(desk.ann, alert, "acknowledge")
    for severity, status, shown in (
        ("info", "acknowledged", "warning"),
        ("warning", "acknowledged", "warning"),
        ("critical", "open", "critical"),
        ("error", "open", "critical"),
    ):
        repeated = desk.post(dedup_key=key, severity=severity)
        assert (repeated["status"], repeated["severity"]) == (status, shown)
    assert repeated["occurrences"] == 5
    graver = [event for event in desk.timeline(alert) if event["severity"] == "critical"]
    assert graver[0]["status"] == "open"


def test_an_alert_cannot_be_reopened_while_another_has_taken_its_key(desk: Desk) -> None:
    key = fresh()
    old = desk.post(dedup_key=key)
    act(desk.ann, old, "resolve")
    new = desk.post(dedup_key=key)
    answer = act(desk.ann, old, "reopen")
    assert (answer.status_code, new["id"] in answer.json()["detail"]) == (409, True)
    act(desk.ann, new, "resolve")
    assert act(desk.ann, old, "reopen").status_code == 200
    assert desk.post(dedup_key=key)["id"] == old["id"]


def test_a_repetition_with_an_idempotency_key_is_counted_once(desk: Desk) -> None:
    body = {"title": "It happened", "dedup_key": fresh()}
    desk.post(**body)
    header = {"Idempotency-Key": fresh()}
    first = desk.backend.post("/v1/alerts", json=body, headers=header)
    desk.post(**body)
    again = desk.backend.post("/v1/alerts", json=body, headers=header)
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert first.json()["occurrences"] == 2
    assert desk.post(**body)["occurrences"] == 4


async def test_a_storm_of_one_key_is_one_event_a_second_and_every_count(desk: Desk) -> None:
    key = fresh()
    alert = desk.post(dedup_key=key)
    begun = datetime.now(UTC)

    async def storm(poster: int) -> None:
        async with desk.node.http(f"poster {poster}") as client:
            for _ in range(50):
                answer = await client.post("/v1/alerts", json={"title": "Again", "dedup_key": key})
                assert answer.status_code == 200

    await asyncio.gather(*map(storm, range(8)))
    seconds = (datetime.now(UTC) - begun).total_seconds()

    def told() -> bool:
        return bool(desk.timeline(alert)[-1]["occurrences"] == 401)

    await eventually(told)
    repeated = desk.timeline(alert)[1:]
    assert len(repeated) <= seconds + 2
    times = [datetime.fromisoformat(event["at"]) for event in repeated]
    assert all(later - earlier >= timedelta(seconds=1) for earlier, later in pairwise(times))


def test_a_batch_counts_repetitions_too(desk: Desk) -> None:
    key = fresh()
    items = [{"title": "a", "dedup_key": key}, {"title": "b"}, {"title": "c", "dedup_key": key, "severity": "error"}]
    results = desk.backend.post("/v1/alerts/batch", json=items).json()["results"]
    assert [result["status"] for result in results] == [201, 201, 200]
    assert results[0]["id"] == results[2]["id"]
    alert = desk.ann.get(f"/v1/alerts/{results[0]['id']}").json()
    assert (alert["occurrences"], alert["severity"], alert["title"]) == (2, "error", "a")


# What time does.


async def test_an_alert_expires(desk: Desk) -> None:
    at = datetime.now(UTC) + timedelta(seconds=0.5)
    alert, unharmed = desk.post(expires_at=at.isoformat()), desk.post(expires_at="2999-01-01T00:00:00Z")
    await eventually(lambda: desk.kinds(alert) == ["created", "expired"])
    last = desk.timeline(alert)[-1]
    assert (last["actor"], last["status"]) == ("tocsin", "expired")
    assert desk.kinds(unharmed) == ["created"]
    assert act(desk.ann, alert, "acknowledge").status_code == 409
    reopened = act(desk.ann, alert, "reopen").json()
    assert (reopened["status"], reopened["expires_at"]) == ("open", None)


async def test_an_alert_that_nobody_takes_goes_to_all_who_may_see_its_topic_once(desk: Desk) -> None:
    stream = await desk.node.live("carol")
    alert = desk.post(recipients=["ann"], escalate_after=1)
    assert alert["escalate_at"] is not None
    [event] = await of(stream, alert, 1)
    assert (event["kind"], event["actor"]) == ("alert.escalated", "tocsin")
    assert (event["alert"]["recipients"], event["alert"]["escalate_at"]) == (None, None)
    assert act(desk.bob, alert, "acknowledge").status_code == 200
    assert desk.kinds(alert) == ["created", "escalated", "acknowledged"]
    await stream.close()


async def test_an_alert_that_was_taken_does_not_escalate_unless_it_is_given_back(desk: Desk) -> None:
    alert, control = desk.post(escalate_after=1), desk.post(escalate_after=1)
    assert act(desk.ann, alert, "acknowledge").json()["escalate_at"] is None
    await eventually(lambda: desk.kinds(control) == ["created", "escalated"])
    assert desk.kinds(alert) == ["created", "acknowledged"]
    assert act(desk.ann, alert, "reopen").json()["escalate_at"] is not None
    await eventually(lambda: desk.kinds(alert) == ["created", "acknowledged", "reopened", "escalated"])


@pytest.mark.parametrize("value", [0, -1, 604_801, "soon", 1.5])
def test_an_escalation_that_makes_no_sense_is_refused(desk: Desk, value: object) -> None:
    answer = desk.backend.post("/v1/alerts", json={"title": "a", "escalate_after": value})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/escalate_after")
