"""Each reason of a close 1008, as a page in a browser sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from scripts.system_packages import BROWSER_ARGUMENTS, chromium
from service.settings import LimitSettings, Settings, StreamSettings
from tests.harness import WRITE, Node, serving, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser, Page

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium() is None and not os.environ.get("CI"), reason="there is no Chromium"),
]

# Opens a stream, sends the messages once it is welcomed, and reports everything that the page received.
WATCH = """
({address, protocols, messages}) => new Promise(resolve => {
    const socket = new WebSocket(address, protocols);
    const seen = [];
    socket.onopen = () => seen.push("open " + socket.protocol);
    socket.onmessage = message => {
        const frame = JSON.parse(message.data);
        seen.push(frame.type);
        if (frame.type === "welcome") messages.forEach(text => socket.send(text));
    };
    socket.onclose = close => resolve({code: close.code, reason: close.reason, clean: close.wasClean, seen});
})
"""
REFUSED = ["open tocsin.v1"]
CASES: dict[str, dict[str, Any]] = {
    "token_missing": {"token": None},
    "token_invalid": {"token": "x.y.z"},
    "token_expired": {"ttl_seconds": -1},
    "scope_missing": {"scope": WRITE},
    "topic_forbidden": {"topics": ["payments.*"], "query": "?topic=billing"},
    "invalid_request": {"query": "?after=yesterday"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    assert chromium(), "CI needs a Chromium"
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium(), args=BROWSER_ARGUMENTS)
        yield launched
        await launched.close()


@pytest.fixture(scope="module")
def strict(shared_url: str) -> Iterator[Node]:
    """A node whose limits are soon reached."""
    stream = StreamSettings(connections_per_recipient=1, message_limit="1/minute", message_violation_limit="1/minute")
    with serving(shared_url, Settings(stream=stream, limits=LimitSettings(auth_failure_limit="1/minute"))) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    opened = await browser.new_page()
    yield opened
    await opened.close()


async def watch(page: Page, node: Node, protocols: list[str], *messages: str, query: str = "") -> dict[str, Any]:
    if not page.url.startswith(node.base):
        await page.goto(f"{node.base}/healthz")
    return await connect(page, node, protocols, *messages, query=query)


async def connect(page: Page, node: Node, protocols: list[str], *messages: str, query: str = "") -> dict[str, Any]:
    options = {"address": node.ws + query, "protocols": protocols, "messages": messages}
    seen: dict[str, Any] = await page.evaluate(WATCH, options)
    return seen


def offer(subject: str, **claims: Any) -> list[str]:
    return ["tocsin.v1", f"bearer.{token(subject, **claims)}"]


@pytest.mark.parametrize("reason", CASES)
async def test_a_page_learns_why_its_handshake_was_refused(page: Page, shared: Node, subject: str, reason: str) -> None:
    options = dict(CASES[reason])
    query = options.pop("query", "")
    if "token" in options:
        protocols = ["tocsin.v1", *([f"bearer.{options['token']}"] if options["token"] else [])]
    else:
        protocols = offer(subject, **options)
    close = await watch(page, shared, protocols, query=query)
    close["reason"] = close["reason"].partition(":")[0]  # what follows is for people
    assert close == {"code": 1008, "reason": reason, "clean": True, "seen": REFUSED}


async def test_a_page_learns_that_its_token_expired(page: Page, shared: Node, subject: str) -> None:
    await page.goto(f"{shared.base}/healthz")
    close = await watch(page, shared, offer(subject, ttl_seconds=3))
    assert (close["code"], close["reason"], close["clean"]) == (1008, "token_expired", True)
    assert close["seen"][:3] == ["open tocsin.v1", "welcome", "caught_up"]


async def test_a_page_learns_that_it_sent_what_it_may_not(page: Page, shared: Node, subject: str) -> None:
    close = await watch(page, shared, offer(subject), "junk")
    assert (close["code"], close["reason"], close["clean"]) == (1008, "bad_message", True)


async def test_a_page_of_another_site_learns_that_its_origin_is_forbidden(
    page: Page, shared: Node, subject: str
) -> None:
    await page.goto(f"{shared.base.replace('127.0.0.1', 'localhost')}/healthz")
    close = await connect(page, shared, offer(subject))
    assert close == {"code": 1008, "reason": "origin_forbidden", "clean": True, "seen": REFUSED}


async def test_a_page_learns_that_it_sends_too_much(page: Page, strict: Node, subject: str) -> None:
    close = await watch(page, strict, offer(subject), *['{"type":"ping"}'] * 3)
    assert (close["code"], close["reason"], close["clean"]) == (1008, "rate_limited", True)
    assert [kind for kind in close["seen"] if kind in ("pong", "error")] == ["pong", "error"]


async def test_a_page_learns_that_the_admin_has_too_many_streams(page: Page, strict: Node, subject: str) -> None:
    async with await strict.live(subject):
        close = await watch(page, strict, offer(subject))
    assert close == {"code": 1008, "reason": "connection_limit", "clean": True, "seen": REFUSED}


async def test_a_page_learns_that_its_address_showed_too_many_bad_tokens(page: Page, strict: Node) -> None:
    reasons = [(await watch(page, strict, ["tocsin.v1"]))["reason"] for _ in range(2)]
    assert reasons[-1] == "rate_limited"
