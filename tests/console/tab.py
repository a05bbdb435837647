"""The console in a tab of a browser, as the tests use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import ConsoleMessage, Dialog, Locator, Page, Request, expect

from tests.harness import PATIENCE, READ, Node, eventually, token

if TYPE_CHECKING:
    from collections.abc import Callable

expect.set_options(timeout=PATIENCE * 1000)

REFUSED = ("status of 401", "status of 403")
UNREACHABLE = ("net::ERR_", "WebSocket connection to")
"""What a browser writes to its console, unasked, when a server refuses it or is gone."""

BRIEF_SECONDS = 4
"""How long a token lives that the server is to see expire: no clock but its own counts. It must outlast a sign-in."""
LEFT = "/left-by-a-test"
"""A path that no node has."""
OWN_PAGE = pytest.mark.parametrize("tab", [{}], indirect=True, ids=[pytest.HIDDEN_PARAM])
"""For tests that change the page so that signing out does not undo it: its scripts, clock, preferences or size."""


@dataclass
class Tab:
    """The console in a browser's tab, and what the browser had to complain about."""

    page: Page
    tolerated: tuple[str, ...] = ()
    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._under_way: set[Request] = set()
        self._listeners: dict[Any, Callable[[Any], Any]] = {
            "console": self._on_console,
            "pageerror": lambda error: self.complaints.append(f"uncaught: {error}"),
            "dialog": self._on_dialog,
            "request": self._on_request,
            "requestfinished": self._on_request_end,
            "requestfailed": self._on_request_end,
            "websocket": lambda socket: self.addresses.append(socket.url),
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)

    def _on_request(self, request: Request) -> None:
        self.addresses.append(request.url)
        self._under_way.add(request)

    def _on_request_end(self, request: Request) -> None:
        self._under_way.discard(request)

    def _on_console(self, message: ConsoleMessage) -> None:
        address = message.location["url"]
        tolerated = address.endswith(LEFT) or any(part in message.text for part in self.tolerated)
        if message.type in {"error", "warning"} and not tolerated:
            self.complaints.append(f"{message.type}: {message.text} ({address})")

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def token(self, subject: str = "alice", scope: str = READ, **claims: Any) -> str:
        """Mint a token, and remember it: it must not turn up in an address."""
        self.tokens.append(token(subject, scope, **claims))
        return self.tokens[-1]

    async def open(self, node: Node, **claims: Any) -> None:
        """Sign in with a link, and wait until the feed is live."""
        await self.page.goto(f"{node.base}/#token={self.token(**claims)}")
        await self.is_("live")

    async def open_briefly(self, node: Node, **claims: Any) -> None:
        """Sign in with a token that expires while the test waits for it, once the page is there to use it."""
        await self.page.goto(node.base)
        await expect(self["sign-in"]).to_be_visible()
        await self.open(node, ttl_seconds=BRIEF_SECONDS, **claims)

    async def paste(self, text: str) -> None:
        """Sign in with the form."""
        await self["token"].fill(text)
        await self.page.get_by_role("button", name="Sign in", exact=True).click()

    async def leave(self) -> None:
        """Sign out, and leave the page for the next test as the first found it: at the list, with nothing stored.

        The requests that are under way are waited for: the next test removes the alerts that they are about. That they
        have begun, and what the browser wrote about them, has arrived once it writes about a request that is the last.
        """
        await self.page.unroute_all(behavior="ignoreErrors")
        sign_out = self.page.get_by_role("button", name="Sign out", exact=True)
        if await sign_out.is_visible():
            await sign_out.click()
        address = urlsplit(self.page.url)
        if address.scheme == "http" and address.path == "/":
            await self.is_("signed-out")
            assert await self.page.evaluate("[localStorage.length, Math.random() === Math.random()]") == [0, False], (
                "this test needs OWN_PAGE"
            )
            async with self.page.expect_console_message(
                lambda message: message.location["url"].endswith(LEFT), timeout=PATIENCE * 1000
            ):
                await self.page.evaluate(
                    "(path) => { location.hash = '#/'; fetch(path).then((answer) => answer.text(), () => {}) }", LEFT
                )
        if address.path != "/" or address.query:
            await self.page.goto("about:blank")
        await eventually(lambda: not self._under_way)
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)

    def check(self) -> None:
        """Fail if the browser complained, or a token was in an address."""
        assert not self.complaints, self.complaints
        assert not [address for address in self.addresses if any(token in address for token in self.tokens)]

    def __getitem__(self, name: str) -> Locator:
        return self.page.get_by_test_id(name)

    async def is_(self, state: str) -> None:
        """Wait until the line at the top says so."""
        await expect(self["state"]).to_have_attribute("data-state", state)

    async def draw(self, number: float) -> None:
        """Fix the number that the page draws for its back-off: 1 is the whole of the bound."""
        await self.page.add_init_script(f"Math.random = () => {number}")

    async def pause(self) -> None:
        """Stop the page's clock, which was installed before: timers, and what is drawn, wait for ``run_for``."""
        await self.page.clock.pause_at(await self.page.evaluate("Date.now() / 1000 + 5"))

    async def shows(self, *titles: str) -> None:
        """Wait until the feed shows exactly these alerts, newest first."""
        await expect(self["alert"].locator(".title")).to_have_text(titles)

    def requests_of(self, path: str) -> int:
        """Count the requests that the page made to ``path``."""
        return sum(urlsplit(address).path == path for address in self.addresses)


async def received_at(node: Node, seq: int) -> Any:
    query = (
        "SELECT received_at FROM audit.deliveries WHERE seq = $1 AND recipient = 'alice' AND received_at IS NOT NULL"
    )
    rows = await node.sql(query, seq)
    return rows[0]["received_at"] if rows else None
