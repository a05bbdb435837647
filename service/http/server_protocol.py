"""The HTTP sockets: uvicorn's protocol class, with a bound on all that a client can make it wait for or hold.

uvicorn lets headers take for ever and grow without end, reads a body that nobody asks for, and waits for ever for a
client that does not read its answer.

An endpoint whose answer lasts (``sse.py`` and ``longpoll.py`` of ``stream/transports/``) finds this class in the ASGI
scope, and is told what becomes of the socket. From then on the write buffer's high mark is zero, so what was written
has gone to the kernel, or the socket says that it is full, as with WebSockets
(``docs/decisions/0005-write-buffer-of-zero.md``).

::

    headers ──► body ──► answer ──► (the next request)
       │          │         │
       │          │         └ not read within twice the time: cut off
       │          └ too long, trailers included: cut off; not here within twice the time: closed
       └ over 32 KiB: 431; not here within the time: 408
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope

HEADERS_MAX_BYTES = 32 * 1024
BODY_SLACK_BYTES = 1024 * 1024
"""What chunks and trailers may add to a body, and what may be under way when it is refused."""

EXTENSION = "tocsin.http"
"""The key of the ASGI scope's ``extensions`` under which ``HttpServerProtocol.of`` finds its connection."""


class Listener(Protocol):
    """What is told of a socket while an answer lasts."""

    def drained(self) -> None:
        """The socket was full and has taken everything."""

    def disconnected(self) -> None:
        """The socket is gone."""

    def shut_down(self) -> None:
        """The server stops."""


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and the settings of ours that the protocol class needs."""

    request_timeout: float = 30.0
    request_max_bytes: int = 256 * 1024


class HttpServerProtocol(HttpToolsProtocol):
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
        self._listener: Listener | None = None
        self._streams = False
        self._is_lost = False
        # Weak: what a client sent must not wait for the garbage collector once the client has gone.
        self._reference = weakref.ref(self)

    @classmethod
    def of(cls, scope: Scope) -> HttpServerProtocol:
        """Return the connection of a request under way, which uvicorn keeps alive."""
        transport: HttpServerProtocol | None = scope["extensions"][EXTENSION]["transport"]()
        assert transport is not None  # noqa: S101 - the request's own callback holds it
        return transport

    # What an endpoint whose answer lasts uses.

    def attach(self, listener: Listener, *, streams: bool) -> None:
        """Tell ``listener`` of the socket from here on.

        One that ``streams`` has the socket to itself: it writes when it likes, sees to slow readers, and there is no
        request after it.
        """
        self._listener, self._streams = listener, streams
        if self._is_lost:
            self.loop.call_soon(listener.disconnected)
            return
        if streams:  # a request that has begun behind this one has no answer, and is no longer waited for
            self._headers_are_here()
            self._body_is_here()
        self.transport.set_write_buffer_limits(high=0)

    def detach(self) -> None:
        """Tell nobody any more."""
        self._listener = None

    def write_chunk(self, data: bytes) -> bool:
        """Write a part of an answer (RFC 9112, section 7.1), and say whether the kernel took all of it."""
        if self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return self._has_taken_all()

    async def flushed(self) -> bool:
        """Wait until the kernel has taken what was written, and say whether it has; False where the socket is gone."""
        if self.transport.get_write_buffer_size():
            await self.flow.drain()
        return self._has_taken_all()

    def abort_after(self, seconds: float) -> None:
        """Cut the connection unless what was written has gone by then."""
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._drain_timer = self.loop.call_later(seconds, self.transport.abort)

    def _has_taken_all(self) -> bool:
        return not (self.transport.get_write_buffer_size() or self.transport.is_closing())

    # What the event loop and uvicorn call.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the headers of the first request are due."""
        super().connection_made(transport)
        self._await_headers()

    def on_message_begin(self) -> None:
        """Begin a request; its headers are due."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"transport": self._reference}}
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
        if self._streams:
            return  # whatever it is, it will have no answer on this connection
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
        self._is_lost = True
        if self._listener is not None:
            self._listener.disconnected()
            self._listener = None

    def shutdown(self) -> None:
        """End an answer that lasts when the server stops."""
        super().shutdown()
        if self._listener is not None:
            self._listener.shut_down()

    def pause_writing(self) -> None:
        """Wait for a client that reads slowly, but not for ever."""
        super().pause_writing()
        if self._drain_timer is None and not self._streams:
            self._drain_timer = self.loop.call_later(2 * self.config.request_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a client that has read."""
        self._answer_is_gone()
        super().resume_writing()
        if self._listener is not None:
            self._listener.drained()

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
