"""Signing in to the console with OpenID Connect, at a real provider (npm's oidc-provider, run by node)."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import socket
import subprocess
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import expect

from scripts.node_tools import INSTALL, tool
from tests.console.axe import axe
from tests.console.conftest import opened
from tests.console.tab import Tab
from tests.harness import PLAIN, ROOT, Node, Process, eventually, start_process
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser, Page, Route

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = ROOT / "tests" / "console" / "provider.mjs"
RESOURCE = "urn:tocsin"
UNLIMITED = "1000000/second"
SHORT = "seconds 4"
"""For tokens that are to expire in a test. A slow machine does no harm: the page asks for others as they expire."""
LONG = "seconds 600"
TO_THE_RENEWAL = 541_000
"""Milliseconds: an access token that lives for ten minutes is renewed a minute before its end."""
BLOCKED = ("net::ERR_", "status of 400", "WebSocket connection to")


@dataclass
class Provider:
    """A provider in a process of its own, and the node that believes its tokens."""

    issuer: str
    process: subprocess.Popen[str]
    node: Process

    async def order(self, words: str) -> None:
        """Give it an order (see ``provider.mjs``), and wait until it is carried out."""
        await asyncio.to_thread(self._order, words)

    def _order(self, words: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:  # it has more to say: notices of what one may want to configure
            if line == f"{words}\n":
                return
        pytest.fail("the provider is gone")


@contextmanager
def running(port: int, origin: str) -> Iterator[subprocess.Popen[str]]:
    command = [shutil.which("node") or "node", str(SCRIPT), str(port), origin]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=quiet) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def free_port() -> int:
    """Return a port that nobody listens on: both sides have to know the other's address before they start."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def shared_provider(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A provider, and a node that believes its tokens."""
    if not tool("oidc-provider"):
        missing(f"there is no oidc-provider: {INSTALL}")
    port, node_port = free_port(), free_port()
    issuer = f"http://127.0.0.1:{port}"
    with running(port, f"http://127.0.0.1:{node_port}") as process:
        node = start_process(
            shared_url,
            tmp_path_factory.mktemp("node"),
            node_port,
            TOCSIN_OIDC_ISSUER=issuer,
            TOCSIN_OIDC_RESOURCE=RESOURCE,
            TOCSIN_OIDC_PARAMETERS="prompt=consent",
            TOCSIN_OIDC_SCOPE="openid offline_access alerts:read alerts:write",
            TOCSIN_ISSUERS=json.dumps([{"issuer": issuer, "audience": "tocsin", "jwks_url": f"{issuer}/jwks"}]),
            TOCSIN_AUTH_FAILURE_LIMIT=UNLIMITED,
            TOCSIN_READ_LIMIT=UNLIMITED,
        )
        yield Provider(issuer, process, node)
        node.end()


@pytest_asyncio.fixture(loop_scope="module")
async def provider(shared_provider: Provider) -> Provider:
    """The provider, up and with tokens that outlive a test, and its node without the alerts of the tests before."""
    await shared_provider.order("up")
    await shared_provider.order(LONG)
    await shared_provider.node.sql("DELETE FROM alerts")
    return shared_provider


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    """The console in a browser that the provider does not know."""
    async with opened(browser, {}) as tab:
        yield tab


async def at_provider(page: Page, button: str = "Sign in", name: str = "alice") -> None:
    """Answer the form of the provider."""
    await page.get_by_label("Name").fill(name)
    await page.get_by_role("button", name=button).click()


async def sign_in(tab: Tab, provider: Provider, place: str = "/", name: str = "alice") -> None:
    await tab.page.goto(provider.node.base + place)
    await tab["sign-in-oidc"].click()
    await at_provider(tab.page, name=name)
    await tab.is_("live")


async def kept(page: Page) -> Any:
    """Return what a page keeps beyond its memory."""
    return await page.evaluate("[{...localStorage}, {...sessionStorage}, document.cookie]")


def asked(tab: Tab, path: str) -> list[dict[str, list[str]]]:
    """Return the queries of the addresses with this path that the page went to."""
    return [parse_qs(urlsplit(address).query) for address in tab.addresses if urlsplit(address).path == path]


async def test_signing_in_comes_back_to_the_place_with_nothing_left_behind(provider: Provider, tab: Tab) -> None:
    await provider.node.post("Raised before")
    await sign_in(tab, provider, "/?min_severity=info#/settings")
    await expect(tab["who"]).to_have_text("alice")
    assert tab.page.url == f"{provider.node.base}/?min_severity=info#/settings"
    await expect(tab["settings"]).to_be_visible()
    await expect(tab["token-facts"]).to_contain_text(f"by itself, by {urlsplit(provider.issuer).netloc}")
    await expect(tab["token-facts"]).to_contain_text(provider.issuer)
    assert await kept(tab.page) == [{}, {}, ""]
    await tab.page.get_by_role("link", name="Alerts", exact=True).click()
    await tab.shows("Raised before")

    (request,) = asked(tab, "/auth")
    assert request["response_type"] == ["code"]
    assert request["code_challenge_method"] == ["S256"]
    assert all(len(request[name][0]) == 43 for name in ("state", "nonce", "code_challenge"))  # 256 bits
    await tab.page.reload()
    await expect(tab["sign-in-oidc"]).to_be_visible()
    await axe(tab.page)


async def test_a_cancelled_sign_in_is_said_in_words(provider: Provider, tab: Tab) -> None:
    await tab.page.goto(provider.node.base)
    await tab["sign-in-oidc"].click()
    await at_provider(tab.page, "Cancel")
    await expect(tab["reason"]).to_contain_text("was cancelled")
    await expect(tab["reason"]).to_contain_text("The person cancelled")
    assert tab.page.url == f"{provider.node.base}/"


async def depart(tab: Tab) -> str:
    """Leave for the provider, and return the state."""
    tab.addresses.clear()
    await tab["sign-in-oidc"].click()
    await tab.page.get_by_label("Name").wait_for()
    return asked(tab, "/auth")[0]["state"][0]


@pytest.mark.long
async def test_an_answer_that_does_not_fit_is_refused_in_words(provider: Provider, tab: Tab) -> None:
    """Those that the page need not be there for are tested in ``auth/oidc-protocol.test.mjs``."""
    tab.tolerated = BLOCKED
    await tab.page.goto(provider.node.base)
    for answer, reason in {
        "code=stolen&state=of-another": "for another sign-in",
        "code=stolen&state={state}&iss={issuer}": "no longer honours this sign-in",
        "error=<b>odd</b>&state={state}&iss={issuer}": "refused the sign-in. (<b>odd</b>)",
    }.items():
        state = await depart(tab)
        await tab.page.goto(f"{provider.node.base}/?{answer.format(state=state, issuer=provider.issuer)}")
        await expect(tab["reason"], answer).to_contain_text(reason)
        await tab.is_("signed-out")
        assert await kept(tab.page) == [{}, {}, ""], answer
        assert tab.page.url == f"{provider.node.base}/", answer
        # No code is redeemed that was not asked for.
        assert bool(asked(tab, "/token")) == ("honours" in reason), answer


async def test_an_answer_that_nobody_asked_for_is_refused(provider: Provider, tab: Tab) -> None:
    """So nobody can sign others in as somebody, with a link."""
    await tab.page.goto(f"{provider.node.base}/?code=planted&state=planted&iss={provider.issuer}")
    await expect(tab["reason"]).to_contain_text("did not ask for this sign-in")
    assert asked(tab, "/token") == []


async def test_going_back_from_the_provider_forgets_what_was_begun(provider: Provider, tab: Tab) -> None:
    await tab.page.goto(provider.node.base)
    await depart(tab)
    await tab.page.go_back()
    await expect(tab["sign-in-oidc"]).to_be_enabled()
    assert await kept(tab.page) == [{}, {}, ""]


def with_claims(token: str, **claims: Any) -> str:
    """Return a token with other claims, and a signature that no longer fits."""
    head, payload, signature = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(payload + "==")) | claims
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip('=')}.{signature}"


@pytest.mark.long
async def test_tokens_that_do_not_fit_are_refused_in_words(provider: Provider, tab: Tab) -> None:
    """The provider is real; what it answers is changed on its way, as no honest provider would.

    What else does not fit is tested in ``auth/oidc-protocol.test.mjs``.
    """
    tab.tolerated = ("status of 401",)
    await tab.page.goto(provider.node.base)
    for name, claims, reason in (
        ("id_token", {"nonce": "of another"}, "(nonce)"),
        ("access_token", {"sub": "mallory"}, "did not accept this token"),
    ):

        async def tamper(route: Route) -> None:
            answer = await route.fetch()
            content = await answer.json()
            content[name] = with_claims(content[name], **claims)  # noqa: B023 - it is of this round
            await route.fulfill(response=answer, json=content)

        await tab.page.route(f"{provider.issuer}/token", tamper)
        await depart(tab)
        await at_provider(tab.page)
        await expect(tab["reason"], name).to_contain_text(reason)
        await tab.is_("signed-out")
        await expect(tab["feed"], name).to_be_hidden()
        await tab.page.unroute(f"{provider.issuer}/token")
    # The server did not accept the last one. Nor would it the next, so there is to be none.
    await eventually(lambda: tab.requests_of("/token/revocation"))
    assert tab.requests_of("/token") == 1


async def test_a_provider_that_cannot_be_trusted_is_refused_in_words(provider: Provider, tab: Tab) -> None:
    """What makes one untrustworthy is tested in ``auth/oidc-protocol.test.mjs``."""

    async def tamper(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, json=await answer.json() | {"issuer": "https://evil.example"})

    await tab.page.route("**/.well-known/openid-configuration", tamper)
    await tab.page.goto(provider.node.base)
    await tab["sign-in-oidc"].click()
    await expect(tab["reason"]).to_contain_text("calls itself https://evil.example")
    assert asked(tab, "/auth") == []


@pytest.mark.long
async def test_the_stream_goes_on_over_renewed_tokens_without_loss_or_double(provider: Provider, tab: Tab) -> None:
    """Each token really expires, or the server would not end the stream."""
    node = provider.node
    await provider.order(SHORT)
    # A token is renewed after two thirds of its life, but never within 5 s: here that is sooner.
    await tab.page.add_init_script(
        "const real = setTimeout; window.setTimeout = (what, ms) => real(what, ms === 5_000 ? 2_667 : ms)"
    )
    await tab.page.set_viewport_size({"width": 1280, "height": 12_000})  # what is out of sight has no rows
    await sign_in(tab, provider, name="renate")
    titles: list[str] = []
    while tab.requests_of("/token") < 4:  # the first for the code, then one for each renewal
        titles.append(f"Number {len(titles)}")
        await node.post(titles[-1])
        await asyncio.sleep(0.1)  # so that some are raised while one connection ends and the next begins
        assert len(titles) < 500, "it does not renew"
        assert await tab["state"].get_attribute("data-state") != "signed-out"
    await eventually(lambda: node.sql(EXPIRED, "renate"))
    await tab.is_("live")
    await expect(tab["alert"]).to_have_count(len(titles))
    shown = await tab["alert"].locator(".title").all_text_contents()
    assert Counter(shown) == Counter(titles)
    await expect(tab["expiry"]).to_be_hidden()
    assert await kept(tab.page) == [{}, {}, ""]


async def test_a_provider_that_is_down_is_said_and_renewed_with_when_it_is_back(provider: Provider, tab: Tab) -> None:
    tab.tolerated = BLOCKED
    await tab.draw(0.1)
    await tab.page.clock.install()
    await sign_in(tab, provider)
    await provider.order("down")
    await tab.page.clock.fast_forward(TO_THE_RENEWAL)
    await expect(tab["expiry"]).to_contain_text("could not be renewed")
    await expect(tab["expiry"]).to_contain_text("cannot be reached")
    await axe(tab.page)
    await provider.order("up")
    await expect(tab["expiry"]).to_be_hidden()
    await provider.node.post("After the provider was back")
    await tab.shows("After the provider was back")
    await tab.is_("live")


async def test_a_provider_that_is_down_is_said_at_the_sign_in_and_at_the_sign_out(provider: Provider, tab: Tab) -> None:
    tab.tolerated = BLOCKED
    await provider.order("down")
    await tab.page.goto(provider.node.base)
    await tab["sign-in-oidc"].click()
    await expect(tab["reason"]).to_contain_text("cannot be reached")
    await provider.order("up")
    await sign_in(tab, provider)
    await provider.order("down")
    await tab.page.get_by_role("button", name="Sign out").click()
    await expect(tab["reason"]).to_contain_text("You are signed out here")
    await tab.is_("signed-out")
    assert tab.page.url == f"{provider.node.base}/"


@pytest.mark.long
async def test_a_sign_in_that_the_provider_ended_asks_the_person_and_keeps_the_page(
    provider: Provider, tab: Tab
) -> None:
    tab.tolerated = BLOCKED
    await provider.order(SHORT)
    await provider.node.post("Still to be seen")
    await sign_in(tab, provider)

    async def refuse(route: Route) -> None:
        await route.fulfill(status=400, json={"error": "invalid_grant"}, headers={"Access-Control-Allow-Origin": "*"})

    await tab.page.route(f"{provider.issuer}/token", refuse)
    await expect(tab["expiry"]).to_contain_text("no longer honours this sign-in")
    await expect(tab["reason"]).to_contain_text("has expired")
    await expect(tab["sign-in"]).to_contain_text("leaves this page")
    await tab.is_("signed-out")
    await tab.shows("Still to be seen")
    await tab.page.unroute(f"{provider.issuer}/token")
    await tab["sign-in-oidc"].click()
    await at_provider(tab.page)
    await tab.is_("live")


EXPIRED = "SELECT 1 FROM connections WHERE close_reason = 'token_expired' AND recipient = $1"


@pytest.mark.long
async def test_a_provider_that_is_down_over_the_expiry_ends_no_session(provider: Provider, tab: Tab) -> None:
    tab.tolerated = BLOCKED
    await tab.draw(0.1)
    await provider.order(SHORT)
    await sign_in(tab, provider, name="dora")
    await provider.order("down")
    await eventually(lambda: provider.node.sql(EXPIRED, "dora"))
    await expect(tab["state"]).to_contain_text("token unavailable")
    tried = tab.requests_of("/token")
    await eventually(lambda: tab.requests_of("/token") > tried + 3)
    assert await tab["state"].get_attribute("data-state") != "signed-out"
    await provider.order("up")
    await tab.is_("live")
    await expect(tab["expiry"]).to_be_hidden()
    await expect(tab["sign-in"]).to_be_hidden()


@pytest.mark.long
async def test_a_tab_that_follows_starts_the_stream_again_with_the_token_that_it_gets(
    provider: Provider, tab: Tab
) -> None:
    """The tab that leads cannot renew; the one that can finds the provider down."""
    tab.tolerated = BLOCKED
    await tab.draw(0.1)
    await provider.order("seconds 10")  # until then the one tab leads, and the other has signed in again
    await tab.page.goto(provider.node.base)
    await tab["sign-in-oidc"].click()
    async with tab.page.expect_response(f"{provider.issuer}/token") as response:
        await at_provider(tab.page)
    bearer = (await (await response.value).json())["access_token"]
    leader = Tab(await tab.page.context.new_page(), BLOCKED)
    await leader.page.goto(f"{provider.node.base}/#token={bearer}")
    await leader.is_("live")
    await provider.order(SHORT)
    await tab.page.reload()  # the other leads from now on
    await tab["sign-in-oidc"].click()
    await at_provider(tab.page)
    await tab.is_("live")
    await provider.order("down")
    await tab.is_("signed-out")
    await expect(tab["expiry"]).to_contain_text("cannot be reached")
    await provider.order("up")
    await tab.is_("live")
    await leader.is_("live")


@pytest.mark.long
async def test_fresh_tokens_that_are_refused_end_in_the_form_and_not_in_a_loop(provider: Provider, tab: Tab) -> None:
    tab.tolerated = ("status of 401", *BLOCKED)
    await tab.draw(0.1)
    await provider.order(SHORT)
    await provider.node.post("Still to be seen")
    await sign_in(tab, provider)

    async def forge(route: Route) -> None:
        answer = await route.fetch()
        content = await answer.json()
        content["access_token"] = with_claims(content["access_token"], jti="another")
        await route.fulfill(response=answer, json=content)

    await tab.page.route(f"{provider.issuer}/token", forge)
    await expect(tab["reason"]).to_contain_text("did not accept this token")
    await expect(tab["sign-in-oidc"]).to_be_visible()
    await tab.is_("signed-out")
    await eventually(lambda: tab.requests_of("/token/revocation"))
    assert 3 <= tab.requests_of("/token") <= 6
    await tab.shows("Still to be seen")


@pytest.mark.long
async def test_an_answer_that_cannot_be_read_does_not_end_the_sign_in(provider: Provider, tab: Tab) -> None:
    """Only an error in the words of OAuth does: all else may be a proxy's, or half of what was said."""
    tab.tolerated = ("status of 40", *BLOCKED)
    await tab.draw(0.1)
    await tab.page.clock.install()
    await sign_in(tab, provider)
    answers = [
        (200, '{"access_token": "eyJ'),
        (200, "<h1>Welcome to this network</h1>"),
        (403, "<h1>Forbidden</h1>"),
        (403, '{"error": "Forbidden"}'),
        (404, ""),
        (408, '{"error": {"code": 408}}'),
        (400, '{"error": "temporarily_unavailable"}'),
    ]
    left = answers.copy()

    async def tamper(route: Route) -> None:
        if left:
            status, body = left.pop(0)
            await route.fulfill(status=status, body=body, headers={"Access-Control-Allow-Origin": "*"})
        else:
            await route.fallback()

    await tab.page.route(f"{provider.issuer}/token", tamper)
    await tab.page.clock.fast_forward(TO_THE_RENEWAL)
    await eventually(lambda: len(left) < len(answers))
    while left:
        await expect(tab["expiry"]).to_contain_text("could not be renewed")
        await tab.page.clock.run_for(1_000)
    await eventually(lambda: tab.requests_of("/token") > len(answers) + 1)
    await expect(tab["expiry"]).to_be_hidden()
    await tab.is_("live")


async def test_a_revocation_is_not_undone_by_a_renewal(provider: Provider, tab: Tab) -> None:
    tab.tolerated = ("status of 401",)
    await provider.node.post("Still to be seen")
    await sign_in(tab, provider, name="carol")
    async with provider.node.http("root", "admin") as root:
        assert (await root.post("/v1/revocations", json={"subject": "carol", "reason": "laptop stolen"})).is_success
    await expect(tab["reason"]).to_have_text("Your token was revoked.")
    await tab.is_("signed-out")
    await eventually(lambda: tab.requests_of("/token/revocation"))
    assert tab.requests_of("/token") == 1
    await tab.shows("Still to be seen")


async def test_only_a_token_that_is_accepted_ends_the_sign_in_with_the_provider(provider: Provider, tab: Tab) -> None:
    tab.tolerated = ("status of 401",)
    await sign_in(tab, provider, "/#/settings")
    for refused in (tab.token(ttl_seconds=-1), "mistyped"):
        await tab.page.evaluate("(token) => { location.hash = `token=${token}` }", refused)
        await expect(tab["reason"]).to_be_visible()
        await tab.is_("live")
        await expect(tab["token-facts"]).to_contain_text("by itself")
    assert tab.requests_of("/token/revocation") == 0
    await tab.paste(tab.token())
    await eventually(lambda: tab.requests_of("/token/revocation"))
    await tab.is_("live")
    await expect(tab["sign-in"]).to_be_hidden()
    await tab.page.goto(f"{provider.node.base}/#/settings")
    await expect(tab["token-facts"]).to_contain_text("by you")


async def test_the_answer_of_the_provider_waits_for_a_server_that_is_restarting(provider: Provider, tab: Tab) -> None:
    tab.tolerated = ("status of 503", *BLOCKED)
    await tab.draw(0.1)
    await tab.page.goto(provider.node.base)
    await depart(tab)
    left = [503, 503]

    async def fail(route: Route) -> None:
        await (route.fulfill(status=left.pop(), body="") if left else route.fallback())

    await tab.page.route("**/console/settings.json", fail)
    await at_provider(tab.page)
    await tab.is_("live")
    assert tab.requests_of("/console/settings.json") == 3


async def sign_out(tab: Tab) -> None:
    await tab.page.get_by_role("button", name="Sign out").click()


async def test_a_revocation_that_fails_does_not_keep_the_session_at_the_provider(provider: Provider, tab: Tab) -> None:
    tab.tolerated = ("status of 503",)
    await sign_in(tab, provider)
    await tab.page.route("**/token/revocation", lambda route: route.fulfill(status=503, body=""))
    await sign_out(tab)
    await tab.page.wait_for_url(f"{provider.issuer}/session/end**")


async def test_a_renewal_under_way_is_revoked_at_the_sign_out(provider: Provider, tab: Tab) -> None:
    tab.tolerated = BLOCKED
    await tab.page.clock.install()
    await sign_in(tab, provider)
    renewed, signed_out, all_revoked = asyncio.Event(), asyncio.Event(), asyncio.Event()
    issued: list[str] = []
    revoked: list[str] = []

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        issued.append((await answer.json())["refresh_token"])
        renewed.set()
        await signed_out.wait()
        await route.fulfill(response=answer)

    async def note(route: Route) -> None:
        revoked.extend(parse_qs(route.request.post_data or "")["token"])
        await route.fulfill(status=200, body="", headers={"Access-Control-Allow-Origin": "*"})

    await tab.page.route(f"{provider.issuer}/token", hold)

    async def leave(route: Route) -> None:
        await all_revoked.wait()  # The requests of a page that is gone cannot be looked at.
        await route.continue_()

    await tab.page.route("**/token/revocation", note)
    await tab.page.route("**/session/end**", leave)
    await tab.page.clock.fast_forward(TO_THE_RENEWAL)
    await renewed.wait()
    await sign_out(tab)
    await tab.is_("signed-out")
    await eventually(lambda: revoked)
    signed_out.set()
    await eventually(lambda: set(issued) < set(revoked))
    all_revoked.set()
    await tab.page.wait_for_url(f"{provider.issuer}/session/end**")


async def test_who_signs_in_again_is_not_sent_away_by_the_sign_out_before(provider: Provider, tab: Tab) -> None:
    await sign_in(tab, provider)
    released, asks = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        asks.set()
        await released.wait()
        await route.fallback()

    discovery = "**/.well-known/openid-configuration"
    await tab.page.route(discovery, hold)
    await sign_out(tab)
    await asks.wait()
    await tab.paste(tab.token("bob"))
    await tab.is_("live")
    async with tab.page.expect_response(discovery) as response:
        released.set()
    await (await response.value).finished()
    await provider.node.post("Still here")
    await tab.shows("Still here")
    assert asked(tab, "/session/end") == []


async def test_signing_out_ends_the_session_at_the_provider_too(provider: Provider, tab: Tab) -> None:
    await sign_in(tab, provider)
    async with tab.page.expect_response(f"{provider.issuer}/token/revocation") as revocation:
        await tab.page.get_by_role("button", name="Sign out").click()
    assert (await revocation.value).status == 200
    await tab.page.get_by_role("button", name="Sign out").click()  # the provider asks
    await expect(tab["sign-in-oidc"]).to_be_visible()
    assert urlsplit(tab.page.url).path == "/"
    await tab["sign-in-oidc"].click()
    await expect(tab.page.get_by_label("Name")).to_be_visible()  # it knows nobody any more


def policy(node: Node) -> dict[str, str]:
    answer = httpx2.get(f"{node.base}/", **PLAIN)
    parts = answer.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (part.partition(" ") for part in parts)}


async def test_the_page_may_talk_to_its_provider_and_to_no_other(provider: Provider, node: Node) -> None:
    assert policy(provider.node)["connect-src"] == f"'self' {provider.issuer}"
    assert policy(node)["connect-src"] == "'self'"
    assert policy(node) | {"connect-src": ""} == policy(provider.node) | {"connect-src": ""}


async def test_the_page_learns_how_to_sign_in_and_no_secret(provider: Provider, node: Node) -> None:
    answer = httpx2.get(f"{provider.node.base}/console/settings.json", **PLAIN)
    assert answer.json() == {
        "oidc": {
            "issuer": provider.issuer,
            "client_id": "tocsin-console",
            "scope": "openid offline_access alerts:read alerts:write",
            "resource": RESOURCE,
            "parameters": {"prompt": "consent"},
        }
    }
    assert re.fullmatch("no-cache", answer.headers["cache-control"])
    assert httpx2.get(f"{node.base}/console/settings.json", **PLAIN).json() == {"oidc": None}
