"""Answers to tokens that may not read the alert that they are about."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import AlertSettings, LimitSettings, Settings
from tests.harness import READ, WRITE, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node

SUMMARY = {"id", "seq", "status", "occurrences"}
SECRET: dict[str, Any] = {"title": "Secret title", "body": "Secret body", "recipients": ["ann"]}


@pytest.fixture(scope="module")
def shared(shared_url: str) -> Iterator[Node]:
    """A node on which ``billing`` and ``checkout`` share their keys."""
    every = "1000000/second"
    limits = LimitSettings(write_limit=every, read_limit=every, auth_failure_limit=every)
    groups = AlertSettings(dedup_groups={"payments": ("billing", "checkout")})
    with serving(shared_url, Settings(limits=limits, alerts=groups)) as running:
        yield running


def post(node: Node, subject: str = "billing", scope: str = WRITE, **fields: Any) -> httpx2.Response:
    claims = {"topics": fields.pop("topics")} if "topics" in fields else {}
    headers = {"Idempotency-Key": fields.pop("key")} if "key" in fields else {}
    with node.rest(subject, scope, **claims) as client:
        return client.post("/v1/alerts", json={"title": "It happened", **fields}, headers=headers)


def fresh() -> str:
    return uuid.uuid4().hex


def test_equal_keys_of_different_sources_and_recipients_are_different_alerts(shared: Node) -> None:
    key = fresh()
    posts: list[dict[str, Any]] = [
        {"subject": "billing", "recipients": ["ghost"]},
        {"subject": "billing"},
        {"subject": "billing", "recipients": ["ann", "bob"]},
        {"subject": "shipping", "recipients": ["ann", "bob"]},
        {"subject": "billing", "topic": "payments"},
    ]
    assert [post(shared, dedup_key=key, **one).status_code for one in posts] == [201] * 5
    again = post(shared, "checkout", dedup_key=key, recipients=["bob", "ann"])
    assert (again.status_code, again.json()["occurrences"]) == (200, 2)


def test_a_repetition_shows_a_source_its_own_words_and_a_summary_and_no_words_of_others(shared: Node) -> None:
    key = fresh()
    first = post(shared, dedup_key=key, **SECRET, key=fresh()).json()
    assert first["body"] == "Secret body"
    once, link = fresh(), {"title": "L", "url": "https://l.example"}
    sent: dict[str, Any] = {"dedup_key": key, "recipients": ["ann"], "links": [link]}
    for status in (200, 200):  # the second is a replay
        answer = post(shared, "checkout", **sent, key=once)
        assert answer.status_code == status
        assert "Secret" not in answer.text
        assert answer.json() == {
            **{name: first[name] for name in ("id", "seq", "status")},
            "occurrences": 2,
            "title": "It happened",
            **sent,
            "warnings": [{"pointer": "/recipients/0", "detail": "nobody of the name 'ann' has ever connected"}],
        }
    assert answer.headers["idempotency-replayed"] == "true"
    with shared.rest("ann", READ) as ann:
        assert ann.get(answer.headers["location"]).json()["occurrences"] == 2
    assert post(shared, "checkout", f"{READ} {WRITE}", **sent).json().keys() >= SUMMARY
    assert "Secret" not in post(shared, "checkout", f"{READ} {WRITE}", **sent).text


def test_a_retry_of_a_post_that_created_an_alert_is_answered_byte_for_byte(shared: Node) -> None:
    both: list[dict[str, Any]] = [{}, {"dedup_key": fresh()}]
    for fields in both:
        key = fresh()
        first, again = (post(shared, key=key, **SECRET, **fields) for _ in range(2))
        assert (again.status_code, again.content) == (201, first.content)


def test_an_event_of_another_topic_is_stored_for_itself_and_shows_nothing_of_the_first(shared: Node) -> None:
    event = {"specversion": "1.0", "id": fresh(), "source": "/x", "data": {"title": "Secret"}}
    answers = []
    for topic, title in (("payments", "Secret"), ("shop", "Other")):
        with shared.rest("billing", WRITE, topics=[topic]) as client:
            body = {**event, "type": topic, "data": {"title": title}}
            media = {"Content-Type": "application/cloudevents+json"}
            answers.append(client.post("/v1/integrations/cloudevents", json=body, headers=media))
    first, again = answers
    assert (first.status_code, again.status_code, again.json()["title"]) == (201, 201, "Other")
    assert again.json()["id"] != first.json()["id"]
    assert "Secret" not in again.text


def test_a_source_that_may_not_read_resolves_its_own_alerts_within_the_topics_of_its_token(shared: Node) -> None:
    own, other = post(shared, topic="payments", **SECRET).json(), post(shared, "shipping", **SECRET).json()

    def resolve(alert: str, **claims: Any) -> httpx2.Response:
        with shared.rest("billing", WRITE, **claims) as client:
            return client.post(f"/v1/alerts/{alert}/resolve")

    refused = [resolve(other["id"]), resolve(str(uuid.uuid4())), resolve(own["id"], topics=["shop"])]
    assert {(answer.status_code, answer.json()["code"], answer.json()["detail"]) for answer in refused} == {
        (403, "scope_missing", refused[0].json()["detail"])
    }
    resolved = resolve(own["id"])
    assert resolved.json() == {"id": own["id"], "seq": own["seq"], "status": "resolved", "occurrences": 1}
    with shared.rest("ann", f"{READ} alerts:manage") as ann:
        ann.post(f"/v1/alerts/{own['id']}/reopen").raise_for_status()
        ann.post(f"/v1/alerts/{own['id']}/resolve").raise_for_status()
    conflict = resolve(own["id"])
    assert (conflict.status_code, conflict.json()["detail"]) == (409, "The alert is resolved.")
    assert conflict.json()["alert"] == resolved.json()


def test_whoever_manages_without_reading_is_answered_with_a_summary(shared: Node) -> None:
    alert = post(shared, **SECRET).json()
    with shared.rest("ann", "alerts:manage") as ann:
        assert ann.post(f"/v1/alerts/{alert['id']}/acknowledge").json().keys() == SUMMARY
        assert ann.post(f"/v1/alerts/{alert['id']}/reopen").json().keys() == SUMMARY


@pytest.mark.parametrize("topic", ["tocsin.config", "drill.x.y"])
@pytest.mark.parametrize("topics", [None, ["*"], ["tocsin.*", "drill.*"], ["payments"]])
def test_reserved_topics_are_refused_on_every_path(shared: Node, topic: str, topics: list[str] | None) -> None:
    event = {"specversion": "1.0", "id": fresh(), "source": "/x", "type": topic}
    with shared.rest("billing", WRITE, topics=topics) as client:
        alert = {"title": "a", "topic": topic}
        refused = [client.post("/v1/alerts", json=some) for some in (alert, {**alert, "dedup_key": "k"})]
        headers = {"Content-Type": "application/cloudevents+json"}
        events = (event, {**event, "topic": topic, "type": "x"})
        refused += [client.post("/v1/integrations/cloudevents", json=one, headers=headers) for one in events]
        refused += [client.post("/v1/integrations/apprise", json=alert)]
        refused += [
            client.post(
                "/v1/integrations/alertmanager",
                json={"alerts": [{"status": status, "fingerprint": "k", "labels": {"topic": topic}}]},
            )
            for status in ("firing", "resolved")
        ]
        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(403, "topic_reserved")}
        headers = {"Content-Type": "application/cloudevents-batch+json"}
        for results in (
            client.post("/v1/alerts/batch", json=[{"title": "a", "topic": topic}]).json()["results"],
            client.post("/v1/integrations/cloudevents", json=[event], headers=headers).json()["results"],
        ):
            assert [(result["status"], result["code"]) for result in results] == [(403, "topic_reserved")]


def test_topics_that_only_look_reserved_are_not(shared: Node) -> None:
    for topic in ("tocsin", "drill", "drills.x", "my.drill.x"):
        assert post(shared, topic=topic).status_code == 201
