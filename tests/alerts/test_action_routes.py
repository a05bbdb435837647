from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import HOUR, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node, Stream

MANAGE = "alerts:read alerts:manage"


class Team:
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
def team(lenient: Node) -> Iterator[Team]:
    team = Team(lenient)
    yield team
    for client in (team.backend, team.ann, team.bob):
        client.close()


def act(client: httpx2.Client, alert: dict[str, Any], action: str) -> httpx2.Response:
    return client.post(f"/v1/alerts/{alert['id']}/{action}")


# Acknowledge, resolve, reopen.


def test_an_alert_changes_hands_and_its_timeline_says_how(team: Team) -> None:
    alert = team.post()
    for client, action, status in (
        (team.ann, "acknowledge", "acknowledged"),
        (team.ann, "reopen", "open"),
        (team.bob, "acknowledge", "acknowledged"),
        (team.bob, "resolve", "resolved"),
        (team.ann, "reopen", "open"),
        (team.ann, "resolve", "resolved"),
    ):
        answer = act(client, alert, action)
        assert answer.status_code == 200
        assert answer.json()["status"] == status
    assert team.ann.get(f"/v1/alerts/{alert['id']}").json() == answer.json()
    happened = [(event["kind"], event["actor"], event["status"]) for event in team.timeline(alert)]
    assert happened == [
        ("alert.created", "billing", "open"),
        ("alert.acknowledged", "ann", "acknowledged"),
        ("alert.reopened", "ann", "open"),
        ("alert.acknowledged", "bob", "acknowledged"),
        ("alert.resolved", "bob", "resolved"),
        ("alert.reopened", "ann", "open"),
        ("alert.resolved", "ann", "resolved"),
    ]


def test_a_timeline_keeps_what_the_alert_said(team: Team) -> None:
    alert = team.post(title="80 % full", dedup_key="timeline", body="of db1")
    act(team.ann, alert, "acknowledge")
    answer = team.backend.post("/v1/alerts", json={"title": "97 % full", "dedup_key": "timeline"})
    assert (answer.json()["title"], answer.json()["body"]) == ("97 % full", None)
    said = [(event["title"], event["body"]) for event in team.timeline(alert)]
    assert said == [("80 % full", "of db1"), ("80 % full", "of db1"), ("97 % full", None)]


def test_a_timeline_is_read_from_either_end(team: Team) -> None:
    alert = team.post()
    for action in ("acknowledge", "reopen", "resolve"):
        act(team.ann, alert, action)
    for order, kinds in (
        ("asc", ["alert.created", "alert.acknowledged", "alert.reopened", "alert.resolved"]),
        ("desc", ["alert.resolved", "alert.reopened", "alert.acknowledged", "alert.created"]),
    ):
        path = f"/v1/alerts/{alert['id']}/timeline?limit=3&order={order}"
        first = team.ann.get(path).json()
        rest = team.ann.get(f"{path}&cursor={first['next']}").json()
        assert [event["kind"] for event in first["events"] + rest["events"]] == kinds
        assert rest["next"] is None
    answer = team.ann.get(f"/v1/alerts/{alert['id']}/timeline", params={"order": "random"})
    assert answer.json()["code"] == "invalid_request"


def test_the_second_to_acknowledge_learns_who_has_it(team: Team) -> None:
    alert = team.post()
    acknowledged = act(team.ann, alert, "acknowledge").json()
    answer = act(team.bob, alert, "acknowledge")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "action_conflict")
    assert problem["detail"] == f"ann acknowledged the alert at {acknowledged['status_at']}."
    assert problem["alert"] == acknowledged


def test_repeating_ones_own_action_changes_nothing(team: Team) -> None:
    alert = team.post()
    first = act(team.ann, alert, "acknowledge")
    assert act(team.ann, alert, "acknowledge").content == first.content
    assert len(team.timeline(alert)) == 2


def test_whoever_posted_an_alert_may_resolve_it_and_do_no_more(team: Team) -> None:
    alert = team.post(recipients=["ann"])
    for action, status in (("acknowledge", 403), ("reopen", 403), ("resolve", 200)):
        assert act(team.backend, alert, action).status_code == status
    with team.node.rest("shipping", "alerts:write") as other:
        assert act(other, team.post(), "resolve").json()["code"] == "scope_missing"


def test_what_one_may_not_see_is_not_there(team: Team) -> None:
    hidden = [team.post(recipients=["bob"]), {"id": uuid.uuid4()}]
    for alert in hidden:
        for action in ("acknowledge", "resolve", "reopen"):
            assert act(team.ann, alert, action).status_code == 404
        assert team.ann.get(f"/v1/alerts/{alert['id']}/timeline").status_code == 404
        assert comment(team.ann, alert, "hello").status_code == 404
    with team.node.rest("ann", MANAGE, topics=["payments.*"]) as elsewhere:
        assert act(elsewhere, team.post(topic="search"), "resolve").status_code == 404


async def test_an_action_is_pushed_and_replayed_like_any_event(team: Team) -> None:
    stream = await team.node.live("carol", after=0)
    alert = team.post(topic="pushed")
    act(team.ann, alert, "acknowledge")
    comment(team.ann, alert, "Looking.")
    live = await of(stream, alert, 3)
    assert [(event["kind"], event["actor"]) for event in live] == [
        ("alert.created", "billing"),
        ("alert.acknowledged", "ann"),
        ("alert.commented", "ann"),
    ]
    assert (live[1]["alert"]["status"], live[1]["alert"]["status_by"]) == ("acknowledged", "ann")
    assert live[2]["comment"]["text"] == "Looking."
    replayed = await team.node.stream("dave", after=alert["seq"] - 1)
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


async def test_of_many_who_acknowledge_at_once_one_has_it(team: Team) -> None:
    alert = team.post()
    admins = [f"admin {number}" for number in range(12)]

    async def acknowledge(admin: str) -> int:
        async with team.node.http(admin, MANAGE) as client:
            return (await client.post(f"/v1/alerts/{alert['id']}/acknowledge")).status_code

    answers = await asyncio.gather(*map(acknowledge, admins))
    assert sorted(answers) == [200] + [409] * 11
    winner = admins[answers.index(200)]
    assert team.ann.get(f"/v1/alerts/{alert['id']}").json()["status_by"] == winner


# Comments.


def comment(client: httpx2.Client, alert: dict[str, Any], text: object, key: str | None = None) -> httpx2.Response:
    headers = {b"Idempotency-Key": key.encode()} if key else {}
    return client.post(f"/v1/alerts/{alert['id']}/comments", json={"text": text}, headers=headers)


def test_a_comment_is_kept_whatever_became_of_the_alert(team: Team) -> None:
    alert = team.post()
    act(team.ann, alert, "resolve")
    answer = comment(team.bob, alert, "It was the acquirer.\nAgain.")
    assert answer.status_code == 201
    made = answer.json()
    last = team.timeline(alert)[-1]
    assert last["comment"] == {"id": made["id"], "text": "It was the acquirer.\nAgain."}
    assert (last["actor"], last["at"], last["status"]) == ("bob", made["at"], "resolved")


def test_a_comment_that_is_sent_again_with_its_key_is_made_once(team: Team) -> None:
    alert, key = team.post(), uuid.uuid4().hex + "ü" * 150
    first = comment(team.ann, alert, "Looking.", key)
    again = comment(team.ann, alert, "Looking.", key)
    assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (201, first.content, "true")
    assert comment(team.ann, alert, "Something else.", key).json()["code"] == "idempotency_mismatch"
    assert comment(team.bob, alert, "Looking.", key).status_code == 201
    assert team.kinds(alert) == ["created", "commented", "commented"]


def test_the_key_of_a_comment_is_utf_8_too(team: Team) -> None:
    path = f"/v1/alerts/{team.post()['id']}/comments"
    answer = team.ann.post(path, json={"text": "Looking."}, headers=[(b"Idempotency-Key", b"schl\xfcssel")])
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert "idempotency-key is not UTF-8" in answer.json()["detail"]


def test_a_comment_that_cannot_be_shown_is_refused(team: Team) -> None:
    alert = team.post()
    path, headers = f"/v1/alerts/{alert['id']}/comments", {"Content-Type": "application/json"}
    for body, status in ((b'{"text": " "}', 422), (b'{"text": "a\\u0000b"}', 422), (b'{"text": "a\\ud800b"}', 400)):
        assert team.ann.post(path, content=body, headers=headers).status_code == status
    assert team.kinds(alert) == ["created"]


def test_a_long_timeline_comes_in_pages(team: Team) -> None:
    alert = team.post()
    for number in range(5):
        assert comment(team.ann, alert, f"comment {number}").status_code == 201
    path = f"/v1/alerts/{alert['id']}/timeline"
    pages: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        page = team.ann.get(path, params={"limit": 2, **cursor}).json()
        pages.append(page["events"])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [event for page in pages for event in page] == team.timeline(alert)


# Repetitions.


def fresh() -> str:
    return uuid.uuid4().hex


def test_an_alert_with_the_key_of_an_unresolved_one_repeats_it(team: Team) -> None:
    key = fresh()
    first = team.post(dedup_key=key, topic="a")
    answer = team.backend.post("/v1/alerts", json={"title": "Again", "dedup_key": key, "topic": "a"})
    again = answer.json()
    assert (answer.status_code, again["id"], again["seq"]) == (200, first["id"], first["seq"])
    assert (again["occurrences"], again["title"]) == (2, "Again")
    assert again["updated_at"] > first["updated_at"]
    assert team.post(dedup_key=key, topic="b")["id"] != first["id"]
    act(team.ann, first, "resolve")
    another = team.post(dedup_key=key, topic="a")
    assert (another["id"] != first["id"], another["occurrences"]) == (True, 1)


def test_an_alert_cannot_be_reopened_while_another_has_taken_its_key(team: Team) -> None:
    key = fresh()
    old = team.post(dedup_key=key)
    act(team.ann, old, "resolve")
    new = team.post(dedup_key=key)
    answer = act(team.ann, old, "reopen")
    assert (answer.status_code, new["id"] in answer.json()["detail"]) == (409, True)
    act(team.ann, new, "resolve")
    assert act(team.ann, old, "reopen").status_code == 200
    assert team.post(dedup_key=key)["id"] == old["id"]


async def test_a_storm_of_one_key_is_one_event_a_second_and_every_count(team: Team) -> None:
    key = fresh()
    alert = team.post(dedup_key=key)
    begun = datetime.now(UTC)

    async def storm() -> None:
        async with team.node.http() as client:
            for _ in range(50):
                answer = await client.post("/v1/alerts", json={"title": "Again", "dedup_key": key})
                assert answer.status_code == 200

    await asyncio.gather(*(storm() for _ in range(8)))
    seconds = (datetime.now(UTC) - begun).total_seconds()

    def is_counted() -> bool:
        return bool(team.timeline(alert)[-1]["occurrences"] == 401)

    await eventually(is_counted)
    repeated = team.timeline(alert)[1:]
    assert len(repeated) <= seconds + 2
    times = [datetime.fromisoformat(event["at"]) for event in repeated]
    assert all(later - earlier >= timedelta(seconds=1) for earlier, later in pairwise(times))


def test_a_batch_counts_repetitions_too(team: Team) -> None:
    key = fresh()
    items = [{"title": "a", "dedup_key": key}, {"title": "b"}, {"title": "c", "dedup_key": key, "severity": "error"}]
    results = team.backend.post("/v1/alerts/batch", json=items).json()["results"]
    assert [result["status"] for result in results] == [201, 201, 200]
    assert results[0]["id"] == results[2]["id"]
    alert = team.ann.get(f"/v1/alerts/{results[0]['id']}").json()
    assert (alert["occurrences"], alert["severity"], alert["title"]) == (2, "error", "c")


# What time does.


async def test_an_alert_expires(team: Team) -> None:
    at = datetime.now(UTC) + timedelta(seconds=HOUR)
    alert, unharmed = team.post(expires_at=at.isoformat()), team.post(expires_at="2999-01-01T00:00:00Z")
    await team.node.an_hour_passes()
    await eventually(lambda: team.kinds(alert) == ["created", "expired"])
    last = team.timeline(alert)[-1]
    assert (last["actor"], last["status"]) == ("tocsin", "expired")
    assert team.kinds(unharmed) == ["created"]
    assert act(team.ann, alert, "acknowledge").status_code == 409
    reopened = act(team.ann, alert, "reopen").json()
    assert (reopened["status"], reopened["expires_at"]) == ("open", None)


async def test_an_alert_that_nobody_takes_goes_to_all_who_may_see_its_topic_once(team: Team) -> None:
    stream = await team.node.live("carol")
    alert = team.post(recipients=["ann"], escalate_after=HOUR)
    assert alert["escalate_at"] is not None
    await team.node.an_hour_passes()
    [event] = await of(stream, alert, 1)
    assert (event["kind"], event["actor"]) == ("alert.escalated", "tocsin")
    assert (event["alert"]["recipients"], event["alert"]["escalate_at"]) == (None, None)
    assert act(team.bob, alert, "acknowledge").status_code == 200
    assert team.kinds(alert) == ["created", "escalated", "acknowledged"]
    await stream.close()


async def test_an_alert_that_was_taken_does_not_escalate_unless_it_is_given_back(team: Team) -> None:
    alert, control = team.post(escalate_after=HOUR), team.post(escalate_after=HOUR)
    assert act(team.ann, alert, "acknowledge").json()["escalate_at"] is None
    await team.node.an_hour_passes()
    await eventually(lambda: team.kinds(control) == ["created", "escalated"])
    assert team.kinds(alert) == ["created", "acknowledged"]
    assert act(team.ann, alert, "reopen").json()["escalate_at"] is not None
    await team.node.an_hour_passes()
    await eventually(lambda: team.kinds(alert) == ["created", "acknowledged", "reopened", "escalated"])
