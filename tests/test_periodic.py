from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, get_args

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.errors import DatabaseUnavailable, NotFound, OutcomeUnknown, Overloaded
from service.periodic import PeriodicTask, TaskName
from tests.harness import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.unit

NEVER = 3600.0


class Work:
    """Counts its runs. What is in ``outcomes`` comes of the first ones: seconds to wait, or an error to raise."""

    def __init__(self, *outcomes: float | Exception | None) -> None:
        self.runs = 0
        self.outcomes = list(outcomes)
        self._ran = asyncio.Condition()

    async def __call__(self) -> float | None:
        async with self._ran:
            self.runs += 1
            self._ran.notify_all()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def has_run(self, times: int) -> None:
        async with asyncio.timeout(PATIENCE), self._ran:
            await self._ran.wait_for(lambda: self.runs >= times)


@asynccontextmanager
async def running(task: PeriodicTask) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(task.run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def settled() -> None:
    """Let everything run that is ready to."""
    for _ in range(20):
        await asyncio.sleep(0)


def figure(name: str, task: TaskName) -> float:
    value = REGISTRY.get_sample_value(name, {"task": task})
    assert value is not None
    return value


async def test_the_work_is_repeated_after_each_interval() -> None:
    work = Work()
    async with running(PeriodicTask("housekeeping", work, 0.001)):
        await work.has_run(3)


async def test_the_first_run_comes_after_an_interval() -> None:
    work = Work()
    async with running(PeriodicTask("housekeeping", work, NEVER)):
        await settled()
        assert work.runs == 0


async def test_the_first_run_may_come_sooner() -> None:
    work = Work()
    async with running(PeriodicTask("retention", work, NEVER, first_seconds=0)):
        await work.has_run(1)
        await settled()
        assert work.runs == 1


async def test_the_work_may_say_when_it_wants_to_run_again() -> None:
    work = Work(0.0, 0.0)
    async with running(PeriodicTask("search_index", work, NEVER, first_seconds=0)):
        await work.has_run(3)
        await settled()
        assert work.runs == 3


async def test_a_wake_up_runs_the_work_at_once_and_says_so() -> None:
    woken: list[bool] = []

    async def note() -> None:
        woken.append(task.was_woken)

    task = PeriodicTask("fanout", note, NEVER, first_seconds=0)
    async with running(task):
        await settled()
        task.wake()
        task.wake()
        await settled()
    assert woken == [False, True]


async def test_a_wake_up_during_a_run_is_kept_for_the_next() -> None:
    runs = 0

    async def wake_once() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            task.wake()

    task = PeriodicTask("presence", wake_once, NEVER, first_seconds=0)
    async with running(task):
        await settled()
    assert runs == 2


async def test_a_wake_up_before_the_start_is_kept() -> None:
    work = Work()
    task = PeriodicTask("presence", work, NEVER)
    task.wake()
    async with running(task):
        await work.has_run(1)


async def test_no_wake_up_disturbs_the_rest() -> None:
    work = Work()
    task = PeriodicTask("presence", work, NEVER, first_seconds=0, rest_seconds=NEVER)
    async with running(task):
        await work.has_run(1)
        task.wake()
        await settled()
        assert work.runs == 1


async def test_an_expected_error_is_counted_and_the_work_is_tried_again() -> None:
    work = Work(DatabaseUnavailable("away"), DatabaseUnavailable("away"))
    failures = figure("tocsin_periodic_task_failures_total", "due_alerts")
    runs = figure("tocsin_periodic_task_seconds_count", "due_alerts")
    async with running(PeriodicTask("due_alerts", work, 0)) as task:
        await work.has_run(4)
        assert not task.done()
    assert figure("tocsin_periodic_task_failures_total", "due_alerts") == failures + 2
    assert figure("tocsin_periodic_task_seconds_count", "due_alerts") >= runs + 3


@pytest.mark.parametrize(
    "error",
    [
        *(
            asyncpg.PostgresError.new({"S": "ERROR", "C": code, "M": ""})
            for code in ("40P01", "55P03", "57014", "53100")
        ),
        ConnectionResetError(),
        Overloaded("full"),
        OutcomeUnknown("perhaps"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_failure_that_passes_ends_a_task(error: Exception) -> None:
    work = Work(error)
    async with running(PeriodicTask("due_alerts", work, 0)) as task:
        await work.has_run(2)
        assert not task.done()


async def test_a_failed_run_may_have_a_longer_rest() -> None:
    work = Work(None, DatabaseUnavailable("away"))
    task = PeriodicTask("revocations", work, 0, failure_rest_seconds=NEVER)
    async with running(task):
        await work.has_run(2)
        task.wake()
        await settled()
        assert work.runs == 2


async def test_each_expected_error_is_reported_to_who_asks() -> None:
    errors: list[Exception] = []
    work = Work(NotFound("first"), NotFound("second"))
    async with running(PeriodicTask("retention", work, 0, expected=(NotFound,), on_failure=errors.append)):
        await work.has_run(3)
    assert [str(error) for error in errors] == ["first", "second"]


async def test_only_the_first_failure_of_a_row_is_logged_and_the_success_after_it(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    work = Work(*[DatabaseUnavailable("away")] * 3, None, DatabaseUnavailable("gone"))
    async with running(PeriodicTask("housekeeping", work, 0)):
        await work.has_run(7)
    output = capfd.readouterr().out + caplog.text
    assert output.count("is tried again") == 2
    assert output.count("works again") == 2


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a defect"),
        NotFound("not expected"),
        asyncpg.PostgresError.new({"S": "ERROR", "C": "42601", "M": "syntax error"}),
    ],
)
async def test_any_other_error_ends_the_task(error: Exception) -> None:
    with pytest.raises(type(error)):
        await PeriodicTask("housekeeping", Work(error), 0).run()


def test_every_task_has_its_series_from_the_start() -> None:
    for task in get_args(TaskName):
        assert figure("tocsin_periodic_task_seconds_count", task) >= 0
        assert figure("tocsin_periodic_task_failures_total", task) >= 0
