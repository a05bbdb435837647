"""Rejections of streams that are no WebSockets: each ``GET /v1/events`` that is refused, by whatever part.

A poll that goes on with an open connection is no handshake, and neither is a HEAD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request

from service.http.authentication import verified_principal
from service.http.edge import is_head
from service.http.problems import refusal_of
from service.stream.admission import Admission, ClientInfo

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/v1/events"
_CONNECTED = "is_connected"
"""The key of the state of a request."""


class HttpRejections:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and record it before it is answered if it was a handshake and is refused."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET" or is_head(scope):
            await self._app(scope, receive, send)
            return

        async def record_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._record(scope)
            await send(message)

        await self._app(scope, receive, record_and_send)

    def _record(self, scope: Scope) -> None:
        code = refusal_of(scope)
        request = Request(scope)
        if code is not None and not getattr(request.state, _CONNECTED, False):
            principal = verified_principal(request)
            subject = principal.subject if principal is not None else None
            self._admission.record_rejection(code, PATH, ClientInfo.of_request(request), subject)


def set_connected(request: Request, *, is_connected: bool) -> None:
    """Note whether ``request`` has an open connection: then a refusal of it rejects no handshake."""
    setattr(request.state, _CONNECTED, is_connected)
