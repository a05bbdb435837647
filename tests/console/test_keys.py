"""The keyboard of the console."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import Route, expect

from tests.console.axe import axe
from tests.console.tab import OWN_PAGE

if TYPE_CHECKING:
    from tests.console.tab import Tab
    from tests.harness import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCOPE = "alerts:read alerts:manage"


NEWEST_FIRST = ("First", "Second", "Third")


async def begin(tab: Tab, node: Node, titles: tuple[str, ...] = NEWEST_FIRST, **claims: Any) -> int:
    """Show three alerts, and those that are there; the newest stands first. Return its seq."""
    for title in ("Third", "Second", "First"):
        last = await node.post(title)
    await tab.open(node, **{"scope": SCOPE, **claims})
    await tab.shows(*titles)
    return int(last["seq"])


async def press(tab: Tab, *keys: str) -> None:
    for key in keys:
        await tab.page.keyboard.press(key)


def status(tab: Tab, title: str) -> Any:
    return tab["alert"].filter(has_text=title).locator(".status")


async def test_an_alert_is_chosen_opened_and_left_with_keys(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j", "j", "j", "k", "Enter")
    await expect(tab["detail-title"]).to_have_text("Second")
    await press(tab, "j")
    await expect(tab["detail-title"]).to_have_text("Third")
    await press(tab, "k", "k", "k")
    await expect(tab["detail-title"]).to_have_text("First")
    await expect(tab["detail-title"]).to_be_focused()
    await press(tab, "Escape")
    await expect(tab["detail"]).to_be_hidden()
    await press(tab, "Enter")
    await expect(tab["detail-title"]).to_have_text("First")


async def test_leafing_through_alerts_is_one_step_of_the_back_button(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j", "Enter", "j", "j")
    await expect(tab["detail-title"]).to_have_text("Third")
    await tab.page.go_back()
    await expect(tab["detail"]).to_be_hidden()


async def test_keys_act_on_the_alert_that_is_selected(node: Node, tab: Tab) -> None:
    last = await begin(tab, node)
    await press(tab, "j", "j", "a")
    await expect(status(tab, "Second")).to_have_text("acknowledged by alice")
    await press(tab, "r")
    await expect(status(tab, "Second")).to_have_text("resolved by alice")
    resolved = tab["alert"].filter(has_text="Second")
    await expect(resolved).to_have_attribute("data-seq", str(last + 2))  # no longer a prediction
    await press(tab, "r")
    await expect(status(tab, "Second")).to_have_text("open")
    await expect(tab["detail"]).to_be_hidden()
    for title in ("First", "Third"):
        await expect(status(tab, title)).to_have_text("open")


async def test_keys_act_on_the_pinned_alert_that_has_the_focus(node: Node, tab: Tab) -> None:
    await node.post("Pinned", severity="critical")
    await begin(tab, node, titles=("First", "Second", "Third", "Pinned"))
    await press(tab, "j")
    await tab["pinned-alert"].get_by_role("link").focus()
    await press(tab, "a")
    await expect(status(tab, "Pinned")).to_have_text("acknowledged by alice")
    await expect(status(tab, "First")).to_have_text("open")
    await expect(tab["pinned-alert"]).to_have_count(0)
    await node.post("Pinned too", severity="critical")
    await press(tab, "j", "Enter")
    await expect(tab["detail-title"]).to_have_text("Second")
    await tab["pinned-alert"].get_by_role("link").focus()
    await press(tab, "c")
    await expect(tab["detail-title"]).to_have_text("Pinned too")
    await expect(tab["comment-text"]).to_be_focused()


async def test_a_pinned_alert_that_is_not_in_the_list_is_opened_before_keys_act_on_it(node: Node, tab: Tab) -> None:
    await node.post("Pinned", severity="critical")
    await node.post_all([{"title": f"Alert {number}"} for number in range(60)])
    await tab.open(node, scope=SCOPE)
    await tab["pinned-alert"].get_by_role("link").focus()
    await press(tab, "a")
    await expect(tab["detail-title"]).to_have_text("Pinned")
    await expect(tab["status"]).to_have_text("open")
    await press(tab, "a")
    await expect(tab["status"]).to_have_text("acknowledged by alice")


async def test_a_key_that_is_pressed_twice_does_not_undo_what_it_did(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    released = asyncio.Event()

    async def hold(route: Route) -> None:
        await released.wait()
        await route.continue_()

    await tab.page.route("**/resolve", hold)
    await press(tab, "j", "Enter")
    await expect(tab["status"]).to_have_text("open")
    await press(tab, "r")
    await expect(tab["status"]).to_have_text("resolved by alice")
    await press(tab, "r")
    released.set()
    await expect(tab["detail-message"]).to_have_text("It is resolved already.")
    await expect(tab["status"]).to_have_text("resolved by alice")
    await expect(tab["timeline"].get_by_role("listitem")).to_have_count(2)  # no longer a prediction
    rows = await node.sql("SELECT kind FROM events ORDER BY seq DESC LIMIT 1")
    assert rows[0]["kind"] == "alert.resolved"


@OWN_PAGE
async def test_enter_on_a_summary_folds_it_and_opens_nothing(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j")
    details = tab["presence"].locator("details")
    await expect(details).to_be_visible()  # a moment after the page is live
    await expect(details).to_have_attribute("open", "")
    await expect(tab.page.locator("[role=option][aria-selected=true]")).to_have_count(1)  # the list has taken the "j"
    await tab["presence"].locator("summary").press("Enter")
    await expect(details).not_to_have_attribute("open", "")
    await expect(tab["detail"]).to_be_hidden()


async def test_keys_act_on_the_alert_that_is_open(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j", "Enter")
    await expect(tab["detail-title"]).to_have_text("First")
    await expect(tab["status"]).to_have_text("open")
    await press(tab, "a")
    await expect(tab["status"]).to_have_text("acknowledged by alice")
    await press(tab, "a")
    await expect(tab["detail-message"]).to_have_text("It is acknowledged already.")
    await press(tab, "r")
    await expect(tab["status"]).to_have_text("resolved by alice")
    await expect(tab["detail-message"]).to_be_hidden()


async def test_what_a_key_cannot_do_to_a_selected_alert_is_said(node: Node, tab: Tab) -> None:
    await begin(tab, node, scope="alerts:read")
    await press(tab, "j", "a")
    await expect(tab["notice"]).to_contain_text(
        "\u2068First\u2069: To acknowledge it, your token needs the scope alerts:manage."
    )


async def test_a_comment_is_written_without_a_mouse_and_its_letters_are_no_keys(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j", "c")
    await expect(tab["comment-text"]).to_be_focused()
    await tab.page.keyboard.type("a jar / cork?")
    await press(tab, "Escape")
    await expect(tab["comment-text"]).to_have_value("a jar / cork?")
    await expect(tab["detail-title"]).to_have_text("First")
    await expect(tab["status"]).to_have_text("open")
    await expect(tab["help"]).to_be_hidden()
    await press(tab, "Control+Enter")
    await expect(tab["comment"]).to_have_text(["a jar / cork?"])
    await expect(tab["comment-text"]).to_have_value("")
    rows = await node.sql("SELECT kind FROM events ORDER BY seq DESC LIMIT 1")
    assert rows[0]["kind"] == "alert.commented"


async def test_keys_with_ctrl_alt_or_meta_belong_to_the_browser(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j", "Enter")
    await expect(tab["status"]).to_have_text("open")
    for modifier in ("Control", "Alt", "Meta"):
        await press(tab, f"{modifier}+a", f"{modifier}+j", f"{modifier}+c")
    await expect(tab["comment-text"]).not_to_be_focused()
    await expect(tab["detail-title"]).to_have_text("First")
    await press(tab, "r")  # what was pressed before would have been done before
    await expect(tab["timeline"].get_by_role("listitem")).to_have_count(2)


async def test_a_slash_leads_to_the_search(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "/")
    await expect(tab.page.get_by_role("searchbox")).to_be_focused()
    await tab.page.keyboard.type("third a/j")
    await expect(tab.page.get_by_role("searchbox")).to_have_value("third a/j")


@pytest.mark.parametrize("tab", [{"viewport": {"width": 360, "height": 740}}], indirect=True)
async def test_on_a_phone_a_slash_closes_the_alert_that_hides_the_search(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j", "Enter")
    await expect(tab["detail-title"]).to_have_text("First")
    await press(tab, "/")
    await expect(tab.page.get_by_role("searchbox")).to_be_focused()


async def test_the_keys_are_listed_in_a_dialog(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "j", "Enter")
    await expect(tab["status"]).to_have_text("open")
    await press(tab, "?")
    await expect(tab["help"]).to_be_visible()
    keys = tab["help"].locator("kbd")
    await expect(keys).to_have_text(["j", "k", "Enter", "Escape", "a", "r", "c", "/", "?"])
    await axe(tab.page)
    await press(tab, "a", "j")
    await press(tab, "Escape")
    await expect(tab["help"]).to_be_hidden()
    await expect(tab["detail-title"]).to_have_text("First")
    await expect(tab["status"]).to_have_text("open")
    await tab.page.get_by_role("button", name="Keyboard").click()
    await tab["help"].get_by_role("button", name="Close").click()
    await expect(tab["help"]).to_be_hidden()


@OWN_PAGE
async def test_keys_of_one_character_can_be_turned_off_and_stay_so(node: Node, tab: Tab) -> None:
    await begin(tab, node)
    await press(tab, "?")
    await tab["help"].get_by_role("checkbox").uncheck()
    await press(tab, "Escape")
    await tab.page.reload()
    await tab.open(node, scope=SCOPE)
    await tab.shows("First", "Second", "Third")
    await press(tab, "j", "a", "?")
    await expect(tab["help"]).to_be_hidden()
    await expect(tab["feed"].get_by_role("option", selected=True)).to_have_count(0)
    await tab.page.get_by_role("button", name="Keyboard").click()
    await tab["help"].get_by_role("checkbox").check()
    await press(tab, "Escape", "j", "a")
    await expect(status(tab, "First")).to_have_text("acknowledged by alice")


@OWN_PAGE
async def test_a_browser_that_keeps_nothing_has_keys_all_the_same(node: Node, tab: Tab) -> None:
    blocked = "get() { throw new DOMException('The operation is insecure.', 'SecurityError') }"
    await tab.page.add_init_script(f"Object.defineProperty(globalThis, 'localStorage', {{ {blocked} }})")
    await begin(tab, node)
    await press(tab, "j", "a")
    await expect(status(tab, "First")).to_have_text("acknowledged by alice")
    await press(tab, "?")
    await tab["help"].get_by_role("checkbox").uncheck()
    await press(tab, "Escape", "r")
    await expect(tab["help"]).to_be_hidden()
    await tab.page.get_by_role("button", name="Keyboard").click()
    await tab["help"].get_by_role("checkbox").check()
    await press(tab, "Escape", "r")
    await expect(status(tab, "First")).to_have_text("resolved by alice")  # what was turned off did not reopen it
