"""The contracts say all there is to say, and the tests that see something else fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any, get_args

import httpx2
import pytest
from openapi_spec_validator import validate

from scripts.node_tools import INSTALL, tool
from service.alerts.lifecycle import EventKind
from service.auth.principal import Scope
from service.http.openapi import operations
from service.http.openapi_schemas import OTHER_CONTENT
from service.settings import ServerSettings
from service.stream import frames
from service.stream.frame_schemas import (
    ClientFrame,
    EventFrame,
    FrameSchema,
    ServerFrame,
    example_of,
    frames_of,
    kind_of,
    type_of,
)
from tests.contract import NotInTheContract, checked_answer, checked_frame, document, validator
from tests.harness import BODY, ROOT
from tests.reference import ASYNCAPI, OPENAPI
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Node

OPERATIONS = {f"{method.upper()} {path}": operation for path, method, operation in operations(document(OPENAPI))}
FRAMES = [*frames_of(ServerFrame), *frames_of(ClientFrame)]
EVENT = {
    "type": "event",
    "seq": 1,
    "cursor": "1-9f3a2c1d",
    "id": "9f3a2c1d00112233",
    "kind": "alert.created",
    "at": "2026-11-21T09:41:07Z",
    "actor": "a",
    "alert": BODY,
}
PROBLEM = {"type": "urn:tocsin:problem:rate_limited", "title": "Too many", "status": 429, "detail": "Wait."}


def described(name: str) -> dict[str, Any]:
    """Return an operation."""
    return OPERATIONS[name]


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what an operation takes and answers, each with what it is."""
    for media_type, content in contents(operation.get("requestBody", {})).items():
        yield f"the request as {media_type}", content
    for status, answer in operation["responses"].items():
        for media_type, content in contents(answer).items():
            yield f"the answer {status} as {media_type}", content


def contents(node: dict[str, Any]) -> dict[str, Any]:
    """Return a body or an answer in each of its media types, the main one first."""
    return {**node.get("content", {}), **node.get(OTHER_CONTENT, {})}


def examples(content: dict[str, Any]) -> list[Any]:
    """Return the examples of a body: its own, or those of its schema."""
    own = [content["example"]] if "example" in content else []
    own += [example["value"] for example in content.get("examples", {}).values()]
    return own or schema_examples(content.get("schema", {}))


def schema_examples(schema: dict[str, Any]) -> list[Any]:
    """Return the examples of a schema, or of what it refers to."""
    if "$ref" in schema:
        return schema_examples(document(OPENAPI)["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if found := schema.get("examples"):
        return list(found)
    if "oneOf" in schema:
        return [example for option in schema["oneOf"] for example in schema_examples(option)]
    if schema.get("type") == "array":
        return [[example] for example in schema_examples(schema["items"])]
    return []


def call(client: httpx2.Client, name: str, **options: Any) -> httpx2.Response:
    """Call an operation with the first example of its body; ``options`` come before it."""
    method, _, path = name.partition(" ")
    for media_type, content in described(name).get("requestBody", {}).get("content", {}).items():
        if media_type.endswith("json") and "content" not in options:
            options["content"] = json.dumps(examples(content)[0])
        options["headers"] = {"Content-Type": media_type, **options.get("headers", {})}
        break
    return client.request(method, re.sub(r"\{\w+\}", BODY["id"], path), **options)


@pytest.mark.unit
def test_the_openapi_document_keeps_the_specification() -> None:
    validate(document(OPENAPI))


@pytest.mark.parametrize("path", [OPENAPI, ASYNCAPI], ids=lambda path: path.name)
def test_a_contract_keeps_the_rules_of_spectral(path: Path) -> None:
    linter = tool(".bin/spectral")
    if linter is None:
        missing(f"there is no Spectral: {INSTALL}")
        return
    command = [str(linter), "lint", "--quiet", "--fail-severity=warn", "--ruleset=openapi/spectral.yaml", str(path)]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_openapi_document_keeps_the_recommended_rules_of_redocly() -> None:
    linter = tool(".bin/redocly")
    if linter is None:
        missing(f"there is no Redocly: {INSTALL}")
        return
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}  # it asks nobody
    command = [str(linter), "lint", "--extends=recommended-strict", str(OPENAPI)]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, **quiet})
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.unit
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_says_each_status_that_it_answers_with(name: str) -> None:
    statuses = {*described(name)["responses"]}
    assert not {"4XX", "5XX", "default"} & statuses, f"{name}: name each with refusals(NotFound, …)"
    assert any(status.startswith("2") for status in statuses), name
    if "security" in described(name):
        assert {"401", "403", "429", "503"} <= statuses, name


@pytest.mark.unit
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_an_example_of_all_that_it_takes_and_answers(name: str) -> None:
    for what, content in bodies(described(name)):
        found = examples(content)
        assert found, f"{name}: {what} has no example: give its model one, in json_schema_extra"
        if "schema" in content:
            compiled = validator(content["schema"], OPENAPI)
            for example in found:
                assert compiled.is_valid(example), f"{name}: {what}: {example}: {[*compiled.iter_errors(example)]}"


@pytest.mark.unit
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_and_its_parameters_are_described(name: str) -> None:
    assert described(name).get("description"), f"{name}: its function has no docstring"
    for parameter in described(name).get("parameters", ()):
        assert parameter.get("description"), f"{name}: say what {parameter['name']} is: Query(description=…)"


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if "security" in operation])
def test_an_operation_asks_for_a_token_and_its_scope(lenient: Node, name: str) -> None:
    with lenient.rest(scope="") as poor:
        assert call(poor, name).json()["code"] == "scope_missing"
        answer = call(poor, name, headers={"Authorization": ""})
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (401, True)


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if "requestBody" in operation])
def test_an_operation_bounds_the_body_that_it_reads(lenient: Node, name: str) -> None:
    with lenient.rest(scope=" ".join(Scope)) as client:
        assert call(client, name, content=b" " * (ServerSettings().batch_max_bytes + 1)).status_code == 413
        assert call(client, name, headers={"Content-Type": "image/png"}).status_code in {400, 415, 422}


@pytest.mark.unit
def test_every_frame_type_and_every_kind_of_event_is_described() -> None:
    missing = {*frames.SERVER_FRAMES, *frames.CLIENT_FRAMES} - {type_of(frame) for frame in FRAMES}
    assert not missing, f"write a class in service/stream/frame_schemas.py for {missing}"
    code = "".join(path.read_text() for path in (ROOT / "service" / "alerts").glob("*.py"))
    kinds = set(re.findall(r'"(alert\.[a-z_]+)"', code))
    assert kinds == {*get_args(EventKind)}, "EventKind in service/alerts/lifecycle.py lists them"
    assert kinds == {kind_of(frame) for frame in frames_of(EventFrame)}, (
        "each is a class in service/stream/frame_schemas.py"
    )


@pytest.mark.unit
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_the_example_of_a_frame_is_one(frame: type[FrameSchema]) -> None:
    checked_frame(example_of(frame), "push" if issubclass(frame, ServerFrame) else "listen")
    message = document(ASYNCAPI)["components"]["messages"][frame.__name__]
    assert message["examples"][0]["payload"] == example_of(frame)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ({"type": "news"}, "has no news"),
        ({**EVENT, "kind": "alert.vanished"}, "has no alert.vanished"),
        ({**EVENT, "more": 1}, "more"),
        ({**EVENT, "alert": {**BODY, "more": 1}}, "more"),
        ({**EVENT, "alert": {**BODY, "status": "gone"}}, "/alert/status"),
        ({**EVENT, "at": "yesterday"}, "/at"),
        ({**EVENT, "kind": "alert.commented"}, "comment"),
        ({"type": "caught_up"}, "seq"),
    ],
)
def test_a_frame_that_is_not_described_fails_the_test_that_saw_it(frame: dict[str, Any], why: str) -> None:
    with pytest.raises(NotInTheContract, match=re.escape(why)):
        checked_frame(frame)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("status", "headers", "body", "why"),
    [
        (418, {}, {}, "answered 418"),
        (200, {"Content-Type": "text/plain"}, {}, "with text/plain"),
        (200, {}, {"alerts": [], "next": None}, "head"),
        (404, {"Content-Type": "application/problem+json"}, {}, "answered 404"),
        (429, {"Content-Type": "application/problem+json"}, {**PROBLEM, "code": "enough"}, "answered 429"),
        (429, {"Content-Type": "application/problem+json"}, {**PROBLEM, "code": "not_found"}, "with not_found"),
    ],
)
def test_an_answer_that_is_not_described_fails_the_test_that_saw_it(
    status: int, headers: dict[str, str], body: dict[str, Any], why: str
) -> None:
    request = httpx2.Request("GET", "http://127.0.0.1/v1/alerts")
    response = httpx2.Response(status, json=body, headers=headers, request=request)
    with pytest.raises(NotInTheContract, match=re.escape(why)):
        checked_answer(response)
