"""Posts over real sockets, by both clients: what is retried, and that nothing is doubled."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from service.client import (
    AsyncClient,
    BatchRefused,
    Client,
    ClientError,
    Forbidden,
    Posted,
    Retry,
    Unauthorized,
    UnprocessableRequest,
    Unreachable,
    post_retry,
)
from service.settings import LimitSettings, Settings
from tests.client.flaky_proxy import Fault, FlakyProxy, answer
from tests.harness import READ, WRITE, Node, serving, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

EAGER = Retry(total_seconds=10, base_seconds=0.001, cap_seconds=0.01)
HASTY = Retry(total_seconds=0.3, base_seconds=0.001, cap_seconds=0.01)


def client(base: str, bearer: Any = None, retry: Retry = EAGER) -> Client:
    return Client(base, bearer or token("billing", WRITE), retry=retry, trust_env=False)


def async_client(base: str, bearer: Any = None, retry: Retry = EAGER) -> AsyncClient:
    return AsyncClient(base, bearer or token("billing", WRITE), retry=retry, trust_env=False)


async def post(base: str, title: str = "x", bearer: Any = None, retry: Retry = EAGER, **fields: Any) -> Posted:
    async with async_client(base, bearer, retry) as tocsin:
        return await tocsin.post(title, **fields)


def post_from_a_thread(base: str, title: str = "x", bearer: Any = None, retry: Retry = EAGER, **fields: Any) -> Posted:
    with client(base, bearer, retry) as tocsin:
        return tocsin.post(title, **fields)


async def titles(node: Node, after: int = 0) -> list[str]:
    return [row[0] for row in await node.sql("SELECT title FROM alerts WHERE seq > $1 ORDER BY seq", after)]


async def test_a_post_says_where_the_alert_stands(lenient: Node, head: int) -> None:
    async with async_client(lenient.base) as tocsin:
        posted = await tocsin.post(
            "It happened",
            topic="payments.eu",
            severity="critical",
            body="More.",
            attributes={"rate": 0.78},
            links=[{"title": "Runbook", "url": "https://runbooks.example/x"}],
            recipients=["alice"],
            dedup_key="acceptance/X",
            expires_at=datetime.now(UTC) + timedelta(hours=1),
        )
    rows = await lenient.sql(
        "SELECT id::text, seq, topic, severity::text, body, dedup_key, recipients FROM alerts WHERE seq > $1", head
    )
    assert [tuple(row) for row in rows] == [
        (posted.id, posted.seq, "payments.eu", "critical", "More.", "acceptance/X", ["alice"])
    ]
    assert (posted.seq, posted.replayed, posted.repeated) == (head + 1, False, False)


async def test_the_synchronous_client_posts_the_same(lenient: Node, head: int) -> None:
    with client(lenient.base) as tocsin:
        assert tocsin.post("One").seq == head + 1
        assert [two.seq for two in tocsin.post_batch([{"title": "Two"}, {"title": "Three"}])] == [head + 2, head + 3]
    assert await titles(lenient, head) == ["One", "Two", "Three"]


GATEWAY = [answer("502 Bad Gateway"), answer("503 Service Unavailable"), answer("504 Gateway Timeout")]


@pytest.mark.parametrize(
    "fault",
    [Fault.REFUSED, Fault.ANSWER_LOST, *GATEWAY, answer("429 Too Many Requests", "Retry-After: 0")],
    ids=["refused", "answer_lost", "502", "503", "504", "429"],
)
async def test_what_may_pass_is_tried_again_and_stored_once(
    lenient: Node, proxy: FlakyProxy, head: int, fault: Fault | bytes
) -> None:
    proxy.faults = [fault, fault]
    async with async_client(proxy.base) as tocsin:
        posted = await tocsin.post("Once")
    assert posted.replayed is (fault is Fault.ANSWER_LOST)
    assert proxy.connections == 3
    proxy.faults = [fault, fault]
    await asyncio.to_thread(post_from_a_thread, proxy.base, "Twice")
    assert await titles(lenient, head) == ["Once", "Twice"]


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.ANSWER_LOST, GATEWAY[0]], ids=["refused", "answer_lost", "502"])
async def test_a_batch_whose_answer_is_lost_is_stored_once(
    lenient: Node, proxy: FlakyProxy, head: int, monkeypatch: pytest.MonkeyPatch, fault: Fault | bytes
) -> None:
    monkeypatch.setattr(post_retry, "BATCH_ITEMS_MAX", 10)
    proxy.faults = [fault]
    async with async_client(proxy.base) as tocsin:
        posted = await tocsin.post_batch([{"title": f"Number {number}"} for number in range(25)])
    assert [one.seq - head for one in posted] == list(range(1, 26))
    assert len(await titles(lenient, head)) == 25


async def test_a_node_that_is_killed_and_started_again_has_each_alert_once(start: Callable[..., Process]) -> None:
    node = start()
    port = urlsplit(node.base).port
    tocsin = async_client(node.base, retry=Retry(total_seconds=60, base_seconds=0.01, cap_seconds=0.2))
    stored: list[Posted] = []

    async def post(number: int) -> None:
        stored.append(await tocsin.post(f"Number {number}"))
        if len(stored) == 50:
            node.kill()
            await asyncio.to_thread(start, port)

    async with tocsin:
        for begin in range(0, 200, 10):
            await asyncio.gather(*map(post, range(begin, begin + 10)))
    assert sorted(await titles(node)) == sorted(f"Number {number}" for number in range(200))
    assert sorted(one.seq for one in stored) == list(range(1, 201))


async def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_retry, "ATTEMPT_MIN_SECONDS", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with pytest.raises(Unreachable):
        await post(base, retry=HASTY)
    with pytest.raises(Unreachable):
        await asyncio.to_thread(post_from_a_thread, base, retry=HASTY)
    silent.close()


async def test_the_rate_limit_of_the_service_is_waited_out(database_url: str) -> None:
    with serving(database_url, Settings(limits=LimitSettings(write_limit="2/second"))) as node:
        async with async_client(node.base) as tocsin:
            for number in range(5):
                await tocsin.post(f"Number {number}")
        assert len(await titles(node)) == 5


async def test_what_is_wrong_is_refused_at_once_and_typed(proxy: FlakyProxy) -> None:
    with pytest.raises(UnprocessableRequest) as invalid:
        await post(proxy.base, topic="No Topic")
    assert (invalid.value.status, invalid.value.code) == (422, "invalid_request")
    assert invalid.value.errors[0]["pointer"] == "/topic"
    with pytest.raises(Unauthorized) as unauthorized:
        await post(proxy.base, bearer="no.token.at-all")
    assert unauthorized.value.code == "token_invalid"
    with pytest.raises(Forbidden) as forbidden:
        await post(proxy.base, bearer=token("billing", READ))
    assert forbidden.value.code == "scope_missing"
    assert proxy.connections == 3


async def test_a_refused_token_is_asked_for_again_once(lenient: Node) -> None:
    tokens = [token("billing", WRITE, ttl_seconds=-1), token("billing", WRITE)]
    asked: list[int] = []

    async def ask() -> str:
        asked.append(len(asked))
        return tokens[min(len(asked), 2) - 1]

    async with async_client(lenient.base, ask) as tocsin:
        await tocsin.post("x")
    assert asked == [0, 1]
    always = token("billing", WRITE, ttl_seconds=-1)
    with pytest.raises(Unauthorized):
        post_from_a_thread(lenient.base, bearer=lambda: always)


async def test_a_batch_says_of_each_alert_what_became_of_it(lenient: Node) -> None:
    async with async_client(lenient.base, token("billing", WRITE, topics=["a"])) as tocsin:
        with pytest.raises(BatchRefused, match="2 of 4 alerts were not stored; the first, number 2") as refused:
            await tocsin.post_batch(
                [
                    {"title": "Good", "topic": "a"},
                    {"title": "", "topic": "a"},
                    {"title": "Other", "topic": "b"},
                    {"title": "Good", "topic": "a"},
                ]
            )
    kinds = [type(result) for result in refused.value.results]
    assert kinds == [Posted, UnprocessableRequest, Forbidden, Posted]


async def test_a_batch_that_breaks_off_says_what_was_stored(proxy: FlakyProxy) -> None:
    proxy.faults = [Fault.NONE]
    alerts = [{"title": "x"}, {"title": "x"}]
    tocsin = async_client(proxy.base, retry=HASTY)
    await tocsin.post_batch(alerts)  # type: ignore[arg-type]
    proxy.faults = [Fault.REFUSED] * 1000
    proxy.cut()
    with pytest.raises(Unreachable):
        await tocsin.post_batch(alerts)  # type: ignore[arg-type]
    await tocsin.close()


async def test_a_key_that_the_user_chose_holds_across_clients(lenient: Node) -> None:
    first = await post(lenient.base, "Job failed", idempotency_key="größe-数-1")
    again = await post(lenient.base, "Job failed", idempotency_key="größe-数-1")
    assert (again.seq, first.replayed, again.replayed) == (first.seq, False, True)


@pytest.mark.unit
@pytest.mark.parametrize("url", ["", "tocsin", "ftp://tocsin.example", "https://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="must look like"):
        Client(url, "x")


@pytest.mark.parametrize("bad", ["hunter2\n", "", "hunter2 hunter2", "hunter2é"])
async def test_a_token_that_is_none_is_refused_without_quoting_it(lenient: Node, bad: str) -> None:
    with pytest.raises(ClientError) as refused:
        post_from_a_thread(lenient.base, bearer=lambda: bad)
    assert "hunter2" not in str(refused.value)
