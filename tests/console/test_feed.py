"""The list of alerts: what it shows, what it holds back, how one gets about in it, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Locator, Route, expect

from tests.console.axe import axe
from tests.console.many import TO_THE_END, arrive, loaded
from tests.console.proxy import Proxy
from tests.console.tab import OWN_PAGE, UNREACHABLE
from tests.harness import READ, Node, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.console.tab import Tab

pytestmark = pytest.mark.asyncio(loop_scope="module")

BATCH = 500
MANAGE = "alerts:write alerts:manage"
CRITICAL = "**/v1/alerts?severity=critical&*"
"""What the page asks for to pin it."""
SIZES = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True},
}
FIRST_ROW = """feed => {
    const top = feed.getBoundingClientRect().top;
    const row = [...feed.querySelectorAll(".alert")].find((row) => row.getBoundingClientRect().bottom > top + 1);
    return [row.dataset.id, row.getBoundingClientRect().top];
}"""
"""Which alert is on top of what one reads, and where on the screen."""


async def post(node: Node, alerts: list[dict[str, Any]]) -> None:
    """Post many, in order, in batches that the rate limit lets through."""
    async with node.http() as client:
        for start in range(0, len(alerts), BATCH):
            some = [{"title": "It happened", **alert} for alert in alerts[start : start + BATCH]]
            (await client.post("/v1/alerts/batch", json=some)).raise_for_status()


async def act(node: Node, action: str, alert: dict[str, Any]) -> None:
    async with node.http("bob", MANAGE) as bob:
        (await bob.post(f"/v1/alerts/{alert['id']}/{action}")).raise_for_status()


async def scroll(tab: Tab, rows: int) -> None:
    await tab["feed"].evaluate("(feed, rows) => (feed.scrollTop = rows * 60)", rows)


def titles(tab: Tab) -> Locator:
    return tab["alert"].locator(".title")


def control(tab: Tab, name: str) -> Locator:
    return tab["filters"].get_by_label(name)


# The list.


async def test_only_the_rows_in_view_are_in_the_document_and_older_pages_follow_as_one_scrolls(
    node: Node, tab: Tab
) -> None:
    await post(node, [{"title": f"Alert {number}"} for number in range(900)])
    await tab.open(node)
    await expect(titles(tab).first).to_have_text("Alert 899")
    await expect(tab["count"]).to_have_text("50 alerts loaded, older ones follow as you scroll")
    await expect(tab["alert"].first).to_have_attribute("aria-setsize", "-1")
    reach_end = """async (feed) => {
        const count = document.querySelector("[data-testid=count]");
        for (let frames = 0; frames < 2_000 && count.textContent !== "900 alerts"; frames += 1) {
            feed.scrollTop = feed.scrollHeight;
            await new Promise(requestAnimationFrame);
        }
        feed.scrollTop = feed.scrollHeight;
    }"""
    await tab["feed"].evaluate(reach_end)
    await expect(titles(tab).last).to_have_text("Alert 0")
    await expect(tab["alert"].last).to_have_attribute("aria-posinset", "900")
    await expect(tab["alert"].last).to_have_attribute("aria-setsize", "900")
    assert await tab["alert"].count() < 40
    await scroll(tab, 600)
    await expect(tab["feed"].get_by_role("option", name="Alert 299")).to_be_in_viewport()
    shown = await titles(tab).all_inner_texts()
    assert shown == [f"Alert {number}" for number in range(int(shown[0].split()[1]), int(shown[-1].split()[1]) - 1, -1)]


async def test_a_page_that_does_not_come_is_reported_and_can_be_asked_for_again(node: Node, tab: Tab) -> None:
    tab.tolerated = ("net::ERR_",)
    await post(node, [{"title": f"Alert {number}"} for number in range(100)])
    await tab.open(node)
    await tab.page.route("**/v1/alerts?*cursor=*", lambda route: route.abort())
    await scroll(tab, 1000)
    await expect(tab["count"]).to_contain_text("Older ones could not be loaded. The server cannot be reached.")
    await tab.page.unroute("**/v1/alerts?*cursor=*")
    await tab.page.get_by_role("button", name="Try again").click()
    await expect(tab["count"]).to_have_text("100 alerts")


@OWN_PAGE
async def test_a_page_that_did_not_come_is_asked_for_again_once_the_connection_is_back(node: Node, tab: Tab) -> None:
    tab.tolerated = UNREACHABLE
    await post(node, [{"title": f"Alert {number}"} for number in range(100)])
    async with Proxy(node.base) as proxy:
        proxy.blocks_websockets = False
        await tab.page.goto(f"{proxy.base}/#token={tab.token()}")
        await tab.is_("live")
        await tab.page.route("**/v1/alerts?*cursor=*", lambda route: route.abort())
        await scroll(tab, 1000)
        await expect(tab["count"]).to_contain_text("Older ones could not be loaded.")
        await tab.page.unroute("**/v1/alerts?*cursor=*")
        proxy.cut()
        await expect(tab["count"]).to_have_text("100 alerts")


# Reading while more arrives.


async def test_new_alerts_do_not_move_what_is_read_and_wait_behind_a_bar(node: Node, tab: Tab) -> None:
    await post(node, [{"title": f"Alert {number}"} for number in range(40)])
    await tab.open(node)
    await expect(titles(tab).first).to_have_text("Alert 39")
    await scroll(tab, 5)
    before = await tab["feed"].evaluate(FIRST_ROW)
    await post(node, [{"title": f"New {number}"} for number in range(12)])
    await expect(tab["arrivals"]).to_have_text("12 new")
    assert await tab["feed"].evaluate(FIRST_ROW) == before
    await tab["arrivals"].click()
    await expect(titles(tab).first).to_have_text("New 11")
    await expect(tab["arrivals"]).to_be_hidden()
    await node.post("At the top, it appears at once")
    await expect(titles(tab).first).to_have_text("At the top, it appears at once")


async def test_scrolling_back_to_the_top_brings_in_what_waits(node: Node, tab: Tab) -> None:
    await post(node, [{"title": f"Alert {number}"} for number in range(40)])
    await tab.open(node)
    await scroll(tab, 5)
    await node.post("New")
    await expect(tab["arrivals"]).to_have_text("1 new")
    await scroll(tab, 0)
    await expect(titles(tab).first).to_have_text("New")
    await expect(tab["arrivals"]).to_be_hidden()


async def test_who_signs_in_after_another_starts_at_the_top(node: Node, tab: Tab) -> None:
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    await tab.open(node)
    await scroll(tab, 5)
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.paste(tab.token("bob"))
    await tab.is_("live")
    await expect(titles(tab).first).to_have_text("Alert 59")
    assert await tab["feed"].evaluate("feed => feed.scrollTop") == 0


async def test_a_selected_row_stays_where_it_is(node: Node, tab: Tab) -> None:
    await post(node, [{"title": f"Alert {number}"} for number in range(3)])
    await tab.open(node)
    await tab["feed"].focus()
    await tab.page.keyboard.press("ArrowDown")
    await node.post("New")
    await expect(tab["arrivals"]).to_have_text("1 new")
    await expect(titles(tab)).to_have_text(["Alert 2", "Alert 1", "Alert 0"])
    await control(tab, "Words in alerts").focus()
    await expect(titles(tab).first).to_have_text("New")


async def test_a_critical_alert_that_is_pinned_above_does_not_move_what_is_read(node: Node, tab: Tab) -> None:
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    await tab.open(node)
    await scroll(tab, 10)
    before = await tab["feed"].evaluate(FIRST_ROW)
    await node.post("The house burns", severity="critical")
    await expect(tab["pinned-alert"]).to_have_count(1)
    pinned = await tab["pinned"].bounding_box()
    assert pinned
    assert pinned["height"] > 50
    position = f"feed => feed.querySelector('[data-id=\"{before[0]}\"]').getBoundingClientRect().top"
    assert abs(await tab["feed"].evaluate(position) - before[1]) < 2


# Pinned.


async def test_critical_alerts_are_pinned_until_acknowledged_whatever_the_filters(node: Node, tab: Tab) -> None:
    old = await node.post("Old fire", severity="critical", topic="payments.eu")
    await post(node, [{"title": f"Alert {number}"} for number in range(300)])
    await tab.page.goto(f"{node.base}/?topic=infra.*#token={tab.token()}")
    await tab.is_("live")
    await expect(tab["pinned"]).to_contain_text("1 critical, not acknowledged")
    await expect(tab["pinned-alert"].locator(".title")).to_have_text(["Old fire"])
    fires = [await node.post(f"Fire {number}", severity="critical") for number in range(4)]
    await expect(tab["pinned"]).to_contain_text("5 critical, not acknowledged")
    await expect(tab["pinned-alert"].locator(".title")).to_have_text(["Fire 3", "Fire 2", "Fire 1"])
    await expect(tab["alert"]).to_have_count(0)
    await act(node, "acknowledge", fires[3])
    await expect(tab["pinned-alert"].locator(".title")).to_have_text(["Fire 2", "Fire 1", "Fire 0"])
    await tab["pinned"].get_by_role("button", name="List all").click()
    await expect(titles(tab)).to_have_text(["Fire 2", "Fire 1", "Fire 0", "Old fire"])
    for alert in (old, *fires[:3]):
        await act(node, "acknowledge", alert)
    await expect(tab["pinned"]).to_be_hidden()
    await expect(tab["empty"]).to_contain_text("Nothing matches.")


async def test_a_pinned_alert_opens(node: Node, tab: Tab) -> None:
    alert = await node.post("Fire", severity="critical")
    await tab.open(node)
    await tab["pinned"].get_by_role("link", name="Fire").click()
    assert urlsplit(tab.page.url).fragment == f"/alerts/{alert['id']}"


async def test_a_pinned_row_keeps_the_focus_while_its_alert_repeats(node: Node, tab: Tab) -> None:
    fire = {"title": "Fire", "severity": "critical", "dedup_key": "fire"}
    await post(node, [fire])
    await tab.open(node)
    link = tab["pinned"].get_by_role("link", name="Fire")
    await link.focus()
    await post(node, [fire])
    await expect(tab["pinned-alert"]).to_contain_text("2 times")
    await expect(link).to_be_focused()


async def test_when_the_known_pinned_ones_run_out_the_others_are_asked_for(node: Node, tab: Tab) -> None:
    fires = [await node.post(f"Fire {number}", severity="critical") for number in range(5)]
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    await tab.page.route(CRITICAL, lambda route: route.continue_(url=route.request.url.replace("=200", "=3")))
    await tab.open(node)
    await expect(tab["pinned"]).to_contain_text("3 or more critical, not acknowledged")
    await act(node, "acknowledge", fires[4])
    await act(node, "acknowledge", fires[3])
    await expect(tab["pinned-alert"].locator(".title")).to_have_text(["Fire 2", "Fire 1", "Fire 0"])
    await expect(tab["pinned"]).to_contain_text("3 critical, not acknowledged")


@OWN_PAGE
async def test_pinned_alerts_that_could_not_be_loaded_are_reported_and_come_with_the_connection(
    node: Node, tab: Tab
) -> None:
    tab.tolerated = UNREACHABLE
    await node.post("Old fire", severity="critical")
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    async with Proxy(node.base) as proxy:
        proxy.blocks_websockets = False
        await tab.page.route(CRITICAL, lambda route: route.abort())
        await tab.page.goto(f"{proxy.base}/#token={tab.token()}")
        await expect(tab["pinned"]).to_contain_text("Critical alerts could not all be loaded")
        await tab.is_("live")
        await tab.page.unroute(CRITICAL)
        proxy.cut()
        await expect(tab["pinned"]).to_contain_text("1 critical, not acknowledged")
        await expect(tab["pinned-alert"].locator(".title")).to_have_text(["Old fire"])


# Filters.


async def test_filters_are_kept_in_the_address_and_back_and_forward_go_through_them(node: Node, tab: Tab) -> None:
    await node.post("Disk is full", topic="infra.disk", severity="warning")
    await node.post("Acceptance fell", topic="payments.eu", severity="error")
    await node.post("Settlement is late", topic="payments.us", severity="info")
    await tab.open(node)
    await tab.shows("Settlement is late", "Acceptance fell", "Disk is full")
    await control(tab, "Topics").fill("payments.*")
    await tab.shows("Settlement is late", "Acceptance fell")
    await control(tab, "Severity").select_option("warning")
    await tab.shows("Acceptance fell")
    assert urlsplit(tab.page.url).query == "topic=payments.*&min_severity=warning"
    await tab.page.go_back()
    await tab.shows("Settlement is late", "Acceptance fell")
    await expect(control(tab, "Severity")).to_have_value("")
    await tab.page.go_back()
    await tab.shows("Settlement is late", "Acceptance fell", "Disk is full")
    await tab.page.go_forward()
    await tab.page.go_forward()
    await tab.shows("Acceptance fell")
    await tab.page.reload()
    await tab.paste(tab.token())
    await tab.is_("live")
    await tab.shows("Acceptance fell")
    await expect(control(tab, "Topics")).to_have_value("payments.*")
    await expect(control(tab, "Severity")).to_have_value("warning")


async def test_filters_hold_for_what_arrives_and_for_what_becomes_of_it(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await control(tab, "Status").select_option("open")
    await control(tab, "Words in alerts").fill("disk")
    await expect(tab["empty"]).to_contain_text("Nothing matches.")
    disk = await node.post("db1 in trouble", body="The disk is full.")
    await node.post("Acceptance fell")
    await node.post("Disk is slow")
    await tab.shows("Disk is slow", "db1 in trouble")
    await act(node, "acknowledge", disk)
    await tab.shows("Disk is slow")
    await act(node, "reopen", disk)
    await tab.shows("Disk is slow", "db1 in trouble")


async def test_a_new_alert_that_only_the_server_can_match_joins_the_search(node: Node, tab: Tab) -> None:
    await tab.page.add_init_script(
        "const real = setTimeout; window.setTimeout = (what, ms) => real(what, ms === 2_000 ? 100 : ms)"
    )
    await node.post("Disk is full")
    await tab.open(node)
    await control(tab, "Words in alerts").fill("tape or disk")
    await tab.shows("Disk is full")
    await node.post("Tape is torn")
    await tab.shows("Tape is torn", "Disk is full")


async def test_a_filter_finds_what_is_not_loaded(node: Node, tab: Tab) -> None:
    await node.post("A needle", topic="hay.stack", body="It is pointed.")
    await post(node, [{"title": f"Hay {number}"} for number in range(400)])
    await tab.open(node)
    await control(tab, "Words in alerts").fill("pointed")
    await tab.shows("A needle")
    await control(tab, "Words in alerts").fill("")
    await expect(titles(tab).first).to_have_text("Hay 399")
    await control(tab, "Topics").fill("hay.*")
    await tab.shows("A needle")
    await expect(tab["count"]).to_have_text("1 alert")


@pytest.mark.parametrize("search", ["", "&q=tape"])
async def test_an_alert_that_is_not_loaded_joins_a_filtered_list_at_its_place_when_it_comes_to_match(
    node: Node, tab: Tab, search: str
) -> None:
    old = [await node.post(f"Old {number}", body="The tape is torn.") for number in range(3)]
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    new = await node.post("New", body="The tape is new.")
    for alert in (old[0], old[2], new):
        await act(node, "acknowledge", alert)
    await tab.page.goto(f"{node.base}/?status=acknowledged{search}#token={tab.token()}")
    await tab.is_("live")
    await tab.shows("New", "Old 2", "Old 0")
    await act(node, "acknowledge", old[1])
    await tab.shows("New", "Old 2", "Old 1", "Old 0")
    await act(node, "reopen", old[2])
    await tab.shows("New", "Old 1", "Old 0")


async def test_what_comes_to_match_while_the_filtered_list_is_on_its_way_is_in_it(node: Node, tab: Tab) -> None:
    old = [await node.post(f"Old {number}") for number in range(2)]
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    await act(node, "acknowledge", old[0])
    await tab.open(node)

    async def late(route: Route) -> None:
        answer = await route.fetch()
        await act(node, "acknowledge", old[1])
        (event,) = await node.sql("SELECT max(seq) AS seq FROM events")
        await expect(tab.page.locator("#seq")).to_have_text(f"seq {event['seq']}")
        await route.fulfill(response=answer)

    await tab.page.route("**/v1/alerts?status=*", late)
    await control(tab, "Status").select_option("acknowledged")
    await tab.shows("Old 1", "Old 0")


async def test_what_becomes_of_an_older_alert_does_not_bring_it_into_the_list(node: Node, tab: Tab) -> None:
    """A batch is created at one moment, and only the upper part of it is loaded."""
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    async with node.http("bob", "alerts:read") as bob:
        oldest = (await bob.get("/v1/alerts", params={"limit": 60})).json()["alerts"][-1]
    await tab.open(node)
    await expect(tab["count"]).to_have_text("50 alerts loaded, older ones follow as you scroll")
    await act(node, "acknowledge", oldest)
    await node.post("New")
    await expect(titles(tab).first).to_have_text("New")
    await expect(tab["count"]).to_have_text("51 alerts loaded, older ones follow as you scroll")


async def test_nothing_matches_and_the_filters_can_be_cleared(node: Node, tab: Tab) -> None:
    await node.post("Disk is full")
    await tab.open(node)
    await control(tab, "Words in alerts").fill("absent")
    await expect(tab["empty"]).to_contain_text("Nothing matches.")
    await expect(tab["feed"]).to_be_hidden()
    await tab["empty"].get_by_role("button", name="Clear filters").click()
    await tab.shows("Disk is full")
    assert urlsplit(tab.page.url).query == ""
    await expect(control(tab, "Words in alerts")).to_be_focused()


async def test_a_topic_that_is_none_is_reported_and_not_asked_for(node: Node, tab: Tab) -> None:
    await node.post("Disk is full", topic="infra.disk")
    await tab.open(node)
    await control(tab, "Topics").fill("infra.*.disk")
    await expect(tab["filters"].get_by_role("alert")).to_contain_text("no topic")
    await tab.shows("Disk is full")
    await control(tab, "Topics").fill("infra.*")
    await expect(tab["filters"].get_by_role("alert")).to_be_hidden()
    await tab.shows("Disk is full")


# By keyboard, and by ear.


async def test_the_keys_move_the_selection_and_open_an_alert(node: Node, tab: Tab) -> None:
    await post(node, [{"title": f"Alert {number}"} for number in range(60)])
    await tab.open(node)
    await tab["feed"].focus()
    selected = tab["feed"].get_by_role("option", selected=True)
    for key, title in (
        ("ArrowDown", "Alert 59"),
        ("j", "Alert 58"),
        ("ArrowUp", "Alert 59"),
        ("k", "Alert 59"),
        ("End", "Alert 10"),
        ("ArrowDown", "Alert 9"),  # of the next page
        ("Home", "Alert 59"),
    ):
        if title == "Alert 9":
            await expect(tab["count"]).to_have_text("60 alerts")
        await tab.page.keyboard.press(key)
        await expect(selected.locator(".title")).to_have_text(title)
        await expect(selected).to_be_in_viewport()
        await expect(tab["feed"]).to_have_attribute("aria-activedescendant", await selected.get_attribute("id") or "")
    await tab.page.keyboard.press("Enter")
    assert urlsplit(tab.page.url).fragment == f"/alerts/{await selected.get_attribute('data-id')}"
    await tab.page.keyboard.press("Escape")
    await tab.page.keyboard.press("/")
    await expect(control(tab, "Words in alerts")).to_be_focused()


async def test_from_an_alert_that_left_the_list_the_keys_go_to_the_ones_beside_it(node: Node, tab: Tab) -> None:
    for number in range(4):
        await node.post(f"Alert {number}")
    await tab.page.goto(f"{node.base}/?status=open#token={tab.token(scope=f'{READ} {MANAGE}')}")
    await tab.is_("live")
    await tab["feed"].focus()
    await tab.page.keyboard.press("End")
    for key, title, left in (
        ("k", "Alert 1", ("Alert 3", "Alert 2", "Alert 0")),
        ("j", "Alert 0", ("Alert 3", "Alert 2")),
        ("k", "Alert 2", None),
    ):
        await tab.page.keyboard.press(key)
        await expect(tab["feed"].get_by_role("option", selected=True).locator(".title")).to_have_text(title)
        if title == "Alert 1":
            await tab.page.keyboard.press("Enter")
        if left:
            await tab.page.keyboard.press("a")
            await tab.shows(*left)


@OWN_PAGE
async def test_a_more_severe_repetition_of_an_acknowledged_alert_notifies_whether_it_is_loaded_or_not(
    node: Node, tab: Tab
) -> None:
    far, near = ({"title": title, "dedup_key": title, "severity": "warning"} for title in ("Far down", "In sight"))
    for alert in (await node.post(**far), *[await node.post() for _ in range(60)], await node.post(**near)):
        if alert["dedup_key"]:
            await act(node, "acknowledge", alert)
    await tab.open(node)
    await expect(tab["alert"].first).to_have_attribute("data-status", "acknowledged")
    await tab.page.evaluate("Object.defineProperty(document, 'hidden', { value: true })")
    await post(node, [near, far])
    await expect(tab["alert"].first).to_contain_text("2 times")
    await expect(tab.page).to_have_title("Tocsin")
    await post(node, [{**near, "severity": "error"}, {**far, "severity": "error"}])
    await expect(tab.page).to_have_title("(2) Tocsin")
    await expect(titles(tab).first).to_have_text("Far down")
    await expect(titles(tab).nth(1)).to_have_text("In sight")
    await expect(tab.page.locator("#announcer")).to_have_text("error: In sight, default. error: Far down, default")


@OWN_PAGE
async def test_what_one_admin_was_shown_is_not_shown_to_the_next(node: Node, tab: Tab) -> None:
    await tab.open(node)
    news = tab.page.locator("#announcer")
    await node.post("For the first")
    await expect(news).to_contain_text("For the first")
    await tab.page.clock.install()
    await node.post("Not yet spoken")
    await expect(titles(tab).first).to_have_text("Not yet spoken")
    await tab.page.get_by_role("button", name="Sign out").click()
    await expect(news).to_be_empty()
    await tab.page.clock.run_for(60_000)
    await expect(news).to_be_empty()


@OWN_PAGE
async def test_a_burst_is_announced_in_one_sentence_and_what_is_filtered_out_is_not(node: Node, tab: Tab) -> None:
    await tab.page.clock.install()
    await tab.page.goto(f"{node.base}/?topic=payments.*#token={tab.token()}")
    await tab.is_("live")
    await tab.page.evaluate(
        """() => {
            window.said = [];
            const news = document.getElementById("announcer");
            new MutationObserver(() => said.push(news.textContent)).observe(news, { childList: true });
        }"""
    )
    await tab.pause()
    await post(node, [{"topic": "infra.disk"}] * 100 + [{"topic": "payments.eu"}] * 100 + [{"severity": "critical"}])
    (last,) = await node.sql("SELECT max(seq) AS seq FROM events")
    await expect(tab["seq"]).to_have_text(f"seq {last['seq']}")
    await tab.page.clock.run_for(1_000)
    said = await eventually(lambda: tab.page.evaluate("said"))
    assert said == ["101 new alerts, 1 critical"]


@pytest.mark.parametrize("tab", SIZES.values(), ids=SIZES.keys(), indirect=True)
async def test_axe_finds_nothing_in_the_feed_and_it_fits(node: Node, tab: Tab, tmp_path: Path) -> None:
    for severity in ("info", "warning", "error", "critical"):
        alert = await node.post(f"An alert of severity {severity}", severity=severity, topic="payments.eu")
        await node.post("W" * 200, severity=severity, topic="a" * 100)
        await act(node, "resolve", alert)
    await post(node, [{"title": f"Alert {number}"} for number in range(30)])
    await tab.open(node)
    await tab["feed"].focus()
    for _ in range(3):
        await tab.page.keyboard.press("ArrowDown")
    await node.post("\u202egnp.exe", severity="critical")
    await expect(tab["arrivals"]).to_be_visible()
    await tab.page.screenshot(path=tmp_path / "feed.png")
    await axe(tab.page)
    assert await tab.page.locator("html").evaluate("html => html.scrollWidth <= html.clientWidth")
    await control(tab, "Words in alerts").fill("absent")
    await expect(tab["empty"]).to_contain_text("Nothing matches.")
    await axe(tab.page)


# Very many.


@pytest.mark.long
@OWN_PAGE
async def test_with_50_000_loaded_and_200_a_second_arriving_only_what_is_in_view_is_in_the_document(
    node: Node, tab: Tab
) -> None:
    await tab.page.add_init_script(loaded(50_000))
    await tab.open(node)
    await tab["feed"].evaluate(TO_THE_END, "50,000 alerts")
    await tab["feed"].evaluate("feed => (feed.scrollTop = feed.scrollHeight)")
    await expect(titles(tab).last).to_have_text("Loaded 1")
    await tab["feed"].evaluate("feed => (feed.scrollTop = feed.scrollHeight / 2)")
    await expect(titles(tab).first).to_contain_text("Loaded 25")
    reading = await titles(tab).all_inner_texts()
    async with node.http() as client:
        await arrive(client)
    await expect(tab["arrivals"]).to_have_text("600 new")
    assert await titles(tab).all_inner_texts() == reading
    await tab["arrivals"].click()
    await expect(titles(tab).first).to_have_text("Arrived 600")
    assert await tab["alert"].count() < 40
