from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi import FastAPI

from service.errors import InvalidRequest, RequestRefused
from service.http import problems
from service.http.problems import DETAIL_MAX, FAULTS_MAX, SHOWN_MAX, refusal_of_faults
from tests.harness import PLAIN, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node

UNKNOWN = "/v1/alerts/01a1fd87-65c3-71a6-ba06-3929d3197295"
INTERNALS = ("Traceback", "sqlalchemy", "asyncpg", "pydantic", "service/", "site-packages", ".py", "SELECT", "INSERT")


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest() as client:
        yield client


def document(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Return a problem document, once it has the form of one and shows nothing internal."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    fields: dict[str, Any] = response.json()
    assert {*fields} - {"errors"} == {"type", "title", "status", "code", "detail"}
    assert (fields["status"], fields["code"]) == (status, code)
    assert fields["type"] == f"urn:tocsin:problem:{code}"
    assert fields["title"]
    assert fields["detail"]
    assert not [word for word in INTERNALS if word in response.text]
    return fields


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("POST", "/nothing", {}, 404, "not_found"),
        ("GET", "/console/nothing.js", {}, 404, "not_found"),
        ("GET", "/console/..%2f..%2fsettings", {}, 404, "not_found"),
        ("GET", "/%00%0d%0a", {}, 404, "not_found"),
        ("GET", "/%00%ff%0d%0a", {}, 400, "malformed_request"),
        ("GET", UNKNOWN, {}, 404, "not_found"),
        ("GET", "/v1/alerts/5", {}, 404, "not_found"),
        ("PUT", "/v1/alerts", {}, 405, "method_not_allowed"),
        ("GET", "/v1/alerts/batch", {}, 405, "method_not_allowed"),
        ("POST", "/console/main.js", {}, 405, "method_not_allowed"),
        ("GET", "/v1/alerts/5/timeline", {}, 404, "not_found"),
        ("GET", "/v1/alerts?limit=0", {}, 422, "invalid_request"),
        ("GET", "/v1/alerts?limit=x&status=gone", {}, 422, "invalid_request"),
        ("GET", "/v1/alerts?topic=A&topic=b", {}, 422, "invalid_request"),
        ("GET", "/v1/alerts?cursor=%00", {}, 422, "invalid_request"),
        ("POST", "/v1/alerts", {"json": {}}, 422, "invalid_request"),
        ("POST", "/v1/alerts", {"json": []}, 422, "invalid_request"),
        (
            "POST",
            "/v1/alerts",
            {"content": "{", "headers": {"Content-Type": "application/json"}},
            400,
            "malformed_request",
        ),
        ("POST", "/v1/alerts", {"content": "{}"}, 415, "unsupported_media_type"),
        ("POST", "/v1/alerts", {"json": "x" * 300_000}, 413, "request_too_large"),
        ("GET", "/v1/alerts", {"headers": {"Authorization": ""}}, 401, "token_missing"),
        ("GET", "/v1/alerts", {"headers": {"Authorization": "Bearer a.b.c"}}, 401, "token_invalid"),
    ],
)
def test_every_refusal_is_a_problem_document(  # noqa: PLR0917 - the columns of a table
    rest: httpx2.Client, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    document(rest.request(method, path, **options), status, code)


LONG = "abc~/é" * 30_000
EVENT = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t"}


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/v1/integrations/cloudevents", {**EVENT, "specversion": LONG}),
        ("POST", "/v1/integrations/cloudevents", {**EVENT, "specversion": [LONG]}),
        ("POST", "/v1/integrations/cloudevents", {**EVENT, LONG: 1}),
        ("POST", "/v1/integrations/cloudevents", {**EVENT, "a" * 100_000: []}),
        ("POST", "/v1/alerts", {"title": "t", LONG: 1}),
        ("POST", "/v1/alerts", {"title": "t", **{LONG[:4_000] + f"{number}": 1 for number in range(50)}}),
        ("POST", "/v1/alerts", {"title": "t", "severity": LONG}),
        ("POST", "/v1/alerts", {"title": "t", "topic": LONG}),
        ("POST", "/v1/alerts", {"title": "t", "attributes": {LONG[:4_000]: {"\0": 1}}}),
        ("POST", "/v1/alerts", {"title": "t", "links": [{LONG[:4_000]: 1}]}),
        ("GET", "/v1/alerts?topic=" + "A" * 4_000, None),
        ("GET", "/v1/alerts?severity=" + "A" * 4_000, None),
        ("GET", "/v1/alerts?attributes=" + "A" * 4_000, None),
        ("GET", "/v1/alerts?cursor=" + "A" * 4_000, None),
        ("GET", "/v1/events?after=" + "A" * 4_000, None),
        ("GET", "/v1/events?after=0&topic=" + "A" * 4_000, None),
        ("GET", "/v1/" + "A" * 4_000, None),
        ("PUT", "/console/" + "A" * 4_000, None),
    ],
)
def test_no_refusal_repeats_more_than_a_little_of_what_was_sent(
    lenient: Node, method: str, path: str, sent: dict[str, Any] | None
) -> None:
    headers = {"Content-Type": "application/cloudevents+json"} if "cloudevents" in path else {}
    headers |= {"Authorization": f"Bearer {token('billing', 'alerts:read alerts:write')}"}
    content = json.dumps(sent, ensure_ascii=False).encode() if sent is not None else None
    if "Content-Type" not in headers:
        headers["Content-Type"] = "application/json"
    answer = httpx2.request(method, lenient.base + path, content=content, headers=headers, **PLAIN)
    assert 400 <= answer.status_code < 500
    fields = answer.json()
    texts = [fields["detail"], *(text for fault in fields.get("errors", ()) for text in fault.values())]
    assert max(map(len, texts)) <= DETAIL_MAX + 1
    for text in texts:
        assert re.search(rf"(.)\1{{{SHOWN_MAX}}}", text) is None
        assert len(text) - len(text.replace("abc", "")) <= SHOWN_MAX


@pytest.mark.parametrize("value", ["x" * 4_000, {"x" * 4_000: 1}])
def test_a_batch_of_refusals_repeats_little_of_what_was_sent(lenient: Node, value: Any) -> None:
    items = [{"title": "t", "severity": value, "y" * 100: 1, "z" * 3_000: 1}] * 500
    with lenient.rest() as client:
        answer = client.post("/v1/alerts/batch", json=items)
    assert answer.status_code == 422
    assert len(answer.content) < 500 * 1_500


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/alerts", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("/v1/alerts/batch", {"OPTIONS", "POST"}),
        (UNKNOWN, {"GET", "HEAD", "OPTIONS"}),
        ("/v1/presence", {"GET", "HEAD", "OPTIONS"}),
        ("/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("/", {"GET", "HEAD", "OPTIONS"}),
        ("/console/main.js", {"GET", "HEAD", "OPTIONS"}),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "TRACE"])
def test_a_wrong_method_is_answered_with_all_the_right_ones(
    rest: httpx2.Client, path: str, allowed: set[str], method: str
) -> None:
    answer = rest.request(method, path)
    document(answer, 405, "method_not_allowed")
    assert {*answer.headers["allow"].split(", ")} == allowed


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, 'Bearer realm="tocsin"'),
        ("", 'Bearer realm="tocsin"'),
        ("Bearer", 'Bearer realm="tocsin"'),
        ("Basic YTpi", 'Bearer realm="tocsin"'),
        (f"Token {token('alice')}", 'Bearer realm="tocsin"'),
        ("Bearer x", 'Bearer realm="tocsin", error="invalid_token"'),
        (f"Bearer {token('alice')} {token('alice')}", 'Bearer realm="tocsin", error="invalid_token"'),
        (
            f"Bearer {token('alice', ttl_seconds=-1)}",
            'Bearer realm="tocsin", error="invalid_token", error_description="The token has expired"',
        ),
    ],
)
def test_a_bearer_who_is_not_known_is_challenged(lenient: Node, authorization: str | None, challenge: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = httpx2.get(f"{lenient.base}/v1/alerts", headers=headers, **PLAIN)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenge
    document(answer, 401, answer.json()["code"])


def test_a_bearer_without_the_scope_learns_so(lenient: Node) -> None:
    with lenient.rest(scope="alerts:write") as client:
        answer = client.get("/v1/alerts")
    assert "alerts:read" in document(answer, 403, "scope_missing")["detail"]
    assert answer.headers["www-authenticate"] == 'Bearer realm="tocsin", error="insufficient_scope"'


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(lenient: Node, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {token('alice')}"}
    assert httpx2.get(f"{lenient.base}/v1/alerts", headers=headers, **PLAIN).status_code == 200


def test_rest_takes_no_token_from_the_address(lenient: Node) -> None:
    for name in ("token", "access_token"):
        answer = httpx2.get(f"{lenient.base}/v1/alerts?{name}={token('alice')}", **PLAIN)
        document(answer, 401, "token_missing")


def test_a_token_is_never_sent_back(rest: httpx2.Client) -> None:
    bad = token("alice")[:-3] + "AAA"
    answer = rest.get(f"/v1/alerts?topic={bad}", headers={"Authorization": f"Bearer {bad}"})
    assert bad not in answer.text + str(answer.headers)


@pytest.mark.unit
async def test_an_unexpected_error_shows_nothing_internal() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def fail() -> None:
        raise RuntimeError("postgresql://user:hunter2@db asyncpg")

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://node") as client:
        answer = await client.get("/")
    document(answer, 500, "internal_error")
    assert "hunter2" not in answer.text
    assert answer.headers["connection"] == "close"


def refused(*errors: dict[str, Any]) -> RequestRefused:
    return refusal_of_faults(errors)


@pytest.mark.unit
def test_a_fault_is_pointed_at() -> None:
    fault = {"loc": ("links", 0, "a/b~c"), "msg": "Value error, must not be blank", "type": "value_error"}
    refusal = refused(fault)
    assert isinstance(refusal, InvalidRequest)
    assert refusal.errors == [{"pointer": "/links/0/a~1b~0c", "detail": "must not be blank"}]
    assert refusal.detail == "/links/0/a~1b~0c: must not be blank."


@pytest.mark.unit
def test_a_fault_of_the_whole_body_points_at_it() -> None:
    assert refused({"loc": (), "msg": "Input should be an object", "type": "x"}).detail.startswith("The body: ")


@pytest.mark.unit
def test_of_very_many_faults_the_first_are_listed() -> None:
    refusal = refused(*({"loc": (f"field{number}",), "msg": "no", "type": "x"} for number in range(5000)))
    assert refusal.errors is not None
    assert len(refusal.errors) == FAULTS_MAX
    assert "4999 more" in refusal.detail


def test_a_body_of_very_many_faults_gets_a_short_answer(rest: httpx2.Client) -> None:
    answer = rest.post("/v1/alerts", json={f"k{number}": 1 for number in range(20_000)})
    document(answer, 422, "invalid_request")
    assert len(answer.content) < 5000
