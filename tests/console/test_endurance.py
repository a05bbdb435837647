"""A page that is open all day: full servers, storms of alerts, laptops that sleep."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from playwright.async_api import async_playwright, expect

from scripts.system_packages import BROWSER_ARGUMENTS, chromium
from service.settings import Settings, StreamSettings
from tests.console.tab import OWN_PAGE, UNREACHABLE, Tab, received_at
from tests.harness import Node, eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]

BATCHES, BATCH, STORM_SECONDS = 40, 50, 10


@pytest.fixture
def node(own_node: Node) -> Node:
    """A node of the test's own: the positions of its log are counted."""
    return own_node


@OWN_PAGE
async def test_a_page_that_is_turned_away_comes_in_once_there_is_room(database_url: str, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    await tab.draw(0.02)
    with serving(database_url, Settings(stream=StreamSettings(connections_max=1))) as node:
        other = await node.live("bob")
        await tab.page.goto(f"{node.base}/#token={tab.token()}")
        await tab.is_("waiting")
        await expect(tab["state"]).to_contain_text("overloaded")
        await node.post("Meanwhile")
        await other.close()
        await tab.is_("live")
        await node.post("After")
        await tab.shows("After", "Meanwhile")
        await eventually(lambda: node.sql("SELECT FROM audit.rejections WHERE reason = 'overloaded'"))


async def test_a_storm_of_2000_alerts_in_10_s_is_shown_to_two_admins_whole_and_in_order(
    node: Node, tab: Tab, other_tab: Tab
) -> None:
    await tab.open(node)
    await other_tab.open(node, subject="bob")
    clock = asyncio.get_running_loop().time
    start = clock()
    async with node.http() as client:
        for number in range(BATCHES):
            titles = [f"Alert {number * BATCH + one}" for one in range(1, BATCH + 1)]
            (await client.post("/v1/alerts/batch", json=[{"title": title} for title in titles])).raise_for_status()
            await asyncio.sleep(max(0.0, start + (number + 1) * STORM_SECONDS / BATCHES - clock()))
    for one in (tab, other_tab):
        await expect(one["count"]).to_have_text("2,000 alerts")
        await expect(one["alert"].locator(".title").first).to_have_text("Alert 2000")
        assert await one["alert"].count() < 40
        await one["feed"].focus()
        await one.page.keyboard.press("End")
        await expect(one["alert"].locator(".title").last).to_have_text("Alert 1")
        seqs = [int(await row.get_attribute("data-seq") or 0) for row in await one["alert"].all()]
        assert seqs == list(range(len(seqs), 0, -1))
        assert one.requests_of("/v1/alerts") == 1
    await eventually(lambda: received_at(node, BATCHES * BATCH))


async def test_a_laptop_that_slept_shows_what_happened_meanwhile(database_url: str) -> None:
    mark = f"--tocsin-{uuid4().hex}"
    pings = StreamSettings(ping_interval_seconds=1, ping_timeout_seconds=1)
    async with async_playwright() as playwright:
        laptop = await playwright.chromium.launch(executable_path=chromium(), args=[*BROWSER_ARGUMENTS, mark])
        tab = Tab(await laptop.new_page(), UNREACHABLE)
        with serving(database_url, Settings(stream=pings)) as node:
            await tab.open(node)
            await node.post("Before")
            await tab.shows("Before")
            processes = await asyncio.to_thread(family_of, mark)
            send(processes, signal.SIGSTOP)
            await eventually(lambda: all_closed(node))
            await node.post("Meanwhile")
            send(processes, signal.SIGCONT)
            await tab.shows("Meanwhile", "Before")
            await tab.is_("live")
            await eventually(lambda: received_at(node, 2))
            assert tab.requests_of("/v1/alerts") == 1
            assert tab.complaints == []
        await laptop.close()


async def all_closed(node: Node) -> bool:
    return not await node.sql("SELECT FROM connections WHERE closed_at IS NULL")


def family_of(mark: str) -> list[int]:
    """Return the processes of the browser that was started with an argument."""
    return family(int(subprocess.check_output(["pgrep", "-o", "-f", "--", mark])))


def family(process: int) -> list[int]:
    """Return a process and all that it started."""
    children = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout
    return [process, *(one for child in children.split() for one in family(int(child)))]


def send(processes: Iterable[int], what: signal.Signals) -> None:
    for process in processes:
        os.kill(process, what)


@OWN_PAGE
async def test_what_is_printed_is_what_one_reads(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full", body="Of db-2.", severity="critical")
    await tab.open(node)
    await tab.page.emulate_media(media="print")
    await expect(tab["alert"]).to_be_visible()
    for control in ("filters", "sign-in"):
        await expect(tab[control]).to_be_hidden()
    await expect(tab.page.get_by_role("button")).to_have_count(0)
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", answer["id"])
    await expect(tab["body"]).to_have_text("Of db-2.")
    await expect(tab["alert"]).to_be_hidden()
    assert len(await tab.page.pdf()) > 1000
