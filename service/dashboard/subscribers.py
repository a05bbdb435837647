"""The subscribers of ``GET /v1/dashboard``, and the sampling that runs while there are any.

Sampling starts with the first subscriber of this node and stops with the last: without subscribers
there is no task, no connection and no statement. All subscribers of a node receive the same sample,
encoded once. One that reads too slowly misses samples, never holds more than one, and is closed in
the end like a slow stream.

::

    no subscriber ──join──► sampling, every 2 s ──the last one leaves──► no subscriber
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from service.auth.tokens import token_revoked
from service.dashboard.sampler import PAUSE_SECONDS, Sampler
from service.database.ids import uuid7
from service.errors import CloseReason, Overloaded, TokenRevoked
from service.logs import get_logger
from service.periodic import PeriodicTask
from service.stream.capacity import RETRY_SECONDS, Capacity
from service.stream.frames import Frame, FrameBatch
from service.stream.transports.sse import SseResponse, SseTransport
from service.stream.transports.websocket import CLOSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.dashboard.node_stats import NodeStatsReporter
    from service.database.engine import Database
    from service.settings import StreamSettings

log = get_logger(__name__)

CHECK_SECONDS = 0.25
HISTORY_FRESH_SECONDS = 10
"""How old the last hour may be that a new subscriber is sent at once."""
HISTORY_REFRESH_SECONDS = 60
"""How often the last hour is read again and sent to all, because it has a new minute."""
HISTORY_RETRY_SECONDS = 10
"""The pause after PostgreSQL did not answer with the last hour in time."""


class Subscriber(Protocol):
    """A subscriber of the dashboard."""

    principal: Principal

    def send(self, batch: FrameBatch) -> None:
        """Send a history or a sample, in a batch of its own."""

    def is_stuck(self, now: float) -> bool:
        """Return whether the socket has been full for too long."""

    def end(self, reason: CloseReason) -> None:
        """Close from the server's side."""


class Dashboard:
    """The subscribers of this node."""

    def __init__(
        self, database: Database, reporter: NodeStatsReporter, verifier: TokenVerifier, settings: StreamSettings
    ) -> None:
        self._database = database
        self._reporter = reporter
        self._verifier = verifier
        self._slow_seconds = settings.slow_consumer_seconds
        self._capacity = Capacity(
            streams_max=settings.dashboard_subscribers_max, per_recipient=settings.connections_per_recipient
        )
        self._subscribers: dict[Subscriber, bool] = {}  # and whether it was sent the last hour
        self._task: asyncio.Task[None] | None = None
        self._history: tuple[float, FrameBatch] | None = None
        self._history_retry_at = 0.0

    # Joining and leaving.

    def stream(self, principal: Principal) -> SseResponse:
        """Answer with the history and the samples, until the client leaves or its token ends."""
        return SseResponse(self._reserved(principal))

    @asynccontextmanager
    async def _reserved(self, principal: Principal) -> AsyncIterator[Callable[[SseTransport], None]]:
        def open_on(transport: SseTransport) -> None:
            try:
                self._verifier.check_not_revoked(principal)
            except TokenRevoked:  # while the head was sent
                transport.end(CloseReason.TOKEN_REVOKED)
                return
            subscriber = StreamSubscriber(self, transport, principal, self._slow_seconds)
            self.join(subscriber)
            transport.attach(subscriber)
            transport.begin(uuid7(), self._slow_seconds + 2 * CLOSE_SECONDS)

        with self._capacity.reserve(principal.subject):
            yield open_on

    async def history(self, principal: Principal) -> bytes:
        """Return the last hour as JSON.

        Raises:
            TokenRevoked: the token was revoked while PostgreSQL was asked. ConnectionLimit: this
            subject has as many subscriptions as it may have streams. Overloaded: PostgreSQL does
            not answer in time, or there is no room for more subscribers.

        """
        subscriber = HistorySubscriber(self, principal)
        with self._capacity.reserve(principal.subject):
            self.join(subscriber)
        try:
            async with asyncio.timeout(self._slow_seconds):
                return await subscriber.history
        except TimeoutError:
            raise _history_unavailable() from None
        finally:
            self.leave(subscriber)

    def join(self, subscriber: Subscriber) -> None:
        """Send ``subscriber`` the history and the samples from here on."""
        self._subscribers[subscriber] = False
        self._capacity.add(subscriber.principal.subject)
        self._send_history(subscriber)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    def leave(self, subscriber: Subscriber) -> None:
        """Send ``subscriber`` nothing any more. The last one to leave ends the sampling."""
        if self._subscribers.pop(subscriber, None) is None:
            return
        self._capacity.remove(subscriber.principal.subject)
        if not self._subscribers:
            self._stop()

    def close_revoked(self) -> None:
        """End the subscribers whose token was revoked."""
        for subscriber in list(self._subscribers):
            try:
                self._verifier.check_not_revoked(subscriber.principal)
            except TokenRevoked:
                subscriber.end(CloseReason.TOKEN_REVOKED)

    async def close(self) -> None:
        """Stop sampling."""
        if (task := self._stop()) is not None:
            await asyncio.wait([task])

    def _stop(self) -> asyncio.Task[None] | None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End all subscribers if sampling failed: they come back, and sampling starts again."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("sampling for the dashboard failed", exc_info=error)
        if self._task is not task:
            return  # it failed while it was stopped, and another may run by now
        self._task = None
        for subscriber in list(self._subscribers):
            subscriber.end(CloseReason.INTERNAL_ERROR)

    # Sampling.

    async def _run(self) -> None:
        sampler = Sampler(self._database, self._reporter)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(PeriodicTask("dashboard_ticks", self._check_subscribers, CHECK_SECONDS).run())
                sample = partial(self._sample, sampler)
                group.create_task(PeriodicTask("dashboard_samples", sample, PAUSE_SECONDS, first_seconds=0).run())
        finally:
            await sampler.close()

    async def _sample(self, sampler: Sampler) -> float:
        """Send a sample to all, and return the seconds until the next."""
        begun = time.monotonic()
        is_due = not all(self._subscribers.values()) or self._history_age() >= HISTORY_REFRESH_SECONDS
        if is_due and begun >= self._history_retry_at:
            await self._read_history(sampler)
        sample = _encoded(await sampler.sample())
        for subscriber in list(self._subscribers):
            subscriber.send(sample)
        return begun + PAUSE_SECONDS - time.monotonic()

    async def _read_history(self, sampler: Sampler) -> None:
        if (history := await sampler.history()) is None:
            self._history_retry_at = time.monotonic() + HISTORY_RETRY_SECONDS
            return
        self._history = (time.monotonic(), _encoded(history))
        for subscriber in list(self._subscribers):
            self._send_history(subscriber)

    def _history_age(self) -> float:
        return time.monotonic() - self._history[0] if self._history else math.inf

    def _send_history(self, subscriber: Subscriber) -> None:
        """Send the last hour, if it was read a moment ago."""
        if self._history is not None and self._history_age() < HISTORY_FRESH_SECONDS:
            self._subscribers[subscriber] = True
            subscriber.send(self._history[1])

    async def _check_subscribers(self) -> None:
        """End the subscribers whose token has expired, and those that do not read."""
        now, wall = time.monotonic(), time.time()
        for subscriber in list(self._subscribers):
            if wall >= subscriber.principal.expires_at:
                subscriber.end(CloseReason.TOKEN_EXPIRED)
            elif subscriber.is_stuck(now):
                subscriber.end(CloseReason.SLOW_CONSUMER)


def _encoded(document: dict[str, Any]) -> FrameBatch:
    return FrameBatch(Frame(document["type"], None, orjson.dumps(document)))


def _history_unavailable() -> Overloaded:
    return Overloaded("The last hour cannot be read now.", retry_after=RETRY_SECONDS)


class StreamSubscriber:
    """A subscriber by server-sent events, whose socket misses samples while it is full."""

    def __init__(
        self, dashboard: Dashboard, transport: SseTransport, principal: Principal, slow_seconds: float
    ) -> None:
        self.principal = principal
        self._dashboard = dashboard
        self._transport = transport
        self._slow_seconds = slow_seconds
        self._full_since: float | None = None
        self._taken_before = 0

    def send(self, batch: FrameBatch) -> None:
        """Write ``batch``, unless the last one has not gone yet."""
        if self._full_since is None and not self._transport.write_frames(batch):
            self._full_since = time.monotonic()
            self._taken_before = self._transport.taken_bytes()

    def is_stuck(self, now: float) -> bool:
        """Return whether the socket has been full, and nothing was taken from it, for too long."""
        if self._full_since is None or now - self._full_since < self._slow_seconds:
            return False
        if (taken := self._transport.taken_bytes()) == self._taken_before:
            return True
        self._taken_before, self._full_since = taken, now
        return False

    def end(self, reason: CloseReason) -> None:
        """Send the reason, and hang up."""
        self._transport.end(reason)

    # What the transport reports.

    def receive(self, text: str | None) -> None:
        """Do nothing: an SSE client sends no messages."""

    def count_frame(self) -> None:
        """Do nothing: an SSE client sends no frames."""

    def drained(self) -> None:
        """The socket has taken everything."""
        self._full_since = None

    def disconnected(self, code: int, reason: str) -> None:  # noqa: ARG002 - a subscriber leaves for any reason
        """The stream is over."""
        self._dashboard.leave(self)


class HistorySubscriber:
    """A subscriber that waits for the last hour, and for nothing else."""

    def __init__(self, dashboard: Dashboard, principal: Principal) -> None:
        self.principal = principal
        self.history: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._dashboard = dashboard

    def send(self, batch: FrameBatch) -> None:
        """Keep the last hour."""
        [frame] = batch.frames
        if frame.type == "history" and not self.history.done():
            self.history.set_result(frame.payload)

    def is_stuck(self, now: float) -> bool:  # noqa: ARG002 - its request has a timeout
        """Return False: nothing is written to a socket."""
        return False

    def end(self, reason: CloseReason) -> None:
        """Refuse the request."""
        self._dashboard.leave(self)
        if not self.history.done():
            revoked = reason is CloseReason.TOKEN_REVOKED
            self.history.set_exception(token_revoked() if revoked else _history_unavailable())
