"""The bounds of a request line and headers, its encoding, and the limit of requests that need no token.

What is checked here costs as much as the request is long, whoever sends it: that is done before a
route is looked for, and before the query is read. The bounds of single parameters are in their
types, those of bodies in ``request_body.py``.

Under ``/v1`` each request has a token, or counts as an authentication failure of its address. All
other paths (the console, the documentation, ``/metrics``), and those that do not exist, count
against ``TOCSIN_ANONYMOUS_LIMIT`` of the address. ``/healthz`` and ``/readyz`` do not: an answer
costs no more than a refusal, and a flood must not make the node look dead to its load balancer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from service.errors import HeadersTooLarge, MalformedRequest, RequestRefused, TargetTooLong
from service.http.header_text import NAME_SHOWN
from service.http.problems import problem_response, shortened

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from service.http.rate_limits import RestLimits

PATH_MAX_BYTES = 4 * 1024
QUERY_MAX_BYTES = 24 * 1024
"""A list of 100 topics of a stream and a token of 8 KiB fit in."""
PARAMETERS_MAX = 300
"""Of the query; 100 topics, 100 sources or recipients, and all others fit in."""
HEADERS_MAX = 100

_PATHS_WITH_TOKEN = "/v1/"  # noqa: S105 - no password
_PATHS_OF_PROBES = frozenset({"/healthz", "/readyz"})
_PATHS_OF_PARAMETERS = frozenset({"/metrics"})
"""Without a token; all others take any query, and read none."""


class RequestBounds:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, limits: RestLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that is within the bounds."""
        if scope["type"] == "http":  # the endpoint of a WebSocket rejects with a close reason
            try:
                require_bounds(scope)
                self._count(scope)
            except RequestRefused as refusal:
                await problem_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _count(self, scope: Scope) -> None:
        path: str = scope["path"]
        if not path.startswith(_PATHS_WITH_TOKEN) and path not in _PATHS_OF_PROBES:
            _hit(self._limits, scope)


def count_unmatched(limits: RestLimits, scope: Scope) -> None:
    """Count a request that no route matches, unless it is counted already.

    Raises:
        RateLimited: the address sent too many.

    """
    if scope["path"].startswith(_PATHS_WITH_TOKEN):
        _hit(limits, scope)


def _hit(limits: RestLimits, scope: Scope) -> None:
    client = scope.get("client")
    limits.hit("anonymous", client[0] if client else "unknown")


def require_bounds(scope: Scope) -> None:
    """Refuse a request whose target or headers are too long or too many, or whose target cannot be decoded.

    Raises:
        TargetTooLong, HeadersTooLarge: they are.
        MalformedRequest: it cannot.

    """
    path = scope.get("raw_path") or scope["path"].encode()
    if len(path) > PATH_MAX_BYTES:
        raise TargetTooLong(f"The path may have {PATH_MAX_BYTES} bytes.")
    if b"%" in path:
        _utf_8("path", path)
    require_query_size(scope["query_string"])
    if scope["path"].startswith(_PATHS_WITH_TOKEN) or scope["path"] in _PATHS_OF_PARAMETERS:
        require_utf_8_query(scope["query_string"])
    if len(scope["headers"]) > HEADERS_MAX:
        raise HeadersTooLarge(f"The request may have {HEADERS_MAX} headers.")


def require_query_size(query: bytes) -> None:
    """Refuse a query that is too long, or has too many parameters.

    Raises:
        TargetTooLong: it is, or has.

    """
    if len(query) > QUERY_MAX_BYTES or query.count(b"&") >= PARAMETERS_MAX:
        raise TargetTooLong(f"The query may have {QUERY_MAX_BYTES} bytes and {PARAMETERS_MAX} parameters.")


def require_utf_8_query(query: bytes) -> None:
    """Refuse a query that cannot be decoded.

    Raises:
        MalformedRequest: it is not percent-encoded UTF-8.

    """
    if b"%" not in query:
        return
    for parameter in query.split(b"&"):
        name, _, value = parameter.partition(b"=")
        text = _utf_8("name of a parameter", name)
        _utf_8(f"parameter {shortened(text, NAME_SHOWN)}", value)


def _utf_8(part: str, value: bytes) -> str:
    """Return the text of a part of the target, which would be decoded with replacement characters, and mean another.

    Raises:
        MalformedRequest: it is not percent-encoded UTF-8.

    """
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise MalformedRequest(
            f"The {part} has the byte %{byte:02X}, which is not UTF-8: percent-encode text as UTF-8."
        ) from None
