"""The service under a path of a site, such as ``/tocsin``: ``TOCSIN_ROOT_PATH``.

A proxy may pass the path on as it is, or without the part that is the service's own: both are
served, and ``/tocsin`` leads to ``/tocsin/``. The path is put before each ``Location``. The pages
need no setting, because all of their addresses are relative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCATION = b"location"


class RootPath:
    """Wraps an application that knows nothing of the path."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path
        self._raw = path.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        if path == self._path and scope["type"] == "http":
            query = scope["query_string"].decode("latin-1")
            await RedirectResponse(f"{path}/{'?' if query else ''}{query}", 308)(scope, receive, send)
            return
        if path.startswith(f"{self._path}/"):
            scope = {**scope, "path": path.removeprefix(self._path)}

        async def send_located(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, self._raw + value if name.lower() == _LOCATION and value.startswith(b"/") else value)
                    for name, value in message.get("headers", ())
                ]
            await send(message)

        await self._app(scope, receive, send_located)
