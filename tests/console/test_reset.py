"""The console over a change of the log's history: a failover of the database lost events that the page shows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.console.simulated_log import SimulatedLog
from tests.console.tab import Tab, received_at
from tests.console.test_tabs import connections
from tests.fixtures.failover import failover_database
from tests.harness import eventually, serving, token
from tests.stream.test_history_of_nodes import post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, BrowserContext

    from tests.harness import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANAGE = "alerts:read alerts:manage"
LOST = "Some alerts were lost by the database's failover. The list was brought up to date."
TOLERATED = ("status of 404", "status of 503")
EITHER_WAY = pytest.mark.parametrize(
    "knows_loss", [True, False], ids=["the service knows what was lost", "nobody knows what was lost"]
)


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser of the test's own."""
    context = await browser.new_context()
    yield context
    await context.close()


async def opened(context: BrowserContext, node: Node) -> Tab:
    """Open the console in a tab, and wait until it is live."""
    tab = Tab(await context.new_page(), TOLERATED)
    await tab.page.goto(f"{node.base}/#token={token('alice', MANAGE)}")
    await tab.is_("live")
    await tab.page.evaluate("const real = Math.random; Math.random = () => real() / 5")  # It comes back soon.
    return tab


@EITHER_WAY
async def test_what_was_lost_goes_and_what_did_not_change_stays_as_it_is(
    node: Node, context: BrowserContext, *, knows_loss: bool
) -> None:
    log = SimulatedLog(knows_loss)
    await log.serve(context)
    for number in range(1, 4):
        log.append(number, f"Alert {number}")
    tab = await opened(context, node)
    log.append(4, "Lost")
    log.append(5, "Lost too")
    await tab.shows("Lost too", "Lost", "Alert 3", "Alert 2", "Alert 1")
    await eventually(lambda: log.acks[0] and log.acks[0][-1] == 5)
    await tab["alert"].filter(has_text="Alert 2").click()
    await tab["comment-text"].fill("Half a thou")
    await expect(tab["timeline"].locator("li")).to_have_count(1)
    changes = await tab.page.evaluate_handle(WATCH, "Alert 1")

    await log.fail_over(lost=2)
    log.append(6, "New")
    await tab.shows("New", "Alert 3", "Alert 2", "Alert 1")
    await expect(tab["notice"]).to_contain_text(LOST)
    log.append(7, "Newer")
    await tab.shows("Newer", "New", "Alert 3", "Alert 2", "Alert 1")

    await expect(tab["comment-text"]).to_have_value("Half a thou")
    await expect(tab["comment-text"]).to_be_focused()
    await expect(tab.page.locator('[data-testid="alert"][aria-selected="true"]')).to_contain_text("Alert 2")
    assert await changes.evaluate("(changes) => changes.length") == 0
    await eventually(lambda: log.acks[1] and log.acks[1][-1] == 5)
    assert max(log.acks[1]) == 5
    tab.check()


WATCH = """
(title) => {
  const changes = [];
  const row = [...document.querySelectorAll('[data-testid="alert"]')].find((one) => one.textContent.includes(title));
  new MutationObserver((records) => changes.push(...records)).observe(row, { childList: true, subtree: true });
  new MutationObserver((records) => {
    for (const { removedNodes } of records) if ([...removedNodes].includes(row)) changes.push("removed");
  }).observe(row.parentElement, { childList: true });
  const timeline = document.querySelector('[data-testid="timeline"]');
  new MutationObserver((records) => changes.push(...records)).observe(timeline, { childList: true });
  return changes;
}
"""
"""Returns a list that grows with each change of what a row holds, and of the timeline's rows."""


@EITHER_WAY
async def test_an_open_alert_that_was_lost_says_so_and_gives_back_the_comment(
    node: Node, context: BrowserContext, *, knows_loss: bool
) -> None:
    log = SimulatedLog(knows_loss)
    await log.serve(context)
    log.append(1, "Kept")
    tab = await opened(context, node)
    log.append(2, "Lost")
    await tab["alert"].filter(has_text="Lost").click()
    await tab["comment-text"].fill("Half a thou")
    await log.fail_over(lost=1)
    await expect(tab["detail-missing"]).to_have_text(
        "The alert was lost by the database's failover. Your comment was not sent: “Half a thou”"
    )
    await tab.shows("Kept")
    tab.check()


@EITHER_WAY
async def test_a_change_that_was_lost_is_taken_back_in_the_list_and_in_the_open_alert(
    node: Node, context: BrowserContext, *, knows_loss: bool
) -> None:
    log = SimulatedLog(knows_loss)
    await log.serve(context)
    log.append(1, "Disk", severity="critical")
    tab = await opened(context, node)
    await tab["alert"].click()
    log.append(1, kind="alert.acknowledged", status="acknowledged", status_by="bob")
    await expect(tab["status"]).to_have_text("acknowledged by bob")
    await expect(tab["pinned-alert"]).to_have_count(0)
    await log.fail_over(lost=1)
    await expect(tab["status"]).to_have_text("open")
    await expect(tab["alert"]).to_have_attribute("data-status", "open")
    await expect(tab["pinned-alert"]).to_have_count(1)
    await expect(tab["timeline"].locator("li")).to_have_count(1)
    log.append(1, kind="alert.resolved", status="resolved", status_by="carol")
    await expect(tab["status"]).to_have_text("resolved by carol")
    await expect(tab["timeline"].locator("li")).to_have_count(2)
    await expect(tab["timeline"]).not_to_contain_text("acknowledged")
    tab.check()


@EITHER_WAY
async def test_who_reads_further_down_stays_there(node: Node, context: BrowserContext, *, knows_loss: bool) -> None:
    log = SimulatedLog(knows_loss)
    await log.serve(context)
    for number in range(1, 601):
        log.append(number, f"Alert {number}")
    tab = await opened(context, node)
    for loaded in ("250 alerts", "450 alerts"):
        await tab.page.evaluate("document.getElementById('feed').scrollTop = 1e6")
        await expect(tab.page.locator("#feed-count")).to_contain_text(loaded)
    await tab.page.evaluate("document.getElementById('feed').scrollTop = 200 * 57")
    before = await eventually(partial(settled_top, tab))
    await log.fail_over(lost=2)
    await expect(tab.page.locator("#feed-count")).to_contain_text("250 alerts")  # as far as it is in view
    await expect(tab["notice"]).to_contain_text(LOST)
    assert await eventually(partial(settled_top, tab)) == before
    tab.check()


async def settled_top(tab: Tab) -> str | None:
    """Return the title of the first row that is wholly in view, if two frames show the same."""
    first, second = await tab.page.evaluate(
        f"async () => {{ const first = ({TOP})(); await {TWO_FRAMES}; return [first, ({TOP})()]; }}"
    )
    return first if first == second else None


TWO_FRAMES = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
TOP = """
() => {
  const feed = document.getElementById("feed").getBoundingClientRect();
  const rows = [...document.querySelectorAll('[data-testid="alert"]')];
  const first = rows.filter((row) => row.getBoundingClientRect().top >= feed.top - 1)
    .sort((one, other) => one.getBoundingClientRect().top - other.getBoundingClientRect().top)[0];
  return first.querySelector(".title").textContent;
}
"""
"""Returns the title of the first row that is wholly in view."""


@EITHER_WAY
async def test_tabs_that_share_a_stream_are_all_reset(node: Node, context: BrowserContext, *, knows_loss: bool) -> None:
    log = SimulatedLog(knows_loss)
    await log.serve(context)
    log.append(1, "Kept")
    tabs = [await opened(context, node) for _ in range(2)]
    log.append(2, "Lost")
    for tab in tabs:
        await tab.shows("Lost", "Kept")
    await log.fail_over(lost=1)
    log.append(3, "New")
    for tab in tabs:
        await tab.shows("New", "Kept")
        await expect(tab["notice"]).to_contain_text(LOST)
    log.append(4, "Newer")
    for tab in tabs:
        await tab.shows("Newer", "New", "Kept")
        tab.check()
    assert len(log.streams) == 1


@EITHER_WAY
async def test_a_tab_that_was_frozen_during_the_failover_is_reset_when_it_wakes_up(
    node: Node, context: BrowserContext, *, knows_loss: bool
) -> None:
    log = SimulatedLog(knows_loss)
    await log.serve(context)
    log.append(1, "Kept")
    leader, frozen = [await opened(context, node) for _ in range(2)]
    log.append(2, "Lost")
    await frozen.shows("Lost", "Kept")
    await frozen.page.evaluate("document.dispatchEvent(new Event('freeze'))")
    await frozen.is_("waiting")
    await log.fail_over(lost=1)
    log.append(3, "New")
    log.append(4, "Newer")
    await leader.shows("Newer", "New", "Kept")
    await frozen.page.evaluate("document.dispatchEvent(new Event('resume'))")
    await frozen.shows("Newer", "New", "Kept")
    await expect(frozen["notice"]).to_contain_text(LOST)
    await eventually(lambda: len(log.streams) == 1)
    log.append(5, "Newest")
    for tab in (leader, frozen):
        await tab.shows("Newest", "Newer", "New", "Kept")
        tab.check()


async def test_a_real_failover_is_followed_by_all_tabs_and_their_receipts_are_of_what_the_log_has(
    server_url: str, template: str, context: BrowserContext
) -> None:
    async with failover_database(server_url, template) as database:
        with serving(database.url) as node:
            await post(node, "1", "2")
            tabs = [await opened(context, node) for _ in range(2)]
            await database.replicate()
            await post(node, "void 3", "void 4")
            for tab in tabs:
                await tab.shows("void 4", "void 3", "2", "1")
            await tabs[1]["alert"].filter(has_text="2").click()
            await tabs[1]["comment-text"].fill("Half a thou")
            await database.fail_over()
            await post(node, "3", "4", "5")
            for tab in tabs:
                await tab.shows("5", "4", "3", "2", "1")
                await expect(tab["notice"]).to_contain_text(LOST)
                await expect(tab["seq"]).to_have_text("seq 5")
            await expect(tabs[1]["comment-text"]).to_have_value("Half a thou")
            await eventually(lambda: received_at(node, 5))
            await connections(node, ever=2, now=1)
            for tab in tabs:
                tab.check()
