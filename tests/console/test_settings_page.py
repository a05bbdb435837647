"""The page at ``#/settings``: what the sign-in may do, how the stream comes, and a test alert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.console.axe import axe
from tests.console.proxy import Proxy
from tests.console.tab import OWN_PAGE, REFUSED, UNREACHABLE
from tests.harness import READ, WRITE, Node

if TYPE_CHECKING:
    from tests.console.tab import Tab

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def open_settings(tab: Tab) -> None:
    await tab.page.get_by_role("link", name="Settings").click()
    await expect(tab["settings"]).to_be_visible()


async def test_the_page_says_what_the_token_may_do(node: Node, tab: Tab) -> None:
    await tab.open(node, scope=f"{READ} alerts:manage odd:scope", topics=["payments.*", "infra"], jti="token-7")
    await open_settings(tab)
    facts = tab["token-facts"]
    for text in (
        "alice",
        "see alerts, and who is present",
        "acknowledge, resolve and reopen alerts, and comment on them",
        "odd:scope",
        "all beneath payments",
        "infra",
        "tocsin",
        "token-7",
        "by you, with a new token",
    ):
        await expect(facts).to_contain_text(text)
    await expect(facts).not_to_contain_text("revoke tokens")
    assert await facts.locator("time").count() == 2  # issued, expires


async def test_a_token_without_topics_and_id_says_so(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await open_settings(tab)
    await expect(tab["token-facts"].locator("dd").nth(2)).to_have_text("all")
    await expect(tab["token-facts"]).to_contain_text("none, so only all tokens of yours can be revoked together")


async def test_hostile_claims_are_text(node: Node, tab: Tab) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    await tab.open(node, subject=hostile, jti=hostile, scope=f"{READ} <b>bold</b>")
    await open_settings(tab)
    await expect(tab["token-facts"].locator("bdi").first).to_have_text(hostile)
    assert await tab["settings"].locator("img, b").count() == 0


@OWN_PAGE
async def test_the_page_says_by_what_way_the_stream_comes_and_since_when(node: Node, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    async with Proxy(node.base) as proxy:
        proxy.blocks_websockets = False
        behind = Node(proxy.base, node.database_url)
        await tab.open(behind)
        await open_settings(tab)
        await expect(tab["stream-facts"]).to_contain_text("a WebSocket")
        await expect(tab["stream-facts"]).to_contain_text("live, since")
        proxy.blocks_websockets = True
        await tab.page.goto("about:blank")
        await tab.open(behind, subject="bob")
        await open_settings(tab)
        await expect(tab["stream-facts"]).to_contain_text("server-sent events, because WebSockets are blocked")


async def test_a_test_alert_is_stored_and_comes_back(own_node: Node, tab: Tab) -> None:
    await tab.open(own_node, scope=f"{READ} {WRITE}", topics=["payments.*"])
    await open_settings(tab)
    await tab["settings"].get_by_label("Severity").select_option("warning")
    await tab.page.get_by_role("button", name="Send a test alert").click()
    await expect(tab["test-outcome"]).to_contain_text("Stored as number 1 of the log")
    await expect(tab["test-outcome"]).to_contain_text("came back to this page")
    (row,) = await own_node.sql("SELECT topic, severity, source FROM alerts")
    assert tuple(row) == ("payments.test", "warning", "alice")
    await tab.page.get_by_role("link", name="Alerts", exact=True).click()
    await tab.shows("Test alert")


async def test_a_test_alert_on_a_topic_that_the_token_does_not_cover_is_refused_in_words(node: Node, tab: Tab) -> None:
    tab.tolerated = REFUSED
    await tab.open(node, scope=f"{READ} {WRITE}", topics=["payments.*"])
    await open_settings(tab)
    await tab["settings"].get_by_label("Topic").fill("infra")
    await tab.page.get_by_role("button", name="Send a test alert").click()
    await expect(tab["test-outcome"]).to_contain_text("was not sent. Your token does not cover these topics")
    assert await node.sql("SELECT count(*) FROM alerts") == [(0,)]


async def test_without_the_scope_the_page_says_which_one_is_needed(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await open_settings(tab)
    await expect(tab["test-refusal"]).to_contain_text("needs the scope alerts:write")
    await expect(tab.page.get_by_role("button", name="Send a test alert")).to_be_hidden()


@pytest.mark.parametrize("tab", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=str)
async def test_axe_finds_nothing_in_the_settings(node: Node, tab: Tab) -> None:
    await tab.open(node, scope=f"{READ} {WRITE}")
    await open_settings(tab)
    await axe(tab.page)


@pytest.mark.parametrize("tab", [{"viewport": {"width": 360, "height": 740}}], indirect=True, ids=["phone"])
async def test_the_settings_fit_a_phone(node: Node, tab: Tab) -> None:
    await tab.open(node, scope=f"{READ} {WRITE}", jti="a-rather-long-id-of-a-token-that-has-to-break-somewhere")
    await open_settings(tab)
    assert await tab.page.evaluate("document.documentElement.scrollWidth") == 360
