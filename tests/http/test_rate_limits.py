from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx2
import pytest

from service.errors import RateLimited
from service.http.rate_limits import ConnectionLimits, RestLimits
from service.settings import LimitSettings, Settings, StreamSettings
from tests.harness import PLAIN, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    assert 3500 < int(answer.headers["retry-after"]) <= 3600
    assert answer.headers["x-ratelimit-limit"] == "3"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert 3500 < int(answer.headers["x-ratelimit-reset"]) - time.time() <= 3601


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


def test_a_request_that_is_refused_later_counts_too(strict: Node) -> None:
    with strict.rest(scope="alerts:read") as client:
        assert [client.post("/v1/alerts", json=ALERT).status_code for _ in range(4)] == [403] * 3 + [429]
    with strict.rest("shop") as client:
        assert [client.post("/v1/alerts", json={}).status_code for _ in range(4)] == [422] * 3 + [429]


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
            answers = [await client.post("/v1/alerts", json=ALERT) for _ in range(10)]
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


@pytest.mark.unit
def test_a_request_that_is_larger_than_the_limit_succeeds_once_a_window() -> None:
    limits = RestLimits(LimitSettings(write_limit="3/hour; 10/day"))
    limits.hit("write", "billing")
    limits.charge("write", "billing", 50)
    assert limits.is_exhausted("write", "billing")
    with pytest.raises(RateLimited, match="More than 3 requests in 3600 s"):
        limits.hit("write", "billing")
    limits.hit("write", "shop")
    limits.charge("write", "shop", 1)
    assert not limits.is_exhausted("write", "shop")
    with pytest.raises(RateLimited) as refused:
        limits.charge("write", "shop", 2)
    assert refused.value.headers["X-RateLimit-Limit"] == "3"
    assert 3500 < (refused.value.retry_after or 0) <= 3600


@pytest.mark.unit
def test_a_request_that_is_larger_than_the_limit_is_counted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    limits = RestLimits(LimitSettings(write_limit="10/minute"))
    limits.hit("write", "billing")
    limits.charge("write", "billing", 99)  # a hundred, as many as in ten minutes
    now[0] += 599
    assert limits.is_exhausted("write", "billing")
    now[0] += 1
    assert not limits.is_exhausted("write", "billing")


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
