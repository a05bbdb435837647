"""``/docs``, the API to read and to try: Swagger UI, from this origin, as the console is on it too.

FastAPI's own page takes its scripts from a content delivery network. A script on this origin could take the tokens of
the console's tabs, so it has to be one that was pinned; and a closed network would see nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

FILES = "/docs/files"


def install(app: FastAPI) -> None:
    """Serve the page and its files."""
    html = bytes(
        get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="The API of Tocsin",
            swagger_js_url=f"{FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{FILES}/swagger-ui.css",
            swagger_favicon_url="/console/ui/favicons/favicon.svg",
        ).body
    ).decode()
    headers = {"Content-Security-Policy": _policy(html), "X-Content-Type-Options": "nosniff"}

    async def page(_request: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    app.router.routes.append(Route("/docs", page))
    app.router.routes.append(Mount(FILES, StaticFiles(packages=[("fastapi_swagger", "resources")])))


def _policy(html: str) -> str:
    """Let the files of this origin run, and the one script in the page; Swagger UI styles its elements one by one."""
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
