"""Fixtures: Debian's Chromium, and the console in a tab of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest_asyncio
from playwright.async_api import async_playwright

from scripts.system_packages import BROWSER_ARGUMENTS, chromium, light_chromium
from tests.console.tab import Tab
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from playwright.async_api import Browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(request: pytest.FixtureRequest) -> AsyncIterator[Browser]:
    """A browser; for modules that say so, one with a desktop, as it were: it shows notifications."""
    executable = chromium() if getattr(request.module, "NEEDS_A_DESKTOP", False) else light_chromium()
    if executable is None:
        missing("there is no Chromium: install the package chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Tab]:
    """The console in a tab; a parameter is the options of its browser."""
    async with _opened(browser, getattr(request, "param", {})) as tab:
        yield tab


@pytest_asyncio.fixture(loop_scope="module")
async def other_tab(browser: Browser) -> AsyncIterator[Tab]:
    """The console in the browser of another admin."""
    async with _opened(browser, {}) as tab:
        yield tab


@asynccontextmanager
async def _opened(browser: Browser, options: dict[str, Any]) -> AsyncIterator[Tab]:
    context = await browser.new_context(**options)
    tab = Tab(await context.new_page())
    yield tab
    await context.close()
    assert tab.complaints == []
    assert not [address for address in tab.addresses if any(token in address for token in tab.tokens)]
