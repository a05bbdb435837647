from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.auth.principal import Principal
from service.errors import NotFound
from service.http import problems
from service.http.fast_route import FastRoute, FastRoutes
from service.http.provided import Parts, part, parts_of, provide
from service.http.request_bounds import QUERY_MAX_BYTES
from service.http.source_requests import SourceCounter

if TYPE_CHECKING:
    from starlette.requests import Request

pytestmark = pytest.mark.unit

ERRORS = {"defect": RuntimeError("a secret"), "refusal": NotFound("There is none."), "hang-up": ClientDisconnect()}


class Counter:
    def __init__(self) -> None:
        self.counts: list[tuple[str, str, int]] = []

    def count(self, source: str, outcome: str, number: int) -> None:
        self.counts.append((source, outcome, number))


async def endpoint(request: Request) -> Response:
    request.state.principal = Principal("billing", frozenset(), ("*",), 0, None, 0)
    if error := ERRORS.get(request.query_params.get("fail", "")):
        raise error
    return Response(type(part(request, SourceCounter)).__name__, 201)


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def served(counter: Counter) -> FastRoutes:
    app = FastAPI()
    provide(app, Parts())
    parts_of(app).add(SourceCounter, counter)
    problems.install(app)
    app.router.routes.append(FastRoute("/fast", endpoint, methods=["POST"]))
    return FastRoutes(app)


async def answer(served: FastRoutes, path: str, query: str = "", method: str = "POST") -> tuple[int, bytes, Any]:
    """Return the status and the body of the answer, and what was raised after it."""
    messages: list[dict[str, Any]] = []
    raised = None

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
    try:
        await served(scope, receive, send)
    except RuntimeError as error:
        raised = error
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages), raised


async def test_a_fast_route_is_served_without_the_application(served: FastRoutes, monkeypatch: Any) -> None:
    monkeypatch.setattr(FastAPI, "__call__", None)
    assert await answer(served, "/fast") == (201, b"Counter", None)


@pytest.mark.parametrize(("path", "method", "status"), [("/fast", "GET", 405), ("/faster", "POST", 404)])
async def test_the_application_serves_all_else(served: FastRoutes, path: str, method: str, status: int) -> None:
    assert (await answer(served, path, method=method))[0] == status


async def test_a_refusal_is_answered_and_counted_for_its_source(served: FastRoutes, counter: Counter) -> None:
    status, body, raised = await answer(served, "/fast", "fail=refusal")
    assert (status, orjson.loads(body)["code"], raised) == (404, "not_found", None)
    assert counter.counts == [("billing", "refused", 1)]


async def test_a_defect_is_answered_without_details_and_raised_to_be_logged(served: FastRoutes) -> None:
    status, body, raised = await answer(served, "/fast", "fail=defect")
    assert (status, orjson.loads(body)["code"], raised) == (500, "internal_error", ERRORS["defect"])
    assert b"secret" not in body


async def test_a_client_that_hung_up_is_no_defect(served: FastRoutes) -> None:
    status, _body, raised = await answer(served, "/fast", "fail=hang-up")
    assert (status, raised) == (499, None)


async def test_the_bounds_of_a_request_hold(served: FastRoutes) -> None:
    status, body, _ = await answer(served, "/fast", "x" * (QUERY_MAX_BYTES + 1))
    assert (status, orjson.loads(body)["code"]) == (414, "target_too_long")
