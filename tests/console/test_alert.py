"""One alert beside the feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.console.axe import axe

if TYPE_CHECKING:
    from tests.console.tab import Tab
    from tests.harness import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_axe_finds_nothing_in_the_feed(node: Node, tab: Tab) -> None:
    for severity in ("info", "warning", "error", "critical"):
        await node.post(f"An alert of severity {severity}", severity=severity)
    await tab.page.goto(node.base)
    await axe(tab.page)
    await tab.open(node)
    await axe(tab.page)
