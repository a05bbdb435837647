"""Budgets: each kind of work has connections of its own, and no subject takes more than half of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from service.database import budgets
from service.database.budgets import FairQueue
from service.database.engine import Database, parse_url
from service.errors import TooManyQueries
from service.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.database.budgets import Budget

HOUR = 3600
NAMES = ("node", "ledger", "reads", "audit")


async def waiting(queue: FairQueue, subject: str) -> asyncio.Task[None]:
    """Wait for a turn that is not expected to come."""

    async def turn() -> None:
        async with queue.turn(subject):
            pass

    task = asyncio.create_task(turn())
    await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.unit
async def test_a_subject_has_half_of_the_turns_and_the_next_one_when_it_gives_one_back() -> None:
    queue = FairQueue("audit", 4, places=8, wait_seconds=5)
    async with queue.turn("mallory"):
        async with queue.turn("mallory"):
            third = await waiting(queue, "mallory")
            async with queue.turn("alice"), queue.turn("alice"):
                assert not third.done()
        await third


@pytest.mark.unit
async def test_who_has_no_turn_in_time_is_refused_and_leaves_the_queue() -> None:
    queue = FairQueue("audit", 2, places=4, wait_seconds=0.01)
    async with queue.turn("mallory"):
        for _ in range(5):
            with pytest.raises(TooManyQueries) as refused:
                async with queue.turn("mallory"):
                    pass
    assert refused.value.retry_after is not None
    async with queue.turn("mallory"), queue.turn("alice"):
        pass


@pytest.mark.unit
async def test_a_full_queue_refuses_at_once_and_no_subject_fills_it_alone() -> None:
    queue = FairQueue("audit", 2, places=4, wait_seconds=None)
    async with AsyncExitStack() as held:
        await held.enter_async_context(queue.turn("mallory"))
        tasks = [await waiting(queue, "mallory")]
        with pytest.raises(TooManyQueries):
            await held.enter_async_context(queue.turn("mallory"))
        await held.enter_async_context(queue.turn("alice"))
        tasks.append(await waiting(queue, "bob"))
        with pytest.raises(TooManyQueries):
            await held.enter_async_context(queue.turn("carol"))
    await asyncio.gather(*tasks)
    assert queue.is_empty


@pytest.mark.unit
async def test_who_gives_up_leaves_nothing_behind() -> None:
    queue = FairQueue("audit", 1, places=8, wait_seconds=None)
    async with queue.turn("mallory"):
        gone = await waiting(queue, "alice")
        gone.cancel()
        await asyncio.wait([gone])
    assert queue.is_empty
    async with queue.turn("alice"):
        pass


@asynccontextmanager
async def held(budget: Budget) -> AsyncIterator[None]:
    """Hold every connection of a budget."""
    async with AsyncExitStack() as stack:
        for _ in range(budget.connections):
            await stack.enter_async_context(budget.transaction())
        yield


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(parse_url(database_url), StorageSettings(database_connect_timeout_seconds=1))
    yield database
    await database.close()


@pytest.mark.parametrize("name", NAMES)
async def test_a_budget_that_is_used_up_leaves_the_others_alone(database: Database, name: str) -> None:
    budgets: dict[str, Budget] = {each: getattr(database, each) for each in NAMES}
    async with held(budgets.pop(name)):
        assert database.connections_in_use == getattr(database, name).connections
        for other in budgets.values():
            assert await other.run(lambda tx: tx.scalar(text("SELECT 1"))) == 1
        with pytest.raises(TooManyQueries):
            await getattr(database, name).run(lambda tx: tx.scalar(text("SELECT 1")))
    assert database.connections_in_use == 0


async def query_forever(budget: Budget) -> None:
    while True:
        await budget.run(lambda tx: tx.scalar(text("SELECT 1")))


async def test_a_budget_closes_once_its_last_transaction_has_ended_and_begins_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "CLOSE_SECONDS", HOUR)
    async with database.reads.transaction() as tx:
        closing = asyncio.create_task(database.close())
        with pytest.raises(TooManyQueries):
            await query_forever(database.node)
        assert not closing.done()
        assert await tx.scalar(text("SELECT 1")) == 1
    await closing


async def test_a_budget_closes_beside_a_transaction_that_takes_too_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "CLOSE_SECONDS", 0.01)
    async with database.reads.transaction():
        await database.close()
