"""``GET /v1/dashboard``: who looks at the figures of the service, and the sampler that works for them.

The sampler starts with the first viewer of this node and stops with the last: while nobody looks there is no task, no
connection and no statement. All viewers of a node are shown the same sample, encoded once. One that reads too slowly
misses samples, never holds more than one, and is closed in the end as a slow stream is.

::

    nobody ──join──► sampling, every 2 s ──the last one leaves──► nobody
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from service.dashboard.sampler import PAUSE_SECONDS, Sampler
from service.database.ids import uuid7
from service.errors import CloseReason, ConnectionLimit, Overloaded, TokenRevoked
from service.logs import get_logger
from service.periodic import PeriodicTask
from service.stream.frames import text_message
from service.stream.transports.sse import Encoder, SseResponse, SseTransport
from service.stream.transports.websocket import CLOSE_SECONDS

if TYPE_CHECKING:
    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.dashboard.node_stats import Figures
    from service.database.engine import Database
    from service.settings import StreamSettings

log = get_logger(__name__)

RETRY_SECONDS = 5
WATCH_SECONDS = 0.25
HISTORY_FRESH_SECONDS = 10
RENEW_SECONDS = 60
"""How often the last hour is taken, and shown to all, anew: what was live has become a minute of it."""
RECALL_AGAIN_SECONDS = 10
"""How long PostgreSQL is left in peace after it did not answer with the last hour in time."""


class Watcher(Protocol):
    """One that is shown the figures."""

    principal: Principal

    def show(self, frame: bytes, kind: str) -> None:
        """Take a frame of that type."""

    def is_stuck(self, now: float) -> bool:
        """Say whether it has taken nothing for too long."""

    def end(self, reason: CloseReason) -> None:
        """End, for a reason of the server's."""


class Dashboard:
    """The viewers of this node."""

    def __init__(self, database: Database, figures: Figures, verifier: TokenVerifier, settings: StreamSettings) -> None:
        self._database = database
        self._figures = figures
        self._verifier = verifier
        self._settings = settings
        self._encoder = Encoder()
        self._watchers: dict[Watcher, bool] = {}  # and whether it has been shown the last hour
        self._of: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._history: tuple[float, bytes] | None = None
        self._recall_from = 0.0  # not before

    # Coming and going.

    def stream(self, principal: Principal) -> SseResponse:
        """Answer with the figures, until the viewer goes or its token ends.

        Raises:
            TokenRevoked: the token was revoked.
            ConnectionLimit: this subject looks at as many as it may hold streams.
            Overloaded: there is no room for more viewers.

        """
        self.check(principal)

        def begin(transport: SseTransport) -> None:
            try:
                self.check(principal)  # others may have come in while the head was sent
            except (TokenRevoked, ConnectionLimit, Overloaded) as refused:
                transport.end(CloseReason.named(refused.code))
                return
            viewer = Viewer(self, transport, principal, self._settings.slow_consumer_seconds)
            self.join(viewer)
            transport.attach(viewer)
            transport.begin(uuid7(), self._settings.slow_consumer_seconds + 2 * CLOSE_SECONDS)

        return SseResponse(begin, self._encoder)

    async def history(self, principal: Principal) -> bytes:
        """Return the last hour as JSON: look until it has come.

        Raises:
            Overloaded: PostgreSQL does not answer in time, or there is no room for more viewers.

        """
        self.check(principal)
        reader = Reader(self, principal)
        self.join(reader)
        try:
            async with asyncio.timeout(self._settings.slow_consumer_seconds):
                return await reader.history
        except TimeoutError:
            raise Overloaded("The last hour cannot be read now.", retry_after=RETRY_SECONDS) from None
        finally:
            self.leave(reader)

    def check(self, principal: Principal) -> None:
        """Refuse a viewer for whom there is no room, or no longer a token."""
        self._verifier.check_not_revoked(principal)
        if self._of[principal.subject] >= self._settings.connections_per_recipient:
            raise ConnectionLimit("This subject looks at as many dashboards as it may.", retry_after=RETRY_SECONDS)
        if len(self._watchers) >= self._settings.dashboard_viewers_max:
            raise Overloaded("This node cannot take another viewer now.", retry_after=RETRY_SECONDS)

    def join(self, watcher: Watcher) -> None:
        """Begin to show ``watcher`` the figures."""
        self._watchers[watcher] = False
        self._of[watcher.principal.subject] += 1
        self._recall_to(watcher)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    def leave(self, watcher: Watcher) -> None:
        """Show it nothing any more. The last one to leave ends the sampling."""
        if self._watchers.pop(watcher, None) is None:
            return
        self._of -= Counter((watcher.principal.subject,))
        if not self._watchers:
            self._stop()

    def close_revoked(self) -> None:
        """End those whose token was revoked."""
        for watcher in list(self._watchers):
            try:
                self._verifier.check_not_revoked(watcher.principal)
            except TokenRevoked:
                watcher.end(CloseReason.TOKEN_REVOKED)

    async def close(self) -> None:
        """Stop, whoever looks."""
        if (task := self._stop()) is not None:
            await asyncio.wait([task])

    def _stop(self) -> asyncio.Task[None] | None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let go of all viewers where sampling failed: they come back, and it starts afresh."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("sampling for the dashboard failed", exc_info=error)
        if self._task is not task:
            return  # it failed while it was stopped, and another may run by now
        self._task = None
        for watcher in list(self._watchers):
            watcher.end(CloseReason.INTERNAL_ERROR)

    # Showing.

    async def _run(self) -> None:
        sampler = Sampler(self._database, self._figures)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(PeriodicTask("dashboard_ticks", self._watch, WATCH_SECONDS).run())
                sample = partial(self._sample, sampler)
                group.create_task(PeriodicTask("dashboard_samples", sample, PAUSE_SECONDS, first_seconds=0).run())
        finally:
            await sampler.close()

    async def _sample(self, sampler: Sampler) -> float:
        begun = time.monotonic()
        is_due = not all(self._watchers.values()) or self._age() >= RENEW_SECONDS
        if is_due and begun >= self._recall_from:
            await self._recall(sampler)
        self._show(await sampler.figures())
        return begun + PAUSE_SECONDS - time.monotonic()

    async def _recall(self, sampler: Sampler) -> None:
        if (history := await sampler.history()) is None:
            self._recall_from = time.monotonic() + RECALL_AGAIN_SECONDS
            return
        self._history = (time.monotonic(), _frame(history))
        for watcher in list(self._watchers):
            self._recall_to(watcher)

    def _age(self) -> float:
        return time.monotonic() - self._history[0] if self._history else math.inf

    def _recall_to(self, watcher: Watcher) -> None:
        """Show the last hour, where it is at hand."""
        if self._history is not None and self._age() < HISTORY_FRESH_SECONDS:
            self._watchers[watcher] = True
            watcher.show(self._history[1], "history")

    def _show(self, figures: dict[str, Any]) -> None:
        frame = _frame(figures)
        for watcher in list(self._watchers):
            watcher.show(frame, "figures")

    async def _watch(self) -> None:
        """End those whose token has expired, and those that do not read."""
        now, wall = time.monotonic(), time.time()
        for watcher in list(self._watchers):
            if wall >= watcher.principal.expires_at:
                watcher.end(CloseReason.TOKEN_EXPIRED)
            elif watcher.is_stuck(now):
                watcher.end(CloseReason.SLOW_CONSUMER)


def _frame(document: dict[str, Any]) -> bytes:
    return text_message(orjson.dumps(document))


class Viewer:
    """One that looks by server-sent events. What a full socket cannot take is left out: newer figures will come."""

    def __init__(
        self, dashboard: Dashboard, transport: SseTransport, principal: Principal, slow_seconds: float
    ) -> None:
        self.principal = principal
        self._dashboard = dashboard
        self._transport = transport
        self._slow_seconds = slow_seconds
        self._full_since: float | None = None

    def show(self, frame: bytes, kind: str) -> None:  # noqa: ARG002 - it is shown all
        """Write a frame, unless the last one has not gone yet."""
        if self._full_since is None and not self._transport.write_frames(frame):
            self._full_since = time.monotonic()

    def is_stuck(self, now: float) -> bool:
        """Say whether the socket has been full for too long."""
        return self._full_since is not None and now - self._full_since >= self._slow_seconds

    def end(self, reason: CloseReason) -> None:
        """Say why, and hang up."""
        self._transport.end(reason)

    # What the transport tells.

    def receive(self, text: str | None) -> None:
        """Nothing comes this way."""

    def drained(self) -> None:
        """The socket has taken everything."""
        self._full_since = None

    def disconnected(self, code: int, reason: str) -> None:  # noqa: ARG002 - it is over either way
        """The viewer has gone."""
        self._dashboard.leave(self)


class Reader:
    """One that waits for the last hour, and for nothing else."""

    def __init__(self, dashboard: Dashboard, principal: Principal) -> None:
        self.principal = principal
        self.history: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._dashboard = dashboard

    def show(self, frame: bytes, kind: str) -> None:
        """Take the last hour."""
        if kind == "history" and not self.history.done():
            self.history.set_result(frame)

    def is_stuck(self, now: float) -> bool:  # noqa: ARG002 - it has a time of its own
        """It reads nothing as it comes."""
        return False

    def end(self, reason: CloseReason) -> None:
        """Be refused."""
        self._dashboard.leave(self)
        if not self.history.done():
            refusal = TokenRevoked if reason is CloseReason.TOKEN_REVOKED else Overloaded
            self.history.set_exception(refusal("The last hour cannot be read now."))
