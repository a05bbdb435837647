"""Very many alerts in one feed, for tests and for ``make bench``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

RATE, ARRIVED = 200, 600


def loaded(many: int) -> str:
    """Return a script that has the page load so many alerts as a server would answer them.

    They are below all that the real one will raise, and all else is real.
    """
    return f"""(() => {{
    const real = fetch;
    const day = Date.now();
    const alertAt = (number) => ({{
        id: `00000000-0000-4000-8000-${{String(number).padStart(12, "0")}}`,
        seq: number / {many + 1}, source: "billing", topic: "payments.eu", status: "open", status_by: "billing",
        severity: ["info", "warning", "error"][number % 3], title: `Loaded ${{number}}`, occurrences: 1,
        body: "x".repeat(500), attributes: {{}}, links: [], recipients: null, dedup_key: null,
        created_at: new Date(day - 1000 * ({many} - number)).toISOString(),
    }});
    window.fetch = async (path, options) => {{
        if (!String(path).startsWith("v1/alerts?")) return real(path, options);
        const query = new URLSearchParams(path.split("?")[1]);
        if (query.has("severity")) return new Response(JSON.stringify({{ alerts: [], next: null, head: 0 }}));
        const last = Number(query.get("cursor") ?? {many + 1});
        const count = Math.min(last - 1, Number(query.get("limit")));
        const alerts = Array.from({{ length: count }}, (_, index) => alertAt(last - 1 - index));
        const next = last - count > 1 ? String(last - count) : null;
        return new Response(JSON.stringify({{ alerts, next, head: 0 }}));
    }};
}})()"""


TO_THE_END = """async (feed, text) => {
    const count = document.querySelector("[data-testid=count]");
    for (let frames = 0; frames < 20_000 && !count.textContent.startsWith(text); frames += 1) {
        feed.scrollTop = feed.scrollHeight;
        await new Promise((resolve) => setTimeout(resolve));
    }
}"""
"""Scrolls on until the line below the list begins with a text."""


async def arrive(client: httpx2.AsyncClient) -> None:
    """Post 600 alerts, 200 a second."""
    clock = asyncio.get_running_loop().time
    start = clock()
    for number in range(0, ARRIVED, 5):
        await asyncio.sleep(max(0.0, start + number / RATE - clock()))
        some = [{"title": f"Arrived {number + more}"} for more in range(1, 6)]
        (await client.post("/v1/alerts/batch", json=some)).raise_for_status()
