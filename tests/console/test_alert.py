"""One alert beside the feed: what it says, what happened to it, who has it, and what is done about it."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Route, WebSocketRoute, expect

from tests.console.axe import axe
from tests.console.tab import OWN_PAGE, REFUSED, UNREACHABLE, Tab
from tests.harness import READ, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = "alerts:read alerts:manage audit:read"
MANAGE = "alerts:read alerts:manage"
CONFLICT = ("status of 409",)
NOT_FOUND = ("status of 404",)
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True}
SIZES = {
    "desktop-light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "phone": PHONE,
}
BODY = """\
Acquirer X **times out** since 09:41 UTC; see `acquirer.timeout_ms` and [the runbook](https://runbooks.example/acquirer).

1. Look at https://status.example/x
2. Move the traffic to *acquirer Y*

```
09:41:07 ERROR timeout after 3000 ms
```
"""


async def show(tab: Tab, node: Node, alert: str, **claims: Any) -> None:
    """Sign in, and open an alert by its address."""
    await tab.open(node, **{"scope": ALL, **claims})
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", alert)
    await expect(tab["timeline"].locator("li").first).to_be_visible()


class Gate:
    """Holds up what the page asks for until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.open.wait()

    async def hold(self, route: Route) -> None:
        await self.wait()
        await route.continue_()


def button(tab: Tab, name: str) -> Any:
    return tab["detail"].get_by_role("button", name=name, exact=True)


LONG: dict[str, Any] = {
    "topic": "payments.eu",
    "severity": "critical",
    "body": BODY,
    "attributes": {"acquirer": "X", "rate": 0.78, "regions": ["DE", "FR"]},
    "links": [{"title": "Runbook", "url": "https://runbooks.example/acquirer"}],
    "recipients": ["alice", "bob"],
    "dedup_key": "acceptance/X",
    "expires_at": "2125-01-01T00:00:00Z",
    "escalate_after": 900,
}


async def post_long(node: Node) -> dict[str, Any]:
    return await node.post("Card acceptance below 80 %", **LONG)


# Opening.


async def test_an_alert_opens_beside_the_feed_and_the_focus_goes_there_and_comes_back(node: Node, tab: Tab) -> None:
    await node.post("Disk full")
    answer = await node.post("Card acceptance below 80 %")
    await tab.open(node)
    await tab.page.keyboard.press("j")
    await tab.page.keyboard.press("Enter")
    await expect(tab["detail-title"]).to_have_text("Card acceptance below 80 %")
    await expect(tab["detail-title"]).to_be_focused()
    assert tab.page.url == f"{node.base}/#/alerts/{answer['id']}"
    feed, detail = await tab["feed"].bounding_box(), await tab["detail"].bounding_box()
    assert feed
    assert detail
    assert feed["x"] + feed["width"] <= detail["x"]
    await button(tab, "Back to the list").click()
    await expect(tab["detail"]).to_be_hidden()
    assert tab.page.url == f"{node.base}/#/"
    await expect(tab["feed"]).to_be_focused()
    await expect(tab["alert"].first).to_have_attribute("aria-selected", "true")
    await tab.page.go_back()
    await expect(tab["detail-title"]).to_be_focused()


@pytest.mark.parametrize("tab", [PHONE], indirect=True)
async def test_on_a_phone_an_alert_takes_the_place_of_the_feed(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"])
    await expect(tab["feed"]).to_be_hidden()
    await button(tab, "Back to the list").click()
    await expect(tab["feed"]).to_be_visible()
    await expect(tab["feed"]).to_be_focused()
    await expect(tab["alert"]).to_have_attribute("aria-selected", "true")


async def test_an_alert_that_is_not_in_the_list_is_fetched(node: Node, tab: Tab) -> None:
    answer = await node.post("The first")
    await node.post_all([{"title": f"Alert {number}"} for number in range(60)])
    await tab.page.goto(f"{node.base}/#/alerts/{answer['id']}")
    await expect(tab["detail"]).to_be_hidden()
    await tab.paste(tab.token())
    await expect(tab["detail-title"]).to_have_text("The first")
    await expect(tab["detail-title"]).to_be_focused()


@pytest.mark.parametrize("linked", ["none", "other topic", "no id", "%"])
async def test_an_alert_that_does_not_exist_or_may_not_be_seen_is_said_to_be_missing(
    node: Node, tab: Tab, linked: str
) -> None:
    tab.tolerated = NOT_FOUND
    await node.post("Seen", topic="payments.eu")
    hidden = await node.post("Not for you", topic="infra.disk")
    alert = {"none": "01a1fd87-65c3-71a6-ba06-3929d3197295", "other topic": hidden["id"]}.get(linked, linked)
    await tab.page.goto(f"{node.base}/#/alerts/{alert}")
    await tab.paste(tab.token(topics=["payments.*"]))
    await tab.is_("live")
    await expect(tab["detail-title"]).to_have_text("No such alert")
    await expect(tab["detail-missing"]).to_contain_text("There is no")
    await expect(tab["detail"].get_by_role("button")).to_have_text(["Back to the list"])
    assert "Not for you" not in await tab.page.content()


async def test_an_alert_that_cannot_be_loaded_can_be_asked_for_again(node: Node, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    answer = await node.post("Disk full")
    await tab.page.route("**/v1/alerts/*", lambda route: route.abort())
    await tab.page.goto(f"{node.base}/#/alerts/{answer['id']}")
    await tab.paste(tab.token())
    await tab.is_("live")  # Then it was asked for once more: nothing but the button asks again.
    await expect(tab["detail-missing"]).to_contain_text("cannot be reached")
    await tab.page.unroute_all()
    await button(tab, "Try again").click()
    await expect(tab["detail-title"]).to_have_text("Disk full")


async def test_an_alert_of_the_list_has_its_title_before_it_is_loaded(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    gate = Gate()
    await tab.page.route(f"**/v1/alerts/{answer['id']}", gate.hold)
    await tab.open(node)
    await tab.page.keyboard.press("j")
    await tab.page.keyboard.press("Enter")
    await gate.reached.wait()
    await expect(tab["detail-title"]).to_have_text("Disk full")
    await expect(tab["detail-title"]).to_be_focused()
    await expect(tab["status"]).to_have_count(0)
    gate.open.set()
    await expect(tab["status"]).to_have_text("open")


async def test_an_alert_whose_timeline_cannot_be_loaded_says_so_and_asks_again(node: Node, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    answer = await node.post("Disk full")
    await tab.page.route("**/timeline?*", lambda route: route.abort())
    await tab.open(node, scope=ALL)
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", answer["id"])
    await expect(tab["status"]).to_have_text("open")
    problem = "The server cannot be reached. What happened to it could not be loaded."
    await expect(tab["detail-missing"]).to_have_text(problem)
    async with node.http("bob", MANAGE) as bob:
        await bob.post(f"/v1/alerts/{answer['id']}/acknowledge")
    await expect(tab["status"]).to_have_text("acknowledged by bob")
    await expect(tab["detail-missing"]).to_have_text(problem)  # an event is not all that happened
    await tab.page.unroute_all()
    await button(tab, "Try again").click()
    await expect(tab["timeline"]).to_contain_text("billing raised it")
    await expect(tab["detail-missing"]).to_be_hidden()
    await expect(button(tab, "Try again")).to_be_hidden()
    await expect(tab["detail-title"]).to_be_focused()


async def test_an_alert_that_is_gone_is_not_asked_about_any_longer(node: Node, tab: Tab) -> None:
    tab.tolerated = NOT_FOUND
    answer = await node.post("Disk full")
    gate = Gate()

    async def refuse(route: Route) -> None:
        # Simulated: an alert that is deleted between two requests of one page cannot be had.
        await gate.wait()
        problem = {"code": "not_found", "status": 404}
        await route.fulfill(status=404, content_type="application/problem+json", body=json.dumps(problem))

    await tab.page.route("**/timeline?*", refuse)
    await tab.open(node, scope=ALL)
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", answer["id"])
    await expect(tab["receipts-summary"]).not_to_be_empty()
    gate.open.set()
    await expect(tab["detail-title"]).to_have_text("No such alert")
    await expect(tab["receipts-summary"]).to_be_empty()  # so it is where nobody asks on


@OWN_PAGE
async def test_an_alert_that_is_opened_while_the_stream_catches_up_ends_where_it_stands(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    timeline, late = Gate(), asyncio.Event()
    held: list[str | bytes] = []
    page: list[WebSocketRoute] = []

    async def connect(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        page.append(socket)

        def pass_on(message: str | bytes) -> None:
            if late.is_set() and json.loads(message)["type"] == "event":
                held.append(message)
            else:
                socket.send(message)

        server.on_message(pass_on)

    await tab.page.route_web_socket("**/v1/ws*", connect)
    await tab.page.route("**/timeline?*", timeline.hold)
    await tab.open(node, scope=ALL)
    late.set()
    async with node.http("bob", MANAGE) as bob:
        for action in ("acknowledge", "resolve"):
            await bob.post(f"/v1/alerts/{answer['id']}/{action}")
    await eventually(lambda: len(held) == 2)
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", answer["id"])
    await expect(tab["status"]).to_have_text("resolved by bob")
    page[0].send(held[0])
    await expect(tab["timeline"]).to_contain_text("bob acknowledged it")
    await expect(tab["status"]).to_have_text("resolved by bob")  # what comes late does not bring back what was
    timeline.open.set()
    await expect(tab["timeline"]).to_contain_text("bob resolved it")
    page[0].send(held[1])
    await expect(tab["alert"].locator(".status")).to_have_text("resolved by bob")
    await expect(tab["status"]).to_have_text("resolved by bob")
    late.clear()
    async with node.http("bob", MANAGE) as bob:
        await bob.post(f"/v1/alerts/{answer['id']}/reopen")
    await expect(tab["status"]).to_have_text("open")


# What it says.


async def test_an_alert_shows_all_that_it_says(node: Node, tab: Tab) -> None:
    answer = await post_long(node)
    async with node.http() as billing:
        await billing.post("/v1/alerts", json={"title": answer["title"], **LONG})
    await show(tab, node, answer["id"])
    body = tab["body"]
    await expect(body.locator("strong")).to_have_text("times out")
    await expect(body.locator("p code")).to_have_text("acquirer.timeout_ms")
    await expect(body.locator("ol > li")).to_have_text(
        ["Look at https://status.example/x", "Move the traffic to acquirer Y"]
    )
    await expect(body.locator("pre")).to_have_text("09:41:07 ERROR timeout after 3000 ms")
    for link in await tab["detail"].get_by_role("link").all():
        assert await link.get_attribute("rel") == "noopener noreferrer"
        assert (await link.get_attribute("href") or "").startswith("https://")
    await expect(tab["detail"].locator(".host")).to_have_text(["runbooks.example", "runbooks.example"])
    rows = tab["detail"].get_by_role("table").get_by_role("row")
    await expect(rows).to_have_text(["rate0.78", 'regions["DE","FR"]', "acquirerX"])
    facts = tab["detail-facts"]
    for fact in (
        "by billing",
        "2 times",
        "in 14 min",
        ", unless acknowledged",
        "in 3",
        "alice, bob",
        "acceptance/X",
        answer["id"],
    ):
        await expect(facts).to_contain_text(fact)
    await expect(tab["detail"]).to_have_attribute("data-severity", "critical")
    await expect(tab["status"]).to_have_text("open")
    await expect(tab["said"]).to_have_count(0)


async def test_what_a_repetition_says_is_shown_as_it_comes_and_the_first_in_the_timeline(node: Node, tab: Tab) -> None:
    answer = await node.post("80 % full", body="20 GB left", dedup_key="disk")
    await show(tab, node, answer["id"])
    await expect(tab["said"]).to_have_count(0)
    async with node.http() as billing:
        await billing.post("/v1/alerts", json={"title": "97 % full", "body": "3 GB left", "dedup_key": "disk"})
    await expect(tab["detail-title"]).to_have_text("97 % full")
    await expect(tab["body"]).to_have_text("3 GB left")
    await expect(tab["said"]).to_have_text("80 % full20 GB left")
    await expect(tab["alert"].get_by_text("97 % full")).to_have_count(1)


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    '[click](https://example.com/ "onmouseover=alert(1)")',
    "![image](https://tracker.example/pixel.png)",
    "<https://example.com onclick=alert(1)>",
    "`<b>`",
    "```html\n<script>alert(1)</script>\n```",
    "&lt;b&gt; {{7*7}} ${7*7}",
]


async def test_hostile_text_is_only_ever_text(node: Node, tab: Tab) -> None:
    text = "\n\n".join(HOSTILE)
    answer = await node.post("<b>Title</b>", body=text, attributes={"<i>": "<img src=x onerror=alert(1)>"})
    async with node.http("<u>mallory</u>", MANAGE) as mallory:
        await mallory.post(f"/v1/alerts/{answer['id']}/comments", json={"text": text})
    await show(tab, node, answer["id"])
    await expect(tab["detail-title"]).to_have_text("<b>Title</b>")
    for written in (tab["body"], tab["comment"]):
        for part in ("<script>", "onerror=alert(1)", "javascript:alert(1)", "{{7*7}} ${7*7}", "&lt;b&gt;"):
            await expect(written).to_contain_text(part)
        await expect(written.locator("script, img, iframe, b, [onclick], [onerror], [onmouseover]")).to_have_count(0)
        await expect(written.locator("a:not([href^='https://'])")).to_have_count(0)
    await expect(tab["detail"].locator("b, i, u, img")).to_have_count(0)
    await axe(tab.page)


async def test_a_right_to_left_override_does_not_turn_what_stands_behind_it(node: Node, tab: Tab) -> None:
    answer = await node.post(
        "Click",
        body="Click \u202e[here](https://evil.example/) now",
        links=[{"title": "\u202emoc.knab", "url": "https://wicked.example/"}],
    )
    await show(tab, node, answer["id"])
    for name in ("evil.example", "wicked.example"):
        link = await tab["detail"].locator(f"a[href='https://{name}/']").bounding_box()
        host = await tab["detail"].get_by_text(name).bounding_box()
        assert link
        assert host
        assert link["x"] + link["width"] <= host["x"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://bank.example@evil.example/", "evil.example"),
        ("https://b\u0430nk.example/", "xn--bnk-6cd.example"),
        ("https://bank.example.evil.example/", None),
    ],
)
async def test_a_bare_address_says_which_host_it_leads_to(node: Node, tab: Tab, url: str, host: str | None) -> None:
    answer = await node.post("Click", body=f"See {url}")
    await show(tab, node, answer["id"])
    await expect(tab["body"].get_by_role("link")).to_have_text(url)
    await expect(tab["body"].locator(".host")).to_have_text([host] if host else [])


# What happened.


async def test_what_happens_to_an_alert_is_seen_as_it_happens(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full", severity="warning", dedup_key="disk")
    await show(tab, node, answer["id"])
    steps = tab["timeline"].get_by_role("listitem")
    await expect(steps).to_have_text(["billing raised it just now"])
    async with node.http("bob", f"{MANAGE} alerts:write") as bob:
        for action, status in (
            ("acknowledge", "acknowledged by bob"),
            ("reopen", "open"),
            ("resolve", "resolved by bob"),
        ):
            await bob.post(f"/v1/alerts/{answer['id']}/{action}")
            await expect(tab["status"]).to_have_text(status)
        await bob.post(f"/v1/alerts/{answer['id']}/reopen")
    async with node.http() as billing:
        await billing.post("/v1/alerts", json={"title": "Again", "dedup_key": "disk", "severity": "warning"})
        await billing.post("/v1/alerts", json={"title": "Again", "dedup_key": "disk", "severity": "critical"})
    await expect(steps.locator("p")).to_have_text(
        [
            "billing raised it just now",
            "bob acknowledged it just now",
            "bob opened it again just now",
            "bob resolved it just now",
            "bob opened it again just now",
            "It occurred again, 2 times in all just now",
            "It occurred again, 3 times in all and is now critical just now",
        ]
    )
    await tab.page.reload()
    await show(tab, node, answer["id"])
    await expect(steps).to_have_count(7)


async def test_an_alert_escalates_and_expires_before_ones_eyes(node: Node, tab: Tab) -> None:
    """It is due when the test says so, and not while the page still opens."""
    answer = await node.post("Nobody is there", escalate_after=3600, recipients=["alice"])
    await show(tab, node, answer["id"])
    await expect(tab["detail-facts"]).to_contain_text("Goes to all")
    await node.sql("UPDATE alerts SET escalate_at = now() WHERE id = $1", answer["id"])
    await expect(tab["timeline"]).to_contain_text("it went to all who may see its topic")
    await expect(tab["detail-facts"]).not_to_contain_text("Goes to all")
    await node.sql("UPDATE alerts SET expires_at = now() WHERE id = $1", answer["id"])
    await expect(tab["status"]).to_contain_text("expired")


async def test_comments_of_two_admins_are_seen_by_both(node: Node, tab: Tab, other_tab: Tab) -> None:
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"])
    await show(other_tab, node, answer["id"], subject="bob")
    await tab["comment-text"].fill("Is anybody **on it**?")
    await button(tab, "Comment").click()
    await expect(tab["comment-text"]).to_have_value("")
    await expect(other_tab["comment"].locator("strong")).to_have_text("on it")
    await other_tab["comment-text"].fill("I am.")
    await other_tab["comment-text"].press("Control+Enter")
    for page in (tab, other_tab):
        await expect(page["comment"]).to_have_text(["Is anybody on it?", "I am."])
        await expect(page["timeline"].locator(".sending")).to_have_count(0)
    # A comment that is being read stays the element that it is: what is selected in it stays selected.
    await tab["comment"].first.evaluate("(node) => { node.dataset.same = 'yes' }")
    await button(other_tab, "Acknowledge").click()
    await expect(tab["timeline"]).to_contain_text("bob acknowledged it")
    await expect(tab["comment"].first).to_have_attribute("data-same", "yes")


async def test_when_an_alert_occurred_is_not_when_it_was_spoken_of(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full", dedup_key="disk")
    async with node.http() as billing:
        await billing.post("/v1/alerts", json={"title": "Again", "dedup_key": "disk"})
    async with node.http("bob", MANAGE) as bob:
        comment = (await bob.post(f"/v1/alerts/{answer['id']}/comments", json={"text": "Again?"})).json()
        events = (await bob.get(f"/v1/alerts/{answer['id']}/timeline")).json()["events"]
    await show(tab, node, answer["id"])
    assert events[1]["kind"] == "alert.repeated"
    occurred = tab["detail-facts"].locator("dd").filter(has_text="2 times, the last of them").locator("time")
    await expect(occurred).to_have_attribute("datetime", events[1]["at"])
    assert events[1]["at"] != comment["at"]


async def test_of_a_long_timeline_the_newest_comes_first_and_the_rest_when_asked_for(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    async with node.http("bob", MANAGE) as bob:
        for number in range(5):
            await bob.post(f"/v1/alerts/{answer['id']}/comments", json={"text": f"Number {number}"})

    async def shorten(route: Route) -> None:
        await route.continue_(url=route.request.url.replace("limit=500", "limit=1"))

    await tab.page.route("**/timeline?*", shorten)
    await show(tab, node, answer["id"])
    await expect(tab["comment"]).to_have_text([f"Number {number}" for number in range(1, 5)])
    await button(tab, "Show what came before").click()
    await expect(tab["comment"]).to_have_text([f"Number {number}" for number in range(5)])
    await expect(tab["timeline"].get_by_role("listitem").first).to_contain_text("billing raised it")
    await expect(button(tab, "Show what came before")).to_be_hidden()


# Who has received it.

RELOAD_MS = 10_000
"""After which the page asks again, by its clock."""
OF_CAROL = "SELECT FROM audit.deliveries WHERE seq = $1 AND recipient = 'carol' AND {} IS NOT NULL"


@OWN_PAGE
async def test_who_has_received_an_alert_and_who_has_not_is_seen_as_it_changes(node: Node, tab: Tab) -> None:
    await tab.page.clock.install()
    answer = await node.post("Disk full", recipients=["alice", "bob", "carol"])
    await node.live("bob")
    await show(tab, node, answer["id"])
    people = tab["receipts"].get_by_role("listitem")
    await expect(tab["receipts-summary"]).to_contain_text("of 3 admins have received it")
    await expect(people).to_have_count(3)
    await expect(people.filter(has_text="carol")).to_have_text("carol not sent yet")
    carol = await node.stream("carol", after=answer["seq"] - 1)
    event = (await carol.events(1))[0]
    await eventually(lambda: node.sql(OF_CAROL.format("sent_at"), event["seq"]))
    await tab.page.clock.fast_forward(RELOAD_MS)
    await expect(people.filter(has_text="carol")).to_have_text("carol sent, not confirmed")
    await expect(people.filter(has_text="carol")).to_have_attribute("data-received", "false")
    await carol.ack(event["seq"])
    await eventually(lambda: node.sql(OF_CAROL.format("received_at"), event["seq"]))
    await tab.page.clock.fast_forward(RELOAD_MS)
    await expect(people.filter(has_text="carol")).to_contain_text("received after")
    await expect(people.filter(has_text="carol")).to_have_attribute("data-received", "true")
    await carol.close()


async def test_without_the_scope_it_is_said_which_one_shows_who_has_received_it(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"], scope="alerts:read")
    await expect(tab["receipts-summary"]).to_have_text(
        "To see who has received this alert, your token needs the scope alerts:manage."
    )
    assert tab.requests_of(f"/v1/alerts/{answer['id']}/receipts") == 0


async def test_an_alert_behind_a_dialog_is_not_seen_until_a_second_after_it_closed(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await tab.page.keyboard.press("?")
    await expect(tab["help"]).to_be_visible()
    answer = await node.post("Disk full")
    await tab.shows("Disk full")
    await asyncio.sleep(2)
    (closed,) = await node.sql("SELECT clock_timestamp() AS at")
    await tab.page.keyboard.press("Escape")
    await expect(tab["help"]).to_be_hidden()
    (sighting,) = await eventually(
        lambda: node.sql("SELECT seen_at FROM audit.sightings WHERE alert_id = $1", answer["id"])
    )
    assert sighting["seen_at"] - closed["at"] > timedelta(seconds=1)


async def test_who_only_read_an_alert_in_the_list_is_shown_to_others_as_having_seen_it(
    node: Node, tab: Tab, other_tab: Tab
) -> None:
    """Loaded with the list, it is never sent to her over the stream: she saw it, and did not receive it."""
    answer = await node.post("Disk full", recipients=["alice", "bob", "carol"])
    await show(tab, node, answer["id"], scope=MANAGE)  # what the console asks an OpenID provider for
    people = tab["receipts"].get_by_role("listitem")
    bob, carol = people.filter(has_text="bob"), people.filter(has_text="carol")
    await expect(bob).to_have_text("bob not sent yet")
    await expect(bob).to_have_attribute("data-seen", "false")
    await other_tab.open(node, subject="bob", scope=READ)
    await other_tab.shows("Disk full")
    await expect(bob).to_contain_text("bob seen after")
    await expect(bob).to_have_attribute("data-seen", "true")
    await expect(bob).to_have_attribute("data-received", "false")
    await expect(carol).to_have_text("carol not sent yet")
    await expect(tab["receipts-summary"]).to_contain_text("0 of 3 admins have received it; 2 have seen it")
    await expect(people.filter(has_text="alice")).to_contain_text("alice seen after")  # she has it open
    async with node.http("bob", MANAGE) as client:
        await client.post(f"/v1/alerts/{answer['id']}/acknowledge")
    await expect(bob).to_have_text(re.compile(r"^bob seen after .+, received after .+$"))  # an event of it, that is
    assert not await node.sql(
        "SELECT FROM audit.deliveries WHERE recipient = 'bob' AND alert_id = $1 AND kind = 'alert.created'",
        answer["id"],
    )


HIDDEN = """
Object.defineProperty(document, "hidden", { configurable: true, value: %s });
document.dispatchEvent(new Event("visibilitychange"));
"""


async def sightings_of(node: Node, alert: dict[str, Any]) -> list[str]:
    rows = await node.sql("SELECT recipient FROM audit.sightings WHERE alert_id = $1 ORDER BY 1", alert["id"])
    return [row["recipient"] for row in rows]


async def seen_by_alice(node: Node, alert: dict[str, Any]) -> bool:
    return "alice" in await sightings_of(node, alert)


@OWN_PAGE
async def test_an_alert_is_seen_once_it_was_in_view_for_a_second(node: Node, tab: Tab) -> None:
    below = await node.post("Far down", recipients=["alice"])
    await node.post_all([{"title": f"Alert {number}", "recipients": ["alice"]} for number in range(40)])
    pinned = await node.post("Pinned", severity="critical", recipients=["alice", "bob"])
    # Simulated: a headless browser does not hide the tab that is behind another.
    await tab.page.add_init_script(HIDDEN % "true")
    await tab.page.clock.install()
    await tab.open(node)
    await expect(tab["alert"].first).to_contain_text("Pinned")
    await tab.pause()
    await tab.page.clock.run_for(5_000)
    await tab.page.evaluate(HIDDEN % "false")
    await tab.page.clock.run_for(900)
    async with node.http("bob", READ) as bob:
        await bob.post("/v1/events/seen", json={"alerts": [pinned["id"]]})
    await eventually(lambda: sightings_of(node, pinned))
    assert await sightings_of(node, pinned) == ["bob"]  # and not alice, whose page reports after half a second
    await tab.page.clock.run_for(1_000)
    await eventually(lambda: seen_by_alice(node, pinned))
    assert await sightings_of(node, below) == []
    await tab.page.clock.resume()

    async def is_below_seen() -> bool:
        # The rows may still be measured, and the page says that its clock is ahead, which moves the feed down.
        await tab["feed"].evaluate("feed => { feed.scrollTop = feed.scrollHeight; feed.scrollIntoView(false) }")
        return await seen_by_alice(node, below)

    await eventually(is_below_seen)


# What is done about it.


async def test_an_alert_is_acknowledged_resolved_and_reopened(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"])
    row = tab["alert"].first.locator(".status")
    enabled = {
        "open": ("open", ["Acknowledge", "Resolve"]),
        "Acknowledge": ("acknowledged by alice", ["Resolve", "Reopen"]),
        "Resolve": ("resolved by alice", ["Reopen"]),
        "Reopen": ("open", ["Acknowledge", "Resolve"]),
    }
    for action, (status, names) in enabled.items():
        if action != "open":
            await button(tab, action).click()
            await expect(button(tab, action)).to_be_focused()
        for shown in (tab["status"], row):
            await expect(shown).to_have_text(status)
        for name in ("Acknowledge", "Resolve", "Reopen"):
            await expect(button(tab, name)).to_be_enabled(enabled=name in names)
    await expect(tab["timeline"].get_by_role("listitem")).to_have_count(4)  # shown before it was done, now it is
    rows = await node.sql("SELECT kind FROM events WHERE alert_id = $1 ORDER BY seq", answer["id"])
    assert [row["kind"] for row in rows] == ["alert.created", "alert.acknowledged", "alert.resolved", "alert.reopened"]


async def test_without_the_scope_nothing_can_be_done_and_it_is_said_why(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"], scope="alerts:read")
    for name in ("Acknowledge", "Resolve", "Reopen"):
        await expect(button(tab, name)).to_be_disabled()
    await expect(tab["comment-text"]).to_be_hidden()
    await expect(tab["detail"]).to_contain_text(
        "To act on alerts and to comment, your token needs the scope alerts:manage"
    )
    await tab.page.keyboard.press("a")
    await expect(tab["detail-message"]).to_contain_text("alerts:manage")
    await expect(tab["status"]).to_have_text("open")


async def test_whoever_posted_an_alert_may_resolve_it(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"], subject="billing", scope="alerts:read alerts:write")
    await expect(button(tab, "Acknowledge")).to_be_disabled()
    await button(tab, "Resolve").click()
    await expect(tab["status"]).to_have_text("resolved by billing")


async def test_of_two_who_acknowledge_one_is_first_and_the_other_learns_it(
    node: Node, tab: Tab, other_tab: Tab
) -> None:
    tab.tolerated = CONFLICT
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"])
    await show(other_tab, node, answer["id"], subject="bob")
    released = asyncio.Event()

    async def hold(route: Route) -> None:
        await released.wait()
        await route.continue_()

    await tab.page.route("**/acknowledge", hold)
    await button(tab, "Acknowledge").click()
    await expect(tab["status"]).to_have_text("acknowledged by alice")  # before the server has the request
    await expect(tab["alert"].locator(".status")).to_have_text("acknowledged by alice")
    await button(other_tab, "Acknowledge").click()
    await expect(tab["timeline"]).to_contain_text("bob acknowledged it")
    await expect(tab["detail-message"]).to_be_hidden()
    released.set()
    await expect(tab["detail-message"]).to_contain_text("bob was first: acknowledged at")
    for page in (tab, other_tab):
        await expect(page["status"]).to_have_text("acknowledged by bob")
        await expect(page["alert"].locator(".status")).to_have_text("acknowledged by bob")
    await expect(other_tab["detail-message"]).to_be_hidden()


async def test_an_action_that_the_server_cannot_do_is_taken_back(node: Node, tab: Tab) -> None:
    tab.tolerated = ("status of 503",)
    answer = await node.post("Disk full")
    await show(tab, node, answer["id"])

    async def refuse(route: Route) -> None:
        # Simulated: a node that is overloaded for just one request cannot be had.
        problem = {"code": "overloaded", "status": 503, "detail": "Too much to do."}
        headers = {"Retry-After": "3", "Content-Type": "application/problem+json"}
        await route.fulfill(status=503, headers=headers, body=json.dumps(problem))

    await tab.page.route("**/acknowledge", refuse)
    await button(tab, "Acknowledge").click()
    await expect(tab["detail-message"]).to_have_text(
        "The server is overloaded. It may not have been done: acknowledge again in 3 s."
    )
    await expect(tab["status"]).to_have_text("open")
    await tab.page.unroute_all()
    await button(tab, "Acknowledge").click()
    await expect(tab["status"]).to_have_text("acknowledged by alice")
    await expect(tab["detail-message"]).to_be_hidden()


async def test_what_was_written_while_offline_stays_and_is_stored_once(node: Node, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    answer = await node.post("Disk full")
    await node.post("Another")
    await show(tab, node, answer["id"])

    async def lose_the_answer(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await tab.page.route("**/comments", lose_the_answer)
    await tab["comment-text"].fill("Acquirer X is aware.")
    await button(tab, "Comment").click()
    await expect(tab["detail-message"]).to_contain_text("cannot be reached")
    await expect(tab["comment-text"]).to_have_value("Acquirer X is aware.")
    await expect(button(tab, "Comment")).to_be_enabled()
    await tab.page.unroute_all()
    await button(tab, "Comment").click()
    await expect(tab["comment-text"]).to_have_value("")
    await expect(tab["detail-message"]).to_be_hidden()
    await expect(tab["comment"]).to_have_text(["Acquirer X is aware."])
    rows = await node.sql("SELECT 1 FROM events WHERE alert_id = $1 AND kind = 'alert.commented'", answer["id"])
    assert len(rows) == 1


async def test_what_was_written_stays_with_its_alert(node: Node, tab: Tab) -> None:
    first, second = await node.post("First"), await node.post("Second")
    await show(tab, node, first["id"])
    await tab["comment-text"].fill("About the first")
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", second["id"])
    await expect(tab["detail-title"]).to_have_text("Second")
    await expect(tab["comment-text"]).to_have_value("")
    await tab.page.go_back()
    await expect(tab["detail-title"]).to_have_text("First")
    await expect(tab["comment-text"]).to_have_value("About the first")


async def test_a_comment_that_fails_behind_ones_back_is_said_and_kept(node: Node, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    first, second = await node.post("First"), await node.post("Second")
    gate = Gate()

    async def lose(route: Route) -> None:
        await gate.wait()
        await route.abort()

    await tab.page.route("**/comments", lose)
    await show(tab, node, first["id"])
    await tab["comment-text"].fill("About the first")
    await button(tab, "Comment").click()
    await gate.reached.wait()
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", second["id"])
    await expect(tab["detail-title"]).to_have_text("Second")
    gate.open.set()
    await expect(tab["notice"]).to_contain_text("\u2068First\u2069: The server cannot be reached.")
    await expect(tab["detail-message"]).to_be_hidden()
    await expect(tab["comment-text"]).to_have_value("")
    await tab.page.go_back()
    await expect(tab["detail-title"]).to_have_text("First")
    await expect(tab["comment-text"]).to_have_value("About the first")


@OWN_PAGE
async def test_what_one_admin_asked_for_is_neither_shown_nor_done_to_the_next(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    gate = Gate()
    paths: list[str] = []

    async def acknowledge(route: Route) -> None:
        # Simulated: so that its event does not tell the same.
        async with node.http("alice", MANAGE) as alice:
            alert = (await alice.get(f"/v1/alerts/{answer['id']}")).json()
        await gate.wait()
        changed = {"status": "acknowledged", "status_by": "only alice knows", "updated_at": "2125-01-01T00:00:00Z"}
        await route.fulfill(json={**alert, **changed})

    await tab.page.route("**/acknowledge", acknowledge)
    tab.page.on("request", lambda request: paths.append(f"{request.method} {urlsplit(request.url).path}"))
    await show(tab, node, answer["id"])
    await tab.page.keyboard.press("a")
    await gate.reached.wait()
    await tab.page.keyboard.press("r")
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.is_("signed-out")
    await tab.paste(tab.token("bob", scope=ALL))
    await expect(tab["timeline"].locator("li").first).to_be_visible()
    await tab.page.evaluate(
        """() => {
          globalThis.shown = "";
          const listen = () => { globalThis.shown += document.body.innerText };
          new MutationObserver(listen).observe(document.body, { childList: true, subtree: true });
        }"""
    )
    async with tab.page.expect_event("requestfinished", lambda request: request.url.endswith("/acknowledge")):
        gate.open.set()
    await tab["comment-text"].fill("Bob is here.")
    await button(tab, "Comment").click()
    await expect(tab["comment"]).to_have_text(["Bob is here."])
    await expect(tab["status"]).to_have_text("open")
    assert "only alice knows" not in await tab.page.evaluate("shown")
    assert f"POST /v1/alerts/{answer['id']}/resolve" not in paths


async def test_what_one_admin_sent_does_not_take_away_what_the_next_is_writing(node: Node, tab: Tab) -> None:
    answer = await node.post("Disk full")
    gate = Gate()
    await tab.page.route("**/comments", gate.hold)
    await show(tab, node, answer["id"])
    await tab["comment-text"].fill("Alice is here.")
    await button(tab, "Comment").click()
    await gate.reached.wait()
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.is_("signed-out")
    await tab.paste(tab.token("bob", scope=ALL))
    await tab["comment-text"].fill("Bob is here.")
    async with tab.page.expect_event("requestfinished", lambda request: request.url.endswith("/comments")):
        gate.open.set()
    await expect(tab["comment"]).to_have_text(["Alice is here."])
    await expect(tab["comment-text"]).to_have_value("Bob is here.")
    await button(tab, "Comment").click()
    await expect(tab["comment"]).to_have_text(["Alice is here.", "Bob is here."])


async def test_a_token_that_expired_loses_nothing_that_was_written(node: Node, tab: Tab) -> None:
    tab.tolerated = REFUSED
    answer = await node.post("Disk full")
    await tab.open_briefly(node, scope=ALL)
    await tab.page.evaluate("(id) => { location.hash = `#/alerts/${id}` }", answer["id"])
    await tab["comment-text"].fill("Acquirer X is aware.")
    await tab.is_("signed-out")
    await button(tab, "Comment").click()
    await expect(tab["detail-message"]).to_contain_text("Your token has expired. Sign in again to comment")
    await tab.paste(tab.token(scope=ALL))
    await tab.is_("live")
    await expect(tab["comment-text"]).to_have_value("Acquirer X is aware.")
    await button(tab, "Comment").click()
    await expect(tab["comment"]).to_have_text(["Acquirer X is aware."])


async def test_signing_out_leaves_nothing_of_an_alert_behind(node: Node, tab: Tab) -> None:
    answer = await node.post("Only for admins", body="Secret")
    await show(tab, node, answer["id"])
    await tab["comment-text"].fill("Unsent")
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.is_("signed-out")
    content = await tab.page.content()
    assert "Only for admins" not in content
    assert "Secret" not in content
    assert await tab["comment-text"].input_value() == ""


# How it looks.


@pytest.mark.parametrize("tab", SIZES.values(), ids=SIZES.keys(), indirect=True)
async def test_an_alert_fits_its_window_and_keeps_nobody_out(node: Node, tab: Tab, tmp_path: Path) -> None:
    for severity in ("info", "warning", "error"):
        await node.post(f"An alert of severity {severity}", severity=severity)
    answer = await post_long(node)
    bob = await node.live("bob")
    async with node.http("bob", MANAGE) as client:
        await client.post(f"/v1/alerts/{answer['id']}/acknowledge")
        text = f"Acquirer X is aware, **ticket 4711**: https://tickets.example/{'4711' * 50}"
        await client.post(f"/v1/alerts/{answer['id']}/comments", json={"text": text})
    await show(tab, node, answer["id"])
    await expect(tab["receipts"].get_by_role("listitem")).to_have_count(2)
    await expect(tab["comment"]).to_be_visible()
    await axe(tab.page)
    await tab.page.screenshot(path=tmp_path / "alert.png", full_page=True)
    for part in ("html", "#detail"):
        assert await tab.page.locator(part).evaluate("part => part.scrollWidth <= part.clientWidth"), part
    await bob.close()


async def test_axe_finds_nothing_in_the_feed(node: Node, tab: Tab) -> None:
    for severity in ("info", "warning", "error", "critical"):
        await node.post(f"An alert of severity {severity}", severity=severity)
    await tab.page.goto(node.base)
    await axe(tab.page)
    await tab.open(node)
    await eventually(tab["alert"].count)
    await axe(tab.page)
