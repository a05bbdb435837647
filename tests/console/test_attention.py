"""Calling an admin who does not look: notifications, sound, the tab's title and icon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from tests.console.tab import OWN_PAGE, Tab
from tests.harness import Node, eventually

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="module")
NEEDS_A_DESKTOP = True

RECORD = """
globalThis.called = [];
globalThis.tones = [];
globalThis.takenBack = 0;
const Real = Notification;
globalThis.Notification = class extends Real {
    constructor(title, options) {
        super(title, options);
        called.push({ title, ...options });
        globalThis.last = this;
    }
    close() {
        super.close();
        takenBack += 1;
    }
};
const start = AudioScheduledSourceNode.prototype.start;
AudioScheduledSourceNode.prototype.start = function (...when) {
    tones.push(this.frequency.value);
    return start.apply(this, when);
};
"""
"""Keeps what the page called with. A headless browser has no desktop, so nothing can be looked at or listened to; the
permission, the notifications and the tones are the browser's own all the same."""
HIDE = "Object.defineProperty(document, 'hidden', { value: true, configurable: true })"
SHOW = "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"
"""Simulated: a headless browser considers each of its pages visible, whichever is in front."""
ALLOWED = pytest.mark.parametrize("tab", [{"permissions": ["notifications"]}], indirect=True, ids=["allowed"])


async def choose(page: Page, **choices: str) -> None:
    """Choose in the settings from which severity on to be called."""
    await page.get_by_role("link", name="Settings").click()
    for label, severity in choices.items():
        await (
            page.get_by_test_id("settings")
            .get_by_label({"notify": "Desktop notification", "sound": "Sound"}[label])
            .select_option(severity)
        )


async def prepared(tab: Tab, node: Node, **choices: str) -> None:
    await tab.page.add_init_script(RECORD)
    await tab.open(node)
    await choose(tab.page, **choices)


async def called(page: Page) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = await page.evaluate("called")
    return calls


async def tones(page: Page) -> list[int]:
    played: list[int] = await page.evaluate("tones")
    return played


async def post_at_once(tab: Tab, node: Node, alerts: list[dict[str, Any]]) -> None:
    """Post alerts that all come within the second for which the page collects what it calls with."""
    await tab.pause()
    seqs = await node.post_all(alerts)
    await expect(tab["seq"]).to_have_text(f"seq {max(seqs)}")
    await tab.page.clock.run_for(1_000)


# Notifications and sound.


@ALLOWED
async def test_a_desktop_notification_comes_from_the_chosen_severity_on(node: Node, tab: Tab) -> None:
    await prepared(tab, node, notify="error")
    await node.post("Not worth a call", severity="warning")
    alert = await node.post("Worth a call", severity="error", topic="payments.eu")
    await eventually(lambda: called(tab.page))
    critical = await node.post("Stays on the screen", severity="critical")

    async def both() -> bool:
        return len(await called(tab.page)) == 2

    await eventually(both)
    first, second = await called(tab.page)
    assert (first["title"], first["body"], first["tag"]) == ("Worth a call", "error · payments.eu", alert["id"])
    assert (second["tag"], second["requireInteraction"]) == (critical["id"], True)
    await tab.page.evaluate("last.onclick()")
    await expect(tab.page).to_have_url(re.compile(f"#/alerts/{critical['id']}$"))


@ALLOWED
async def test_a_burst_is_one_notification(node: Node, tab: Tab) -> None:
    await tab.page.clock.install()
    await prepared(tab, node, notify="info")
    await post_at_once(
        tab, node, [{"severity": "critical" if number < 2 else "info", "topic": "infra"} for number in range(12)]
    )
    (one,) = await called(tab.page)
    assert (one["title"], one["body"]) == ("12 new alerts, 2 critical", "infra")


@ALLOWED
async def test_nothing_calls_unless_it_was_chosen_and_a_choice_is_remembered(node: Node, tab: Tab) -> None:
    await tab.page.add_init_script(RECORD)
    await tab.open(node)
    await node.post("Before anything was chosen", severity="critical")
    await expect(tab["alert"]).to_have_count(1)
    await choose(tab.page, notify="critical", sound="error")
    await node.post("After it was", severity="critical")
    await eventually(lambda: called(tab.page))
    assert [call["title"] for call in await called(tab.page)] == ["After it was"]

    await tab.open(node)
    await tab.page.reload()
    await tab.open(node)
    await tab.page.get_by_role("link", name="Settings").click()
    await expect(tab["settings"].get_by_label("Desktop notification")).to_have_value("critical")
    await expect(tab["settings"].get_by_label("Sound")).to_have_value("error")


@ALLOWED
async def test_each_severity_has_a_sound_of_its_own_and_a_burst_sounds_once_as_its_worst(node: Node, tab: Tab) -> None:
    await tab.page.clock.install()
    await prepared(tab, node, sound="warning")
    played = []
    for severity in ("warning", "error", "critical"):
        await tab.page.evaluate("tones.length = 0")
        await post_at_once(tab, node, [{"severity": "info"}, {"severity": severity}, {"severity": "warning"}])
        played.append(tuple(await eventually(lambda: tones(tab.page))))
    assert len(set(played)) == 3
    assert await called(tab.page) == []
    await tab.page.evaluate("tones.length = 0")
    await tab.page.get_by_role("button", name="Listen").click()
    assert tuple(await eventually(lambda: tones(tab.page))) == played[0]


@OWN_PAGE
async def test_a_page_that_the_browser_keeps_silent_says_so_until_it_is_clicked_in(node: Node, tab: Tab) -> None:
    await tab.open(node)
    await choose(tab.page, sound="critical")
    await expect(tab["muted"]).to_be_hidden()
    await tab.page.reload()
    await expect(tab["sign-in"]).to_be_visible()
    await expect(tab["muted"]).to_be_hidden()
    await tab.open(node)
    await expect(tab["muted"]).to_contain_text("keeps this page silent")
    await tab.page.locator("h1").click()
    await expect(tab["muted"]).to_be_hidden()


@ALLOWED
async def test_a_browser_that_throws_at_a_notification_is_said_in_words(node: Node, tab: Tab) -> None:
    """Chrome on Android shows those of service workers only."""
    await prepared(tab, node, notify="critical")
    await tab.page.evaluate(
        "() => { Notification = class { static permission = 'granted'; constructor() { throw new TypeError(); } }; }"
    )
    await node.post("Seen here only", severity="critical")
    await expect(tab["attention-hint"]).to_contain_text("shows no desktop notifications")


@ALLOWED
async def test_signing_out_takes_back_what_stands_on_the_screen(node: Node, tab: Tab) -> None:
    await prepared(tab, node, notify="critical")
    await node.post("Secret", severity="critical")
    await eventually(lambda: called(tab.page))
    await tab.page.get_by_role("button", name="Sign out").click()
    await eventually(lambda: tab.page.evaluate("takenBack"))


@OWN_PAGE
async def test_a_browser_that_forbids_notifications_is_said_in_words(node: Node, tab: Tab) -> None:
    """A headless browser denies what was not granted."""
    await prepared(tab, node, notify="critical")
    await expect(tab["attention-hint"]).to_contain_text("The browser blocks notifications")
    await node.post("Seen here only", severity="critical")
    await tab.page.get_by_role("link", name="Alerts", exact=True).click()
    await tab.shows("Seen here only")
    assert await called(tab.page) == []


BERLIN = {"permissions": ["notifications"], "timezone_id": "Europe/Berlin"}


@pytest.mark.parametrize("tab", [BERLIN], indirect=True, ids=["berlin"])
async def test_quiet_hours_are_local_and_across_midnight(node: Node, tab: Tab) -> None:
    """Berlin in January is an hour ahead of UTC, so 22:00 to 07:00 is 21:00 to 06:00."""
    await prepared(tab, node, notify="info")
    await tab["settings"].get_by_label("Quiet hours, local time").check()
    await tab.page.evaluate("""
        globalThis.Date = class extends Date {
            constructor(...of) { of.length ? super(...of) : super(at) }
        };
        null // a class that is returned would be called
    """)

    async def titles() -> list[str]:
        return [call["title"] for call in await called(tab.page)]

    async def critical_called() -> bool:
        return "Critical" in await titles()

    for at, calls in {"T20:59Z": True, "T21:00Z": False, "T05:59Z": False, "T06:00Z": True}.items():
        await tab.page.evaluate(f"called.length = 0; globalThis.at = '2026-01-15{at}'")
        await node.post("Not critical", severity="error")
        await node.post("Critical", severity="critical")
        await eventually(critical_called)
        assert await titles() == (["Not critical", "Critical"] if calls else ["Critical"]), at


@ALLOWED
async def test_of_several_tabs_one_calls_and_the_next_takes_over(node: Node, tab: Tab) -> None:
    await prepared(tab, node, notify="info")
    other = Tab(await tab.page.context.new_page())
    await other.page.add_init_script(RECORD)
    await other.open(node)  # it reads what was chosen in the first
    await node.post("For one of them")
    await eventually(lambda: called(tab.page))
    await tab.page.goto("about:blank")
    await node.post("For the one that is left")
    await eventually(lambda: called(other.page))
    assert [call["title"] for call in await called(other.page)] == ["For the one that is left"]
    assert other.complaints == []


@ALLOWED
async def test_a_choice_in_one_tab_holds_in_the_others(node: Node, tab: Tab) -> None:
    await prepared(tab, node)
    other = Tab(await tab.page.context.new_page())
    await other.open(node)
    await choose(other.page, notify="info", sound="off")
    await tab.page.get_by_role("link", name="Settings").click()
    await expect(tab["settings"].get_by_label("Desktop notification")).to_have_value("info")
    await node.post("Called by the first, as the second chose")
    await eventually(lambda: called(tab.page))


# The tab among others.


async def test_the_icon_counts_what_came_unseen(node: Node, tab: Tab) -> None:
    icon = tab.page.locator("link[rel=icon]")
    await tab.open(node)
    await tab.page.evaluate(HIDE)
    for count in (1, 2):
        await node.post("Unseen")
        await expect(icon).to_have_attribute("href", f"/console/ui/favicons/favicon-{count}.svg")
        await expect(tab.page).to_have_title(f"({count}) Tocsin")
    await node.post_all([{}] * 8)
    await expect(icon).to_have_attribute("href", "/console/ui/favicons/favicon-many.svg")
    await expect(tab.page).to_have_title("(10) Tocsin")
    await tab.page.evaluate(SHOW)
    await expect(icon).to_have_attribute("href", "/console/ui/favicons/favicon.svg")
    await expect(tab.page).to_have_title("Tocsin")
