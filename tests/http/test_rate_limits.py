from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx2
import pytest
from limits import parse_many

from service.errors import RateLimited
from service.http.rate_limits import ConnectionLimits, RestLimits
from service.settings import LimitSettings, Settings, StreamSettings
from tests.harness import PLAIN, READ, WRITE, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Node

ALERT = {"title": "one more"}


@pytest.fixture
def strict(shared_url: str) -> Iterator[Node]:
    limits = LimitSettings(write_limit="3/hour", read_limit="2/hour", auth_failure_limit="4/hour")
    with serving(shared_url, Settings(limits=limits)) as running:
        yield running


def test_a_subject_over_its_limit_learns_when_to_come_back(strict: Node) -> None:
    with strict.rest() as client:
        assert [client.post("/v1/alerts", json=ALERT).status_code for _ in range(3)] == [201] * 3
        answer = client.post("/v1/alerts", json=ALERT)
    assert answer.status_code == 429
    assert answer.json()["code"] == "rate_limited"
    assert answer.headers["content-type"] == "application/problem+json"
    assert 1100 < int(answer.headers["retry-after"]) <= 1200  # one of three an hour
    assert answer.headers["x-ratelimit-limit"] == "3"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert 1100 < int(answer.headers["x-ratelimit-reset"]) - time.time() <= 1201
    assert answer.json()["detail"].startswith("The limit is 3 alerts and actions on alerts in 3600 s; 0 are left")
    assert (answer.json()["limit"], answer.json()["remaining"]) == (3, 0)


def test_the_limit_is_of_the_subject_not_of_the_token_or_the_address(strict: Node) -> None:
    for _ in range(3):
        with strict.rest() as client:
            assert client.post("/v1/alerts", json=ALERT).status_code == 201
    with strict.rest() as same, strict.rest("shop") as other:
        assert same.post("/v1/alerts", json=ALERT).status_code == 429
        assert other.post("/v1/alerts", json=ALERT).status_code == 201


def test_reads_and_writes_are_counted_apart(strict: Node) -> None:
    with strict.rest() as client:
        assert [client.get("/v1/alerts").status_code for _ in range(3)] == [200, 200, 429]
        assert client.post("/v1/alerts", json=ALERT).status_code == 201


WRONG_BATCHES = {
    "not JSON": ("/v1/alerts/batch", {"content": b"[{", "headers": {"Content-Type": "application/json"}}),
    "no batch": ("/v1/alerts/batch", {"json": ALERT}),
    "no alerts": ("/v1/alerts/batch", {"json": [{}] * 3}),
    "no alert": ("/v1/alerts", {"json": {}}),
    "no JSON": ("/v1/alerts", {"content": b"x"}),
    "no CloudEvents": ("/v1/integrations/cloudevents", {"json": 1}),
    "no notification": ("/v1/integrations/alertmanager", {"json": {}}),
    "no comment": (f"/v1/alerts/{UUID(int=7)}/comments", {"json": {}}),
}


@pytest.mark.parametrize(("path", "body"), WRONG_BATCHES.values(), ids=WRONG_BATCHES)
def test_what_is_refused_as_it_stands_costs_nothing(strict: Node, path: str, body: dict[str, Any]) -> None:
    with strict.rest(scope=f"{READ} {WRITE} alerts:manage") as client:
        assert 429 not in [client.post(path, **body).status_code for _ in range(5)]
        assert [client.post("/v1/alerts", json=ALERT).status_code for _ in range(4)] == [201] * 3 + [429]


def test_a_token_without_the_scope_uses_nothing_up(strict: Node) -> None:
    with strict.rest(scope=READ) as client:
        assert [client.post("/v1/alerts", json=ALERT).status_code for _ in range(5)] == [403] * 5
    with strict.rest() as client:
        assert client.post("/v1/alerts", json=ALERT).status_code == 201


def test_what_had_to_be_looked_up_counts_though_nothing_was_found(strict: Node) -> None:
    with strict.rest() as client:
        nowhere = f"/v1/alerts/{UUID(int=7)}"
        assert [client.get(nowhere).status_code for _ in range(3)] == [404, 404, 429]
        assert [client.post(f"{nowhere}/resolve").status_code for _ in range(4)] == [404] * 3 + [429]


def test_of_a_batch_only_what_is_stored_counts(strict: Node) -> None:
    with strict.rest() as client:
        answer = client.post("/v1/alerts/batch", json=[ALERT, {}])
        assert [one["status"] for one in answer.json()["results"]] == [201, 422]
        assert [client.post("/v1/alerts", json=ALERT).status_code for _ in range(3)] == [201, 201, 429]


def test_a_batch_over_the_limit_says_how_many_alerts_are_left_and_costs_nothing(shared_url: str) -> None:
    with serving(shared_url, Settings(limits=LimitSettings(write_limit="20/hour"))) as node, node.rest() as client:
        assert client.post("/v1/alerts/batch", json=[ALERT] * 12).status_code == 200
        for _ in range(5):
            answer = client.post("/v1/alerts/batch", json=[ALERT] * 11)
            assert answer.status_code == 429
            assert 500 < int(answer.headers["retry-after"]) <= 3 * 180
            detail = answer.json()["detail"]
            assert detail.startswith("The limit is 20 alerts and actions on alerts in 3600 s; 8 are left, and this")
            assert " request has 11. Send it again in " in detail
        assert client.post("/v1/alerts/batch", json=[ALERT] * 8).status_code == 200
        nothing_left = client.post("/v1/alerts/batch", json=[ALERT] * 2)
        assert nothing_left.status_code == 429
        assert int(nothing_left.headers["retry-after"]) > 2 * 180 - 60


def test_the_largest_batch_fits_beside_single_alerts(shared_url: str) -> None:
    with serving(shared_url) as node, node.rest() as client:
        for _ in range(3):
            assert client.post("/v1/alerts", json=ALERT).status_code == 201
            assert client.post("/v1/alerts/batch", json=[ALERT] * 1000).status_code == 200
            assert client.post("/v1/alerts", json=ALERT).status_code == 201


def test_bad_tokens_are_counted_by_address_and_a_good_one_still_serves(strict: Node) -> None:
    bad = [{}, {"Authorization": "Bearer a.b.c"}, {"Authorization": f"Bearer {token('eve', ttl_seconds=-1)}"}] * 2
    answers = [httpx2.get(f"{strict.base}/v1/alerts", headers=headers, **PLAIN) for headers in bad]
    assert [answer.status_code for answer in answers] == [401] * 4 + [429] * 2
    assert answers[-1].headers["x-ratelimit-limit"] == "4"
    with strict.rest() as client:
        assert client.get("/v1/alerts").status_code == 200


def test_health_and_metrics_are_not_limited(strict: Node) -> None:
    with httpx2.Client(base_url=strict.base, **PLAIN) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert {client.get(path).status_code for _ in range(10)} == {200}


async def test_who_comes_back_when_asked_to_is_served(shared_url: str) -> None:
    with serving(shared_url, Settings(limits=LimitSettings(write_limit="2/second"))) as node:
        async with node.http() as client:
            answers = list(await asyncio.gather(*(client.post("/v1/alerts", json=ALERT) for _ in range(10))))
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused
            assert {answer.headers["retry-after"] for answer in refused} == {"1"}

            async def is_served() -> bool:
                return (await client.post("/v1/alerts", json=ALERT)).status_code == 201

            await eventually(is_served)


@pytest.mark.unit
def test_of_several_limits_the_tightest_refuses() -> None:
    limits = RestLimits(LimitSettings(write_limit="100/second; 5/hour"))
    for _ in range(5):
        limits.hit("write", "billing")
    assert limits.is_exhausted("write", "billing")
    assert not limits.is_exhausted("write", "shop")
    assert not limits.is_exhausted("read", "billing")


@pytest.mark.unit
def test_asking_whether_it_would_be_refused_counts_nothing() -> None:
    limits = RestLimits(LimitSettings(auth_failure_limit="1/hour"))
    assert not any(limits.is_exhausted("auth_failure", "10.0.0.1") for _ in range(5))
    limits.hit("auth_failure", "10.0.0.1")
    assert limits.is_exhausted("auth_failure", "10.0.0.1")


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


@pytest.mark.unit
@pytest.mark.parametrize("cost", [1, 50, 90, 100, 1000])
def test_who_waits_as_long_as_asked_is_served_and_nobody_a_second_before(
    pass_time: Callable[[float], None], cost: int
) -> None:
    limits = RestLimits(LimitSettings(write_limit="100/minute; 1000/hour"))
    limits.hit("write", "billing", 1100)
    with pytest.raises(RateLimited) as refused:
        limits.hit("write", "billing", cost)
    wait = refused.value.retry_after
    assert wait is not None
    pass_time(wait - 1)
    with pytest.raises(RateLimited):
        limits.hit("write", "billing", cost)
    pass_time(1)
    limits.hit("write", "billing", cost)


@pytest.mark.unit
def test_a_refusal_takes_nothing_from_any_of_several_limits(pass_time: Callable[[float], None]) -> None:
    limits = RestLimits(LimitSettings(write_limit="100/second; 110/hour"))
    limits.hit("write", "billing", 100)
    pass_time(1)
    for _ in range(1000):
        with pytest.raises(RateLimited, match=r"is 110 .* 10 are left, and this request has 50\."):
            limits.hit("write", "billing", 50)
    limits.hit("write", "billing", 10)
    pass_time(600)
    limits.hit("write", "billing", 18)


@pytest.mark.unit
@pytest.mark.parametrize("rate", ["1000/second", "100/second", "10/second", "2/second", "120/minute", "5/second"])
def test_the_largest_batch_is_not_starved_by_single_alerts(pass_time: Callable[[float], None], rate: str) -> None:
    limits = RestLimits(LimitSettings(write_limit=rate))
    stored = 0
    for _ in range(3000):
        with suppress(RateLimited):  # one single a second, always just before the batch
            limits.hit("write", "billing")
        with suppress(RateLimited):
            limits.hit("write", "billing", 1000)
            stored += 1
        pass_time(1.001)
    [item] = parse_many(rate)
    assert stored >= 2
    assert stored * 1000 <= 1000 + 3003 * item.amount / item.get_expiry()


@pytest.mark.unit
def test_a_request_that_is_larger_than_the_limit_is_counted_in_full(pass_time: Callable[[float], None]) -> None:
    limits = RestLimits(LimitSettings(write_limit="10/minute"))
    limits.hit("write", "billing", 100)  # as many as in ten minutes
    pass_time(545.9)
    assert limits.is_exhausted("write", "billing")
    pass_time(0.1)
    assert not limits.is_exhausted("write", "billing")


@pytest.mark.unit
def test_what_is_given_back_may_be_used_again() -> None:
    limits = RestLimits(LimitSettings(write_limit="10/hour"))
    taken = limits.hit("write", "billing", 10)
    limits.give_back("write", taken, 4)
    limits.hit("write", "billing", 4)
    assert limits.is_exhausted("write", "billing")


@pytest.mark.unit
@pytest.mark.parametrize(("cost", "seconds"), [(1, 6), (3, 18), (1000, 54)])
def test_where_nothing_is_left_a_batch_waits_until_it_fits(
    pass_time: Callable[[float], None], cost: int, seconds: int
) -> None:
    limits = RestLimits(LimitSettings(write_limit="10/minute"))
    limits.require("write", "billing", cost)
    limits.hit("write", "billing", 10)
    with pytest.raises(RateLimited, match=f"0 are left, and this request has {cost}.") as refused:
        limits.require("write", "billing", cost)
    assert refused.value.retry_after == seconds
    pass_time(seconds)
    limits.hit("write", "billing", cost)


@pytest.mark.unit
@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_step_of_the_wall_clock_neither_locks_out_nor_lets_in(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    limits = RestLimits(LimitSettings(write_limit="2/minute", auth_failure_limit="1/minute"))
    connections = ConnectionLimits(StreamSettings(message_limit="2/minute"))
    for _ in range(2):
        limits.hit("write", "billing")
        connections.count_message("a")
    limits.hit("auth_failure", "10.0.0.1")
    wall = time.time()
    monkeypatch.setattr("time.time", lambda: wall + step)
    with pytest.raises(RateLimited) as refused:
        limits.hit("write", "billing")
    assert 1 <= (refused.value.retry_after or 0) <= 60
    assert 0 < int(refused.value.headers["X-RateLimit-Reset"]) - (wall + step) <= 61
    assert limits.is_exhausted("auth_failure", "10.0.0.1")
    assert not connections.count_message("a")
    limits.hit("write", "shop")
    assert connections.count_message("b")


@pytest.mark.unit
def test_a_connection_may_send_a_burst_and_then_collects_violations() -> None:
    limits = ConnectionLimits(StreamSettings(message_limit="3/hour", message_violation_limit="2/hour"))
    assert [limits.count_message("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert [limits.count_violation("a") for _ in range(3)] == [True, True, False]
    assert limits.count_message("b")
    assert limits.count_violation("b")


@pytest.mark.unit
def test_a_connection_that_ended_leaves_no_counters_behind() -> None:
    limits = ConnectionLimits(StreamSettings(message_limit="3/second; 9/hour", message_violation_limit="2/hour"))
    for number in range(100):
        limits.count_message(str(number))
        limits.count_violation(str(number))
        limits.drop(str(number))
    assert limits._storage.reset() == 0
