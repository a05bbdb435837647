from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts import routes
from service.database.engine import Database, parse_url
from service.database.locks import TableLock
from service.ledger.flusher import LedgerFlusher
from service.ledger.recorder import LedgerRecorder
from service.maintenance.housekeeping import Housekeeping
from service.settings import Settings, StorageSettings
from tests.harness import eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

    import httpx2

    from tests.harness import Node

JSON = {"Content-Type": "application/json"}
ALERT: dict[str, Any] = {
    "topic": "payments.eu",
    "severity": "critical",
    "title": "Card acceptance below 80 %",
    "body": "Acquirer X times out since 09:41 UTC.\nRetries are on.",
    "attributes": {"acquirer": "X", "rate": 0.78, "codes": [91, None, True], "größe": {"ü": "🔔"}},
    "links": [{"title": "Runbook", "url": "https://runbooks.example/acquirer"}],
    "recipients": ["billing", "Zoë"],
    "expires_at": "2999-01-01T00:00:00.000000Z",
}


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest() as client:
        yield client


def fresh_key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


# Posting.


def test_an_alert_is_answered_with_its_place_and_its_address(rest: httpx2.Client) -> None:
    answer = rest.post("/v1/alerts", json=ALERT)
    assert answer.status_code == 201
    alert = answer.json()
    assert {name: alert[name] for name in ALERT} == ALERT
    assert (alert["source"], alert["status"], alert["occurrences"]) == ("billing", "open", 1)
    assert uuid.UUID(alert["id"]).version == 7
    assert alert["seq"] >= 1
    assert alert["created_at"] == alert["updated_at"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(alert["created_at"])).total_seconds() < 60
    assert answer.headers["location"] == f"/v1/alerts/{alert['id']}"
    assert "idempotency-replayed" not in answer.headers
    assert [warning["pointer"] for warning in alert.pop("warnings")] == ["/recipients/0", "/recipients/1"]
    assert rest.get(answer.headers["location"]).json() == alert


def test_a_title_is_enough(rest: httpx2.Client) -> None:
    alert = rest.post("/v1/alerts", json={"title": "It happened"}).json()
    assert (alert["topic"], alert["severity"]) == ("default", "info")
    assert (alert["attributes"], alert["links"]) == ({}, [])
    assert {alert[name] for name in ("body", "recipients", "dedup_key", "expires_at")} == {None}


async def test_what_was_answered_is_stored(lenient: Node) -> None:
    alert = await lenient.post(**ALERT)
    (event,) = await lenient.sql("SELECT * FROM events WHERE seq = $1", alert["seq"])
    assert (str(event["alert_id"]), event["kind"], event["actor"]) == (alert["id"], "alert.created", "billing")
    assert {**json.loads(event["body"]), "seq": alert["seq"], "warnings": alert["warnings"]} == alert
    (row,) = await lenient.sql("SELECT * FROM alerts WHERE id = $1", uuid.UUID(alert["id"]))
    assert (row["seq"], row["title"], row["recipients"]) == (alert["seq"], alert["title"], alert["recipients"])


async def test_alerts_posted_at_once_take_places_without_a_hole(lenient: Node) -> None:
    async with lenient.http() as client:
        answers = await asyncio.gather(*(client.post("/v1/alerts", json={"title": f"{n}"}) for n in range(100)))
    places = sorted(answer.json()["seq"] for answer in answers)
    assert places == list(range(places[0], places[0] + 100))
    assert len({answer.json()["id"] for answer in answers}) == 100
    titles = {answer.json()["seq"]: answer.json()["title"] for answer in answers}
    rows = await lenient.sql("SELECT seq, body->>'title' AS title FROM events WHERE seq = ANY ($1)", places)
    assert {row["seq"]: row["title"] for row in rows} == titles


def test_posting_needs_the_scope_to_write_and_listing_the_scope_to_read(lenient: Node, rest: httpx2.Client) -> None:
    place = rest.post("/v1/alerts", json={"title": "a"}).headers["location"]
    for scope in ("", "alerts:read", "alerts:write", "alerts:manage audit:read admin", "ALERTS:WRITE", "alerts"):
        with lenient.rest(scope=scope) as client:
            answers = [client.post("/v1/alerts", json={"title": "a"}), client.get("/v1/alerts"), client.get(place)]
        allowed = [scope == "alerts:write", scope == "alerts:read", scope in {"alerts:read", "alerts:write"}]
        assert [answer.is_success for answer in answers] == allowed
        refused = [answer for answer in answers if not answer.is_success]
        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(403, "scope_missing")}


def test_posting_is_bound_to_the_topics_of_the_token(lenient: Node) -> None:
    with lenient.rest(topics=["shop", "payments.*"]) as client:
        assert client.post("/v1/alerts", json={"title": "a", "topic": "payments.eu"}).status_code == 201
        answer = client.post("/v1/alerts", json={"title": "a", "topic": "payments"})
    assert (answer.status_code, answer.json()["code"]) == (403, "topic_forbidden")
    assert "payments" in answer.json()["detail"]


def test_a_bad_body_is_refused_with_the_place_of_the_fault(rest: httpx2.Client) -> None:
    bodies = [
        (b'{"title":"%b"}' % (b"x" * 201), "/title"),
        (b'{"title":"a","attributes":{"k":1e999}}', "/attributes"),
        (b'{"title":"a","links":[{"title":"t","url":"data:x"}]}', "/links/0/url"),
        (b'{"title":"a\\u0000b"}', "/title"),
        (b'{"title":"a","sev/erity":1}', "/sev~1erity"),
        (b"[]", ""),
        (b"null", ""),
    ]
    for body, pointer in bodies:
        answer = rest.post("/v1/alerts", content=body, headers=JSON)
        assert answer.status_code == 422
        assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
        assert (pointer or "The body") in answer.json()["detail"]


def test_a_body_that_is_no_json_is_refused(rest: httpx2.Client) -> None:
    for body in (
        b'{"title":"a\0b"}',
        b'{"title":"\\udfff\\ud800"}',
        b'{"title":"a","attributes":{"\\udc00":1}}',
        b'{"title":"\xff"}',
        b'{"title":"\xed\xa0\x80"}',
        b'{"title":"a"} {"title":"b"}',
        b'{"title":"a",}',
        b'{"title":"a","attributes":{"k":%b}}' % (b"9" * 5000),
        b"",
        b'{"title":"a","attributes":%b' % (b"[" * 100_000),
    ):
        assert rest.post("/v1/alerts", content=body, headers=JSON).status_code == 400


names = st.sampled_from([*ALERT, "id", "x", ""])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["info", "payments.eu", "a", "https://a", "2999-01-01T00:00:00Z", 1e300, -1e300, 5e-324, 2**64])
)
trees = st.recursive(
    leaves, lambda tree: st.lists(tree, max_size=4) | st.dictionaries(st.text(max_size=5), tree, max_size=4)
)
links = st.lists(st.fixed_dictionaries({"title": leaves, "url": leaves}), max_size=2)
alerts = st.fixed_dictionaries(
    {"title": st.text(min_size=1, max_size=30)},
    optional={
        "topic": st.sampled_from(["a", "a.b"]) | leaves,
        "severity": st.sampled_from(["info", "error"]) | leaves,
        "body": st.none() | st.text(st.characters(), max_size=40),
        "attributes": st.dictionaries(st.text(max_size=5), trees, max_size=4),
        "links": links | trees,
        "recipients": st.none() | st.lists(leaves, max_size=3),
        "dedup_key": leaves,
        "expires_at": leaves | st.datetimes(timezones=st.timezones()).map(str),
    },
)


@settings(max_examples=100)
@given(trees | st.dictionaries(names, trees, max_size=4) | alerts)
def test_any_json_is_stored_as_it_is_or_refused(rest: httpx2.Client, body: Any) -> None:
    answer = rest.post("/v1/alerts", content=json.dumps(body).encode(), headers=JSON)
    if not answer.is_success:
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return
    stored = answer.json()
    if answer.status_code == 200:  # an earlier example has posted this key, and counts this alert
        assert (stored["dedup_key"], stored["occurrences"] > 1) == (body["dedup_key"], True)
    else:
        assert answer.status_code == 201
        for name in {"title", "body", "attributes"} & {*body}:
            assert stored[name] == body[name]
    if stored["recipients"] is None:
        assert rest.get(answer.headers["location"]).json() == stored


@settings(max_examples=30)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_refused(rest: httpx2.Client, body: bytes) -> None:
    assert rest.post("/v1/alerts", content=body, headers=JSON).status_code in (400, 422)


def test_a_huge_number_does_not_spoil_the_list(rest: httpx2.Client) -> None:
    topic = f"numbers-{uuid.uuid4().hex}"
    attributes = {"a": 1e30, "b": -1e30, "c": 1e19, "d": 1e-30, "e": 2**53 - 1, "f": 1e16}
    posted = rest.post("/v1/alerts", json={"title": "big", "topic": topic, "attributes": attributes}).json()
    assert posted["attributes"] == attributes
    assert rest.get("/v1/alerts", params={"topic": topic}).json()["alerts"] == [posted]


# Idempotency.


def test_a_retry_gets_the_first_answer_byte_for_byte(rest: httpx2.Client) -> None:
    key = fresh_key()
    first = rest.post("/v1/alerts", json=ALERT, headers=key)
    assert "idempotency-replayed" not in first.headers
    for spelling in (json.dumps(ALERT), json.dumps(dict(reversed(ALERT.items())), indent=3, ensure_ascii=False)):
        again = rest.post("/v1/alerts", content=spelling.encode(), headers=key | JSON)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"
    assert rest.post("/v1/alerts", json=ALERT).content != first.content


def test_a_retry_gets_the_first_answer_although_the_alert_has_expired_meanwhile(
    monkeypatch: pytest.MonkeyPatch, rest: httpx2.Client
) -> None:
    key, until = uuid.uuid4().hex, datetime.now(UTC) + timedelta(hours=1)
    alert = {"title": "brief", "expires_at": until.isoformat()}
    batch = [{**alert, "idempotency_key": f"{key}0"}, {"title": "other", "idempotency_key": f"{key}1"}]
    first = rest.post("/v1/alerts", json=alert, headers={"Idempotency-Key": key})
    stored = rest.post("/v1/alerts/batch", json=batch)
    assert (first.status_code, stored.status_code) == (201, 200)

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=2)

    monkeypatch.setattr(routes, "datetime", Later)
    again = rest.post("/v1/alerts", json=alert, headers={"Idempotency-Key": key})
    assert (again.status_code, again.content) == (201, first.content)
    repeated = rest.post("/v1/alerts/batch", json=batch)
    assert repeated.json()["results"] == [one | {"replayed": True} for one in stored.json()["results"]]
    for headers in ({}, {"Idempotency-Key": key + "new"}):
        refused = rest.post("/v1/alerts", json=alert, headers=headers)
        assert refused.status_code == 422
        assert refused.json()["errors"] == [{"pointer": "/expires_at", "detail": "must lie in the future"}]


def test_a_key_that_comes_back_with_another_alert_is_refused(rest: httpx2.Client) -> None:
    key = fresh_key()
    first = rest.post("/v1/alerts", json=ALERT, headers=key)
    changes: list[dict[str, Any]] = [
        {"title": "Other"},
        {"severity": "info"},
        {"attributes": {}},
        {"recipients": ["billing"]},
    ]
    for change in changes:
        answer = rest.post("/v1/alerts", json=ALERT | change, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert rest.post("/v1/alerts", json=ALERT, headers=key).content == first.content


def test_the_keys_of_two_sources_never_meet(lenient: Node, rest: httpx2.Client) -> None:
    key = fresh_key()
    first = rest.post("/v1/alerts", json=ALERT, headers=key)
    with lenient.rest("shop") as other:
        answer = other.post("/v1/alerts", json={"title": "Quite another"}, headers=key)
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers
    assert answer.json()["id"] != first.json()["id"]


def test_a_refused_request_does_not_use_its_key_up(rest: httpx2.Client) -> None:
    key = fresh_key()
    assert rest.post("/v1/alerts", json={"title": ""}, headers=key).status_code == 422
    answer = rest.post("/v1/alerts", json=ALERT, headers=key)
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers


async def test_of_many_at_once_with_one_key_one_is_stored(lenient: Node) -> None:
    key = fresh_key()
    async with lenient.http() as client:
        answers = await asyncio.gather(*(client.post("/v1/alerts", json=ALERT, headers=key) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    rows = await lenient.sql("SELECT seq FROM idempotency_keys WHERE key = $1", key["Idempotency-Key"])
    assert [row["seq"] for row in rows] == [answers[0].json()["seq"]]
    identity = uuid.UUID(answers[0].json()["id"])
    assert len(await lenient.sql("SELECT FROM events WHERE alert_id = $1", identity)) == 1


async def test_of_many_at_once_with_one_key_and_two_alerts_one_alert_is_stored(lenient: Node) -> None:
    key = fresh_key()
    async with lenient.http() as client:
        answers = await asyncio.gather(
            *(client.post("/v1/alerts", json={"title": f"{n % 2}"}, headers=key) for n in range(20))
        )
    stored = [answer.json() for answer in answers if answer.status_code == 201]
    assert len(stored) == 10
    assert len({alert["id"] for alert in stored}) == 1
    assert {answer.status_code for answer in answers} == {201, 422}


def test_a_key_is_a_printable_name(rest: httpx2.Client) -> None:
    for key in ("", "x" * 201, "a\tb", "a\x85b", "é" * 201):
        answer = rest.post("/v1/alerts", json=ALERT, headers=[(b"Idempotency-Key", key.encode())])
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert "Idempotency-Key" in answer.json()["detail"]


def test_a_key_that_is_not_utf_8_is_refused_with_what_to_do(rest: httpx2.Client) -> None:
    answer = rest.post("/v1/alerts", json=ALERT, headers=[(b"Idempotency-Key", b"schl\xfcssel")])
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert answer.json()["detail"] == "The header idempotency-key is not UTF-8: it has the byte 0xFC. Send it as UTF-8."


@pytest.mark.parametrize("character", ["x", "é", "Ä", "数"])
def test_a_key_may_be_200_characters_long(rest: httpx2.Client, character: str) -> None:
    key = {b"Idempotency-Key": uuid.uuid4().hex.ljust(200, character).encode()}
    first = rest.post("/v1/alerts", json=ALERT, headers=key)
    assert rest.post("/v1/alerts", json=ALERT, headers=key).content == first.content


async def test_a_key_is_forgotten_after_a_day(lenient: Node, rest: httpx2.Client) -> None:
    old, recent = fresh_key(), fresh_key()
    first = {key["Idempotency-Key"]: rest.post("/v1/alerts", json=ALERT, headers=key) for key in (old, recent)}
    for key, age in ((old, "24 hours 1 minute"), (recent, "23 hours 59 minutes")):
        await lenient.sql(
            f"UPDATE idempotency_keys SET created_at = now() - interval '{age}' WHERE key = $1", key["Idempotency-Key"]
        )
    database = Database(parse_url(lenient.database_url), StorageSettings())
    flusher = LedgerFlusher(database, LedgerRecorder(database, Settings().ledger), Settings().ledger)
    await Housekeeping(database, flusher, Settings()).run_once()
    await database.close()
    assert rest.post("/v1/alerts", json=ALERT, headers=recent).content == first[recent["Idempotency-Key"]].content
    again = rest.post("/v1/alerts", json=ALERT, headers=old)
    assert again.status_code == 201
    assert again.json()["id"] != first[old["Idempotency-Key"]].json()["id"]


# A full queue.


async def test_a_full_queue_refuses_at_once_and_stores_the_rest(database_url: str) -> None:
    storage = StorageSettings(commit_queue_size=2, commit_batch_size=1)
    with serving(database_url, Settings(storage=storage)) as node:
        blocker = await asyncpg.connect(database_url)
        async with node.http() as client:
            await blocker.execute(f"BEGIN; {TableLock.LOG.lock}")  # what every append asks for first
            posts = [asyncio.create_task(client.post("/v1/alerts", json={"title": "in flight"}))]
            await eventually(
                lambda: node.sql("SELECT FROM pg_locks WHERE relation = 'locks.log'::regclass AND NOT granted")
            )
            posts += [asyncio.create_task(client.post("/v1/alerts", json={"title": f"{n}"})) for n in range(9)]
            refused = await eventually(
                lambda: done if len(done := [post for post in posts if post.done()]) == 7 else None
            )
            for post in refused:
                answer = post.result()
                assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
                assert answer.headers["retry-after"] == "1"
            await blocker.close()
            waiting = [post for post in posts if post not in refused]
            assert {(await post).status_code for post in waiting} == {201}
        assert len(await node.sql("SELECT FROM events")) == 3
