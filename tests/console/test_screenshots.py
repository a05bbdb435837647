"""The pictures of the README. ``make screenshots`` keeps them, and takes half an hour: the dashboard shows so much."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.console.screenshot_scenario import EVENING, tell
from tests.harness import ROOT, Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.console.tab import Tab

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]

ALL = "alerts:read alerts:manage audit:read"
DESKTOP = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
DARK = {**DESKTOP, "color_scheme": "dark"}
TALL = {**DESKTOP, "viewport": {"width": 1280, "height": 1000}}
PHONE = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 2, "is_mobile": True}
KEEP = bool(os.environ.get("KEEP_SCREENSHOTS"))
TRAFFIC_SECONDS = 1700 if KEEP else 5


@pytest.fixture
def node(own_node: Node) -> Node:
    """A node of the test's own: the pictures show all that it knows."""
    return own_node


@pytest_asyncio.fixture(loop_scope="module")
async def alert(node: Node) -> AsyncIterator[str]:
    """An evening, with three admins on who received it all, and one alert of it."""
    alert = await tell(node)
    streams = [await node.live(name, after=0) for name in ("bob", "carol", "carol", "erin")]
    for stream in streams:
        await stream.ack(stream.seen[-1]["seq"])
    yield alert
    for stream in streams:
        await stream.close()


async def take(tab: Tab, name: str, tmp_path: Path, *, whole: bool = False) -> None:
    """Take a picture that the README shows; it is kept if that was asked for."""
    picture = f"docs/screenshots/{name}.png"
    assert picture in (ROOT / "README.md").read_text()
    path = (ROOT if KEEP else tmp_path) / picture
    path.parent.mkdir(parents=True, exist_ok=True)
    await tab.page.screenshot(path=path, full_page=whole, animations="disabled")


@pytest.mark.parametrize(
    ("tab", "name"),
    [(DESKTOP, "feed"), (DARK, "dark"), (PHONE, "phone")],
    ids=["feed", "dark", "phone"],
    indirect=["tab"],
)
async def test_the_feed(node: Node, alert: str, tab: Tab, name: str, tmp_path: Path) -> None:
    await tab.open(node, scope=ALL)
    await expect(tab["presence"]).to_contain_text("4 admins present")
    await expect(tab["feed"]).to_contain_text(EVENING[-1].title)
    await take(tab, name, tmp_path)


@pytest.mark.parametrize("tab", [TALL], ids=["alert"], indirect=True)
async def test_an_alert(node: Node, alert: str, tab: Tab, tmp_path: Path) -> None:
    await tab.open(node, scope=ALL)
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", alert)
    await expect(tab["receipts"].get_by_role("listitem")).to_have_count(4)
    await take(tab, "alert", tmp_path)


@pytest.mark.timeout(TRAFFIC_SECONDS + 120)
@pytest.mark.parametrize("tab", [DESKTOP], ids=["dashboard"], indirect=True)
async def test_the_dashboard(node: Node, tab: Tab, tmp_path: Path) -> None:
    admins = [asyncio.create_task(read(node, name)) for name in ("bob", "carol", "carol", "erin")]
    await tab.open(node, scope=ALL, ttl_seconds=2 * TRAFFIC_SECONDS + 60)
    await tab.page.get_by_role("link", name="Dashboard").click()
    await post_for(node, TRAFFIC_SECONDS)
    await expect(tab["dashboard"]).to_have_attribute("data-state", "live")
    await take(tab, "dashboard", tmp_path, whole=True)
    for admin in admins:
        admin.cancel()
    await asyncio.gather(*admins, return_exceptions=True)


async def read(node: Node, name: str) -> None:
    """Acknowledge what comes, a moment after it came."""
    stream = await node.live(name, claims={"ttl_seconds": 2 * TRAFFIC_SECONDS + 60})
    while True:
        event = await stream.next_of("event", TRAFFIC_SECONDS)
        await asyncio.sleep(random.expovariate(20))
        await stream.ack(event["seq"])


async def post_for(node: Node, seconds: float) -> None:
    """Post some alerts a second, more of them and then fewer."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        severity = random.choices(("info", "warning", "error", "critical"), weights=(60, 25, 12, 3))[0]
        await node.post(severity=severity)
        await asyncio.sleep(random.expovariate(3 + 2 * math.sin(left / 300)))
