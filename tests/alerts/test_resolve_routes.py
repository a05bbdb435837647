"""A source resolves what it posted by its dedup key, looks it up, and is warned of recipients whom nobody knows."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import true

from service.alerts import resolve_routes, statements
from service.client import AsyncClient, Client, Forbidden, UnprocessableRequest
from service.settings import AlertSettings, Settings
from tests.harness import READ, WRITE, Node, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

RESOLVE = "/v1/alerts/resolve"
MANAGE = "alerts:read alerts:manage"


@pytest.fixture(scope="module")
def shop(lenient: Node) -> Iterator[httpx2.Client]:
    """A source that may only post."""
    with lenient.rest("shop", WRITE) as client:
        yield client


@pytest.fixture(scope="module")
def admin(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest("ann", MANAGE) as client:
        yield client


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def post(client: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/alerts", json={"title": "backup failed", **fields})
    assert answer.status_code in {200, 201}, answer.text
    found: dict[str, Any] = answer.json()
    return found


# Resolving.


def test_a_source_resolves_what_it_posted_as_often_as_it_likes(
    shop: httpx2.Client, admin: httpx2.Client, key: str
) -> None:
    posted = post(shop, dedup_key=key)
    assert [shop.post(RESOLVE, json={"dedup_key": key}).json() for _ in range(3)] == [
        {"resolved": 1},
        {"resolved": 0},
        {"resolved": 0},
    ]
    found = admin.get(f"/v1/alerts/{posted['id']}").json()
    assert (found["status"], found["status_by"]) == ("resolved", "shop")
    assert post(shop, dedup_key=key)["id"] != posted["id"]


def test_without_a_topic_those_of_every_topic_are_resolved(
    monkeypatch: pytest.MonkeyPatch, shop: httpx2.Client, key: str
) -> None:
    monkeypatch.setattr(resolve_routes, "COMMANDS_AT_ONCE", 2)
    for topic in ("a", "b", "c", "d", "e"):
        post(shop, dedup_key=key, topic=topic)
    post(shop, dedup_key=key, topic="a", recipients=["bob"])
    assert shop.post(RESOLVE, json={"dedup_key": key, "topic": "a"}).json() == {"resolved": 2}
    assert shop.post(RESOLVE, json={"dedup_key": key, "topic": "x"}).json() == {"resolved": 0}
    assert shop.post(RESOLVE, json={"dedup_key": key}).json() == {"resolved": 4}


def test_what_an_admin_acknowledged_is_resolved_and_what_others_posted_is_not(
    lenient: Node, shop: httpx2.Client, admin: httpx2.Client, key: str
) -> None:
    posted = post(shop, dedup_key=key)
    admin.post(f"/v1/alerts/{posted['id']}/acknowledge")
    with lenient.rest("depot", WRITE) as depot:
        other = post(depot, dedup_key=key)
    assert shop.post(RESOLVE, json={"dedup_key": key}).json() == {"resolved": 1}
    assert admin.get(f"/v1/alerts/{other['id']}").json()["status"] == "open"


@pytest.mark.parametrize(
    ("scope", "claims", "body", "status", "code"),
    [
        (MANAGE, {}, {}, 403, "scope_missing"),
        (WRITE, {"topics": ["a"]}, {"topic": "b"}, 403, "topic_forbidden"),
        (WRITE, {}, {"topic": "tocsin.health"}, 403, "topic_reserved"),
        (WRITE, {}, {"topic": "No Topic"}, 422, "invalid_request"),
        (WRITE, {}, {"dedup_key": ""}, 422, "invalid_request"),
        (WRITE, {}, {"dedup_key": None}, 422, "invalid_request"),
        (WRITE, {}, {"key": "a"}, 422, "invalid_request"),
    ],
)
def test_what_may_not_be_resolved_is_refused(  # noqa: PLR0917 - a row of the table
    lenient: Node, scope: str, claims: dict[str, Any], body: dict[str, Any], status: int, code: str
) -> None:
    with lenient.rest("shop", scope, **claims) as client:
        answer = client.post(RESOLVE, json={"dedup_key": "k", **body})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_topics_that_a_token_does_not_cover_are_left_alone(lenient: Node, shop: httpx2.Client, key: str) -> None:
    for topic in ("a", "b"):
        post(shop, dedup_key=key, topic=topic)
    with lenient.rest("shop", WRITE, topics=["a"]) as narrow:
        assert narrow.post(RESOLVE, json={"dedup_key": key}).json() == {"resolved": 1}
    assert shop.post(RESOLVE, json={"dedup_key": key}).json() == {"resolved": 1}


def test_as_many_alerts_as_a_transaction_reads_in_a_topic_that_a_token_does_not_cover_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, lenient: Node, shop: httpx2.Client, key: str
) -> None:
    monkeypatch.setattr(statements, "KEYS_MAX", 2)
    for name in ("bob", "eve", "joe"):
        post(shop, dedup_key=key, topic="b", recipients=[name])
    with lenient.rest("shop", WRITE, topics=["a"]) as narrow:
        assert narrow.post(RESOLVE, json={"dedup_key": key}).json() == {"resolved": 0}
    assert shop.post(RESOLVE, json={"dedup_key": key}).json() == {"resolved": 3}


def test_resolving_comes_to_an_end_although_alerts_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, lenient: Node, shop: httpx2.Client, key: str
) -> None:
    monkeypatch.setattr(statements, "KEYS_MAX", 2)
    monkeypatch.setattr(resolve_routes, "any_topic", lambda *_: true())  # so that the commands resolve nothing
    for name in ("bob", "eve", "joe"):
        post(shop, dedup_key=key, topic="b", recipients=[name])
    with lenient.rest("shop", WRITE, topics=["a"]) as narrow:
        assert narrow.post(RESOLVE, json={"dedup_key": key}).json() == {"resolved": 0}


def test_a_group_of_sources_resolves_what_any_of_it_posted(database_url: str) -> None:
    settings = Settings(alerts=AlertSettings(dedup_groups={"goods": ("shop", "depot")}))
    with serving(database_url, settings) as node, node.rest("shop", WRITE) as one, node.rest("depot", WRITE) as other:
        post(one, dedup_key="k", topic="a")
        assert other.post(RESOLVE, json={"dedup_key": "k"}).json() == {"resolved": 1}


async def test_both_clients_resolve(lenient: Node, shop: httpx2.Client, key: str) -> None:
    bearer = token("shop", WRITE)
    post(shop, dedup_key=key)
    async with AsyncClient(lenient.base, bearer, trust_env=False) as client:
        assert [await client.resolve(key), await client.resolve(key, topic="default")] == [1, 0]
        with pytest.raises(UnprocessableRequest):
            await client.resolve("")
    post(shop, dedup_key=key)
    with Client(lenient.base, bearer, trust_env=False) as blocking:
        assert blocking.resolve(key, topic="default") == 1
    with Client(lenient.base, token("shop", READ), trust_env=False) as reader, pytest.raises(Forbidden):
        reader.resolve(key)


# Looking up.


def test_a_source_looks_up_what_it_posted_and_does_not_learn_who_acted(
    shop: httpx2.Client, admin: httpx2.Client, key: str
) -> None:
    posted = post(shop, dedup_key=key, topic=key)
    path = f"/v1/alerts/{posted['id']}"
    assert shop.get(path).json() == {**posted, "status_by": "shop"}
    admin.post(f"{path}/acknowledge")
    admin.post(f"{path}/comments", json={"text": "On it."})
    [listed] = shop.get("/v1/alerts", params={"topic": key, "source": "shop"}).json()["alerts"]
    assert listed == shop.get(path).json()
    assert (listed["status"], listed["status_by"]) == ("acknowledged", None)
    assert "ann" not in listed.values()
    for hidden in ("timeline", "receipts", "deliveries"):
        assert shop.get(f"{path}/{hidden}").status_code == 403


def test_a_source_looks_up_nothing_that_others_posted(lenient: Node, shop: httpx2.Client, key: str) -> None:
    with lenient.rest("depot", WRITE) as depot:
        other = post(depot, topic=key)
        listed = depot.get(f"/v1/alerts?topic={key}&source=depot").json()["alerts"]
        assert [alert["id"] for alert in listed] == [other["id"]]
    for alert_id in (other["id"], "01a1fd87-65c3-71a6-ba06-3929d3197295"):
        answer = shop.get(f"/v1/alerts/{alert_id}")
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert answer.json()["detail"].startswith("This requires a token with the scope alerts:read.")
    assert shop.get(f"/v1/alerts?topic={key}&source=shop").json()["alerts"] == []
    for query in ("", "?source=depot", "?source=depot&source=shop"):
        answer = shop.get(f"/v1/alerts{query}")
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert "source=shop in the query" in answer.json()["detail"]
    with lenient.rest("depot", WRITE, topics=["elsewhere"]) as narrow:
        assert narrow.get(f"/v1/alerts/{other['id']}").status_code == 403


def test_a_source_that_reads_looks_up_what_it_posted_for_others_and_lists_what_is_for_it(
    lenient: Node, key: str
) -> None:
    with lenient.rest("shop", f"{READ} {WRITE}") as both:
        posted = post(both, topic=key, recipients=["bob"])
        assert both.get(f"/v1/alerts/{posted['id']}").json()["recipients"] == ["bob"]
        assert both.get(f"/v1/alerts?topic={key}").json()["alerts"] == []
        assert both.get(f"/v1/alerts/{posted['id']}/timeline").status_code == 404


# Warnings.


def warned(answer: httpx2.Response) -> list[str]:
    return [warning["pointer"] for warning in answer.json().get("warnings", [])]


async def test_a_recipient_whom_nobody_has_seen_is_named_in_the_answer(lenient: Node, shop: httpx2.Client) -> None:
    seen, unseen = f"seen-{uuid.uuid4().hex}", f"unseen-{uuid.uuid4().hex}"
    alert = {"title": "t", "recipients": [seen, unseen]}
    stream = await lenient.live(seen)
    await eventually(lambda: warned(shop.post("/v1/alerts", json=alert)) == ["/recipients/1"])
    await stream.close()
    answer = shop.post("/v1/alerts", json=alert)
    assert answer.status_code == 201
    assert answer.json()["warnings"] == [
        {"pointer": "/recipients/1", "detail": f"nobody of the name {unseen!r} has ever connected"}
    ]
    assert "warnings" not in shop.post("/v1/alerts", json={"title": "t", "recipients": [seen]}).json()
    assert "warnings" not in shop.post("/v1/alerts", json={"title": "t"}).json()


def test_every_form_of_a_post_warns(lenient: Node, shop: httpx2.Client, key: str) -> None:
    unseen = {"title": "t", "recipients": [f"unseen-{key}"]}
    once = {"Idempotency-Key": key}
    for fields, headers, status in (
        ({"dedup_key": key}, {}, 201),
        ({"dedup_key": key}, {}, 200),
        ({}, once, 201),
        ({}, once, 201),
        ({"escalate_after": 60}, {}, 201),
    ):
        answer = shop.post("/v1/alerts", json={**unseen, **fields}, headers=headers)
        assert (answer.status_code, warned(answer)) == (status, ["/recipients/0"])
    batch = [unseen, {"title": "t"}, {**unseen, "dedup_key": key}, {**unseen, "title": ""}]
    results = shop.post("/v1/alerts/batch", json=batch).json()["results"]
    assert ["warnings" in result for result in results] == [True, False, True, False]
    with Client(lenient.base, token("shop", WRITE), trust_env=False) as client:
        posted = client.post("t", recipients=[f"unseen-{key}"])
        assert posted.warnings == (f"/recipients/0: nobody of the name 'unseen-{key}' has ever connected",)
        assert client.post("t").warnings == ()


def test_warnings_are_turned_off_by_a_setting(database_url: str) -> None:
    settings = Settings(alerts=AlertSettings(warn_of_unknown_recipients=False))
    with serving(database_url, settings) as node, node.rest("shop", WRITE) as client:
        assert "warnings" not in post(client, recipients=["nobody"])
