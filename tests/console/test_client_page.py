"""The page of ``docs/receiving-alerts.md``, run as it stands."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from service.app import CONSOLE
from service.settings import Settings, StreamSettings
from tests.console.test_tabs import connections
from tests.harness import READ, ROOT, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser

TEXT = (ROOT / "docs" / "receiving-alerts.md").read_text()
[PAGE] = re.findall(r"^```html\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
INSTRUCTIONS = TEXT.split("to where your page", maxsplit=1)[0]
COPIED = {
    *re.findall(r"`([\w/-]+\.js)`", INSTRUCTIONS),
    *(
        file.relative_to(CONSOLE).as_posix()
        for folder in re.findall(r"`(\w+/)`", INSTRUCTIONS)
        for file in (CONSOLE / folder).iterdir()
    ),
}


@asynccontextmanager
async def another_site(page: str, claims: dict[str, str]) -> AsyncIterator[str]:
    """A site of another team: the page, its copies of the files that the page names, and a token for who asks."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/tocsin/")
            body, kind = page, "text/html"
            if self.path == "/token":
                body, kind = token("alice", READ, **claims), "text/plain"
            elif name in COPIED:
                body, kind = (CONSOLE / name).read_text(), "text/javascript"
            elif self.path != "/":
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())
            return None

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_runs_as_it_stands(database_url: str, browser: Browser) -> None:
    with serving(database_url, Settings(stream=StreamSettings(allowed_origins=("*",)))) as tocsin:
        page = PAGE.replace("wss://tocsin.example/v1/ws", tocsin.ws)
        assert page != PAGE
        claims = {"jti": "first"}
        async with another_site(page, claims) as site, tocsin.http("root", "admin") as root:
            context = await browser.new_context()
            tabs = [await context.new_page() for _ in range(3)]
            for tab in tabs:
                await tab.goto(site)
                await expect(tab.locator("#state")).to_have_text("live")
            await tocsin.post("<b>First</b>", severity="critical")
            await tocsin.post("Too small", severity="info")
            for tab in tabs:
                await expect(tab.locator("li")).to_have_text(["1 alert.created critical: <b>First</b>"])
            await connections(tocsin, ever=1, now=1)
            claims["jti"] = "second"
            assert (await root.post("/v1/revocations", json={"jti": "first"})).status_code == 201
            await eventually(lambda: tocsin.sql("SELECT 1 FROM connections WHERE close_reason = 'token_revoked'"))
            await tocsin.post("Second", severity="warning")
            for tab in tabs:
                await expect(tab.locator("li")).to_have_count(2)
                await expect(tab.locator("#state")).to_have_text("live")
            await context.close()


def test_the_files_that_the_page_says_to_copy_are_all_that_they_import() -> None:
    for file in COPIED:
        for imported in re.findall(r'from "([^"]+)"', (CONSOLE / file).read_text()):
            path = (CONSOLE / file).parent.joinpath(imported).resolve()
            assert path.relative_to(CONSOLE).as_posix() in COPIED, f"{file} imports {imported}"


def test_every_option_and_state_is_documented() -> None:
    code = (CONSOLE / "stream" / "stream-client.js").read_text()
    [options] = re.findall(r"@typedef \{object\} StreamOptions\n(.*?)\*/", code, re.DOTALL)
    names = set(re.findall(r"(?:@property \{.*\}|^ \* @property .*) \[?(\w+)\]?(?:  |$)", options, re.MULTILINE))
    assert first_cells("## Options") == {*names, "share"}
    [states] = re.findall(r"@typedef \{(.*?)\} State ", code)
    assert first_cells("## States") == set(re.findall(r'"([a-z-]+)"', states))


def first_cells(heading: str) -> set[str]:
    section = TEXT.split(heading, maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    return set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE))
