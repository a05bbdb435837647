from __future__ import annotations

import asyncio

import pytest

from service.http.turns import TURN_SECONDS, Turn

pytestmark = pytest.mark.unit

REQUESTS = 16
PARTS = 20


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1.0]
    monkeypatch.setattr("service.http.turns.time.perf_counter", lambda: now[0])
    return now


async def test_of_many_requests_one_has_a_turn_in_an_iteration_of_the_loop(clock: list[float]) -> None:
    iteration = 0
    parts_of: dict[int, list[int]] = {}

    async def count() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    async def request(number: int) -> None:
        turn = Turn()
        for _ in range(PARTS):
            if turn.is_over:
                await turn.next()
            parts_of.setdefault(iteration, []).append(number)
            clock[0] += TURN_SECONDS / 2

    beside = asyncio.create_task(count())
    await asyncio.gather(*(request(number) for number in range(REQUESTS)))
    beside.cancel()
    assert max(map(len, parts_of.values())) == 2
    assert [*map(set, parts_of.values())][: 2 * REQUESTS] == [{number} for number in range(REQUESTS)] * 2


async def test_a_request_that_is_gone_does_not_hold_up_the_others() -> None:
    waiting = [asyncio.create_task(Turn().next()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await waiting[2]
    await Turn().next()
