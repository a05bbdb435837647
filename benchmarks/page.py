"""The console's feed with very many alerts loaded and many arriving, in Chromium, against the same with few loaded."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from playwright.async_api import async_playwright, expect

from benchmarks.report import Row
from scripts.system_packages import BROWSER_ARGUMENTS, chromium
from tests.console.many import ARRIVED, RATE, TO_THE_END, arrive, loaded
from tests.harness import READ, WRITE, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import CDPSession, Page

    from benchmarks.nodes import Bench

FEW, MANY = 500, 50_000
MEASURED = """(() => {
    window.updates = [];
    let sinceLast = 0;
    const timed = (work) => {
        const start = performance.now();
        work();
        return performance.now() - start;
    };
    const frame = requestAnimationFrame;
    window.requestAnimationFrame = (callback) => frame((time) => {
        const spent = timed(() => {
            callback(time);
            document.body.offsetHeight;
        });
        updates.push(spent + sinceLast);
        sinceLast = 0;
    });
    const { set } = Object.getOwnPropertyDescriptor(WebSocket.prototype, "onmessage");
    Object.defineProperty(WebSocket.prototype, "onmessage", {
        set(callback) {
            set.call(this, callback && ((event) => (sinceLast += timed(() => callback(event)))));
        },
    });
})()"""
"""Notes in ``updates`` how many ms our scripts, and the style and layout that they cause, take from each frame."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of one update: of the page's thread, in the mean, and by the clock."""

    work: float
    half: float
    most: float


def page(bench: Bench) -> list[Row]:
    """Measure what an update costs with few alerts loaded, and with very many."""
    name = f"the feed, {MANY:,} alerts loaded, {RATE}/s arriving"
    if chromium() is None:
        return [Row(name, "not measured: there is no Chromium")]
    few, many = (_measured(bench, count) for count in (FEW, MANY))
    ratio = many.work / few.work
    return [
        Row(
            name,
            f"{many.work:.1f} ms an update; by the clock p50 {many.half:.1f} ms, p95 {many.most:.1f} ms",
            [f"{ratio:.2f} x with {FEW} loaded, {few.work:.1f} ms"],
            [("p95 < 16 ms, a frame", many.most < 16), ("<= 1.2 x", ratio <= 1.2)],
            data={"ms": {str(FEW): few.work, str(MANY): many.work}, "p50_ms": many.half, "p95_ms": many.most},
        )
    ]


def _measured(bench: Bench, count: int) -> Cost:
    with bench.node() as node:
        return asyncio.run(_cost(f"http://127.0.0.1:{node.address[1]}", count))


async def _cost(base: str, count: int) -> Cost:
    async with _open(f"{base}/#token={token('alice', READ)}", count) as opened, _source(base) as source:
        text = f"{count:,} alerts"
        feed = opened.get_by_test_id("feed")
        await feed.evaluate(TO_THE_END, text)
        await expect(opened.get_by_test_id("count")).to_have_text(text)
        await feed.evaluate("feed => (feed.scrollTop = 0)")
        browser = await opened.context.new_cdp_session(opened)
        await browser.send("Performance.enable", {"timeDomain": "threadTicks"})
        await opened.evaluate("updates.length = 0")
        before = await _work(browser)
        await arrive(source)
        await expect(opened.get_by_test_id("alert").locator(".title").first).to_have_text(f"Arrived {ARRIVED}")
        work = await _work(browser) - before
        updates = sorted(await opened.evaluate("updates"))
    half, most = (updates[int(len(updates) * share)] for share in (0.5, 0.95))
    return Cost(work / len(updates), half, most)


@asynccontextmanager
async def _open(address: str, count: int) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=BROWSER_ARGUMENTS)
        opened = await browser.new_page(viewport={"width": 1280, "height": 800})
        await opened.add_init_script(loaded(count))
        await opened.add_init_script(MEASURED)
        await opened.goto(address)
        yield opened
        await browser.close()


def _source(base: str) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {token('billing', WRITE)}"}
    return httpx2.AsyncClient(base_url=base, headers=headers, trust_env=False)


async def _work(browser: CDPSession) -> float:
    """Return what the page's scripts, styles and layouts have taken, in ms of its thread, not of waiting for it."""
    answer = await browser.send("Performance.getMetrics")
    metrics = {metric["name"]: metric["value"] for metric in answer["metrics"]}
    return float(1000 * sum(metrics[name] for name in ("ScriptDuration", "RecalcStyleDuration", "LayoutDuration")))
