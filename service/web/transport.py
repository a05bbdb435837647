"""The HTTP sockets: uvicorn's protocol class, with a bound on all that a client can make it wait for or hold.

uvicorn lets headers take for ever and grow without end, reads a body that nobody asks for, and waits for ever for a
client that does not read its answer.

::

    headers ──► body ──► answer ──► (the next request)
       │          │         │
       │          │         └ not read within twice the time: cut off
       │          └ too long, trailers included: cut off; not here within twice the time: closed
       └ over 32 KiB: 431; not here within the time: 408
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

HEADERS_MAX_BYTES = 32 * 1024
BODY_SLACK_BYTES = 1024 * 1024
"""What chunks and trailers may add to a body, and what may be under way when it is refused."""


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and the settings of ours that the protocol class needs."""

    request_timeout: float = 30.0
    request_max_bytes: int = 256 * 1024


class HttpTransport(HttpToolsProtocol):
    """One HTTP connection.

    The application bounds the body that it reads, and answers; what is bounded here is a body that it does not read,
    because the answer was a refusal, and what surrounds one.
    """

    config: ServerConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._body_bytes = 0
        self._drain_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._header_tail = b""
        self._header_timer: asyncio.TimerHandle | None = None
        self._receiving = False
        self._body_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the headers of the first request are due."""
        super().connection_made(transport)
        self._await_headers()

    def on_message_begin(self) -> None:
        """Begin a request; its headers are due."""
        super().on_message_begin()
        self._receiving = True
        self._body_bytes = 0
        if self._header_timer is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        """Take the headers, which are no longer due."""
        self._headers_are_here()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        self._receiving = False
        self._body_is_here()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Read; refuse headers that are too long."""
        if not self._receiving and self._header_timer is None:
            self._await_headers()  # also for the line breaks that may stand before a request
        if self._header_timer is not None:
            seen = self._header_tail + data
            end = seen.find(b"\r\n\r\n")
            self._header_bytes += len(data) if end < 0 else max(0, end - len(self._header_tail))
            self._header_tail = seen[-3:]
            if self._header_bytes > HEADERS_MAX_BYTES:
                refuse(self.transport, b"431 Request Header Fields Too Large")
                return
        super().data_received(data)
        if self._receiving and self._header_timer is None:
            self._await_body(len(data))

    def handle_websocket_upgrade(self) -> None:
        """Leave the socket to the WebSocket protocol."""
        self._receiving = False
        self._body_is_here()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._headers_are_here()
        self._body_is_here()
        self._answer_is_gone()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that reads slowly, but not for ever."""
        super().pause_writing()
        if self._drain_timer is None:
            self._drain_timer = self.loop.call_later(2 * self.config.request_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a client that has read."""
        self._answer_is_gone()
        super().resume_writing()

    def _answer_is_gone(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _await_body(self, size: int) -> None:
        self._body_bytes += size
        if self._body_bytes > self.config.request_max_bytes + BODY_SLACK_BYTES:
            self.transport.abort()
        elif self._body_timer is None:
            self._body_timer = self.loop.call_later(2 * self.config.request_timeout, self.transport.close)

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._header_tail = b""
        self._header_timer = self.loop.call_later(self.config.request_timeout, self._headers_overdue)

    def _headers_are_here(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _body_is_here(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _headers_overdue(self) -> None:
        if not self.transport.is_closing():
            refuse(self.transport, b"408 Request Timeout")


def refuse(transport: asyncio.Transport, status: bytes) -> None:
    """Answer a request that never became one, and hang up."""
    transport.write(b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)
    transport.close()
