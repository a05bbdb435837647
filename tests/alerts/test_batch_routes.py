from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2
import pytest
from sqlalchemy import make_url

from service.alerts.batch_key import BatchKey
from service.alerts.committer import BATCH_BYTES
from service.database.engine import Database, parse_url
from service.errors import IdempotencyMismatch
from service.settings import LimitSettings, ServerSettings, Settings, StorageSettings
from tests.harness import WRITE, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node

BATCH = "/v1/alerts/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest() as client:
        yield client


def results(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def lines(*alerts: Any) -> bytes:
    return b"\n".join(json.dumps(alert).encode() for alert in alerts)


def test_each_alert_of_a_batch_is_stored_and_answered_in_order(rest: httpx2.Client) -> None:
    alerts = [{"title": f"alert {number}", "severity": "error", "attributes": {"n": number}} for number in range(120)]
    found = results(rest.post(BATCH, json=alerts))
    assert [result["status"] for result in found] == [201] * 120
    seqs = [result["seq"] for result in found]
    assert seqs == list(range(seqs[0], seqs[0] + 120))
    for alert, result in zip(alerts[::40], found[::40], strict=True):
        stored = rest.get(f"/v1/alerts/{result['id']}").json()
        assert {name: stored[name] for name in alert} == alert
        assert (stored["seq"], stored["source"]) == (result["seq"], "billing")


async def test_a_batch_reaches_a_stream_as_single_alerts_do(lenient: Node, rest: httpx2.Client) -> None:
    topic = f"batch-{uuid.uuid4().hex}"
    async with await lenient.live("alice", topic=topic) as stream:
        found = results(rest.post(BATCH, json=[{"title": f"{number}", "topic": topic} for number in range(30)]))
        events = await stream.events(30)
    assert [(event["seq"], event["alert"]["id"]) for event in events] == [(r["seq"], r["id"]) for r in found]
    assert [event["alert"]["title"] for event in events] == [str(number) for number in range(30)]


def test_an_item_is_answered_as_a_single_post_would_be(rest: httpx2.Client) -> None:
    alerts: list[Any] = [{"title": "good"}, {"title": ""}, {"title": "n", "attributes": {"n": 2**53}}, {"title": "too"}]
    for body in ({"content": lines(*alerts), "headers": NDJSON}, {"json": alerts}):
        found = results(rest.post(BATCH, **body))
        assert [result["status"] for result in found] == [201, 422, 422, 201]
        assert found[3]["seq"] == found[0]["seq"] + 1
        assert found[1:3] == [rest.post("/v1/alerts", json=alert).json() for alert in alerts[1:3]]


@pytest.mark.parametrize("text", ["a", "schlüssel-1", "Ä", "数据库", "a%20b"])
def test_an_idempotency_key_means_the_same_in_a_batch_and_alone(rest: httpx2.Client, text: str) -> None:
    key = uuid.uuid4().hex + text
    alone = rest.post("/v1/alerts", json={"title": "once"}, headers={b"Idempotency-Key": key.encode()}).json()
    batch = [
        {"title": "once", "idempotency_key": key},
        {"title": "other", "idempotency_key": key},
        {"title": "new", "idempotency_key": key + "'"},
        {"title": "new", "idempotency_key": key + "'"},
    ]
    first = results(rest.post(BATCH, json=batch))
    assert first[0] == {"status": 201, "id": alone["id"], "seq": alone["seq"], "replayed": True}
    assert first[1]["code"] == "idempotency_mismatch"
    assert first[3] == first[2] | {"replayed": True}
    again = results(rest.post(BATCH, content=lines(*batch), headers=NDJSON))
    assert again[2:] == [first[3], first[3]]
    posted = rest.post("/v1/alerts", json={"title": "new"}, headers={b"Idempotency-Key": f"{key}'".encode()})
    assert (posted.json()["id"], posted.headers["idempotency-replayed"]) == (first[2]["id"], "true")


def test_a_body_that_is_no_batch_is_refused_whole(rest: httpx2.Client) -> None:
    for content, status, code in ((b"[{]", 400, "malformed_request"), (b"[]", 422, "invalid_request")):
        answer = rest.post(BATCH, content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (status, code)


LINES = b'{"title": "a"}\n{"title": "b"}\n'
ARRAY = b'[{"title": "a"},\n{"title": "b"}\n]'


@pytest.mark.parametrize(
    ("media", "content", "status", "advice"),
    [
        ("application/x-ndjson", LINES.replace(b"\n", b""), 400, "--data-binary"),
        ("application/x-ndjson", LINES.replace(b"\n", b"\r"), 400, "--data-binary"),
        ("application/x-ndjson", b'{\n"title":\n"a"\n}\n', 400, "one JSON object a line"),
        ("application/x-ndjson", ARRAY, 400, "Content-Type: application/json"),
        ("application/x-ndjson", ARRAY.replace(b"\n", b""), 400, "Content-Type: application/json"),
        ("application/x-ndjson", b"\xef\xbb\xbf \n" + ARRAY, 400, "Content-Type: application/json"),
        ("application/x-ndjson", b'{"alerts": [\n' + ARRAY[1:-1] + b"\n]}", 400, "Content-Type: application/json"),
        ("application/x-ndjson", ARRAY[1:-1], 400, "one JSON object a line"),
        ("application/x-ndjson", ARRAY[1:-1] + b",\n", 400, "one JSON object a line"),
        ("application/x-ndjson", b"[]", 400, "Content-Type: application/json"),
        ("application/x-ndjson", b"title,topic\na,b\n", 400, "one JSON object a line"),
        ("application/x-ndjson", gzip.compress(LINES, mtime=0), 400, "Content-Encoding: gzip"),
        ("application/x-ndjson", LINES.decode().encode("utf-16"), 400, "send it as UTF-8"),
        ("application/x-ndjson", LINES.decode().encode("utf-16-le"), 400, "send it as UTF-8"),
        ("application/x-ndjson", b"", 422, "empty"),
        ("application/x-ndjson", b"\xef\xbb\xbf\n", 422, "empty"),
        ("application/json", LINES, 400, "Content-Type: application/x-ndjson"),
        ("application/json", LINES.replace(b"\n", b""), 400, "Content-Type: application/x-ndjson"),
        ("application/json", b'{"title": "a"}', 422, "POST a single one to /v1/alerts"),
        ("application/json", b'{"alerts": [{"title": "a"}]}', 422, "must be a JSON array"),
        ("application/json", gzip.compress(ARRAY, mtime=0), 400, "Content-Encoding: gzip"),
        ("application/json", ARRAY.decode().encode("utf-16"), 400, "send it as UTF-8"),
        ("application/json", b"title,topic\na,b\n", 400, "not valid JSON"),
        ("application/json", b"[]", 422, "empty"),
        ("application/json", b"", 400, "not valid JSON"),
        ("application/x-www-form-urlencoded", LINES, 415, "--data-binary"),
        ("text/csv", b"title\na\n", 415, "application/x-ndjson"),
        ("text/plain", ARRAY, 415, "application/json"),
        ("application/gzip", gzip.compress(LINES, mtime=0), 415, "application/x-ndjson"),
        ("", LINES, 415, "application/x-ndjson"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_batch_that_cannot_be_read_is_refused_whole_with_what_to_write_instead(
    rest: httpx2.Client, media: str, content: bytes, status: int, advice: str
) -> None:
    before = rest.get("/v1/alerts").json()["head"]
    answer = rest.post(BATCH, content=content, headers={"Content-Type": media})
    assert (answer.status_code, advice in answer.json()["detail"]) == (status, True), answer.text
    assert rest.get("/v1/alerts").json()["head"] == before


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_before_a_batch_is_ignored(rest: httpx2.Client, before: bytes) -> None:
    for content, media in ((LINES, NDJSON["Content-Type"]), (ARRAY, "application/json")):
        answer = rest.post(BATCH, content=before + content, headers={"Content-Type": media})
        assert [result["status"] for result in results(answer)] == [201, 201]


@pytest.mark.parametrize(
    ("batch", "status", "code"),
    [
        ([{"title": ""}, {"titel": "a"}], 422, "invalid_request"),
        (["a", None, []], 422, "invalid_request"),
        ([{"title": "a", "topic": "tocsin.x"}, {"title": "b", "topic": "tocsin.y"}], 403, "topic_reserved"),
        ([{"title": "a", "topic": "tocsin.x"}, {"title": ""}], 422, "invalid_request"),
        ([{"title": "a", "idempotency_key": "known"}] * 2, 422, "idempotency_mismatch"),
        ([{"title": "a", "links": [{"title": "t" * 190, "url": "https://x/" + "u" * 1900}] * 14}] * 2, 413, None),
    ],
)
def test_a_batch_in_which_every_alert_failed_is_no_success(
    rest: httpx2.Client, batch: list[Any], status: int, code: str | None
) -> None:
    rest.post(BATCH, json=[{"title": "first", "idempotency_key": "known"}])
    for body in ({"json": batch}, {"content": lines(*batch), "headers": NDJSON}):
        answer = rest.post(BATCH, **body)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (status, code or "request_too_large"), answer.text
        assert len(problem["results"]) == len(batch)
        assert all(result["status"] >= 400 and result["code"] for result in problem["results"])
        assert problem["detail"].startswith(f"None of the {len(batch)} alerts is stored. The first: ")


def test_a_batch_of_events_in_which_every_event_failed_is_no_success(rest: httpx2.Client) -> None:
    media = {"Content-Type": "application/cloudevents-batch+json"}
    answer = rest.post("/v1/integrations/cloudevents", content=b'[{"id": "1"}, 5]', headers=media)
    assert (answer.status_code, len(answer.json()["results"])) == (422, 2)
    assert rest.post("/v1/integrations/cloudevents", content=b"[]", headers=media).json() == {"results": []}


def test_what_was_refused_is_counted_for_its_source_as_often_as_it_was(database_url: str) -> None:
    with serving(database_url) as node, node.rest("shop") as client, node.rest("ann", "audit:read") as auditor:
        client.post(BATCH, json=[{"title": ""}] * 3)

        def refused() -> bool:
            return any(one["refused"] == 3 for one in auditor.get("/v1/audit/sources").json()["sources"])

        asyncio.run(eventually(refused))


# A key of the batch.


def keyed(key: str, **headers: str) -> dict[str, str]:
    return {"Idempotency-Key": key, "Content-Type": "application/json", **headers}


def test_a_batch_with_a_key_is_stored_once(rest: httpx2.Client) -> None:
    key = uuid.uuid4().hex
    batch = [{"title": "a"}, {"title": ""}, {"title": "b", "dedup_key": key}, {"title": "c", "idempotency_key": key}]
    body = json.dumps(batch).encode()
    first = rest.post(BATCH, content=body, headers=keyed(key))
    assert [result["status"] for result in results(first)] == [201, 422, 201, 201]
    assert "idempotency-replayed" not in first.headers
    for headers, content in (
        (keyed(key), body),
        (keyed(key, **{"Content-Encoding": "gzip"}), gzip.compress(body)),
    ):
        again = rest.post(BATCH, content=content, headers=headers)
        assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    head = rest.get("/v1/alerts").json()["head"]
    assert head == first.json()["results"][3]["seq"] or head == first.json()["results"][2]["seq"]


@pytest.mark.parametrize("other", [[{"title": "b"}], [{"title": "a"}, {"title": "b"}], [{"title": ""}]])
def test_a_key_with_another_batch_is_refused_whole(rest: httpx2.Client, other: list[Any]) -> None:
    key = uuid.uuid4().hex
    results(rest.post(BATCH, json=[{"title": "a"}], headers={"Idempotency-Key": key}))
    before = rest.get("/v1/alerts").json()["head"]
    answer = rest.post(BATCH, json=other, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert rest.get("/v1/alerts").json()["head"] == before


def test_the_keys_of_batches_single_posts_and_sources_are_separate(lenient: Node, rest: httpx2.Client) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    stored = [rest.post("/v1/alerts", json={"title": "a"}, headers=key).json()["seq"]]
    stored += [results(rest.post(BATCH, json=[{"title": "a"}], headers=key))[0]["seq"]]
    with lenient.rest("shop") as shop:
        stored += [results(shop.post(BATCH, json=[{"title": "a"}], headers=key))[0]["seq"]]
    assert len(set(stored)) == 3


def test_a_batch_of_which_nothing_was_stored_gives_its_key_back(rest: httpx2.Client) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    assert rest.post(BATCH, json=[{"titel": "a"}], headers=key).status_code == 422
    assert rest.post(BATCH, content=b"[", headers=keyed(key=key["Idempotency-Key"])).status_code == 400
    assert [result["status"] for result in results(rest.post(BATCH, json=[{"title": "a"}], headers=key))] == [201]


async def test_a_key_is_given_back_only_by_who_claimed_it_first_and_alone(lenient: Node) -> None:
    database = Database(parse_url(lenient.database_url), StorageSettings())
    try:
        key, other = (BatchKey.of(uuid.uuid4().hex, "k", body) for body in (b"x", b"y"))
        other = other._replace(source=key.source)
        first, second = await key.claim(database), await key.claim(database)
        for claim in (second, first):
            await key.release(database, claim)
            with pytest.raises(IdempotencyMismatch):
                await other.claim(database)
        await other.keep(database, b"[1]")
        assert (await key.claim(database)).answer is None
        await key.keep(database, b"[2]")
        assert (await key.claim(database)).answer == b"[2]"
    finally:
        await database.close()


@pytest.mark.parametrize("key", ["", "a\x1fb", "x" * 201])
def test_a_key_that_cannot_be_one_is_refused(rest: httpx2.Client, key: str) -> None:
    answer = rest.post(BATCH, json=[{"title": "a"}], headers={"Idempotency-Key": key})
    assert answer.status_code in {400, 422}


async def test_a_batch_that_was_stored_in_part_before_a_crash_is_completed(lenient: Node, rest: httpx2.Client) -> None:
    key = uuid.uuid4().hex
    batch = [{"title": f"{key} {number}"} for number in range(5)]
    first = results(rest.post(BATCH, json=batch, headers={"Idempotency-Key": key}))
    # As if the node had crashed after it stored three of them: there are no answer and no keys of the others.
    await lenient.sql("UPDATE idempotency_keys SET answer = NULL WHERE key = $1", f"\x1f{key}")
    for number in (1, 4):
        await lenient.sql("DELETE FROM idempotency_keys WHERE key = $1", f"\x1f{key}\x1f{number}")
    other = rest.post(BATCH, json=[*batch, {"title": "more"}], headers={"Idempotency-Key": key})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    again = rest.post(BATCH, json=batch, headers={"Idempotency-Key": key})
    assert [
        (result.get("replayed", False), result["id"] == before["id"])
        for result, before in zip(results(again), first, strict=True)
    ] == [(True, True), (False, False), (True, True), (True, True), (False, False)]
    assert "idempotency-replayed" not in again.headers
    third = rest.post(BATCH, json=batch, headers={"Idempotency-Key": key})
    assert (third.content, third.headers["idempotency-replayed"]) == (again.content, "true")


async def test_a_batch_whose_answer_was_not_kept_is_answered_by_what_it_stored(
    lenient: Node, rest: httpx2.Client
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    batch = [{"title": "a"}, {"title": "b", "dedup_key": key["Idempotency-Key"]}]
    first = results(rest.post(BATCH, json=batch, headers=key))
    await lenient.sql("UPDATE idempotency_keys SET answer = NULL WHERE key = $1", f"\x1f{key['Idempotency-Key']}")
    again = rest.post(BATCH, json=batch, headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert results(again) == [result | {"replayed": True} for result in first]


def test_a_batch_is_answered_again_only_as_far_as_the_token_may_post_it(lenient: Node, rest: httpx2.Client) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    batch = [{"title": "a", "topic": "one"}, {"title": ""}, {"title": "b", "topic": "two"}]
    first = results(rest.post(BATCH, json=batch, headers=key))
    with lenient.rest(topics=["two"]) as narrower, lenient.rest(topics=["three"]) as other:
        again = narrower.post(BATCH, json=batch, headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        forbidden, *rest_of_it = results(again)
        assert forbidden == narrower.post("/v1/alerts", json=batch[0]).json()
        assert rest_of_it == first[1:]
        refused = other.post(BATCH, json=batch, headers=key)
        assert (refused.status_code, [one["status"] for one in refused.json()["results"]]) == (422, [403, 422, 403])
    whole = rest.post(BATCH, json=batch, headers=key)
    assert (results(whole), whole.headers["idempotency-replayed"]) == (first, "true")


def test_a_token_that_may_post_nothing_of_a_batch_is_not_given_its_answer(lenient: Node, rest: httpx2.Client) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    batch = [{"title": "a", "topic": "one"}] * 2
    results(rest.post(BATCH, json=batch, headers=key))
    with lenient.rest(topics=["zz"]) as other:
        answer = other.post(BATCH, json=batch, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (403, "topic_forbidden")
        assert not any("id" in one for one in answer.json()["results"])


def test_the_same_batch_at_once_is_stored_once(lenient: Node) -> None:
    key = uuid.uuid4().hex
    batch = [{"title": "at once", "topic": f"at-once-{key[:8]}"} for _ in range(50)]

    async def all_of_them() -> list[httpx2.Response]:
        async with lenient.http("billing") as client:
            posts = (client.post(BATCH, json=batch, headers={"Idempotency-Key": key}) for _ in range(8))
            return await asyncio.gather(*posts)

    answers = asyncio.run(all_of_them())
    ids = [[result["id"] for result in results(answer)] for answer in answers]
    assert all(one == ids[0] for one in ids)
    with lenient.rest() as client:
        assert len(client.get(f"/v1/alerts?limit=200&topic=at-once-{key[:8]}").json()["alerts"]) == 50


def test_a_batch_needs_json_and_the_scope(lenient: Node, rest: httpx2.Client) -> None:
    answer = rest.post(BATCH, content=b"[]", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    with lenient.rest("alice", "alerts:read") as reader:
        assert reader.post(BATCH, json=[{"title": "t"}]).json()["code"] == "scope_missing"


def test_a_batch_beyond_a_limit_is_refused_whole(database_url: str) -> None:
    settings = Settings(
        limits=LimitSettings(write_limit="6/hour"),
        server=ServerSettings(batch_max_bytes=2000, request_max_bytes=100_000),
        storage=StorageSettings(commit_queue_size=5),
    )
    with serving(database_url, settings) as node, node.rest() as client:
        large = client.post(BATCH, json=[{"title": "t" * 100}] * 20)
        assert (large.status_code, large.json()["code"]) == (413, "request_too_large")
        full = client.post(BATCH, json=[{"title": "t"}] * 6)
        assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (503, "overloaded", "1")
        assert [result["seq"] for result in results(client.post(BATCH, json=[{"title": "t"}] * 5))] == [1, 2, 3, 4, 5]
        limited = client.post(BATCH, json=[{"title": "t"}] * 2)  # one is left: what was refused costs nothing
        assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
        assert (limited.json()["remaining"], 500 < int(limited.headers["retry-after"]) <= 600) == (1, True)
        assert len(results(client.post(BATCH, json=[{"title": "t"}]))) == 1


async def test_a_batch_larger_than_a_commit_is_stored_in_several(database_url: str) -> None:
    with serving(database_url, Settings(storage=StorageSettings(commit_batch_size=7))) as node, node.rest() as client:
        found = results(client.post(BATCH, json=[{"title": f"{number}"} for number in range(40)]))
        assert [result["seq"] for result in found] == list(range(1, 41))
        rows = await node.sql("SELECT count(DISTINCT xmin::text) AS transactions FROM events")
        assert rows[0]["transactions"] == 6


async def test_a_transaction_stores_so_many_bytes(node: Node) -> None:
    with node.rest() as client:
        assert len(results(client.post(BATCH, json=[{"title": "t", "body": "b" * 16_000}] * 200))) == 200
    rows = await node.sql("SELECT count(DISTINCT xmin::text) AS transactions FROM events")
    assert rows[0]["transactions"] >= 200 * 16_000 // BATCH_BYTES


async def test_a_batch_during_an_outage_is_refused_whole_and_can_be_sent_again(database_url: str) -> None:
    with (
        serving(database_url, Settings(storage=StorageSettings(commit_recovery_timeout_seconds=5))) as node,
        node.rest() as client,
    ):
        batch = [{"title": f"{n}", "idempotency_key": f"key {n}"} for n in range(3)] + [{"title": ""}]
        await refuse_connections(node, refuse=True)
        refused = client.post(BATCH, json=batch)
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        await refuse_connections(node, refuse=False)

        def again() -> list[dict[str, Any]] | None:
            answer = client.post(BATCH, json=batch)
            return results(answer) if answer.status_code == 200 else None

        assert [result["status"] for result in await eventually(again)] == [201, 201, 201, 422]
        assert [row["seq"] for row in await node.sql("SELECT seq FROM events ORDER BY seq")] == [1, 2, 3]


async def refuse_connections(node: Node, *, refuse: bool) -> None:
    """Let nobody but this connection into the database, or everybody again."""
    name = make_url(node.database_url).database
    admin = await asyncpg.connect(
        make_url(node.database_url).set(database="postgres").render_as_string(hide_password=False)
    )
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {str(not refuse).lower()}')
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    await admin.close()


def test_a_token_is_asked_for_before_the_batch_is_read(lenient: Node) -> None:
    answer = httpx2.post(lenient.base + BATCH, content=b"[", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
    forged = {"Authorization": f"Bearer {token('billing', WRITE)}x", "Content-Type": "application/json"}
    assert httpx2.post(lenient.base + BATCH, content=b"[", headers=forged).json()["code"] == "token_invalid"
