"""Requests as an endpoint gets them, without a server: a scope, and a body that arrives in chunks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request

from service.http.body_budget import BodyBudget
from service.http.provided import Parts, provide
from service.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

ADDRESS = "192.0.2.7"


class Client:
    """Sends the body of a request, chunk by chunk, and then ends it, hangs up or stays silent."""

    def __init__(self, chunks: Iterable[bytes], then: str) -> None:
        self.received = 0
        self._chunks = list(chunks)
        self._then = then

    async def __call__(self) -> dict[str, Any]:
        """Return the next ASGI message."""
        self.received += 1
        if self._chunks:
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks) or self._then != "ends"}
        if self._then == "stays silent":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


def request(
    *parts: object,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    body: Iterable[bytes] = (b"",),
    then: str = "ends",
) -> Request:
    """Return a request to an application with ``parts``."""
    app = Starlette()
    provide(app, Parts(BodyBudget(ServerSettings()), *parts))
    scope = {
        "type": "http",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": (ADDRESS, 50_000),
        "app": app,
    }
    return Request(scope, Client(body, then))
