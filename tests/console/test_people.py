"""The names that people are shown by, and the scopes of issuers that call them otherwise."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from playwright.async_api import expect

from service.settings import AuthSettings, Settings
from tests.auth.test_tokens import ABSENT, signed
from tests.harness import PLAIN, Node, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.async_api import Route

    from tests.console.tab import Tab

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = "alerts:read alerts:manage alerts:write audit:read"


async def sign_in(tab: Tab, node: Node, **claims: Any) -> None:
    tab.tokens.append(signed(**claims))
    await tab.page.goto(f"{node.base}/#token={tab.tokens[-1]}")
    await tab.is_("live")


async def send(node: Node, path: str, content: dict[str, Any], **claims: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {signed(scope=ALL, **claims)}"}
    async with httpx2.AsyncClient(base_url=node.base, headers=headers, **PLAIN) as client:
        answer = await client.post(path, json=content)
    assert answer.is_success, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def test_people_are_shown_by_name_and_the_subject_is_in_the_tooltip(tab: Tab, node: Node) -> None:
    alice, bob = str(uuid.uuid4()), str(uuid.uuid4())
    alert = await send(node, "/v1/alerts", {"title": "Disk full"}, sub="billing")
    await send(node, f"/v1/alerts/{alert['id']}/acknowledge", {}, sub=bob, name="Bob Cratchit")
    await sign_in(tab, node, sub=alice, scope=ALL, name="Alice <b>Liddell</b>")
    who = tab.page.locator("#who bdi")
    await expect(who).to_have_text("Alice <b>Liddell</b>")
    await expect(who).to_have_attribute("title", alice)
    await expect(tab["alert"].locator(".status bdi")).to_have_text("Bob Cratchit")
    await tab["alert"].click()
    await expect(tab["timeline"].locator(".actor", has_text="Bob Cratchit")).to_have_attribute("title", bob)
    await expect(tab["timeline"].locator(".actor", has_text="billing")).not_to_have_attribute("title", "billing")
    await expect(tab.page.locator("#presence-names")).to_contain_text("Alice <b>Liddell</b>")


async def test_two_people_with_one_name_are_distinguished(tab: Tab, node: Node) -> None:
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    alert = await send(node, "/v1/alerts", {"title": "Disk full"}, sub="billing")
    await send(node, f"/v1/alerts/{alert['id']}/acknowledge", {}, sub=other, name="Alice")
    await sign_in(tab, node, sub=one, scope=ALL, name="Alice")
    status, who = tab["alert"].locator(".status > bdi"), tab.page.locator("#who > bdi")
    await expect(status).to_have_text(f"Alice {other}")
    await expect(status.locator(".subject")).to_have_text(other)
    await expect(who).to_have_text(f"Alice {one}")
    await expect(who.locator(".subject")).to_have_text(one)


async def test_a_name_that_is_the_subject_of_another_is_distinguished(tab: Tab, node: Node) -> None:
    root, mallory = f"root-{uuid.uuid4()}", str(uuid.uuid4())
    alert = await send(node, "/v1/alerts", {"title": "Who acts?"}, sub=root)
    await send(node, f"/v1/alerts/{alert['id']}/acknowledge", {}, sub=mallory, name=root.upper())
    await sign_in(tab, node, sub="alice", scope=ALL)
    await expect(tab["alert"].locator(".status .subject")).to_have_text(mallory)
    await expect(tab["alert"].locator(".origin > .source")).to_have_text(root)
    await tab["alert"].click()
    await expect(tab["timeline"].locator(".actor .subject")).to_have_text(mallory)


async def test_who_was_first_is_named_as_everywhere(tab: Tab, node: Node) -> None:
    tab.tolerated = ("status of 409",)
    bob = str(uuid.uuid4())
    alert = await send(node, "/v1/alerts", {"title": "Raced"}, sub="billing")
    await sign_in(tab, node, sub="alice", scope=ALL)
    await tab["alert"].click()

    async def after_bob(route: Route) -> None:
        await send(node, f"/v1/alerts/{alert['id']}/acknowledge", {}, sub=bob, name="Bob Cratchit")
        await route.continue_()

    await tab.page.route("**/acknowledge", after_bob)
    await tab.page.get_by_role("button", name="Acknowledge", exact=True).first.click()
    await expect(tab["detail-message"]).to_contain_text("Bob Cratchit was first: acknowledged at")


async def test_those_present_are_in_the_order_of_what_is_shown(tab: Tab, node: Node) -> None:
    subjects = [f"{letter}-{uuid.uuid4()}" for letter in "abc"]
    names = ["Zoe", "Alice", "Mia"]
    async with AsyncExitStack() as streams:
        for subject, name in zip(subjects, names, strict=True):
            await streams.enter_async_context(
                await node.live(
                    subject,
                    options={"additional_headers": {"Authorization": f"Bearer {signed(sub=subject, name=name)}"}},
                )
            )
        await sign_in(tab, node, sub="me", name="Bea", scope=ALL)
        await expect(tab.page.locator("#presence-names li > bdi")).to_have_text(["Alice", "Bea", "Mia", "Zoe"])


@pytest.fixture
def mapped(database_url: str) -> Iterator[Node]:
    """A node whose issuer calls scopes as Entra's does."""
    scopes = {"Alerts.Read": ("alerts:read",), "oncall": ("alerts:manage",)}
    auth = AuthSettings(jwt_scope_claims=("scp", "roles"), jwt_scope_map=scopes)
    with serving(database_url, Settings(auth=auth)) as running:
        yield running


@pytest.mark.parametrize("roles", [["oncall"], ["admin", "alerts:manage"]])
async def test_a_person_may_do_in_the_page_what_the_settings_make_of_the_token(
    mapped: Node, tab: Tab, roles: list[str]
) -> None:
    await sign_in(tab, mapped, sub="alice", scope=ABSENT, scp="Alerts.Read openid", roles=roles)
    await tab.page.evaluate("location.hash = '#/settings'")
    facts = tab["token-facts"]
    await expect(facts).to_contain_text("alerts:read")
    if roles == ["oncall"]:
        await expect(facts).to_contain_text("alerts:manage")
    else:
        await expect(facts).not_to_contain_text("alerts:manage")
