"""Everything that a client sends is bounded: each parameter, each part of a body, and each message.

The documents are generated from the code, and each answer and frame of the other tests is held
against them. So a parameter, a list or a text without a bound fails here on the day that it is added.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route, WebSocketRoute

from service.app import create_app
from service.auth.issuers import load_keyring
from service.database.engine import parse_url
from service.http.openapi import operations
from service.http.openapi_schemas import OTHER_CONTENT
from service.settings import Settings
from service.stream.frame_schemas import ClientFrame
from tests.harness import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

pytestmark = pytest.mark.unit

WHOLE_BODY = {
    ("/v1/alerts/batch", "application/x-ndjson"): "10,000 lines, of which 1,000 are alerts; each is a value of its own",
    ("/v1/integrations/cloudevents", "application/cloudevents+json"): "TOCSIN_BATCH_MAX_BYTES and 65,536 values",
    ("/v1/integrations/cloudevents", "application/cloudevents-batch+json"): "the same",
    ("/v1/integrations/alertmanager", "application/json"): "the same",
    ("/v1/integrations/apprise", "application/json"): "TOCSIN_BATCH_MAX_BYTES and 20,000 values",
}
"""Bodies that are bounded as a whole (``tests/http/test_request_bounds.py``); here their lists are looked at."""
UNDOCUMENTED = {"/openapi.json", "/docs", "/docs/files", "/", "/console/settings.json", "/console", "/v1/ws"}
"""Routes that read neither parameters nor a body. The query of ``/v1/ws`` is that of ``/v1/events``."""


@cache
def app() -> FastAPI:
    settings = Settings()
    return create_app(
        settings, parse_url("postgresql://nobody@localhost/none"), load_keyring(settings.auth, SECRET.encode())
    )


@cache
def document() -> dict[str, Any]:
    return app().openapi()


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, or the one that it refers to."""
    while "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def unbounded(schema: dict[str, Any], where: str, *, lists_only: bool = False) -> Iterator[str]:
    """Yield each part of a schema that a value of any size fits."""
    schema = resolved(schema)
    if fault := _fault(schema, lists_only=lists_only):
        yield f"{where}: {fault}"
    # An option without a type only says which members go together.
    options = [option for name in ("anyOf", "oneOf") for option in schema.get(name, ()) if "required" not in option]
    inner = [("", option) for option in options]
    inner += [(f"/{name}", member) for name, member in schema.get("properties", {}).items()]
    inner += [("/*", schema["items"])] if "items" in schema else []
    for suffix, member in inner:
        yield from unbounded(member, where + suffix, lists_only=lists_only)


def _fault(schema: dict[str, Any], *, lists_only: bool) -> str | None:
    names = schema.keys()
    match schema.get("type"):
        case "array" if "maxItems" not in names:
            return "a list without maxItems"
        case "string" if not ({"maxLength", "enum", "const"} & names or schema.get("format") == "uuid" or lists_only):
            return "a text without maxLength"
        case "integer" | "number" if not ({"minimum", "maximum"} <= names or lists_only):
            return "a number without limits"
    return None


def test_each_parameter_is_bounded() -> None:
    parameters = [
        (f"{method.upper()} {path} {parameter['name']}", parameter["schema"])
        for path, method, operation in operations(document())
        for parameter in operation.get("parameters", ())
    ]
    assert len(parameters) > 50
    assert [fault for where, schema in parameters for fault in unbounded(schema, where)] == []


def test_each_body_is_bounded() -> None:
    faults: list[str] = []
    bodies = set()
    for path, _method, operation in operations(document()):
        body = operation.get("requestBody", {})
        for media_type, content in {**body.get("content", {}), **body.get(OTHER_CONTENT, {})}.items():
            bodies.add((path, media_type))
            is_foreign = (path, media_type) in WHOLE_BODY
            faults += unbounded(content["schema"], f"{path} {media_type}", lists_only=is_foreign)
    assert faults == []
    assert WHOLE_BODY.keys() <= bodies


def test_each_message_of_a_client_is_bounded() -> None:
    """The message limit bounds texts; a ``seen`` of many ids is work for each of them."""
    frames = ClientFrame.__subclasses__()
    assert {frame.__name__ for frame in frames} >= {"AckFrame", "SeenFrame", "PingFrame"}
    for frame in frames:
        assert [*unbounded(frame.model_json_schema(), frame.__name__, lists_only=True)] == []
    [seq] = [frame.model_json_schema()["properties"]["seq"] for frame in frames if "seq" in frame.model_fields]
    assert {"minimum", "maximum"} <= seq.keys()


def test_each_route_is_documented_or_reads_nothing() -> None:
    paths = set()
    for route in app().router.routes:
        if isinstance(route, Route | Mount | WebSocketRoute) and not isinstance(route, APIRoute):
            paths.add(route.path)
    assert paths == UNDOCUMENTED


def test_what_is_unbounded_is_noticed() -> None:
    schema = {
        "type": "object",
        "properties": {
            "lists": {"type": "array", "items": {"type": "string"}},
            "number": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
            "short": {"type": "string", "maxLength": 5},
            "time": {"type": "string", "format": "date-time"},
        },
    }
    assert [*unbounded(schema, "")] == [
        "/lists: a list without maxItems",
        "/lists/*: a text without maxLength",
        "/number: a number without limits",
        "/time: a text without maxLength",
    ]
