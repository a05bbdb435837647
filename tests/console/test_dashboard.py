"""The dashboard, and who is present."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from service.settings import LedgerSettings, Settings
from tests.console.axe import axe
from tests.console.tab import OWN_PAGE, REFUSED, UNREACHABLE, Tab
from tests.harness import PATIENCE, Node, Process, eventually, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from playwright.async_api import Browser, Locator

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/dashboard"
STALE_MS = 8_000
"""After which figures that are followed by no others are old."""
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
"""A browser without a window never puts a tab into the background, so the page gets an event that says so."""

BOTH = """(chart) => [
    [...chart.querySelectorAll(".legend b")].map(({ textContent }) => textContent),
    [...chart.querySelectorAll("tbody tr:first-child td")].map(({ textContent }) => textContent),
]"""


@pytest.fixture
def node(database_url: str) -> Iterator[Node]:
    """A node whose ledger is soon written."""
    with serving(database_url, Settings(ledger=LedgerSettings(ledger_flush_seconds=0.05))) as running:
        yield running


async def open_dashboard(tab: Tab, node: Node) -> None:
    """Sign in, and wait until the figures are live."""
    await tab.open(node)
    await look(tab)


async def look(tab: Tab) -> None:
    """Go to the dashboard, and wait until the figures are live."""
    await tab.page.get_by_role("link", name="Dashboard").click()
    await expect(tab["dashboard"]).to_have_attribute("data-state", "live")


async def viewers(node: Node) -> int:
    """Say whether the node takes samples: 1, or 0."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'tocsin dashboard'"
    )
    return int((await node.sql(query))[0][0])


async def is_sampled(node: Node, times: int) -> bool:
    return await viewers(node) == times


def chart(tab: Tab, name: str) -> Locator:
    return tab[f"chart-{name}"]


async def line(tab: Tab, name: str) -> str:
    """Return the path of the first line of a chart."""
    return await chart(tab, name).locator(".line path").first.get_attribute("d") or ""


@asynccontextmanager
async def another(browser: Browser) -> AsyncIterator[Tab]:
    """A second browser: nothing is shared with the first."""
    context = await browser.new_context()
    tab = Tab(await context.new_page())
    yield tab
    await context.close()
    assert tab.complaints == []


# The charts.


async def test_charts_and_their_numbers_move_while_alerts_are_posted(node: Node, tab: Tab) -> None:
    await open_dashboard(tab, node)
    alerts = chart(tab, "alerts")
    await expect(tab["fact-postgres"]).to_have_text("answers")
    await expect(alerts.locator(".figure-head .figure-value")).to_have_text("0/s")
    await expect(chart(tab, "connections").locator(".figure-value")).to_have_text("1")
    before = await line(tab, "alerts")

    async def post_and_look() -> bool:
        await node.post(severity="critical")
        return await alerts.locator(".figure-head .figure-value").inner_text() != "0/s"

    await eventually(post_and_look)
    await expect(alerts.locator(".legend li").first).to_have_text(re.compile(r"critical (?!0/s)"))
    await expect(alerts.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"Now: critical [\d.]+/s, error 0/s")
    )
    assert await line(tab, "alerts") != before
    await expect(chart(tab, "sent").locator(".figure-value")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    await expect(chart(tab, "received").locator(".figure-value")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    await expect(chart(tab, "deliveries").locator(".figure-value")).to_have_text(re.compile(r"/s$"))


async def test_a_table_holds_the_numbers_of_its_chart(node: Node, tab: Tab) -> None:
    for _ in range(12):
        await node.post(severity="error")
    await node.sql("UPDATE events SET occurred_at = date_trunc('minute', now()) - interval '9.5 minutes'")
    await open_dashboard(tab, node)
    alerts = chart(tab, "alerts")
    await expect(alerts.get_by_role("row")).to_have_count(0)
    await alerts.get_by_text("Show as a table").click()
    await expect(alerts.get_by_role("columnheader")).to_have_text(["Time", "critical", "error", "warning", "info"])
    rows = alerts.locator("tbody tr")
    await expect(rows).to_have_count(61)
    cells = [await row.inner_text() for row in await rows.all()]
    assert [cell.split("\t")[2] for cell in cells].count("0.2/s") == 1  # twelve in a minute
    assert [cell.split("\t")[1] for cell in cells] == ["0/s"] * 61
    async with asyncio.timeout(PATIENCE):
        await node.post(severity="critical")
        while not re.search(r"now\t(?!0/s)", await rows.first.inner_text()):
            await node.post(severity="critical")
    legend, now = await alerts.evaluate(BOTH)  # at once: a sample may come between two questions
    assert now == legend


@OWN_PAGE
async def test_axe_finds_nothing_in_the_dashboard(node: Node, tab: Tab) -> None:
    await open_dashboard(tab, node)
    await chart(tab, "alerts").get_by_text("Show as a table").click()
    await axe(tab.page)
    await tab.page.emulate_media(color_scheme="dark")
    await axe(tab.page)
    await tab.page.set_viewport_size({"width": 360, "height": 740})
    assert await tab.page.evaluate("document.documentElement.scrollWidth") == 360
    await axe(tab.page)


# Only while it is looked at.


@OWN_PAGE
async def test_a_hidden_tab_and_another_place_pause_the_figures(node: Node, tab: Tab) -> None:
    await tab.open(node)
    assert (tab.requests_of(PATH), await viewers(node)) == (0, 0)
    await tab.page.get_by_role("link", name="Dashboard").click()
    await expect(tab["dashboard"]).to_have_attribute("data-state", "live")
    assert (tab.requests_of(PATH), await viewers(node)) == (1, 1)
    await tab.page.evaluate(HIDE, True)
    await eventually(lambda: is_sampled(node, 0))
    await expect(tab["dashboard"]).to_have_attribute("data-state", "paused")
    await tab.page.evaluate(HIDE, False)
    await expect(tab["dashboard"]).to_have_attribute("data-state", "live")
    await tab.page.get_by_role("link", name="Alerts", exact=True).click()
    await eventually(lambda: is_sampled(node, 0))
    await tab.page.get_by_role("link", name="Dashboard").click()
    await expect(tab["dashboard"]).to_have_attribute("data-state", "live")
    await tab.page.get_by_role("button", name="Sign out").click()
    await eventually(lambda: is_sampled(node, 0))


@OWN_PAGE
@pytest.mark.long
async def test_figures_that_are_old_say_so_until_the_server_is_back(start: Callable[..., Process], tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    await tab.draw(0.1)
    await tab.page.clock.install()
    node = start(TOCSIN_NODE_LEASE_SECONDS="2")  # for so long one that was killed is counted as missing
    await open_dashboard(tab, node)
    node.kill()
    await tab.page.clock.fast_forward(STALE_MS)
    await expect(tab["dashboard"]).to_have_attribute("data-state", "stale")
    await expect(tab["dashboard-state"]).to_have_text(re.compile(r"The figures are of .+ Trying again\."))
    start(int(node.base.rpartition(":")[2]), TOCSIN_NODE_LEASE_SECONDS="2")
    await expect(tab["dashboard"]).to_have_attribute("data-state", "live")


async def test_the_dashboard_goes_on_with_a_fresh_token(node: Node, tab: Tab) -> None:
    tab.tolerated = REFUSED
    await tab.open_briefly(node)
    await look(tab)
    await expect(tab["dashboard"]).to_have_attribute("data-state", "stale")
    await expect(tab["dashboard-state"]).to_contain_text("Your token has expired.")
    await tab.paste(tab.token())
    await expect(tab["dashboard"]).to_have_attribute("data-state", "live")


# Who is present.


async def test_presence_tells_who_is_on_since_when_and_on_how_many_screens(
    node: Node, tab: Tab, browser: Browser
) -> None:
    await tab.open(node, subject="alice")
    names = tab["presence"].get_by_role("listitem")
    await expect(names).to_have_text([re.compile(r"^alice1 screen, since \d")])
    async with another(browser) as other:
        await other.open(node, subject="bob")
        await expect(names).to_have_text([re.compile("^alice1 screen"), re.compile(r"^bob1 screen, since \d")])
        await expect(other["presence"].get_by_role("listitem")).to_have_count(2)
        async with another(browser) as third:
            await third.open(node, subject="bob")
            await expect(names).to_have_text([re.compile("^alice1 screen"), re.compile("^bob2 screens, since")])
        await expect(names).to_have_text([re.compile("^alice1 screen"), re.compile("^bob1 screen, since")])
        await expect(tab.page.get_by_text("2 admins present")).to_be_visible()
    await expect(names).to_have_text([re.compile("^alice1 screen")])
    await expect(tab.page.get_by_text("1 admin present")).to_be_visible()
