"""The outermost application: what holds for every request and every answer, whichever route it is.

- The client is the one behind trusted proxies (``proxies.py``).
- A request that has a header twice of which there can be one is refused with 400: two programs on
  its way might each read another one. So is a transfer coding other than chunked; a content coding
  other than gzip is refused with 415. ``request_body.py`` undoes gzip.
- A HEAD is served as the GET of its path; uvicorn leaves the body out.
- Every answer carries the headers of ``response_headers.py``, those of errors and redirects too.

uvicorn and the WebSocket core answer some requests before they get here: ``server_protocol.py`` and
``stream/transports/websocket.py`` add the headers there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import MalformedRequest, RequestRefused
from service.http.gzip_body import is_gzip
from service.http.problems import problem_response
from service.http.proxies import FORWARDED
from service.http.response_headers import with_defaults

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.http.proxies import TrustedProxies

_TRANSFER_ENCODING = b"transfer-encoding"
_CONTENT_ENCODING = b"content-encoding"
_CODINGS = {_TRANSFER_ENCODING, _CONTENT_ENCODING}
SINGLE_HEADERS = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"if-match",
        b"last-event-id",
        b"origin",
        b"webhook-request-origin",
        _TRANSFER_ENCODING,
    }
)
_CLOSE = {"Connection": "close"}
_CLOUD_EVENT = b"ce-"
"""The attributes of a CloudEvent in binary mode; each is a header of its own."""
_HEAD = "tocsin.head"
"""The key of the ASGI scope of a GET that is a HEAD."""


def is_head(scope: Scope) -> bool:
    """Say whether a request is a HEAD: an answer that lasts must end after its headers."""
    return _HEAD in scope


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        names = {name for name, _ in scope["headers"]}
        if not names.isdisjoint(FORWARDED):
            self._proxies.apply(scope)
        if scope["type"] == "websocket":  # its endpoint rejects with a close reason
            await self._app(scope, receive, send)
            return

        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", _HEAD: True}

        async def send_complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_defaults(message.get("headers", ()))
            await send(message)

        try:
            if len(names) < len(scope["headers"]) or not names.isdisjoint(_CODINGS):
                check_headers(scope["headers"])
        except RequestRefused as refusal:
            await problem_response(refusal)(scope, receive, send_complete)
        else:
            await self._app(scope, receive, send_complete)


def check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Check that the headers of a request can be read in one way only, and its body as it is.

    Raises:
        MalformedRequest: they cannot. The connection is closed, as where the request ends may be disputed, too.
        UnsupportedMedia: the body is encoded otherwise than with gzip, or twice (RFC 9110, section 12.5.3).

    """
    seen: set[bytes] = set()
    codings: list[str] = []
    for name, value in headers:
        if name in seen and (name in SINGLE_HEADERS or name.startswith(_CLOUD_EVENT)):
            raise MalformedRequest(f"Send the header {name.decode('latin-1')} once.", headers=_CLOSE)
        if name == _TRANSFER_ENCODING and value.lower() != b"chunked":
            raise MalformedRequest("The only transfer coding that is read is chunked.", headers=_CLOSE)
        if name == _CONTENT_ENCODING:
            codings.append(value.decode("latin-1"))
        seen.add(name)
    is_gzip(codings)
