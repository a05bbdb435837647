"""Fixtures: Debian's Chromium, the console in a tab of it, and a node that the tests of a module share.

Loading the page costs several times what most tests do with it. So the tests of a module share one page, which each
leaves signed out, and one node, from which each takes the alerts of the test before. A test that changes its page in a
way that signing out does not undo has one of its own (``OWN_PAGE``), and one that counts all that a node has seen has
its own node (``own_node``).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from scripts.system_packages import BROWSER_ARGUMENTS, chromium, light_chromium
from service.settings import LedgerSettings, LimitSettings, Settings
from tests.console.shared_node import SharedNode
from tests.console.tab import Tab
from tests.harness import serving
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from playwright.async_api import Browser, Page

    from tests.harness import Node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(request: pytest.FixtureRequest) -> AsyncIterator[Browser]:
    """A browser; for modules that ask for a desktop, one that shows notifications."""
    executable = chromium() if getattr(request.module, "NEEDS_A_DESKTOP", False) else light_chromium()
    if executable is None:
        missing("there is no Chromium: install the package chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def spare_pages(browser: Browser) -> list[Page]:
    """The pages that tests of the module left signed out."""
    return []


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser, spare_pages: list[Page], request: pytest.FixtureRequest) -> AsyncIterator[Tab]:
    """The console in a tab; with a parameter, in a browser of its own with these options."""
    if hasattr(request, "param"):
        async with opened(browser, request.param) as tab:
            yield tab
    else:
        async with _shared(browser, spare_pages, request.node) as tab:
            yield tab


@pytest_asyncio.fixture(loop_scope="module")
async def other_tab(browser: Browser, spare_pages: list[Page], request: pytest.FixtureRequest) -> AsyncIterator[Tab]:
    """The console in the browser of another admin."""
    async with _shared(browser, spare_pages, request.node) as tab:
        yield tab


@asynccontextmanager
async def opened(browser: Browser, options: dict[str, Any]) -> AsyncIterator[Tab]:
    """The console in a browser of its own."""
    context = await browser.new_context(**options)
    tab = Tab(await context.new_page())
    yield tab
    await context.close()
    tab.check()


@asynccontextmanager
async def _shared(browser: Browser, spare_pages: list[Page], test: pytest.Item) -> AsyncIterator[Tab]:
    page = spare_pages.pop() if spare_pages else await (await browser.new_context()).new_page()
    tab = Tab(page)
    yield tab
    if test.stash.get(_FAILED, False):
        await page.context.close()
    else:
        await tab.leave()
        spare_pages.append(page)
    tab.check()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember which tests failed: nobody knows how they left their page."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture(scope="module")
def shared_node(shared_url: str) -> Iterator[SharedNode]:
    """A node without rate limits, whose ledger is soon written."""
    every = "1000000/second"
    limits = LimitSettings(write_limit=every, read_limit=every, auth_failure_limit=every, anonymous_limit=every)
    with serving(shared_url, Settings(limits=limits, ledger=LedgerSettings(ledger_flush_seconds=0.05))) as running:
        yield SharedNode(running.base, running.database_url)


@pytest_asyncio.fixture(loop_scope="module")
async def node(shared_node: SharedNode) -> AsyncIterator[Node]:
    """The node of the module, without the alerts and the streams of the tests before."""
    await shared_node.sql("DELETE FROM alerts")
    yield shared_node
    await shared_node.close_streams()


@pytest.fixture
def own_node(database_url: str) -> Iterator[Node]:
    """A node with default settings that nobody has used."""
    with serving(database_url) as running:
        yield running
