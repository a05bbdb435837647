"""The console under a path of a site: each of its addresses is under that path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from service.settings import ServerSettings, Settings
from tests.harness import ROOT, Node, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.console.tab import Tab

CONSOLE = ROOT / "service" / "console"
ABSOLUTE = re.compile(r"""[=(]\s*["'`]/[a-z]""")
"""An address that begins at the root of the site."""


@pytest.mark.unit
def test_no_address_in_the_pages_begins_at_the_root_of_the_site() -> None:
    files = [path for path in CONSOLE.rglob("*") if path.suffix in {".html", ".js", ".css"}]
    assert len(files) > 50
    assert [path.name for path in files if ABSOLUTE.search(path.read_text())] == []


@pytest.fixture
def site(database_url: str) -> Iterator[Node]:
    with serving(database_url, Settings(server=ServerSettings(root_path="/tocsin"))) as node:
        yield Node(f"{node.base}/tocsin", database_url)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_console_asks_for_nothing_outside_its_path(site: Node, tab: Tab) -> None:
    await site.post("Before")
    await tab.open(site)
    await tab.shows("Before")
    await site.post("Live")
    await tab.shows("Live", "Before")
    asked = [address for address in tab.addresses if not address.startswith("data:")]
    assert len(asked) > 50
    assert [address for address in asked if not address.startswith((f"{site.base}/", f"{site.ws}?"))] == []
