"""What is said across the page: the stream is down, the token is about to expire, the clock is off."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.console.axe import axe
from tests.console.tab import OWN_PAGE, REFUSED, UNREACHABLE, Tab
from tests.harness import READ, Node, Process

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRACE_MS = 3_000
"""After which an interruption is worth a word."""


@OWN_PAGE
async def test_a_stream_that_is_down_says_since_when_and_afterwards_what_came_late(
    start: Callable[..., Process], database_url: str, tab: Tab
) -> None:
    tab.tolerated = UNREACHABLE
    await tab.draw(0.1)
    await tab.page.clock.install()
    node = start()
    port = int(node.base.rpartition(":")[2])
    await node.post("Before")
    await tab.open(node)
    await tab.shows("Before")
    await asyncio.to_thread(node.kill)
    await tab.is_("waiting")
    await tab.page.clock.fast_forward(GRACE_MS)
    await expect(tab["outage"]).to_contain_text("Nothing has come since")
    await expect(tab["outage"]).to_contain_text("what was raised since then is missing here")
    await expect(tab.page).to_have_title("Offline · Tocsin")
    await expect(tab.page.locator("link[rel=icon]")).to_have_attribute(
        "href", "/console/ui/favicons/favicon-offline.svg"
    )
    await axe(tab.page)
    other = start()
    await other.post("Meanwhile")
    await other.post("Meanwhile too")
    await asyncio.to_thread(start, port)
    await tab.is_("live")
    await expect(tab["outage"]).to_contain_text("The connection is back.")
    await expect(tab["outage"]).to_contain_text("2 events came late")
    await expect(tab.page).to_have_title("Tocsin")
    await axe(tab.page)
    await tab["outage"].get_by_role("button", name="Dismiss").click()
    await expect(tab["outage"]).to_be_hidden()


async def test_a_token_about_to_expire_is_exchanged_without_losing_the_page_or_the_stream(node: Node, tab: Tab) -> None:
    tab.tolerated = REFUSED
    await tab.open(node, ttl_seconds=200)
    await node.post("Still here")
    await tab.shows("Still here")
    await expect(tab["expiry"]).to_contain_text("Your token expires at")
    await axe(tab.page)
    again = tab["expiry"].get_by_role("button", name="Sign in again")
    await again.click()
    await expect(tab["sign-in"]).to_be_visible()
    await again.click()
    await expect(tab["sign-in"]).to_be_hidden()
    await again.click()
    await tab.paste(tab.token("alice", ttl_seconds=-5))  # that one would be no help
    await expect(tab["reason"]).to_contain_text("has expired")
    await tab.paste(tab.token("alice", READ))
    await expect(tab["expiry"]).to_be_hidden()
    await expect(tab["sign-in"]).to_be_hidden()
    await tab.shows("Still here")
    await node.post("And on it goes")
    await tab.shows("And on it goes", "Still here")
    assert tab.requests_of("/v1/ws") == 1


async def test_a_token_that_lives_long_is_not_worth_a_word(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await node.post("There")
    await tab.shows("There")
    await expect(tab["expiry"]).to_be_hidden()


# The clock.


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (60_000, "(59 s|1 min|1 min 1 s) ahead of the server's"),
        (-3_600_000, r"(59 min 5\d s|1 h) behind the server's"),
        (2_500, None),
    ],
)
@OWN_PAGE
async def test_a_clock_that_is_off_by_more_than_5_s_is_said_once(
    node: Node, tab: Tab, skew: int, words: str | None
) -> None:
    await tab.page.add_init_script(f"const now = Date.now; Date.now = () => now() + {skew};")
    await tab.open(node)
    await node.post("There")
    await tab.shows("There")
    if words is None:
        await expect(tab["notice"]).to_be_hidden()
        return
    await expect(tab["notice"]).to_contain_text(re.compile(words))
    await tab["notice"].get_by_role("button", name="Dismiss").click()
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.paste(tab.token())
    await tab.is_("live")
    await expect(tab["notice"]).to_be_hidden()
