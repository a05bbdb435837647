"""Bounds on a request: how large its body may be, and how long it may take to arrive.

FastAPI's own ``max_body_size`` is not used: it answers in plain text, whatever the application says.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from service.errors import MalformedRequest, RequestTimeout, RequestTooLarge, UnsupportedMedia

if TYPE_CHECKING:
    from starlette.requests import Request

    from service.settings import ServerSettings


async def read_json_body(request: Request) -> bytes:
    """Return the body of a JSON request.

    Raises:
        UnsupportedMedia: it is announced as something else.
        RequestTooLarge: it is over ``TOCSIN_REQUEST_MAX_BYTES``, announced or counted.
        RequestTimeout: it did not arrive within ``TOCSIN_REQUEST_TIMEOUT_SECONDS``.

    """
    settings: ServerSettings = request.app.state.settings.server
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMedia("Send the header Content-Type: application/json.")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise MalformedRequest("Content-Length must be a number.")
    body = bytearray()
    if int(length) <= settings.request_max_bytes:
        try:
            async with asyncio.timeout(settings.request_timeout_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > settings.request_max_bytes:
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
    raise RequestTooLarge(
        f"The body is larger than {settings.request_max_bytes} bytes.", headers={"Connection": "close"}
    )
