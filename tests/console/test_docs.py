"""The page that shows the API, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from tests.console.tab import Tab
    from tests.harness import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_api_is_shown_with_nothing_from_elsewhere(node: Node, tab: Tab) -> None:
    await tab.page.goto(f"{node.base}/docs")
    await expect(tab.page.get_by_role("heading", name="Tocsin")).to_be_visible()
    await expect(tab.page.locator(".opblock").first).to_be_visible()
    assert all(address.startswith((node.base, "data:")) for address in tab.addresses)


async def test_there_is_no_other_page_of_the_api(node: Node) -> None:
    async with node.http() as client:
        assert (await client.get("/redoc")).status_code == 404
