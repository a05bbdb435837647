"""What a request costs of a rate limit: nothing until it is known to be valid, and nothing if it is refused."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from service.auth.principal import Scope
from service.settings import LimitSettings, Settings
from tests.harness import PATIENCE, READ, WRITE, serving, token
from tests.http.test_query import WITH_TOKEN
from tests.test_contracts import call

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node

ALERT = {"title": "one more"}
BATCH = "/v1/alerts/batch"
EVERYTHING = " ".join(Scope)
PARAMETERS = {"GET /v1/events": {"wait": "0"}, "GET /v1/names": {"subject": "alice"}}


def limited(url: str, rate: str) -> Any:
    return serving(url, Settings(limits=LimitSettings(write_limit=rate, read_limit=rate)))


@pytest.fixture(scope="module")
def twenty(shared_url: str) -> Iterator[Node]:
    with limited(shared_url, "20/hour") as node:
        yield node


def left(client: httpx2.Client) -> int:
    """Return how many alerts the subject may still post, less than nine tenths of the limit."""
    answer = client.post(BATCH, json=[ALERT] * 100)
    assert answer.status_code == 429, "nine tenths were left"
    remaining: int = answer.json()["remaining"]
    return remaining


@pytest.fixture(scope="module")
def one(shared_url: str) -> Iterator[Node]:
    with limited(shared_url, "1/hour") as node:
        yield node


@pytest.mark.parametrize("name", WITH_TOKEN)
def test_each_operation_costs_one(one: Node, name: str) -> None:
    options = {"params": PARAMETERS.get(name, {})}
    with one.rest(f"subject of {name}", EVERYTHING) as client:
        assert call(client, name, **options).status_code in {200, 201, 204, 404}
        again = call(client, name, **options)
    assert again.status_code == (503 if name.endswith("/alertmanager") else 429), again.text
    assert "0 are left, and this request has 1" in again.json()["detail"]


BODIES = {
    "/v1/alerts": "application/json",
    BATCH: "application/json",
    f"{BATCH}#lines": "application/x-ndjson",
    "/v1/alerts/resolve": "application/json",
    f"/v1/alerts/{UUID(int=7)}/acknowledge": "application/json",
    f"/v1/alerts/{UUID(int=7)}/comments": "application/json",
    "/v1/integrations/alertmanager": "application/json",
    "/v1/integrations/apprise": "application/json",
    "/v1/integrations/cloudevents": "application/cloudevents+json",
}


def begin(node: Node, path: str, media: str, subject: str) -> socket.socket:
    """Begin a request of which the body does not arrive, and wait until the service has asked for that."""
    address = urlsplit(node.base)
    connection = socket.create_connection((address.hostname or "", address.port or 0), PATIENCE)
    head = [
        f"POST {path.partition('#')[0]} HTTP/1.1",
        f"Host: {address.netloc}",
        f"Authorization: Bearer {token(subject, EVERYTHING)}",
        f"Content-Type: {media}",
        "Content-Length: 1000",
        "Expect: 100-continue",
    ]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
    return connection


@pytest.mark.parametrize(("path", "media"), BODIES.items(), ids=BODIES)
def test_a_body_that_does_not_arrive_keeps_nobody_out(twenty: Node, path: str, media: str) -> None:
    subject = uuid4().hex
    with twenty.rest(subject) as client:
        slow = [begin(twenty, path, media, subject) for _ in range(5)]
        try:
            assert [client.post("/v1/alerts", json=ALERT).status_code for _ in range(21)] == [201] * 20 + [429]
        finally:
            for connection in slow:
                connection.close()


REFUSED: list[dict[str, Any]] = [
    {"url": BATCH, "json": [{"b": 1}] * 500},
    {
        "url": "/v1/integrations/cloudevents",
        "content": b"[" + b"{}," * 499 + b"{}]",
        "headers": {"Content-Type": "application/cloudevents-batch+json"},
    },
    {
        "url": "/v1/integrations/alertmanager",
        "json": {"alerts": [{"labels": {"alertname": "a", "topic": "tocsin.x"}}] * 500},
    },
]


@pytest.mark.parametrize("batch", REFUSED, ids=lambda batch: batch["url"])
async def test_batches_that_are_being_refused_keep_nobody_out(twenty: Node, batch: dict[str, Any]) -> None:
    async with twenty.http(uuid4().hex) as client:
        refused = [asyncio.create_task(client.post(**batch)) for _ in range(4)]
        posted = [(await client.post("/v1/alerts", json=ALERT)).status_code for _ in range(20)]
        assert posted == [201] * 20
        assert {answer.status_code for answer in await asyncio.gather(*refused)} <= {403, 422, 429, 503}


def test_of_alertmanager_only_what_may_be_stored_counts(twenty: Node) -> None:
    alerts = [{"labels": {"alertname": str(number), "topic": "tocsin.x"}} for number in range(15)]
    alerts += [{"labels": {"alertname": str(number)}} for number in range(5)]
    with twenty.rest(uuid4().hex) as client:
        assert client.post("/v1/integrations/alertmanager", json={"alerts": alerts}).status_code == 403
        assert left(client) == 15


def test_where_nothing_is_left_a_batch_learns_what_it_has_itself(twenty: Node) -> None:
    with twenty.rest(uuid4().hex) as client:
        assert client.post(BATCH, json=[ALERT] * 20).status_code == 200
        answer = client.post(BATCH, json=[ALERT] * 3)
        assert "0 are left, and this request has 3." in answer.json()["detail"]
        assert 2 * 180 < int(answer.headers["retry-after"]) <= 3 * 180


@pytest.mark.parametrize("used", ["header", "items", "some items", "an item beside one that is not valid"])
def test_what_has_a_key_of_another_request_counts_as_if_it_were_stored(twenty: Node, used: str) -> None:
    key = uuid4().hex
    headers = {"Idempotency-Key": key} if used == "header" else {}
    items = [{"title": "other", "idempotency_key": key}] * 10
    if used == "header":
        items = [ALERT] * 10
    elif used == "some items":
        items[0] = ALERT
    elif used == "an item beside one that is not valid":
        items.append({"titel": "t"})
    with twenty.rest(uuid4().hex) as client:
        assert client.post(BATCH, json=[{**ALERT, "idempotency_key": key}], headers=headers).status_code == 200
        answer = client.post(BATCH, json=items, headers=headers)
        assert "idempotency_mismatch" in answer.text
        assert left(client) == 20 - 1 - 10


def test_a_comment_with_a_used_key_counts(twenty: Node) -> None:
    with twenty.rest(uuid4().hex, f"{READ} {WRITE} alerts:manage") as client:
        headers = {"Idempotency-Key": "k"}
        posted = client.post("/v1/alerts", json=ALERT, headers=headers).json()["id"]
        for _ in range(4):
            answer = client.post(f"/v1/alerts/{posted}/comments", json={"text": "t"}, headers=headers)
            assert answer.json()["code"] == "idempotency_mismatch"
        assert left(client) == 15
