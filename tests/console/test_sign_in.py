"""Signing in to the console with tokens: links over a session, and what goes on while something fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from playwright.async_api import expect

from tests.console.axe import axe
from tests.console.tab import OWN_PAGE, REFUSED, UNREACHABLE, Tab
from tests.harness import Node, Process, new_database, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.async_api import Route

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def follow_link(tab: Tab, bearer: str) -> None:
    """Follow a link with a token to the page that is open."""
    await tab.page.evaluate("(token) => { location.hash = `token=${token}` }", bearer)


async def test_a_link_for_somebody_else_is_asked_about_before_it_ends_a_session(node: Node, tab: Tab) -> None:
    await node.post("For alice", recipients=["alice"])
    await tab.open(node)
    await follow_link(tab, tab.token("mallory"))
    await expect(tab["switch"]).to_contain_text("as mallory instead of alice")
    await axe(tab.page)
    await tab.page.get_by_role("button", name="Stay signed in").click()
    await expect(tab["who"]).to_have_text("alice")
    await tab.shows("For alice")
    assert tab.page.url == f"{node.base}/"

    await follow_link(tab, tab.token("mallory"))
    await expect(tab["switch"]).to_contain_text("mallory")
    await follow_link(tab, tab.token("bob"))
    await expect(tab["switch"]).to_contain_text("as bob instead of alice")
    await tab.page.get_by_role("button", name="Switch").click()
    await expect(tab["who"]).to_have_text("bob")
    await tab.is_("live")
    await expect(tab["alert"]).to_have_count(0)


async def test_a_refused_token_of_somebody_else_does_not_end_a_session(node: Node, tab: Tab) -> None:
    tab.tolerated = REFUSED
    await tab.open(node)
    await follow_link(tab, tab.token("bob", ttl_seconds=-1))
    await tab.page.get_by_role("button", name="Switch").click()
    await expect(tab["reason"]).to_contain_text("has expired")
    await expect(tab["who"]).to_have_text("alice")
    await tab.is_("live")
    await node.post("Still here")
    await tab.shows("Still here")


async def test_a_token_that_is_looked_at_during_the_sign_out_does_not_sign_in_again(node: Node, tab: Tab) -> None:
    await tab.open(node)
    asks, signed_out = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        asks.set()
        await signed_out.wait()
        await route.fallback()

    await tab.page.route("**/v1/presence", hold)
    await follow_link(tab, tab.token(ttl_seconds=300))
    await asks.wait()
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.is_("signed-out")
    async with tab.page.expect_response("**/v1/presence") as response:
        signed_out.set()
    await (await response.value).finished()
    await expect(tab["expiry"]).to_be_hidden()
    await tab.is_("signed-out")
    await expect(tab.page.locator("#token-until")).to_be_empty()


@OWN_PAGE
async def test_a_list_that_cannot_be_loaded_after_a_gap_is_tried_again(
    start: Callable[..., Process], server_url: str, template: str, tab: Tab
) -> None:
    tab.tolerated = (*UNREACHABLE, "status of 503")
    await tab.draw(0.1)
    node = start()
    await node.post("Old log")
    await node.post("Old log too")
    await tab.open(node)
    left = [503, 503]

    async def fail(route: Route) -> None:
        if left:
            await route.fulfill(status=left.pop(), json={"code": "overloaded"})
        else:
            await expect(tab["notice"]).to_contain_text("The console keeps trying")
            await route.fallback()

    await tab.page.route("**/v1/alerts?limit=50", fail)
    node.kill()
    async with new_database(server_url, f"test_{uuid4().hex}", template) as url:
        restored = start(urlsplit(node.base).port, TOCSIN_DATABASE_URL=url)
        await restored.post("New log")
        await tab.shows("New log")
        await expect(tab["notice"]).to_contain_text("was brought up to date")
        await tab.is_("live")
        restored.stop()


@OWN_PAGE
@pytest.mark.long
async def test_a_token_that_expired_is_reported_while_another_tab_carries_the_stream(node: Node, tab: Tab) -> None:
    await tab.open(node)
    follower = Tab(await tab.page.context.new_page(), REFUSED)
    await follower.open_briefly(node)
    await expect(follower["expiry"]).to_contain_text("token expired at")
    await follower.is_("live")
    await follower.page.get_by_role("button", name="Sign in again").click()
    await expect(follower["expiry"]).to_be_hidden()  # the form says what there is to do
    await follower.paste(token("alice"))
    await expect(follower["sign-in"]).to_be_hidden()
    await expect(follower["expiry"]).to_be_hidden()
    assert follower.complaints == []
