"""Problem documents (RFC 9457): the only place that maps the error tree to HTTP.

Each document has ``type``, ``title``, ``status``, ``detail`` and a stable ``code`` to program
against; ``openapi.py`` says which operation answers with which. A 401 carries ``WWW-Authenticate``
(RFC 6750, section 3), a 429 and a 503 ``Retry-After``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, WebSocketRoute

from service.errors import (
    InternalError,
    InvalidRequest,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    RequestRefused,
    ScopeMissing,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    TokenRevoked,
)
from service.http.charges import refund
from service.http.nearest import unknown_name
from service.metrics import HTTP_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastapi import FastAPI
    from pydantic import ValidationError
    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from service.http.repeated_members import Place

MEDIA_TYPE = "application/problem+json"
_REFUSED = "refused"
"""The key of the state of a request that was answered with a problem document: its code."""
FAULTS_MAX = 20
"""How many faults a refusal lists."""
SHOWN_MAX = 200
"""Characters that one text of a refusal may have of what was sent."""
DETAIL_MAX = 2 * SHOWN_MAX
"""Characters of a text of a refusal: none of this service's own is longer."""
FAULTS_READ_MAX = 200
"""Beyond it none is listed: pydantic makes all of them, or none."""
_CLIENT_CLOSED_REQUEST = 499
_NO_OBJECT = frozenset({"model_type", "model_attributes_type", "dict_type"})
_CHALLENGES = {
    TokenMissing: 'Bearer realm="tocsin"',
    TokenInvalid: 'Bearer realm="tocsin", error="invalid_token"',
    TokenExpired: 'Bearer realm="tocsin", error="invalid_token", error_description="The token has expired"',
    TokenRevoked: 'Bearer realm="tocsin", error="invalid_token", error_description="The token was revoked"',
    ScopeMissing: 'Bearer realm="tocsin", error="insufficient_scope"',
}


def problem_document(refusal: RequestRefused) -> dict[str, Any]:
    """Return a refusal as a problem document, and count it."""
    HTTP_ERRORS.labels(refusal.code).inc()
    fields: dict[str, Any] = {
        "type": f"urn:tocsin:problem:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "code": refusal.code,
        "detail": shortened(refusal.detail, DETAIL_MAX),
        **refusal.members,
    }
    if refusal.errors:
        fields["errors"] = refusal.errors
    return fields


def shortened(text: str, most: int = SHOWN_MAX) -> str:
    """Return a text that may repeat what was sent: the beginning of it, with what cannot be printed escaped."""
    text = text if len(text) <= most else text[:most] + "…"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def problem_response(refusal: RequestRefused) -> Response:
    """Return the response that answers with a refusal."""
    headers = dict(refusal.headers)
    if challenge := _CHALLENGES.get(type(refusal)):
        headers["WWW-Authenticate"] = challenge
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    return _ProblemResponse(refusal, headers)


class _ProblemResponse(Response):
    media_type = MEDIA_TYPE

    def __init__(self, refusal: RequestRefused, headers: Mapping[str, str]) -> None:
        super().__init__(orjson.dumps(problem_document(refusal)), refusal.status, headers)
        self._code = refusal.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[_REFUSED] = self._code
        await super().__call__(scope, receive, send)


def refusal_of(scope: Scope) -> str | None:
    """Return the code of the problem document that a request was answered with, if it was."""
    code: str | None = scope.get("state", {}).get(_REFUSED)
    return code


def validation_refusal(error: ValidationError, model: type[BaseModel], what: str = "The body") -> RequestRefused:
    """Return the refusal of JSON that pydantic could not validate as a ``model``."""
    if (count := error.error_count()) > FAULTS_READ_MAX:
        return InvalidRequest(f"{what}: {count} fields are not valid.")
    return refusal_of_faults(error.errors(include_url=False, include_context=False, include_input=False), model, what)


def refusal_of_faults(
    errors: Sequence[Mapping[str, Any]], model: type[BaseModel] | None = None, what: str = "The body"
) -> RequestRefused:
    """Return the refusal for errors of pydantic, each with its JSON pointer (RFC 6901)."""
    faults = [
        {
            "pointer": shortened("".join(f"/{escaped(part)}" for part in error["loc"])),
            "detail": shortened(_detail(error, model)),
        }
        for error in errors[:FAULTS_MAX]
    ]
    first = faults[0]
    if errors[0]["type"] == "json_invalid":
        return MalformedRequest(f"{what} is not valid JSON: {first['detail'].removeprefix('Invalid JSON: ')}.")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidRequest(f"{first['pointer'] or what}: {first['detail']}{more}.", errors=faults)


def repetition(place: Place) -> RequestRefused:
    """Return the refusal of a member that its object has twice."""
    return refusal_of_faults([{"loc": place, "type": "repeated", "msg": "the object has this member twice"}])


def _detail(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    """Return what is wrong in words of the client's: pydantic names classes, and no members."""
    if error["type"] in _NO_OBJECT:
        return "must be a JSON object"
    if error["type"] == "extra_forbidden" and model is not None:
        return unknown_name("member", str(error["loc"][-1]), _members(model, error["loc"][:-1]))
    return str(error["msg"]).removeprefix("Value error, ")  # pydantic marks those of validators so


def _members(model: type[BaseModel], pointer: Sequence[int | str]) -> list[str]:
    """Return the names of the members of the object within a ``model`` to which a pointer leads."""
    for part in pointer:
        if isinstance(part, str):
            model = _model_within(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a field, of an item of it, or of one of its alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_within, get_args(annotation))), None)


def escaped(part: object) -> str:
    """Return a part of a JSON pointer as it is written in one."""
    return str(part).replace("~", "~0").replace("/", "~1")


def unescaped(part: str) -> str:
    """Return a part of a JSON pointer as it is meant."""
    return part.replace("~1", "/").replace("~0", "~")


EXPECTED = (RequestRefused, ClientDisconnect)
"""Errors that are no defects of the service."""


def response_to(error: Exception) -> Response:
    """Return the response to a request that failed with ``error``."""
    if isinstance(error, RequestRefused):
        return problem_response(error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_CLIENT_CLOSED_REQUEST)  # for the log only
    # Whoever raises the error again has uvicorn log the traceback; the client learns nothing internal.
    # uvicorn closes the connection afterwards, and the header keeps clients from reusing it.
    detail = "Something went wrong on our side. The service's log has the details."
    return problem_response(InternalError(detail, headers={"Connection": "close"}))


async def _failed(request: Request, error: Exception) -> Response:
    refund(request, error)
    return response_to(error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - narrows the handler's argument
    return await _failed(request, refusal_of_faults(error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - narrows the handler's argument
    path = shortened(request.scope["path"])  # the URL would begin with the Host that the client names
    if error.status_code == MethodNotAllowed.status:
        allowed = ", ".join(_methods(request))
        if request.method == "OPTIONS":
            return Response(headers={"Allow": allowed})
        return problem_response(MethodNotAllowed(f"{path} supports {allowed}.", headers={"Allow": allowed}))
    if error.status_code == NotFound.status:
        if any(isinstance(route, WebSocketRoute) and route.path == path for route in request.app.routes):
            hint = "a proxy on the way must pass Upgrade and Connection on"
            return problem_response(NotFound(f"{path} takes WebSocket handshakes only: {hint}."))
        return problem_response(NotFound(f"There is no resource at {path}."))
    return problem_response(MalformedRequest("The request cannot be read."))


def _methods(request: Request) -> list[str]:
    """Return the methods of a path; Starlette's own answer names those of the first route only."""
    routes: list[BaseRoute] = request.app.routes
    found = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return [*found[:1], "HEAD", *found[1:], "OPTIONS"] if "GET" in found else [*found, "OPTIONS"]


def install(app: FastAPI, count_unmatched: Callable[[Request], None] | None = None) -> None:
    """Answer every error of ``app`` with a problem document.

    ``count_unmatched`` is called with a request that no route matches, and may refuse it otherwise.
    """

    async def unmatched(request: Request, error: Exception) -> Response:
        try:
            if count_unmatched is not None:
                count_unmatched(request)
        except RequestRefused as refusal:
            return problem_response(refusal)
        return await _http_error(request, error)

    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, unmatched)
    for error in (*EXPECTED, Exception):
        app.add_exception_handler(error, _failed)
