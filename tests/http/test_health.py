from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import httpx2
import pytest

from service.app import create_app
from service.auth.issuers import load_keyring
from service.database.engine import parse_url
from service.settings import Settings
from tests.harness import PLAIN, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest() as client:
        yield client


def values(rest: httpx2.Client) -> dict[str, float]:
    answer = rest.get("/metrics", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_a_node_that_serves_is_healthy_and_ready(lenient: Node) -> None:
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = httpx2.get(lenient.base + path, **PLAIN)
        assert (answer.status_code, answer.json()) == (200, {"status": status})


async def test_without_its_database_a_node_is_healthy_but_not_ready() -> None:
    keyring = load_keyring(Settings().auth, SECRET.encode())
    app = create_app(Settings(), parse_url("postgresql://nobody:hunter2@127.0.0.1:1/nowhere"), keyring)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://node") as client:
        assert (await client.get("/healthz")).status_code == 200
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert (answer.json()["code"], answer.json()["reason"]) == ("database_unavailable", "unreachable")
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert "hunter2" not in answer.text
    assert "nowhere" not in answer.text


def test_the_metrics_count_what_happens(rest: httpx2.Client) -> None:
    before = values(rest)
    for key in ("one", "two", "two"):
        assert rest.post("/v1/alerts", json={"title": key}, headers={"Idempotency-Key": key}).status_code == 201
    assert rest.get("/v1/alerts?limit=0").status_code == 422
    after = values(rest)
    for name, increase in {
        "tocsin_alerts_stored_total": 2,
        "tocsin_alerts_replayed_total": 1,
        "tocsin_commit_seconds_count": 3,
        "tocsin_commit_batch_alerts_sum": 3,
        'tocsin_http_errors_total{code="invalid_request"}': 1,
    }.items():
        assert after[name] - before.get(name, 0) == increase, name


def test_no_request_chooses_the_labels_of_the_metrics(lenient: Node, rest: httpx2.Client) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    with lenient.rest(mark) as client:
        client.post("/v1/alerts", json={"title": mark, "topic": mark}, headers={"User-Agent": mark})
        client.get(f"/{mark}")
        client.get(f"/v1/alerts?topic={mark}&{mark}={mark}")
    assert mark not in rest.get("/metrics").text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_probe_may_ask_with_head(lenient: Node, path: str) -> None:
    answer = httpx2.head(lenient.base + path, trust_env=False)
    assert (answer.status_code, answer.content) == (200, b"")
