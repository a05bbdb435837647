"""The OpenAPI document: what FastAPI reads off the routes, and the refusals of each operation.

The refusals that follow from a token, parameters or a body are added here to every operation that
has one. An operation names only its others: ``responses=refusals(NotFound, ActionConflict)``. So
each lists exactly the statuses that it answers with, and the codes of each status, under
``x-problem-codes``. Every refusal is a ``Problem``: one type to decode in every language.

FastAPI does not see a body that ``request_body.py`` reads. ``openapi_extra=json_operation(AckIn)``
documents it, and ``fast_operation`` also the token of an endpoint behind a ``FastRoute``. The
definitions that a schema refers to are moved to the components. ``openapi_schemas.py`` then brings
the document into the form that generators of clients read.
"""

from __future__ import annotations

import asyncio
from copy import deepcopy
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
    all_refusals,
)
from service.http.openapi_schemas import SCHEMAS, simplify
from service.http.problems import MEDIA_TYPE
from service.http.static_document import StaticDocument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fastapi import FastAPI
    from fastapi.routing import APIRoute
    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response

PATH = "/openapi.json"
_METHODS = ("get", "put", "post", "delete", "patch")
_FASTAPI_422 = {"application/json": {"schema": {"$ref": f"{SCHEMAS}HTTPValidationError"}}}
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
        "description": "What the limit allows at once, in alerts or requests.",
        "schema": {"type": "integer"},
        "example": 5000,
    },
    "X-RateLimit-Remaining": {
        "description": "What is left of it.",
        "schema": {"type": "integer"},
        "example": 0,
    },
    "X-RateLimit-Reset": {
        "description": "When this request would be admitted, in seconds since the epoch.",
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

_TAGS = {
    "alerts": "Alerts: post, list, act on them.",
    "integrations": "The webhooks of other systems.",
    "deliveries": "Who was sent an alert, who received it, and who is connected.",
    "audit": "Deliveries, connections and sources, for auditors.",
    "stream": "Events as they happen, without a WebSocket, and the stats of the service.",
    "administration": "Revocations, connections and recipients.",
    "operation": "Health and metrics of a node.",
}
"""The tags of operations, and what each is about."""

_CODES = "x-problem-codes"
_FAULT = {
    "description": "A fault of the request, with its JSON pointer (RFC 6901).",
    "type": "object",
    "required": ["pointer", "detail"],
    "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
}
_MEMBERS = {
    "errors": {
        "type": "array",
        "items": {"$ref": f"{SCHEMAS}Fault"},
        "description": f"Of `{InvalidRequest.code}`: each fault.",
    },
    "alert": {
        "$ref": f"{SCHEMAS}AlertAnswer",
        "description": f"Of `{ActionConflict.code}`: the alert in its current state, as far as the token may read it.",
    },
    "results": {
        "type": "array",
        "items": {"$ref": f"{SCHEMAS}BatchResult"},
        "description": "Of a batch of which no alert is stored: the result of each.",
    },
    "reason": {
        "type": "string",
        "enum": list(get_args(UnavailableReason)),
        "description": f"Of `{DatabaseUnavailable.code}`: what fails.",
    },
    "limit": {
        "type": "integer",
        "description": f"Of `{RateLimited.code}`: what the limit allows at once, in alerts or requests.",
    },
    "remaining": {"type": "integer", "description": f"Of `{RateLimited.code}`: what is left of it."},
}
"""Further members of a problem document, each of one code."""


def operation_id(route: APIRoute) -> str:
    """Name an operation after its function, a verb and what it applies to, for clients that are generated."""
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
        _, schema = models_json_schema([(model, "validation")], ref_template=SCHEMAS + "{model}")
        return {"$ref": f"{SCHEMAS}{model.__name__}", **schema}
    return TypeAdapter(model).json_schema(ref_template=SCHEMAS + "{model}")


def named(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a reference to ``schema``, with the definition for ``complete``."""
    return {"$ref": f"{SCHEMAS}{name}", "$defs": {name: schema}}


def fast_operation(content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the token and the body of an operation behind a ``FastRoute``."""
    return {"security": [{"bearer": []}], "requestBody": {"required": True, "content": content}, **fields}


def json_operation(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return the body of an operation that depends on ``json_body(model)``."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema_of(model)}}}}


def install(app: FastAPI, enumerations: Mapping[str, Sequence[str]]) -> None:
    """Complete the document of ``app``, as it is served and as it is written to ``openapi/``.

    ``enumerations`` are those that several fields share, by the name of their schema.
    It is made and encoded once, in a thread: that takes 80 ms, and anybody may ask for it.
    """
    generate = app.openapi
    completed: list[dict[str, Any]] = []
    served: list[StaticDocument] = []
    making = asyncio.Lock()

    def openapi() -> dict[str, Any]:
        if not completed:
            completed.append(complete(generate(), enumerations))
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


def complete(document: dict[str, Any], enumerations: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Add to each operation what it may refuse, gather the definitions in the components, and simplify all."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    by_code = {kind.code: kind for kind in all_refusals()}
    for _, _, operation in operations(document):
        answers = {
            status: answer for status, answer in operation["responses"].items() if answer.get("content") != _FASTAPI_422
        }
        kinds = {
            *_implied(operation),
            *(by_code[code] for answer in answers.values() for code in answer.get(_CODES, ())),
        }
        answers.update({str(status): answer for status, answer in refusals(*_sorted(kinds)).items()})
        operation["responses"] = {status: answers[status] for status in sorted(answers)}
        if "parameters" in operation:
            operation["parameters"] = [_as_sent(parameter) for parameter in operation["parameters"]]
    schemas.update(Problem=_problem(), Fault=_FAULT)
    components["headers"] = deepcopy(_HEADERS)
    _hoist(document["paths"], schemas)
    simplify(document, enumerations)
    components["schemas"] = dict(sorted(schemas.items()))
    document["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items()]
    document["security"] = []  # an operation that asks for a token says so itself
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the description of each operation."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _implied(operation: dict[str, Any]) -> Iterator[type[RequestRefused]]:
    """Yield the refusals that follow from an operation's token, parameters and body."""
    yield from (InternalError, RequestTimeout, TargetTooLong, HeadersTooLarge)
    if "security" in operation:
        yield from (kind for kind in all_refusals() if kind.status == HTTPStatus.UNAUTHORIZED)
        yield from (ScopeMissing, RateLimited, DatabaseUnavailable, TooManyQueries, QueryTimeout, KeysUnavailable)
        yield InvalidRequest  # a query parameter that does not exist
    if "requestBody" in operation:
        yield from _BODY_REFUSALS


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
    answer: dict[str, Any] = {"description": " ".join(f"`{kind.code}`: {kind.title}." for kind in kinds)}
    if named := _HEADERS_OF_A_STATUS.get(status):
        answer["headers"] = headers(*named)
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS}Problem"}}}
    return {**answer, "content": content, _CODES: [kind.code for kind in kinds]}


def _problem() -> dict[str, Any]:
    kinds = list(all_refusals())
    example = {
        "type": f"urn:tocsin:problem:{ActionConflict.code}",
        "title": ActionConflict.title,
        "status": ActionConflict.status,
        "code": ActionConflict.code,
        "detail": "alice acknowledged the alert already.",
    }
    return {
        "description": "Why a request is refused (RFC 9457). Program against the `code`.",
        "type": "object",
        "required": [*example],
        "properties": {
            "type": {"type": "string", "description": "`urn:tocsin:problem:` and the code"},
            "title": {"type": "string", "description": "the same for each problem with this code"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "the status of the answer"},
            "code": {"type": "string", "enum": [kind.code for kind in kinds]},
            "detail": {"type": "string", "description": "what is wrong with this request"},
            **deepcopy(_MEMBERS),
        },
        "examples": [example],
    }


def _hoist(node: Any, schemas: dict[str, Any]) -> None:
    """Move the definitions inside schemas to the components."""
    if isinstance(node, dict):
        for name, schema in node.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
            _hoist(schema, schemas)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _hoist(child, schemas)
