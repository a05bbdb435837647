"""The Markdown of alerts and comments: what becomes of it, and what never does."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import PATIENCE

if TYPE_CHECKING:
    from tests.console.tab import Tab
    from tests.harness import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")

RENDER = """async (texts) => {
    const { render } = await import("/console/alert/markdown.js");
    return texts.map((text) => render(text).map((node) => node.outerHTML).join(""));
}"""
LOOK = """async (texts) => {
    const { render } = await import("/console/alert/markdown.js");
    const allowed = {
        P: ["dir"], PRE: [], CODE: ["dir"], UL: [], OL: ["start"], LI: ["dir"], STRONG: [], EM: [], SPAN: [],
        BDI: ["class", "dir"], A: ["href", "target", "rel"],
    };
    const faults = [];
    for (const text of texts) {
        const root = document.createElement("div");
        root.append(...render(text));
        for (const node of root.querySelectorAll("*")) {
            const attributes = allowed[node.tagName];
            const names = node.getAttributeNames();
            if (!attributes || names.some((name) => !attributes.includes(name))) faults.push([text, node.outerHTML]);
            if (node.tagName !== "A") continue;
            const isWeb = node.protocol === "https:" || node.protocol === "http:";
            if (!isWeb || !node.rel.includes("noopener")) faults.push([text, node.outerHTML]);
            const host = node.parentElement.lastElementChild.textContent;
            if (!node.textContent.startsWith(node.origin) && host !== node.host) faults.push([text, node.outerHTML]);
        }
    }
    return faults;
}"""
PIECES = [
    *"*_`[]()<>#!-~\\\"'&:/=+.1 \n\t\u202e\u2066\u0000",
    *(
        "**",
        "__",
        "```",
        "~~~",
        "\n\n",
        "\n- ",
        "\n  - ",
        "\n1. ",
        "](",
        "](http://a.example)",
        "](javascript:alert(1))",
    ),
    *(
        "https://",
        "http://[",
        "https://b.example/",
        "https://u:p@c.example",
        "javascript:",
        "data:text/html,",
        "//d.example",
    ),
    *("<script>", "</p>", "<img src=x onerror=alert(1)>", "onclick=", "style=", "&lt;", "word", "Größe", "🔔", "مرحبا"),
]


async def rendered(node: Node, tab: Tab, texts: list[str]) -> list[str]:
    await tab.page.goto(node.base)
    html: list[str] = await tab.page.evaluate(RENDER, texts)
    return html


CASES = {
    "plain\ntext  stays\\as *it* is": '<p dir="auto">plain\ntext  stays\\as <em>it</em> is</p>',
    "one\n\ntwo": '<p dir="auto">one</p><p dir="auto">two</p>',
    "a **b *c* d** e": '<p dir="auto">a <strong>b <em>c</em> d</strong> e</p>',
    "snake_case_name, 2 * 3 * 4, *.log *.txt": '<p dir="auto">snake_case_name, 2 * 3 * 4, *.log *.txt</p>',
    "`a *b*` ``c`d``": '<p dir="auto"><code dir="auto">a *b*</code> <code dir="auto">c`d</code></p>',
    "- a\n- b\n  more\n  - c": (
        '<ul><li dir="auto">a</li><li dir="auto">b\nmore<ul><li dir="auto">c</li></ul></li></ul>'
    ),
    "3. a\n4. b": '<ol start="3"><li dir="auto">a</li><li dir="auto">b</li></ol>',
    "In the year\n2026. It rained": '<p dir="auto">In the year\n2026. It rained</p>',
    "```\n<b>\n\n- x\n```\nafter": '<pre><code dir="auto">&lt;b&gt;\n\n- x</code></pre><p dir="auto">after</p>',
    "```\nnever closed": '<pre><code dir="auto">never closed</code></pre>',
    "# no heading": '<p dir="auto"># no heading</p>',
    "see https://a.example/x_y_z.": (
        '<p dir="auto">see <span><a href="https://a.example/x_y_z" target="_blank" rel="noopener noreferrer">'
        '<bdi dir="auto">https://a.example/x_y_z</bdi></a></span>.</p>'
    ),
    "[a](http://b.example)": (
        '<p dir="auto"><span><a href="http://b.example/" target="_blank" rel="noopener noreferrer">'
        '<bdi dir="auto">a</bdi></a> <bdi class="host" dir="auto">b.example</bdi></span></p>'
    ),
    "[a](javascript:alert(1)) [b](ftp://c.example)": '<p dir="auto">[a](javascript:alert(1)) [b](ftp://c.example)</p>',
    "": "",
}


async def test_markdown_becomes_elements_and_the_rest_stays_text(node: Node, tab: Tab) -> None:
    found = await rendered(node, tab, list(CASES))
    for text, html in zip(CASES, found, strict=True):
        assert html == CASES[text], text


def texts(count: int) -> list[str]:
    """Return texts of pieces that mean something to Markdown, HTML or browsers, the same in each run."""
    chance = random.Random(6)
    return ["".join(chance.choices(PIECES, k=chance.randint(1, 40))) for _ in range(count)]


async def test_whatever_the_text_there_is_no_element_and_no_attribute_that_is_not_allowed(node: Node, tab: Tab) -> None:
    await tab.page.goto(node.base)
    faults: list[Any] = await tab.page.evaluate(LOOK, texts(20_000))
    assert faults == []


async def test_a_text_made_to_take_long_does_not(node: Node, tab: Tab) -> None:
    await tab.page.goto(node.base)
    for piece in (
        "*",
        "**a ",
        "_a ",
        "`",
        "`a ",
        "[",
        "[a](",
        "[a](http://",
        "- ",
        "\n- ",
        "\n  - ",
        "https://",
        "```\n",
    ):
        async with asyncio.timeout(PATIENCE):
            [html] = await tab.page.evaluate(RENDER, [piece * (16_384 // len(piece))])
        assert html, piece
