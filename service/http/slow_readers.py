"""How long an HTTP connection waits for a client to read its response, or after its end.

A response of which nothing is read for twice the timeout is given up. A client that has ended its
side, and waits for a read, may have closed the other side, too: the response has little time to begin.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from service.http.tcp_progress import TcpProgress
from service.http.upgrades import UpgradeOffers

if TYPE_CHECKING:
    from service.http.server_config import ServerConfig

HALF_CLOSED_READ_SECONDS = 2.0
"""How long a read goes on for a client that ended its side: most of them have closed the other side, too."""


class SlowReaders(UpgradeOffers):
    """One HTTP connection that does not wait without limit until its client reads."""

    config: ServerConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drain_timer: asyncio.TimerHandle | None = None
        self._half_closed_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._response_flushed()
        if self._half_closed_timer is not None:
            self._half_closed_timer.cancel()
        super().connection_lost(exc)

    async def flushed(self, slow_seconds: float) -> bool:
        """Wait until the kernel has taken all; return False if the socket closed before.

        Raises:
            TimeoutError: the client took nothing for ``slow_seconds``.

        """
        while self.transport.get_write_buffer_size():
            before = TcpProgress.of(self.transport).taken
            try:
                async with asyncio.timeout(slow_seconds):
                    await self.flow.drain()
            except TimeoutError:
                if TcpProgress.of(self.transport).taken == before:
                    raise
        return self._is_flushed()

    def _is_flushed(self) -> bool:
        return not (self.transport.get_write_buffer_size() or self.transport.is_closing())

    def abort_after(self, seconds: float) -> None:
        """Abort the connection unless the kernel has taken what was written by then."""
        self._response_flushed()
        self._drain_timer = self.loop.call_later(seconds, self.transport.abort)

    def _expect_drain(self) -> None:
        if self._drain_timer is None:
            self._watch_drain()

    def _watch_drain(self) -> None:
        taken = TcpProgress.of(self.transport).taken
        self._drain_timer = self.loop.call_later(2 * self.config.request_timeout, self._drain_overdue, taken)

    def _drain_overdue(self, taken_before: int) -> None:
        if TcpProgress.of(self.transport).taken > taken_before:
            self._watch_drain()
        else:
            self.transport.abort()

    def _response_flushed(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _expect_response(self) -> None:
        if self._half_closed_timer is None:
            self._half_closed_timer = self.loop.call_later(HALF_CLOSED_READ_SECONDS, self._close_unless_started)

    def _close_unless_started(self) -> None:
        if not self.cycle.response_started:
            self.transport.close()
