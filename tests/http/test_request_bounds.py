"""What is too long or too much is refused with a clear answer, before it costs anything; over real sockets."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.alerts.fields import LISTED_MAX
from service.http.openapi import operations
from service.http.request_body import BATCH_VALUES_MAX, VALUES_MAX
from service.http.request_bounds import HEADERS_MAX, PARAMETERS_MAX
from service.http.static_document import StaticDocument
from service.logs import ARGUMENT_MAX
from service.settings import LimitSettings, Settings
from tests.harness import PLAIN, WEBSOCKET, WRITE, serving, token
from tests.test_bounds import document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Node, Process

EVERYTHING = "alerts:read alerts:write alerts:manage audit:read admin"
EXAMPLE_OF = {
    "topic": "a.*",
    "severity": "info",
    "status": "open",
    "source": "billing",
    "recipient": "alice",
    "subject": "alice",
    "dedup_key": "backup",
    "alert_id": "01a1fd87-65c3-71a6-ba06-3929d3197295",
}
LISTS = [
    (path, parameter["name"])
    for path, _, operation in operations(document())
    for parameter in operation.get("parameters", ())
    if parameter["schema"].get("type") == "array"
]
BODIES = [
    (path.replace("{alert_id}", "01a1fd87-65c3-71a6-ba06-3929d3197295"), media_type)
    for path, _, operation in operations(document())
    for media_type in operation.get("requestBody", {}).get("content", {})
]


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest("billing", EVERYTHING) as client:
        yield client


def refused(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


# The target.


def test_there_are_lists_to_try() -> None:
    assert {name for _, name in LISTS} == EXAMPLE_OF.keys()


@pytest.mark.parametrize(("path", "name"), LISTS)
def test_a_list_of_too_many_values_is_refused(rest: httpx2.Client, path: str, name: str) -> None:
    value = EXAMPLE_OF[name]
    at_once: list[Any] = [("wait", "0")] if path == "/v1/events" else []  # otherwise the stream would go on
    assert rest.get(path, params=at_once + [(name, value)] * LISTED_MAX).status_code == 200
    answer = rest.get(path, params=at_once + [(name, value)] * (LISTED_MAX + 1))
    assert refused(answer) == (422, "invalid_request")
    assert answer.json()["errors"][0]["pointer"] == f"/query/{name}"
    assert refused(rest.get(path, params=[(name, "a")] * 2_400)) == (414, "target_too_long")


@pytest.mark.parametrize("path", ["/v1/alerts", "/v1/events", "/healthz", "/nothing"])
def test_a_query_of_too_many_parameters_is_refused_wherever_it_goes(rest: httpx2.Client, path: str) -> None:
    assert refused(rest.get(path + "?" + "&" * PARAMETERS_MAX)) == (414, "target_too_long")


@pytest.mark.parametrize(
    "target",
    ["/" + "eyJ" * 10_000, "/v1/alerts?q=" + "a" * 25_000, "/v1/audit/recipients/" + "a" * 5_000],
    ids=lambda target: target[:20],
)
def test_a_target_that_is_too_long_is_refused(lenient: Node, target: str) -> None:
    with httpx2.Client(base_url=lenient.base, **PLAIN) as anonymous:
        assert refused(anonymous.get(target)) == (414, "target_too_long")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("&a" * PARAMETERS_MAX, "bad_message"),
        ("&topic=" + "a," * 101, "invalid_request"),
        ("&topic=" + "a" * 101, "invalid_request"),
    ],
)
async def test_a_handshake_with_too_much_is_rejected(lenient: Node, more: str, reason: str) -> None:
    async with connect(f"{lenient.ws}?token={token('alice')}{more}", **WEBSOCKET) as stream:
        with pytest.raises(ConnectionClosed):
            await stream.recv()
        assert (stream.close_code, (stream.close_reason or "").partition(":")[0]) == (1008, reason)


async def test_a_handshake_that_is_longer_than_a_line_may_be_is_refused(lenient: Node) -> None:
    with pytest.raises(InvalidStatus, match="HTTP 431"):
        await connect(f"{lenient.ws}?token={token('alice')}" + "&topic=a" * 2_400, **WEBSOCKET)


def test_a_path_is_not_answered_in_full(lenient: Node) -> None:
    with httpx2.Client(base_url=lenient.base, **PLAIN) as anonymous:
        assert len(anonymous.get("/" + "a" * 3_000).content) < 600


def test_a_log_holds_the_beginning_of_a_target(start: Callable[..., Process]) -> None:
    process = start()
    with httpx2.Client(base_url=process.base, **PLAIN) as anonymous:
        assert anonymous.get("/x?" + "eyJ" * 7_900).status_code == 404
        assert anonymous.get("/y?" + "a" * 20_000).status_code == 404
    process.stop()
    records = [json.loads(line) for line in process.log.read_text().splitlines()]
    messages = [record["event"] for record in records if '"GET /' in record["event"]]
    assert [message.partition('"')[2][:7] for message in messages] == ["GET /x?", "GET /y?"]
    assert all(len(message) < ARGUMENT_MAX + 200 and message.endswith(" 404") for message in messages)


# Headers.


def test_too_many_headers_are_refused(lenient: Node) -> None:
    with httpx2.Client(base_url=lenient.base, **PLAIN) as client:
        answer = client.get("/healthz", headers=[(f"X-{number}", "x") for number in range(HEADERS_MAX + 1)])
    assert refused(answer) == (431, "headers_too_large")


def test_headers_that_are_not_read_to_the_end_are_refused_alike(lenient: Node) -> None:
    with httpx2.Client(base_url=lenient.base, **PLAIN) as client:
        assert refused(client.get("/healthz", headers={"X": "x" * 40_000})) == (431, "headers_too_large")


# Bodies.


def test_there_are_bodies_to_try() -> None:
    assert len(BODIES) >= 10


@pytest.mark.parametrize(("path", "media_type"), BODIES)
def test_a_body_of_too_many_values_is_refused_unread(rest: httpx2.Client, path: str, media_type: str) -> None:
    has_many = path.startswith(("/v1/alerts/batch", "/v1/integrations"))
    values = b"[]," * ((BATCH_VALUES_MAX if has_many else VALUES_MAX) // 2)
    answer = rest.post(path, content=b'{"a":[%b0]}' % values, headers={"Content-Type": media_type})
    assert refused(answer) == (413, "request_too_large")


@pytest.mark.parametrize("levels", [300, 1_000, 60_000])
@pytest.mark.parametrize(("path", "media_type"), BODIES)
def test_a_body_that_is_nested_too_deeply_is_refused(
    rest: httpx2.Client, path: str, media_type: str, levels: int
) -> None:
    nest = b"[" * levels + b"]" * levels
    for content in (
        nest,
        b'{"title":"t","attributes":{"a":%b}}' % nest,
        b'{"title":"t","extra":%b}' % nest,
        b'{"alerts":[{"labels":{"a":%b}}]}' % nest,
        b'{"alerts":[{"startsAt":%b}]}' % nest,
        b'{"specversion":"1.0","id":"1","source":"/a","type":"t","data":%b}' % nest,
        b'[{"specversion":"1.0","id":"1","source":"/a","type":"t","data":%b}]' % nest,
    ):
        answer = rest.post(path, content=content, headers={"Content-Type": media_type})
        assert answer.status_code in (200, 400, 413, 422), content[:70]
        if answer.status_code == 200:  # of a batch, each item is answered by itself
            assert {result["status"] for result in answer.json().get("results", ())} <= {400, 413, 422}


def test_many_faults_are_counted_and_not_listed(rest: httpx2.Client) -> None:
    answer = rest.post("/v1/alerts", json={f"field {number}": 0 for number in range(5_000)})
    assert refused(answer) == (422, "invalid_request")
    assert "5001 fields" in answer.json()["detail"]
    assert "errors" not in answer.json()


# Without a token.


@pytest.fixture
def strict(shared_url: str) -> Iterator[Node]:
    with serving(shared_url, Settings(limits=LimitSettings(anonymous_limit="6/hour"))) as running:
        yield running


def test_requests_that_need_no_token_are_limited_by_address(strict: Node) -> None:
    with httpx2.Client(base_url=strict.base, **PLAIN) as anonymous:
        paths = ("/", "/docs", "/openapi.json", "/metrics", "/nothing", "/console/main.js")
        assert [anonymous.get(path).status_code for path in paths] == [200, 200, 200, 200, 404, 200]
        for path in paths:
            answer = anonymous.get(path)
            assert refused(answer) == (429, "rate_limited")
            assert 500 < int(answer.headers["retry-after"]) <= 600  # six an hour
        assert {anonymous.get(path).status_code for path in ("/healthz", "/readyz") for _ in range(10)} == {200}
        assert refused(anonymous.get("/v1/nothing")) == (429, "rate_limited")
        assert refused(anonymous.delete("/v1/alerts")) == (429, "rate_limited")
    with strict.rest() as client:
        assert client.get("/v1/alerts").status_code == 200
        assert client.post("/v1/alerts", json={"title": "t"}).status_code == 201


def test_the_openapi_document_is_made_once(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []

    class Counted(StaticDocument):
        def __init__(self, content: bytes, *others: Any) -> None:
            made.append(content)
            super().__init__(content, *others)

    monkeypatch.setattr("service.http.openapi.StaticDocument", Counted)
    with serving(shared_url) as node, httpx2.Client(base_url=node.base, **PLAIN) as anonymous:
        answers = [anonymous.get("/openapi.json").json() for _ in range(3)]
    assert answers == [document()] * 3
    assert [json.loads(content) for content in made] == [document()]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/console/settings.json"])
def test_a_document_is_compressed_and_not_sent_again(lenient: Node, path: str) -> None:
    with httpx2.Client(base_url=lenient.base, **PLAIN) as anonymous:
        plain = anonymous.get(path, headers={"Accept-Encoding": "identity"})
        with anonymous.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as compressed:
            raw = b"".join(compressed.iter_raw())
        assert (compressed.headers["content-encoding"], gzip.decompress(raw)) == ("gzip", plain.content)
        assert compressed.headers["etag"] == plain.headers["etag"]
        again = anonymous.get(path, headers={"If-None-Match": plain.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert anonymous.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_token_does_not_count_as_anonymous_and_none_counts_as_a_failure(shared_url: str) -> None:
    limits = LimitSettings(anonymous_limit="1/hour", auth_failure_limit="2/hour")
    with serving(shared_url, Settings(limits=limits)) as node:
        with node.rest(scope=WRITE) as client:
            assert [client.post("/v1/alerts", json={"title": "t"}).status_code for _ in range(3)] == [201] * 3
        with httpx2.Client(base_url=node.base, **PLAIN) as anonymous:
            assert [anonymous.get("/v1/alerts").status_code for _ in range(3)] == [401, 401, 429]
            assert [anonymous.get(path).status_code for path in ("/v1/nothing", "/docs")] == [404, 429]
