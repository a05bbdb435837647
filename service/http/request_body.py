"""Bounds on a request: how large its body may be, and how long it may take to arrive.

FastAPI's own ``max_body_size`` is not used: it answers in plain text, whatever the application says.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from service.errors import MalformedRequest, RequestTimeout, RequestTooLarge, UnsupportedMedia

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from starlette.requests import Request
    from starlette.responses import Response

    from service.settings import ServerSettings


def media_type(request: Request) -> str:
    """Return what the body of a request is announced as, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_json(request: Request) -> None:
    """Refuse a body that is not announced as JSON.

    Raises:
        UnsupportedMedia: it is announced as something else, or as nothing.

    """
    announced = media_type(request)
    if announced != "application/json" and not announced.endswith("+json"):
        raise UnsupportedMedia("Send the header Content-Type: application/json.")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        RequestTooLarge: it is over ``max_bytes``, announced or counted.
        RequestTimeout: it did not arrive within ``TOCSIN_REQUEST_TIMEOUT_SECONDS``.

    """
    settings: ServerSettings = request.app.state.settings.server
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise MalformedRequest("Content-Length must be a number.")
    body = bytearray()
    if int(length) <= max_bytes:
        try:
            async with asyncio.timeout(settings.request_timeout_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > max_bytes:
                        break
                else:
                    return bytes(body)
        except TimeoutError:
            raise RequestTimeout(
                f"The body did not arrive within {settings.request_timeout_seconds:g} s.",
                headers={"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise MalformedRequest("The body ended early.") from None
    raise RequestTooLarge(f"The body is larger than {max_bytes} bytes.", headers={"Connection": "close"})


class JsonRoute(APIRoute):
    """An operation of FastAPI's, with these bounds on the body that it takes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def bounded(request: Request) -> Response:
            require_json(request)
            request._body = await read_body(request, request.app.state.settings.server.request_max_bytes)  # noqa: SLF001 - where Starlette keeps a body that was read
            return await handle(request)

        return bounded
