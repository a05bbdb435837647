"""Several tabs of one browser, over the real service: one connection, and each tab sees everything once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, Route, async_playwright, expect

from scripts.system_packages import BROWSER_ARGUMENTS, chromium
from tests.console.tab import BRIEF_SECONDS, REFUSED, UNREACHABLE, Tab, received_at
from tests.harness import READ, Node, Process, eventually, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="module")


LONG_AGO = datetime.fromtimestamp(0, UTC)


class Tabs:
    """A browser window of the console's tabs, in the order in which they were opened.

    The events that its tabs see are counted from ``head``, and their connections since ``since``.
    """

    def __init__(self, context: BrowserContext, head: int = 0, since: datetime = LONG_AGO) -> None:
        self.context = context
        self.head = head
        self.since = since
        self.tolerated: tuple[str, ...] = ()
        self.opened: list[Tab] = []

    async def open(self, node: Node, subject: str = "alice", **claims: Any) -> Tab:
        """Sign in with a link in a new tab, and wait until it is live."""
        tab = await self.add(node, subject, **claims)
        await tab.is_("live")
        return tab

    async def add(self, node: Node, subject: str = "alice", **claims: Any) -> Tab:
        """Sign in with a link in a new tab."""
        tab = await self.new()
        await tab.page.goto(link(node, subject, **claims))
        return tab

    async def open_all(self, node: Node, *lives: float) -> list[Tab]:
        """Open as many tabs, and only then sign in with tokens that live so long: the page is there to use them."""
        tabs = [await self.new() for _ in lives]
        for tab in tabs:
            await tab.page.goto(node.base)
            await expect(tab["sign-in"]).to_be_visible()
        for tab, seconds in zip(tabs, lives, strict=True):
            await tab.page.goto(link(node, ttl_seconds=seconds))
            await tab.is_("live")
        return tabs

    async def connections(self, node: Node, ever: int, now: int) -> None:
        """Wait until its tabs have had so many connections, of which so many are open."""
        await connections(node, ever, now, self.since)

    async def new(self) -> Tab:
        """Open a new tab."""
        tab = Tab(await self.context.new_page(), self.tolerated)
        self.opened.append(tab)
        await tab.page.add_init_script(SEEN % self.head)
        return tab


def link(node: Node, subject: str = "alice", **claims: Any) -> str:
    """Return an address that signs in."""
    return f"{node.base}/#token={token(subject, READ, **claims)}"


SEEN = """
if (location.protocol === "http:") {
    window.seen = [];
    import("/console/feed/feed.js").then(({ Feed }) => {
        const { applyEvent } = Feed.prototype;
        Feed.prototype.applyEvent = function (event) {
            applyEvent.call(this, event);
            window.seen.push(event.seq - %d);
        };
    });
}
"""
"""Keeps, in the page, the number of each event that the feed took in, in the order in which they came."""
SHARE = """
async ([token, url]) => {
    const { SharedStream } = await import("/console/stream/shared-stream.js");
    const offer = () => { if (window.isOut) throw new Error("no token"); return token };
    window.isOut = true;
    window.stream = new SharedStream({ share: "seen", url, after: "latest", token: offer });
    window.stream.start();
}
"""
"""Shares a stream that has no token, and so no connection, until ``isOut`` is false."""
START = "SELECT coalesce(max(last_seq), 0) AS head, clock_timestamp() AS since FROM log_chain"
HANG = "const held = new XMLHttpRequest(); held.open('GET', '/held', false); held.send()"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def context(browser: Browser) -> BrowserContext:
    """What the windows of the module share, which is no more than that the page is in the browser's cache."""
    return await browser.new_context()


@pytest_asyncio.fixture(loop_scope="module")
async def tabs(context: BrowserContext, node: Node) -> AsyncIterator[Tabs]:
    """A window of tabs; those of the tests before are gone."""
    await eventually(lambda: all_closed(node))
    (start,) = await node.sql(START)
    tabs = Tabs(context, start["head"], start["since"])
    yield tabs
    complaints = [complaint for tab in tabs.opened for complaint in tab.complaints]
    for tab in reversed(tabs.opened):  # The first leads, as a rule, and then no other takes over.
        await tab.page.close()
    assert complaints == []


async def all_closed(node: Node) -> bool:
    return not await node.sql("SELECT FROM connections WHERE closed_at IS NULL")


COUNT = "SELECT count(*), count(*) FILTER (WHERE closed_at IS NULL) FROM connections WHERE opened_at > $1"


async def seen(tab: Tab) -> list[int]:
    numbers: list[int] = await tab.page.evaluate("window.seen")
    return numbers


async def has_seen(tab: Tab, last: int) -> None:
    """Wait until a tab has shown an event."""

    async def is_there() -> bool:
        return last in await seen(tab)

    await eventually(is_there)


async def connections(node: Node, ever: int, now: int, since: datetime = LONG_AGO) -> None:
    """Wait until the ledger knows so many connections that were opened since, of which so many are open."""

    async def are_there() -> bool:
        rows = await node.sql(COUNT, since)
        assert rows[0][0] <= ever
        return tuple(rows[0]) == (ever, now)

    await eventually(are_there)


@asynccontextmanager
async def hanging(page: Page) -> AsyncIterator[None]:
    """Block the main thread of a page, as an endless loop would."""
    released = asyncio.Event()

    async def answer(route: Route) -> None:
        await released.wait()
        await route.fulfill(body="")

    await page.route("**/held", answer)
    async with page.expect_request("**/held"):
        blocked = asyncio.ensure_future(page.evaluate(HANG))
    yield
    released.set()
    await blocked


async def crash(page: Page) -> None:
    """Kill the page's renderer."""
    session = await page.context.new_cdp_session(page)
    crashed = asyncio.get_running_loop().create_future()
    page.on("crash", lambda _: crashed.set_result(None))
    kill = asyncio.ensure_future(session.send("Page.crash"))
    await crashed
    kill.cancel()


async def test_three_tabs_of_an_admin_share_one_connection(node: Node, tabs: Tabs) -> None:
    await node.post("Before")
    three = [await tabs.open(node) for _ in range(3)]
    for number in range(3):
        await node.post(f"Alert {number}")
    for tab in three:
        await tab.shows("Alert 2", "Alert 1", "Alert 0", "Before")
        await expect(tab["who"]).to_have_text("alice")
        await expect(tab["seq"]).to_have_text(f"seq {tabs.head + 4}")
        assert (await seen(tab))[-3:] == [2, 3, 4]
    await tabs.connections(node, ever=1, now=1)
    assert [tab.requests_of("/v1/ws") for tab in three] == [1, 0, 0]
    await eventually(lambda: received_at(node, tabs.head + 4))


async def test_two_admins_or_two_views_of_one_do_not_share(node: Node, tabs: Tabs) -> None:
    alice = await tabs.open(node)
    some = await tabs.open(node, topics=["payments.*"])
    bob = await tabs.open(node, "bob")
    await node.post("Disk", topic="infra.disk")
    await node.post("Payment", topic="payments.eu")
    await node.post("For alice", recipients=["alice"])
    await alice.shows("For alice", "Payment", "Disk")
    await some.shows("Payment")
    await bob.shows("Payment", "Disk")
    await tabs.connections(node, ever=3, now=3)


@pytest.mark.long
async def test_closing_the_tab_that_leads_while_alerts_arrive_loses_and_doubles_nothing(node: Node, tabs: Tabs) -> None:
    first, second, third = [await tabs.open(node) for _ in range(3)]
    posting = asyncio.ensure_future(node.post_all([{"title": f"Alert {number}"} for number in range(300)], at_once=5))
    await has_seen(third, 50)
    await first.page.close()
    await has_seen(third, 120)
    await second.page.goto("about:blank")
    await posting
    await has_seen(third, 300)
    assert await seen(third) == [*range(1, 301)]
    await tabs.connections(node, ever=3, now=1)
    await eventually(lambda: received_at(node, tabs.head + 300))


async def test_killing_the_renderer_of_the_tab_that_leads_hands_over(node: Node, tabs: Tabs) -> None:
    first, second = [await tabs.open(node) for _ in range(2)]
    posting = asyncio.ensure_future(node.post_all([{"title": f"Alert {number}"} for number in range(200)], at_once=5))
    await has_seen(second, 50)
    await crash(first.page)
    await posting
    await has_seen(second, 200)
    assert await seen(second) == [*range(1, 201)]
    await tabs.connections(node, ever=2, now=1)


async def test_signing_out_in_one_tab_leaves_the_others_as_they_are(node: Node, tabs: Tabs) -> None:
    first, second = [await tabs.open(node) for _ in range(2)]
    await node.post("Before")
    await second.shows("Before")
    await first.page.get_by_role("button", name="Sign out").click()
    await first.is_("signed-out")
    await node.post("After")
    await second.shows("After", "Before")
    await second.is_("live")
    await tabs.connections(node, ever=2, now=1)
    await expect(first["alert"]).to_have_count(0)
    await second.page.get_by_role("button", name="Sign out").click()
    await tabs.connections(node, ever=2, now=0)


@pytest.mark.long
async def test_a_tab_that_joins_while_alerts_arrive_begins_where_its_list_ended(node: Node, tabs: Tabs) -> None:
    await tabs.open(node)
    enough = asyncio.Event()
    posting = asyncio.ensure_future(post_until(node, enough))
    joined = [await tabs.add(node) for _ in range(3)]
    for tab in joined:
        await eventually(partial(has_seen_many, tab))
    enough.set()
    last = await posting - tabs.head
    for tab in joined:
        await has_seen(tab, last)
        numbers = await seen(tab)
        assert sorted(numbers) == [*range(min(numbers), last + 1)]
    await tabs.connections(node, ever=1, now=1)


async def post_until(node: Node, enough: asyncio.Event) -> int:
    """Post on and on, and return the last seq."""
    while not enough.is_set():
        seqs = await node.post_all([{}] * 10, at_once=5)
    return max(seqs)


async def has_seen_many(tab: Tab) -> bool:
    return len(await seen(tab)) >= 50


@pytest.mark.long
async def test_a_tab_that_was_left_far_behind_catches_up_by_itself_and_joins_the_others(node: Node, tabs: Tabs) -> None:
    first = await tabs.open(node)
    second = await tabs.open(node)
    await second.page.evaluate("document.dispatchEvent(new Event('freeze'))")
    await second.is_("waiting")
    async with node.http() as client:
        for _ in range(11):
            (await client.post("/v1/alerts/batch", json=[{"title": "It happened"}] * 100)).raise_for_status()
    await has_seen(first, 1_100)
    await second.page.evaluate("document.dispatchEvent(new Event('resume'))")
    await has_seen(second, 1_100)
    for tab in (first, second):
        assert await seen(tab) == [*range(1, 1_101)]
        await tab.is_("live")
    await tabs.connections(node, ever=2, now=1)


@pytest.mark.long
async def test_a_restarted_server_is_followed_by_one_connection_of_three_tabs(
    start: Callable[..., Process], tabs: Tabs
) -> None:
    tabs.tolerated = UNREACHABLE
    node, other = start(), start()
    tabs.head = 0
    three = [await tabs.open(node) for _ in range(3)]
    for tab in three:
        await tab.page.evaluate("Math.random = () => 0.1")  # So that none waits long before it tries again.
    await node.post("Before")
    for tab in three:
        await tab.shows("Before")
    node.kill()
    for tab in three:
        await tab.is_("waiting")
    await other.post("Meanwhile")
    start(port=urlsplit(node.base).port)
    for tab in three:
        await tab.is_("live")
    await other.post("After")
    for tab in three:
        await tab.shows("After", "Meanwhile", "Before")
        assert await seen(tab) == [1, 2, 3]
    assert sum(tab.requests_of("/v1/alerts") for tab in three) == 3


@pytest.mark.long
async def test_a_fresher_token_of_another_tab_keeps_the_stream_going(node: Node, tabs: Tabs) -> None:
    tabs.tolerated = REFUSED
    first, second = await tabs.open_all(node, BRIEF_SECONDS, 3600)
    await go_on_over_the_expiry(node, tabs.since, first, second)
    assert first.requests_of("/v1/ws") == 2


@pytest.mark.long
async def test_a_token_that_is_pasted_in_a_tab_that_follows_keeps_the_stream_going(node: Node, tabs: Tabs) -> None:
    tabs.tolerated = REFUSED
    first, second = await tabs.open_all(node, BRIEF_SECONDS, BRIEF_SECONDS)
    await second.page.evaluate("(token) => { location.hash = `#token=${token}` }", token("alice", READ))
    await go_on_over_the_expiry(node, tabs.since, first, second)
    assert await second.page.get_by_test_id("sign-in").is_hidden()


EXPIRED = "SELECT FROM connections WHERE close_reason = 'token_expired' AND opened_at > $1"


async def go_on_over_the_expiry(node: Node, since: datetime, *tabs: Tab) -> None:
    """Wait until a token has expired under the stream, and see that it goes on in each tab."""
    await eventually(lambda: node.sql(EXPIRED, since))
    for tab in tabs:
        await tab.is_("live")
    await node.post("After")
    for tab in tabs:
        await tab.shows("After")


async def test_an_event_is_acknowledged_once_a_visible_tab_has_shown_it(node: Node, tabs: Tabs) -> None:
    hidden = "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
    dispatched = "document.dispatchEvent(new Event('visibilitychange'))"
    first, second = [await tabs.open(node) for _ in range(2)]
    await first.page.evaluate(hidden + dispatched)
    async with hanging(second.page):
        seq = (await node.post("Seen by nobody"))["seq"]
        await has_seen(first, seq - tabs.head)
        # An acknowledgement would wait for a timer: one that is set now, and longer, ends after it.
        await first.page.evaluate("new Promise((resolve) => setTimeout(resolve, 1_000))")
        late = (await node.post("Nor this"))["seq"]
        await has_seen(first, late - tabs.head)
        await node.flushed(late)
        assert await received_at(node, seq) is None
    await eventually(lambda: received_at(node, late))
    await crash(second.page)
    alone = (await node.post("Seen by the hidden one"))["seq"]
    await eventually(lambda: received_at(node, alone))


async def test_a_tab_that_leads_and_hangs_is_replaced(node: Node, tabs: Tabs) -> None:
    first, second = [await tabs.open(node) for _ in range(2)]
    hurry = "const real = setTimeout; window.setTimeout = (what, ms) => real(what, Math.min(ms, 500));"
    async with hanging(first.page):
        await second.page.evaluate(f"{hurry} document.dispatchEvent(new Event('freeze'))")
        await second.page.evaluate("document.dispatchEvent(new Event('resume'))")
        await eventually(lambda: second.requests_of("/v1/ws") == 1)
        await second.is_("live")
        await node.post("While the other hangs")
        await second.shows("While the other hangs")
    for tab in (first, second):
        await tab.shows("While the other hangs")
        await tab.is_("live")
    await tabs.connections(node, ever=2, now=1)


async def test_without_locks_each_tab_has_a_stream_of_its_own(node: Node, tabs: Tabs, browser: Browser) -> None:
    tabs.context = await browser.new_context()
    await tabs.context.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })")
    first, second = [await tabs.open(node) for _ in range(2)]
    await node.post("Alert")
    for tab in (first, second):
        await tab.shows("Alert")
    await tabs.connections(node, ever=2, now=2)


@pytest.mark.long
async def test_a_page_that_comes_back_from_the_cache_goes_on_without_loss_or_double(own_node: Node) -> None:
    async with async_playwright() as playwright:
        cached = await playwright.chromium.launch(
            executable_path=chromium(),
            args=BROWSER_ARGUMENTS,
            ignore_default_args=["--disable-back-forward-cache"],
        )
        tabs = Tabs(await cached.new_context())
        tab = await tabs.open(own_node)
        await own_node.post("Before")
        await tab.shows("Before")
        await tab.page.evaluate("addEventListener('pageshow', ({ persisted }) => (window.kept = persisted))")
        await tab.page.goto(f"{own_node.base}/healthz")
        await tabs.connections(own_node, ever=1, now=0)
        await own_node.post("Meanwhile")
        await tab.page.go_back(wait_until="commit")
        await tab.is_("live")
        assert await tab.page.evaluate("window.kept")
        await own_node.post("After")
        await tab.shows("After", "Meanwhile", "Before")
        assert await seen(tab) == [1, 2, 3]
        await tabs.connections(own_node, ever=2, now=1)
        assert tab.requests_of("/v1/alerts") == 1
        await cached.close()


@pytest.mark.parametrize("ending", ["close", "freeze"])
async def test_what_was_seen_during_an_outage_is_reported_though_the_leader_ends_meanwhile(
    node: Node, tabs: Tabs, ending: str
) -> None:
    alerts = [(await node.post(f"Number {number}"))["id"] for number in range(2)]
    share = [token("alice", READ), node.base.replace("http", "ws") + "/v1/ws"]
    leader, follower = [await tabs.new() for _ in range(2)]
    for tab in (leader, follower):
        await tab.page.goto(node.base)
        await tab.page.evaluate(SHARE, share)
        await eventually(partial(tab.page.evaluate, "stream.status.reason === 'token_unavailable'"))
    assert await leader.page.evaluate("stream.isLeader")
    for tab, alert in zip((follower, leader), alerts, strict=True):
        await tab.page.evaluate("(id) => stream.seen([id])", alert)
    if ending == "close":
        await leader.page.close()
        await eventually(lambda: follower.page.evaluate("stream.isLeader"))
    else:
        await leader.page.evaluate("document.dispatchEvent(new Event('freeze'))")
        await eventually(lambda: follower.page.evaluate("stream.isLeader"))
        await follower.page.evaluate("document.dispatchEvent(new Event('freeze'))")
        await follower.page.evaluate("document.dispatchEvent(new Event('resume'))")
        await eventually(lambda: follower.page.evaluate("stream.isLeader"))
    await follower.page.evaluate("window.isOut = false; stream.wake()")
    await eventually(
        lambda: node.sql(
            "SELECT count(*) FROM audit.sightings WHERE alert_id = ANY($1::uuid[]) HAVING count(*) = 2", alerts
        )
    )
