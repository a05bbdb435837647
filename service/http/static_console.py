"""The console as static files, under a Content Security Policy that runs no other script.

Besides the files there is one document made from the settings, ``/console/settings.json``: how to
sign in. It holds no secret. With OpenID Connect the policy lets the page connect to that provider,
and to no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from service.errors import MethodNotAllowed
from service.http.static_document import StaticDocument

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.types import Scope

    from service.settings import ConsoleSettings


def headers(settings: ConsoleSettings) -> dict[str, str]:
    """Return the headers of each file, in addition to those of every answer."""
    connect = " ".join(filter(None, ("'self'", _origin(settings.oidc_issuer))))
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src {connect}; img-src 'self';"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
            " require-trusted-types-for 'script'; trusted-types 'none'"
        ),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",  # kept, and asked for again with its ETag
    }


def settings_document(settings: ConsoleSettings) -> dict[str, object]:
    """Return the settings that the page needs; ``oidc`` is null if people sign in with a token."""
    if settings.oidc_issuer is None:
        return {"oidc": None}
    return {
        "oidc": {
            "issuer": settings.oidc_issuer,
            "client_id": settings.oidc_client_id,
            "scope": settings.oidc_scope,
            "resource": settings.oidc_resource,
            "parameters": settings.oidc_parameters,
        }
    }


def _origin(issuer: str | None) -> str | None:
    if issuer is None:
        return None
    url = urlsplit(issuer)
    return f"{url.scheme}://{url.netloc}"


_ALLOW = {"Allow": "GET, HEAD, OPTIONS"}


class _ConsoleFiles(StaticFiles):
    def __init__(self, folder: Path, settings: ConsoleSettings) -> None:
        super().__init__(directory=folder)
        self._headers = headers(settings)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if scope["method"] == "OPTIONS":
            return Response(headers=_ALLOW)
        if scope["method"] != "GET":
            raise MethodNotAllowed("The console's files can only be read.", headers=_ALLOW)
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response


def install(app: FastAPI, folder: Path, settings: ConsoleSettings) -> None:
    """Serve ``index.html`` at ``/``, the files beside it and ``settings.json`` under ``/console``."""

    async def index(_request: Request) -> Response:
        return FileResponse(folder / "index.html", headers=headers(settings))

    document = StaticDocument(orjson.dumps(settings_document(settings)), "application/json", headers(settings))

    async def settings_json(request: Request) -> Response:
        return document.response(request)

    app.router.routes.append(Route("/", index))
    app.router.routes.append(Route("/console/settings.json", settings_json))
    app.router.routes.append(Mount("/console", _ConsoleFiles(folder, settings)))
