"""Periodic tasks: one loop for everything that repeats beside the requests.

::

            ┌──────────────── rest ◄────────────────┐
            ▼                                       │
    ──► waiting ──the interval is over, or wake()──► running
            ▲                                       │
            └── rest ◄── counted, logged ◄── a failure that passes

A wake-up that comes while the task runs or rests is kept, and starts the next run when the rest is
over. A failure passes where the database is not available or the transaction may be tried again
(``database/failures.py``), and where the task expects it. Any other error ends the task, and with
it the node (``app.py``).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal, get_args

from service.database.failures import Failure, classify
from service.logs import get_logger
from service.metrics import PERIODIC_TASK_FAILURES, PERIODIC_TASK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = get_logger(__name__)

TaskName = Literal[
    "abandoned_transactions",
    "connection_ticks",
    "dashboard_samples",
    "dashboard_ticks",
    "due_alerts",
    "fanout",
    "housekeeping",
    "key_refresh",
    "ledger_flush",
    "presence",
    "retention",
    "revocations",
    "revocations_confirmed",
    "search_index",
]
"""The label of the metrics: a closed set."""

for _name in get_args(TaskName):  # so that each has a series before its first run
    PERIODIC_TASK_SECONDS.labels(_name)
    PERIODIC_TASK_FAILURES.labels(_name)


class PeriodicTask:
    """Runs ``work`` every ``interval_seconds``, and at once when woken, until cancelled.

    ``work`` may return the seconds to wait until its next run, instead of the interval.
    ``first_seconds`` is the wait before the first run, by default the interval. After each run the
    task rests for ``rest_seconds``, whatever wakes it, and after one that failed for
    ``failure_rest_seconds``; only then it waits.

    The ``expected`` errors leave the task running, as failures of the database do. ``on_failure``
    is called with each; by default the first of a row is logged.
    """

    def __init__(  # noqa: PLR0913 - each named at the call, most of them seldom
        self,
        name: TaskName,
        work: Callable[[], Awaitable[float | None]],
        interval_seconds: float,
        *,
        first_seconds: float | None = None,
        rest_seconds: float = 0,
        failure_rest_seconds: float | None = None,
        expected: tuple[type[Exception], ...] = (),
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._interval = interval_seconds
        self._first = interval_seconds if first_seconds is None else first_seconds
        self._rest = rest_seconds
        self._failure_rest = rest_seconds if failure_rest_seconds is None else failure_rest_seconds
        self._expected = expected
        self._on_failure = on_failure or self._log_first
        self._wake = asyncio.Event()
        self._failures = 0
        self.was_woken = False
        """Whether the run under way was woken; False: its interval was over."""

    def wake(self) -> None:
        """Run as soon as possible."""
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled. An error that is not expected is raised."""
        wait = self._first
        while True:
            self.was_woken = await self._woken_within(wait)
            self._wake.clear()
            wait = await self._run_once()

    async def _woken_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._wake.wait()
        except TimeoutError:
            return False

    async def _run_once(self) -> float:
        """Run, rest, and return the seconds to wait."""
        wait, rest = None, self._rest
        started = time.perf_counter()
        try:
            wait = await self._work()
        except Exception as error:
            if classify(error) is Failure.DEFECT and not isinstance(error, self._expected):
                raise
            PERIODIC_TASK_FAILURES.labels(self._name).inc()
            self._failures += 1
            self._on_failure(error)
            rest = self._failure_rest
        else:
            if self._failures:
                log.info("periodic task works again", task=self._name, failures=self._failures)
            self._failures = 0
        finally:
            PERIODIC_TASK_SECONDS.labels(self._name).observe(time.perf_counter() - started)
        if rest:
            await asyncio.sleep(rest)
        return self._interval if wait is None else wait

    def _log_first(self, error: Exception) -> None:
        if self._failures == 1:
            reason = str(error) or type(error).__name__
            log.warning("periodic task failed, and is tried again", task=self._name, reason=reason)
