"""Swagger UI at ``/docs``, with all its files from this origin.

FastAPI's own page loads its scripts from a content delivery network. The console is on this origin
too, and a script could take the tokens of its tabs, so the scripts are pinned; and they load in a
closed network as well.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from service.http import openapi
from service.http.static_document import StaticDocument

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

FILES = "/docs/files"


def install(app: FastAPI) -> None:
    """Serve the page and its files."""
    files = FILES.removeprefix("/")
    html = bytes(
        get_swagger_ui_html(
            # Relative to the page: the service may be under a path of a site.
            openapi_url=openapi.PATH.removeprefix("/"),
            title="The API of Tocsin",
            swagger_js_url=f"{files}/swagger-ui-bundle.js",
            swagger_css_url=f"{files}/swagger-ui.css",
            swagger_favicon_url="console/ui/favicons/favicon.svg",
        ).body
    ).decode()
    headers = {"Content-Security-Policy": _policy(html), "Cross-Origin-Opener-Policy": "same-origin"}

    document = StaticDocument(html.encode(), "text/html", headers)

    async def page(request: Request) -> Response:
        return document.response(request)

    app.router.routes.append(Route("/docs", page))
    app.router.routes.append(Mount(FILES, StaticFiles(packages=[("fastapi_swagger", "resources")])))


def _policy(html: str) -> str:
    """Allow the scripts of this origin, the one in the page, and the inline styles of Swagger UI."""
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
