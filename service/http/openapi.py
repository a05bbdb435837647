"""The OpenAPI document: what FastAPI reads off the routes, and the refusals of each operation.

The refusals that follow from a token, parameters or a body are added here to every operation that
has one. An operation names only its others: ``responses=refusals(NotFound, ActionConflict)``. So
each lists exactly the statuses that it answers with, and each refusal is a schema with its code as
a constant, and an example.

FastAPI does not see a body that ``request_body.py`` reads. ``openapi_extra=json_operation(AckIn)``
documents it, and ``fast_operation`` also the token of an endpoint behind a ``FastRoute``. The
definitions that a schema refers to are moved to the components.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, get_args

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from service.database.failures import UnavailableReason
from service.errors import (
    ActionConflict,
    DatabaseUnavailable,
    HeadersTooLarge,
    InternalError,
    InvalidRequest,
    KeysUnavailable,
    MalformedRequest,
    QueryTimeout,
    RateLimited,
    RequestRefused,
    RequestTimeout,
    RequestTooLarge,
    ScopeMissing,
    TargetTooLong,
    TooManyQueries,
    UnsupportedMedia,
)
from service.http.problems import MEDIA_TYPE
from service.http.static_document import StaticDocument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastapi import FastAPI
    from fastapi.routing import APIRoute
    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response

PATH = "/openapi.json"
_SCHEMAS = "#/components/schemas/"
_METHODS = ("get", "put", "post", "delete", "patch")
_FASTAPI_422 = {"application/json": {"schema": {"$ref": f"{_SCHEMAS}HTTPValidationError"}}}
"""FastAPI's own form of a 422, which the service never answers with."""

_BODY_REFUSALS = (MalformedRequest, RequestTooLarge, UnsupportedMedia, InvalidRequest)

_HEADERS: dict[str, dict[str, Any]] = {
    "WWW-Authenticate": {
        "description": "What the token lacks (RFC 6750, section 3).",
        "schema": {"type": "string"},
        "example": 'Bearer realm="tocsin", error="invalid_token"',
    },
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 1,
    },
    "X-RateLimit-Limit": {
        "description": "Requests that the window allows.",
        "schema": {"type": "integer"},
        "example": 1000,
    },
    "X-RateLimit-Remaining": {
        "description": "Requests that are left in the window.",
        "schema": {"type": "integer"},
        "example": 0,
    },
    "X-RateLimit-Reset": {
        "description": "When the window ends, in seconds since the epoch.",
        "schema": {"type": "integer"},
        "example": 1795253000,
    },
    "Location": {
        "description": "The address of the alert.",
        "schema": {"type": "string"},
        "example": "/v1/alerts/01a1fd87-65c3-71a6-ba06-3929d3197295",
    },
    "Idempotency-Replayed": {
        "description": "`true`: a repetition of the answer to the first request with this `Idempotency-Key`.",
        "schema": {"type": "string", "const": "true"},
        "example": "true",
    },
}
_HEADERS_OF_A_STATUS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"),
    503: ("Retry-After",),
}

_FAULTS = {
    "type": "array",
    "description": "Each fault, with its JSON pointer (RFC 6901).",
    "items": {
        "type": "object",
        "required": ["pointer", "detail"],
        "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
    },
}
_MEMBERS: dict[type[RequestRefused], dict[str, Any]] = {
    InvalidRequest: {"errors": _FAULTS},
    ActionConflict: {
        "alert": {
            "anyOf": [{"$ref": f"{_SCHEMAS}{name}"} for name in ("AlertOut", "AlertSummary")],
            "description": "The alert in its current state, as far as the token may read it.",
        }
    },
    DatabaseUnavailable: {"reason": {"enum": list(get_args(UnavailableReason)), "description": "What fails."}},
}
"""Further members of a refusal's document."""


def operation_id(route: APIRoute) -> str:
    """Name an operation after its function, for clients that are generated."""
    return route.name


def refusals(*kinds: type[RequestRefused]) -> dict[int | str, dict[str, Any]]:
    """Return the responses of an operation that refuses with ``kinds``."""
    return {
        status: _answer(status, [kind for kind in kinds if kind.status == status])
        for status in sorted({kind.status for kind in kinds})
    }


def headers(*names: str) -> dict[str, dict[str, str]]:
    """Return references to the response headers of these names."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def schema_of(model: type[BaseModel] | Any) -> dict[str, Any]:
    """Return a reference to the schema of ``model``, with the definition for ``complete``."""
    if isinstance(model, type):
        _, schema = models_json_schema([(model, "validation")], ref_template=_SCHEMAS + "{model}")
        return {"$ref": f"{_SCHEMAS}{model.__name__}", **schema}
    return TypeAdapter(model).json_schema(ref_template=_SCHEMAS + "{model}")


def fast_operation(content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the token and the body of an operation behind a ``FastRoute``."""
    return {"security": [{"bearer": []}], "requestBody": {"required": True, "content": content}, **fields}


def json_operation(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return the body of an operation that depends on ``json_body(model)``."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema_of(model)}}}}


def install(app: FastAPI) -> None:
    """Complete the document of ``app``, as it is served and as it is written to ``openapi/``.

    It is made and encoded once, in a thread: that takes 80 ms, and anybody may ask for it.
    """
    generate = app.openapi
    completed: list[dict[str, Any]] = []
    served: list[StaticDocument] = []
    making = asyncio.Lock()

    def openapi() -> dict[str, Any]:
        if not completed:
            completed.append(complete(generate()))
        return completed[0]

    def make() -> StaticDocument:
        return StaticDocument(orjson.dumps(openapi()), "application/json")

    async def serve(request: Request) -> Response:
        async with making:
            if not served:
                served.append(await asyncio.to_thread(make))
        return served[0].response(request)

    app.openapi = openapi  # type: ignore[method-assign] # as FastAPI documents it
    app.router.routes.append(Route(PATH, serve))


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add to each operation what it may refuse, and gather the definitions in the components."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    by_name = {kind.__name__: kind for kind in all_refusals()}
    used: set[type[RequestRefused]] = set()
    for _, _, operation in operations(document):
        answers = {
            status: answer for status, answer in operation["responses"].items() if answer.get("content") != _FASTAPI_422
        }
        kinds = {*_implied(operation), *(by_name[name] for name in _named(answers))}
        answers.update({str(status): answer for status, answer in refusals(*_sorted(kinds)).items()})
        operation["responses"] = {status: answers[status] for status in sorted(answers)}
        if "parameters" in operation:
            operation["parameters"] = [_as_sent(parameter) for parameter in operation["parameters"]]
        used |= kinds
    schemas.update({kind.__name__: _schema(kind) for kind in used})
    _hoist(document["paths"], schemas)
    components["schemas"] = dict(sorted(schemas.items()))
    components["headers"] = _HEADERS
    document["tags"] = [{"name": tag} for tag in _tags(document)]
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the description of each operation."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def all_refusals(base: type[RequestRefused] = RequestRefused) -> Iterator[type[RequestRefused]]:
    """Yield every kind of refusal."""
    for kind in base.__subclasses__():
        yield kind
        yield from all_refusals(kind)


def _implied(operation: dict[str, Any]) -> Iterator[type[RequestRefused]]:
    """Yield the refusals that follow from an operation's token, parameters and body."""
    yield from (InternalError, RequestTimeout, TargetTooLong, HeadersTooLarge)
    if "security" in operation:
        yield from (kind for kind in all_refusals() if kind.status == HTTPStatus.UNAUTHORIZED)
        yield from (ScopeMissing, RateLimited, DatabaseUnavailable, TooManyQueries, QueryTimeout, KeysUnavailable)
    if any(parameter["in"] != "path" for parameter in operation.get("parameters", ())):
        yield InvalidRequest  # not for a path: one whose parameter is no UUID matches no route, 404
    if "requestBody" in operation:
        yield from _BODY_REFUSALS


def _named(answers: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the refusals that an operation lists itself."""
    for answer in answers.values():
        schema = answer.get("content", {}).get(MEDIA_TYPE, {}).get("schema", {})
        for option in schema.get("oneOf", [schema]):
            if "$ref" in option:
                yield option["$ref"].removeprefix(_SCHEMAS)


def _sorted(kinds: Iterable[type[RequestRefused]]) -> list[type[RequestRefused]]:
    order = list(all_refusals())
    return sorted(kinds, key=order.index)


def _as_sent(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter without ``null``, which no address can hold, and without a second title."""
    schema = {name: value for name, value in parameter["schema"].items() if name not in ("title", "description")}
    options = [option for option in schema.pop("anyOf", ()) if option != {"type": "null"}]
    schema.update(options[0] if len(options) == 1 else {"anyOf": options} if options else {})
    return {**parameter, "schema": schema}


def _answer(status: int, kinds: list[type[RequestRefused]]) -> dict[str, Any]:
    refs = [{"$ref": f"{_SCHEMAS}{kind.__name__}"} for kind in kinds]
    mapping = {kind.code: f"{_SCHEMAS}{kind.__name__}" for kind in kinds}
    several = {"oneOf": refs, "discriminator": {"propertyName": "code", "mapping": mapping}}
    answer: dict[str, Any] = {"description": " ".join(f"{kind.title}." for kind in kinds)}
    if named := _HEADERS_OF_A_STATUS.get(status):
        answer["headers"] = headers(*named)
    return {**answer, "content": {MEDIA_TYPE: {"schema": several if len(refs) > 1 else refs[0]}}}


def _schema(kind: type[RequestRefused]) -> dict[str, Any]:
    constants = {
        "type": f"urn:tocsin:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
    }
    return {
        "description": " ".join((kind.__doc__ or "").split()).replace("``", "`"),
        "type": "object",
        "required": [*constants, "detail"],
        "properties": {
            **{name: {"const": value, "type": _json_type(value)} for name, value in constants.items()},
            "detail": {"type": "string", "description": "What is wrong with this request."},
            **_MEMBERS.get(kind, {}),
        },
        "examples": [{**constants, "detail": f"{kind.title}."}],
    }


def _json_type(value: object) -> str:
    return "integer" if isinstance(value, int) else "string"


def _hoist(node: Any, schemas: dict[str, Any]) -> None:
    """Move the definitions inside schemas to the components."""
    if isinstance(node, dict):
        for name, schema in node.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
            _hoist(schema, schemas)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _hoist(child, schemas)


def _tags(document: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(tag for _, _, operation in operations(document) for tag in operation.get("tags", ())))
