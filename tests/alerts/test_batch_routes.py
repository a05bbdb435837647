from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2
import pytest
from sqlalchemy import make_url

from service.alerts.committer import BATCH_BYTES
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
    async with await lenient.live("alice", topics=topic) as stream:
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
