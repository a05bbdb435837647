"""axe, which finds in a page what keeps people out of it: WCAG 2.2 AA, and its own best practices.

It is put into the page by the browser's debugger, past the page's policy, and never served.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import TYPE_CHECKING

from scripts.node_tools import INSTALL, tool
from tests.requirements import missing

if TYPE_CHECKING:
    from playwright.async_api import Page

_LOOK = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
    ({ id, help, nodes }) => ({ id, help, where: nodes.map(({ target, failureSummary }) => [target, failureSummary]) })
)"""


_SETTLED = """Promise.allSettled(
    document.getAnimations()
        .filter(({ effect }) => effect.getComputedTiming().endTime < Infinity && effect.target.checkVisibility())
        .map(({ finished }) => finished)
)"""


async def axe(page: Page) -> None:
    """Fail with what axe objects to in the page as it is now.

    Things that fade in are looked at once they have: half-way, a text has half its contrast.
    """
    await page.evaluate(_SETTLED)
    if not await page.evaluate("'axe' in globalThis"):
        await page.evaluate(await asyncio.to_thread(_script))
    found = await page.evaluate(_LOOK)
    assert not found, json.dumps(found, indent=2)


@cache
def _script() -> str:
    """Return axe's script, as an expression of no value."""
    path = tool("axe-core/axe.min.js")
    if path is None:
        missing(f"there is no axe: {INSTALL}")
    assert path is not None
    return f"(() => {{ {path.read_text()} }})()"
