from __future__ import annotations

import asyncio
import http.client
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest
import pytest_asyncio
from cloudevents.core.bindings.http import to_structured_event
from playwright.async_api import Error, expect

from service.app import CONSOLE
from service.auth.shared_secret import mint
from service.settings import AuthSettings
from tests.console.proxy import Proxy
from tests.console.tab import OWN_PAGE, REFUSED, UNREACHABLE, Tab, received_at
from tests.harness import PATIENCE, PLAIN, READ, WRITE, Node, Process, eventually, new_database, token
from tests.integrations.test_alertmanager import eager, manager, needs_alertmanager, prometheus_alert
from tests.integrations.test_apprise import notify
from tests.integrations.test_cloudevents import PATH as EVENTS_PATH
from tests.integrations.test_cloudevents import event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from playwright.async_api import Route


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),  # one of Apprise's plugins
]
MEDIA_TYPES = {
    ".html": {"text/html; charset=utf-8"},
    ".css": {"text/css; charset=utf-8"},
    ".js": {"text/javascript; charset=utf-8", "application/javascript"},  # the name of it depends on the Python
    ".svg": {"image/svg+xml"},
}


# Signing in.


async def test_a_link_with_a_token_opens_the_feed_and_the_token_leaves_the_address_bar(node: Node, tab: Tab) -> None:
    await node.post("Raised before")
    life = timedelta(seconds=AuthSettings().jwt_max_lifetime_seconds - 60)  # long enough to end in another year
    year = (datetime.now(UTC) + life).year
    await tab.open(node, ttl_seconds=life.total_seconds())
    await tab.shows("Raised before")
    await expect(tab["who"]).to_have_text("alice")
    await expect(tab.page.get_by_text("token until")).to_contain_text(str(year))
    await expect(tab["sign-in"]).to_be_hidden()
    assert tab.page.url == f"{node.base}/"


async def test_a_token_can_be_pasted(node: Node, tab: Tab) -> None:
    await tab.page.goto(node.base)
    await expect(tab["feed"]).to_be_hidden()
    await tab.paste(f" {tab.token()}\n")
    await tab.is_("live")
    await expect(tab["sign-in"]).to_be_hidden()
    assert tab.page.url == f"{node.base}/"


async def test_a_refused_token_is_answered_with_the_reason_and_no_feed(node: Node, tab: Tab) -> None:
    tab.tolerated = REFUSED
    of_another_key = mint(b"a secret that no node of these tests has", AuthSettings(), subject="alice", scope=READ)
    await node.post("Not for everybody")
    await tab.page.goto(node.base)
    for refused, reason in (
        ("not.a-token", "This is not a token"),
        (of_another_key, "did not accept this token"),
        (f"{tab.token()}…", "This is not a token"),
        (tab.token(ttl_seconds=-1), "has expired"),
        (tab.token(scope=WRITE), "needs the scope alerts:read"),
    ):
        await tab.paste(refused)
        await expect(tab["reason"]).to_contain_text(reason)
        await tab.is_("signed-out")
        await expect(tab["feed"]).to_be_hidden()
        await expect(tab["alert"]).to_have_count(0)
    await tab.paste(tab.token())
    await tab.is_("live")
    await tab.shows("Not for everybody")
    await expect(tab["reason"]).to_be_hidden()


@pytest.mark.parametrize(
    ("refused", "reason"), [("not.a-token", "This is not a token"), (token("alice", WRITE), "needs the scope")]
)
async def test_a_link_with_a_refused_token_leads_to_the_form(node: Node, tab: Tab, refused: str, reason: str) -> None:
    tab.tolerated = REFUSED
    tab.tokens.append(refused)
    await tab.page.goto(f"{node.base}/#token={refused}")
    await expect(tab["reason"]).to_contain_text(reason)
    await expect(tab["token"]).to_be_visible()
    await expect(tab["feed"]).to_be_hidden()
    assert tab.page.url == f"{node.base}/"


async def test_the_token_is_kept_in_memory_only(node: Node, tab: Tab) -> None:
    await tab.open(node)
    kept = await tab.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept == [0, 0, "", f"{node.base}/"]
    await tab.page.reload()
    await tab.is_("signed-out")
    await expect(tab["sign-in"]).to_be_visible()


async def test_signing_out_leaves_nothing_behind(own_node: Node, tab: Tab) -> None:
    await own_node.post("Only for admins")
    await tab.open(own_node)
    await tab.shows("Only for admins")
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.is_("signed-out")
    await expect(tab["alert"]).to_have_count(0)
    assert "Only for admins" not in await tab.page.content()
    await eventually(lambda: own_node.sql("SELECT 1 FROM connections WHERE closed_at IS NOT NULL"))


# What the feed shows.


async def test_an_alert_appears_the_moment_it_is_posted(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await node.post("Disk almost full", topic="infra.disk", severity="warning")
    answer = await node.post(
        "Card acceptance below 80 %",
        topic="payments.eu",
        severity="critical",
    )
    await tab.shows("Card acceptance below 80 %", "Disk almost full")
    row = tab["alert"].first
    for part, text in {"severity": "critical", "topic": "payments.eu", "source": "billing", "status": "open"}.items():
        await expect(row.locator(f".{part}")).to_have_text(text)
    await expect(row).to_have_attribute("data-id", answer["id"])
    await expect(tab["seq"]).to_have_text(f"seq {answer['seq']}")


async def test_the_life_of_an_alert_is_seen_in_its_row(node: Node, tab: Tab) -> None:
    await tab.open(node)
    alert = await node.post("Disk full", dedup_key="disk", severity="warning")
    await tab.shows("Disk full")
    row = tab["alert"].first
    async with node.http("bob", "alerts:write alerts:manage") as bob:
        for action, status in (
            ("acknowledge", "acknowledged by bob"),
            ("reopen", "open"),
            ("resolve", "resolved by bob"),
            ("reopen", "open"),
        ):
            await bob.post(f"/v1/alerts/{alert['id']}/{action}")
            await expect(row.locator(".status")).to_have_text(status)
    async with node.http() as billing:
        await billing.post("/v1/alerts", json={"title": "Again", "dedup_key": "disk", "severity": "critical"})
    await expect(row.locator(".occurrences")).to_have_text("2 times")
    await expect(row.locator(".severity")).to_have_text("critical")
    await tab.shows("Again")


@needs_alertmanager
async def test_what_alertmanager_cloudevents_and_apprise_send_is_seen(node: Node, tab: Tab, tmp_path: Path) -> None:
    await tab.open(node)
    async with manager(eager(node.base), tmp_path) as prometheus:
        await prometheus.post(prometheus_alert("DiskFull"))
        await tab.shows("DiskFull on db1")
        row = tab["alert"].filter(has_text="DiskFull on db1")
        await expect(row.locator(".severity")).to_have_text("critical")
        await prometheus.post(prometheus_alert("DiskFull", resolved=True))
        await expect(row.locator(".status")).to_have_text("resolved by alertmanager")
    message = to_structured_event(event({"title": "Settlement file is late"}))
    async with node.http() as client:
        answer = await client.post(EVENTS_PATH, headers=dict(message.headers), content=message.body)
    assert answer.status_code == 201
    assert await notify(node, title="Backup failed", body="Disk full on db1")
    await tab.shows("Backup failed", "Settlement file is late", "DiskFull on db1")


async def test_what_is_shown_is_acknowledged_by_itself(node: Node, tab: Tab) -> None:
    await tab.open(node)
    answers = [await node.post(f"Alert {number}") for number in range(3)]
    await tab.shows("Alert 2", "Alert 1", "Alert 0")
    for answer in answers:
        await eventually(lambda seq=answer["seq"]: received_at(node, seq))  # type: ignore[misc]


async def test_an_admin_of_some_topics_sees_only_those(node: Node, tab: Tab) -> None:
    await node.post("Old disk", topic="infra.disk")
    await node.post("Old payment", topic="payments.eu")
    await tab.open(node, topics=["payments.*"])
    await tab.shows("Old payment")
    await node.post("New disk", topic="infra.disk")
    await node.post("New payment", topic="payments.us")
    await tab.shows("New payment", "Old payment")
    assert "disk" not in await tab.page.content()


async def test_other_admins_come_and_go(node: Node, tab: Tab) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    await tab.open(node)
    names = tab["presence"].get_by_role("listitem").locator("bdi")
    await expect(names).to_have_text(["alice"])
    other = await node.live(hostile)
    await expect(names).to_have_text([hostile, "alice"])
    await expect(tab["presence"]).to_contain_text("2 admins present")
    await other.close()
    await expect(names).to_have_text(["alice"])
    await expect(tab["presence"]).to_contain_text("1 admin present")
    assert tab.requests_of("/v1/presence") == 1


async def test_a_list_of_who_is_present_that_comes_late_undoes_no_frame(own_node: Node, tab: Tab) -> None:
    names = tab["presence"].get_by_role("listitem").locator("bdi")

    async def late(route: Route) -> None:
        await expect(names).to_have_text(["alice"])
        await route.fulfill(json={"present": []})  # as it was before the frame

    await tab.page.route("**/v1/presence", late, times=1)
    async with tab.page.expect_event("requestfinished", lambda request: request.url.endswith("/v1/presence")):
        await tab.open(own_node)
    async with await own_node.live("bob"):
        await expect(names).to_have_text(["alice", "bob"])
    assert tab.requests_of("/v1/presence") == 1


async def test_new_alerts_are_counted_in_the_title_of_a_hidden_page(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await node.post("Seen")
    await tab.shows("Seen")
    await expect(tab.page).to_have_title("Tocsin")
    # Simulated: a headless browser considers each of its pages visible, whichever is in front.
    await tab.page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    await node.post("Unseen")
    await node.post("Unseen too")
    await expect(tab.page).to_have_title("(2) Tocsin")
    await tab.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    await expect(tab.page).to_have_title("Tocsin")


# Hostile content.

RIGHT_TO_LEFT = "\u202e"
MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<svg onload=alert(1)></svg>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "</li></ol><h1>Tocsin has been hacked</h1>",
    "{{7*7}}${7*7}&lt;b&gt;",
    "javascript:alert(1)",
    f"{RIGHT_TO_LEFT}gnp.exe",
]


async def test_markup_and_scripts_are_shown_as_the_text_that_they_are(node: Node, tab: Tab) -> None:
    await tab.open(node)
    source = "<b onclick=alert(1)>billing</b>"
    async with node.http(source) as client:
        for text in MARKUP:
            links = [{"title": text, "url": "https://example.com/?q=<script>alert(1)</script>"}]
            fields = {"title": text, "body": text, "attributes": {text: text, "nested": [text]}, "dedup_key": text}
            response = await client.post("/v1/alerts", json={**fields, "links": links})
            assert response.status_code == 201
    await tab.shows(*reversed(MARKUP))
    for row, text in zip(await tab["alert"].all(), reversed(MARKUP), strict=True):
        assert await row.locator(".title").inner_text() == text
        assert await row.locator(".source").inner_text() == source
    await expect(tab["feed"].locator("script, img, svg, iframe, h1, b, [onclick], [onerror]")).to_have_count(0)


async def test_a_link_that_leads_nowhere_on_the_web_is_not_stored(node: Node) -> None:
    async with node.http() as client:
        for url in ("javascript:alert(1)", " javascript:alert(1)", "data:text/html,<script>alert(1)</script>"):
            alert = {"title": "Click", "links": [{"title": "Here", "url": url}]}
            response = await client.post("/v1/alerts", json=alert)
            assert response.status_code == 422, url
            assert response.json()["errors"][0]["pointer"] == "/links/0/url"


async def test_the_page_lets_no_script_and_no_markup_in(node: Node, tab: Tab) -> None:
    tab.tolerated = ("TrustedHTML", "Content Security Policy")
    await tab.open(node)
    with pytest.raises(Error, match="TrustedHTML"):
        await tab.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>')")
    blocked = await tab.page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective));
            const link = document.createElement('a');
            link.setAttribute('href', 'javascript:alert(1)');
            link.click();
        })"""
    )
    assert blocked == "script-src-elem"


# Connections that end.


@OWN_PAGE
async def test_a_killed_node_is_waited_for_and_nothing_is_lost_or_shown_twice(
    start: Callable[..., Process], tab: Tab
) -> None:
    tab.tolerated = UNREACHABLE
    await tab.draw(1000)  # Left to itself it would wait for minutes: it is the button that brings it back.
    node, other = start(), start()
    await tab.open(node)
    await node.post("Before")
    await tab.shows("Before")

    node.kill()
    await tab.is_("waiting")
    await expect(tab["state"]).to_contain_text("offline since")
    await expect(tab["feed"]).to_be_visible()
    for number in range(5):
        await other.post(f"Meanwhile {number}")
    again = start(port=urlsplit(node.base).port)
    await tab.page.get_by_role("button", name="Retry now").click()
    await tab.is_("live")
    await expect(tab["state"]).to_be_focused()
    await other.post("After")
    await tab.shows("After", *(f"Meanwhile {number}" for number in reversed(range(5))), "Before")
    seqs = [int(await row.get_attribute("data-seq") or 0) for row in await tab["alert"].all()]
    assert seqs == [7, 6, 5, 4, 3, 2, 1]
    await eventually(lambda: received_at(again, 7))
    assert tab.requests_of("/v1/alerts") == 1
    for process in (node, again):
        assert tab.tokens[0] not in process.log.read_text()


async def test_a_token_that_expires_ends_the_stream_and_a_new_one_goes_on_from_the_cursor(
    own_node: Node, tab: Tab
) -> None:
    tab.tolerated = REFUSED
    await tab.open_briefly(own_node)
    await own_node.post("Before")
    await tab.shows("Before")
    await eventually(lambda: received_at(own_node, 1))

    await tab.is_("signed-out")
    await expect(tab["state"]).to_contain_text("token expired")
    await expect(tab["reason"]).to_have_text("Your token has expired.")
    await expect(tab["feed"]).to_be_visible()
    assert tab.requests_of("/v1/events") == 0  # A refusal is no reason to try another transport.
    await own_node.post("Meanwhile")
    await own_node.post("Meanwhile too")
    await tab.shows("Before")

    await tab.paste(tab.token())
    await tab.is_("live")
    await own_node.post("After")
    await tab.shows("After", "Meanwhile too", "Meanwhile", "Before")
    await eventually(lambda: received_at(own_node, 4))
    connections = await own_node.sql("SELECT after_seq, close_reason FROM connections ORDER BY opened_at")
    assert [tuple(row) for row in connections] == [(0, "token_expired"), (1, None)]
    assert tab.requests_of("/v1/alerts") == 1


async def test_a_token_of_somebody_else_starts_over(node: Node, tab: Tab) -> None:
    tab.tolerated = REFUSED
    await tab.open(node, jti="lost")
    await node.post("For alice", recipients=["alice"])
    await tab.shows("For alice")
    async with node.http("root", "admin") as root:
        (await root.post("/v1/revocations", json={"jti": "lost", "reason": "laptop stolen"})).raise_for_status()
    await tab.is_("signed-out")
    await tab.shows("For alice")
    await tab.paste(tab.token("bob"))
    await tab.is_("live")
    await expect(tab["who"]).to_have_text("bob")
    await expect(tab["alert"]).to_have_count(0)


@OWN_PAGE
async def test_a_log_that_starts_over_is_loaded_again(
    start: Callable[..., Process], server_url: str, template: str, tab: Tab
) -> None:
    tab.tolerated = UNREACHABLE
    await tab.draw(0.1)
    node = start()
    await tab.open(node)
    for number in range(3):
        await node.post(f"Old log {number}")
    await tab.shows("Old log 2", "Old log 1", "Old log 0")
    node.kill()
    async with new_database(server_url, f"test_{uuid4().hex}", template) as url:
        restored = start(urlsplit(node.base).port, TOCSIN_DATABASE_URL=url)
        await restored.post("New log")
        await tab.shows("New log")
        await expect(tab["notice"]).to_contain_text("Some alerts were lost by the database's failover.")
        await restored.post("New log too")
        await tab.shows("New log too", "New log")
        restored.stop()


# Networks that block WebSockets.


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(own_node: Node) -> AsyncIterator[Proxy]:
    """A proxy in front of a node of the test's own that lets no WebSocket through."""
    async with Proxy(own_node.base) as running:
        yield running


async def ways(node: Node) -> list[tuple[str, str | None]]:
    rows = await node.sql("SELECT transport, close_reason FROM connections ORDER BY opened_at")
    return [tuple(row) for row in rows]


HELD_BACK_MS = 6_000
"""After which the page waits no longer for what a stream brings."""


@pytest.mark.parametrize(("holds_back", "transport"), [(False, "sse"), (True, "longpoll")])
@OWN_PAGE
async def test_where_websockets_are_blocked_the_feed_comes_by_http(
    own_node: Node,
    proxy: Proxy,
    tab: Tab,
    holds_back: bool,  # noqa: FBT001 - a parameter of the test
    transport: str,
) -> None:
    tab.tolerated = UNREACHABLE
    proxy.holds_streams_back = holds_back
    await tab.page.clock.install()
    async with tab.page.expect_response("**/v1/events?*"):
        await tab.page.goto(f"{proxy.base}/#token={tab.token()}")
    if holds_back:
        await tab.page.clock.fast_forward(HELD_BACK_MS)
    await tab.is_("live")
    await expect(tab["state"]).to_have_attribute("data-transport", transport)
    first = await own_node.post("First")
    await tab.shows("First")
    await eventually(lambda: received_at(own_node, first["seq"]))

    proxy.cut()
    await tab.is_("live")
    second = await own_node.post("Second")
    await tab.shows("Second", "First")
    await eventually(lambda: received_at(own_node, second["seq"]))
    assert {kind for kind, reason in await ways(own_node) if reason != "connection_lost"} == {transport}
    assert tab.requests_of("/v1/alerts") == 1
    assert tab.requests_of("/v1/ws") == 1


@OWN_PAGE
async def test_the_websocket_is_tried_again_and_taken_once_it_opens(own_node: Node, proxy: Proxy, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    await tab.page.add_init_script(
        "const real = setTimeout; window.setTimeout = (what, ms) => real(what, ms === 300_000 ? 300 : ms)"
    )
    await tab.open(Node(proxy.base, own_node.database_url))
    await own_node.post("First")
    await tab.shows("First")
    await eventually(lambda: tab.requests_of("/v1/ws") > 3)
    await expect(tab["state"]).to_have_attribute("data-transport", "sse")
    assert tab.requests_of("/v1/events") == 1  # the stream goes on meanwhile
    proxy.blocks_websockets = False
    await expect(tab["state"]).to_have_attribute("data-transport", "websocket")
    await tab.is_("live")
    last = await own_node.post("Second")
    await tab.shows("Second", "First")
    await eventually(lambda: received_at(own_node, last["seq"]))


# The files.


async def test_each_file_has_its_media_type_and_the_policy(node: Node) -> None:
    async with httpx2.AsyncClient(base_url=node.base, **PLAIN) as client:
        for path in (
            "/",
            *(f"/console/{file.relative_to(CONSOLE).as_posix()}" for file in CONSOLE.rglob("*") if file.is_file()),
        ):
            response = await client.get(path)
            assert response.status_code == 200, path
            assert response.headers["Content-Type"] in MEDIA_TYPES[Path(path).suffix or ".html"], path
            assert response.headers["X-Content-Type-Options"] == "nosniff", path
            assert response.headers["Referrer-Policy"] == "no-referrer", path
            policy = response.headers["Content-Security-Policy"]
            assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; ")), (
                path
            )
            assert "unsafe" not in policy, path


async def test_nothing_but_the_files_is_served(node: Node) -> None:
    for path in (
        "/console/../",
        "/console/../errors.py",
        "/console/../../pyproject.toml",
        "/console/%2e%2e/errors.py",
        "/console/..%2ferrors.py",
        "/console/..%5cerrors.py",
        "/console//etc/passwd",
        "/console/%00",
        "/console/absent.js",
        "/console/",
        f"/console/{'x' * 300}",
    ):
        assert await asyncio.to_thread(get_as_it_is, node, path) == (404, "application/problem+json"), path


def get_as_it_is(node: Node, path: str) -> tuple[int, str | None]:
    """Ask for a path from which other clients would take out the dots."""
    with closing(http.client.HTTPConnection(urlsplit(node.base).netloc, timeout=PATIENCE)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type")


# How it looks.

SIZES = {
    "desktop-light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True},
}


@pytest.mark.parametrize("tab", SIZES.values(), ids=SIZES.keys(), indirect=True)
async def test_the_page_fits_its_window(node: Node, tab: Tab, tmp_path: Path) -> None:
    await tab.open(node)
    await node.live("bob")
    for severity in ("info", "warning", "error", "critical"):
        await node.post(
            f"An alert of severity {severity}, with a title that says at some length what has happened",
            topic="payments.eu",
            severity=severity,
            body="What happened, in a sentence or two, and what to do about it.",
            attributes={"acquirer": "X" * 200, "rate": 0.78},
            links=[{"title": "Runbook", "url": "https://runbooks.example/acquirer"}],
        )
    await node.post("W" * 200, severity="error", topic="a" * 100)
    await expect(tab["alert"]).to_have_count(5)
    await expect(tab["presence"]).to_contain_text("2 admins present")
    await tab.page.screenshot(path=tmp_path / "feed.png", full_page=True)
    for part in ("html", "#feed"):
        assert await tab.page.locator(part).evaluate("part => part.scrollWidth <= part.clientWidth"), part
