"""The service under a path of a site: behind nginx and Caddy as they are documented, and without them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Origin, Subprotocol

from scripts.system_packages import caddy as caddy_program
from scripts.system_packages import nginx as nginx_program
from service.client import AsyncClient
from service.settings import ServerSettings, Settings, StreamSettings
from tests.fixtures.reverse_proxies import caddy, documented, nginx
from tests.harness import PLAIN, READ, WEBSOCKET, WRITE, Node, serving, token
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNDER = "/tocsin"
NGINX = documented("nginx", "server_name")
UNDER_NGINX = NGINX.replace("location / {", f"location {UNDER}/ {{")
CADDY = documented("caddyfile", "tocsin.example")
UNDER_CADDY = documented("caddyfile", "handle /tocsin*")
SITES: dict[str, tuple[str, Any, str, str]] = {
    "nginx": ("nginx", nginx, NGINX, ""),
    "nginx, under a path": ("nginx", nginx, UNDER_NGINX, UNDER),
    "nginx, under a path that it strips": (
        "nginx",
        nginx,
        UNDER_NGINX.replace("127.0.0.1:8000;", "127.0.0.1:8000/;"),
        UNDER,
    ),
    "caddy": ("caddy", caddy, CADDY, ""),
    "caddy, under a path": ("caddy", caddy, UNDER_CADDY, UNDER),
    "caddy, under a path that it strips": ("caddy", caddy, UNDER_CADDY.replace("handle /", "handle_path /"), UNDER),
}
PROGRAMS = {"nginx": nginx_program, "caddy": caddy_program}


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, shared_url: str, tmp_path: Path) -> Iterator[Node]:
    """A node whose address is that of a proxy in front of it."""
    name, run, configuration, path = SITES[request.param]
    if (program := PROGRAMS[name]()) is None:
        missing(f"there is no {name}: run python -m scripts.system_packages")
        raise AssertionError
    with (
        serving(shared_url, Settings(server=ServerSettings(root_path=path))) as node,
        run(program, tmp_path, configuration, node.base) as base,
    ):
        yield Node(base + path, shared_url)


async def test_everything_works_at_the_address_of_the_site(site: Node) -> None:
    origin = re.sub(r"(?<=\d)/.*", "", site.base)
    headers = {"Authorization": f"Bearer {token('alice', f'{READ} {WRITE}')}"}
    async with httpx2.AsyncClient(headers=headers, **PLAIN) as client:
        await _has_its_files(client, f"{site.base}/")
        await _has_its_files(client, f"{site.base}/docs")
        openapi = (await client.get(f"{site.base}/openapi.json")).json()
        assert urljoin(origin, openapi["servers"][0]["url"]).rstrip("/") == site.base

        bearer = Subprotocol(f"bearer.{token('alice')}")
        subprotocols = [Subprotocol("tocsin.v1"), bearer]
        async with (
            connect(f"{site.ws}?after=latest", subprotocols=subprotocols, origin=Origin(origin), **WEBSOCKET) as stream,
            client.stream("GET", f"{site.base}/v1/events", headers={"Accept": "text/event-stream"}) as events,
        ):
            assert json.loads(await stream.recv())["type"] == "welcome"
            lines = events.aiter_lines()
            posted = await client.post(f"{site.base}/v1/alerts", json={"title": "Behind a proxy"})
            assert posted.status_code == 201
            shown = await client.get(urljoin(site.base, posted.headers["location"]))
            assert shown.json()["id"] == posted.json()["id"]
            while (frame := json.loads(await stream.recv()))["type"] != "event":
                pass
            assert frame["alert"]["id"] == posted.json()["id"]
            while posted.json()["id"] not in await anext(lines):
                pass
    async with (
        AsyncClient(site.base, token("alice", f"{READ} {WRITE}")) as tocsin,
        tocsin.stream(after=posted.json()["seq"]) as followed,
    ):
        stored = await tocsin.post("By a client")
        assert (await anext(aiter(followed))).alert.id == stored.id


async def _has_its_files(client: httpx2.AsyncClient, page: str) -> None:
    """Load a page, and each address in it."""
    answer = await client.get(page, follow_redirects=True)
    assert answer.status_code == 200
    files = re.findall(r"""(?:href|src)="([^"#]+)"|url: '([^']+)'""", answer.text)
    assert len(files) > 3
    for file in map("".join, files):
        assert (await client.get(urljoin(str(answer.url), file))).status_code == 200, file


async def test_the_path_without_a_slash_leads_to_the_console(shared_url: str) -> None:
    with serving(shared_url, Settings(server=ServerSettings(root_path=UNDER))) as node:
        async with httpx2.AsyncClient(base_url=node.base, **PLAIN) as client:
            answer = await client.get(UNDER)
            assert (answer.status_code, answer.headers["location"]) == (308, f"{UNDER}/")
            assert answer.headers["x-content-type-options"] == "nosniff"
            asked = "?x=%C3%A9+%26&y=%2F&z"
            assert (await client.get(UNDER + asked)).headers["location"] == f"{UNDER}/{asked}"
            assert (await client.get(f"{UNDER}x")).status_code == 404
            for path in ("/healthz", f"{UNDER}/healthz"):
                assert (await client.get(path)).status_code == 200


async def test_where_nginx_passes_the_host_on_without_its_port_the_close_says_what_to_set(
    shared_url: str, tmp_path: Path
) -> None:
    if (program := nginx_program()) is None:
        missing("there is no nginx: run python -m scripts.system_packages")
        raise AssertionError
    configuration = NGINX.replace("Host $http_host;", "Host $host;")
    with serving(shared_url) as node, nginx(program, tmp_path, configuration, node.base) as base:
        code, reason = await _closed(base)
        assert (code, "set TOCSIN_ALLOWED_ORIGINS" in reason) == (1008, True), reason
    allowing = Settings(stream=StreamSettings(allowed_origins=(base,)))
    with serving(shared_url, allowing) as node, nginx(program, tmp_path, configuration, node.base) as other:
        assert await _closed(other, base) == (1008, "token_invalid")  # it got as far as the token


async def _closed(base: str, origin: str | None = None) -> tuple[int, str]:
    """Open a stream with a bad token as a page of a site, and return how it is closed."""
    subprotocols = [Subprotocol("tocsin.v1"), Subprotocol("bearer.bad")]
    address = base.replace("http", "ws") + "/v1/ws"
    async with connect(address, origin=Origin(origin or base), subprotocols=subprotocols, **WEBSOCKET) as stream:
        await stream.wait_closed()
        return stream.close_code or 0, stream.close_reason or ""
