"""HTTP connections: uvicorn's protocol class, with limits on the time and memory a client can take.

uvicorn limits neither the time nor the size of headers, reads bodies that no endpoint asks for,
parses all pipelined requests that it has read (RFC 9112, section 9.3.2), and waits without limit
for a client that does not read its response.

A connection gets the work of one request in a turn of the event loop. The parser is given data up
to the end of a request; the rest waits unparsed, and the socket is not read, until the response is
complete and the client has read it.

The endpoint of a long-lived response (``sse.py`` and ``longpoll.py`` in ``stream/transports/``)
finds this class in the ASGI scope and attaches a listener, which is called when the socket drains,
disconnects or shuts down. From then on the high-water mark of the write buffer is zero: what was
written is in the kernel, or the socket reports that it is full, as with WebSockets
(``docs/decisions/0005-write-buffer-of-zero.md``).

::

    headers ──► body ──► response ──► (the next request)
       │          │         │
       │          │         └ nothing of it read for twice the timeout: aborted; no request is parsed before all
       │          │           of it is; the last one of a client that ended its side: closed
       │          └ much too large, trailers included: aborted; not complete within twice the timeout: closed
       └ over 32 KiB: 431; not complete within the timeout: 408
"""

from __future__ import annotations

import weakref
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from service.errors import HeadersTooLarge, MalformedRequest, RequestTimeout
from service.http.problems import MEDIA_TYPE, problem_document
from service.http.response_headers import LINES
from service.http.slow_readers import SlowReaders

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.types import Scope

    from service.errors import RequestRefused

HEADERS_MAX_BYTES = 32 * 1024
SLICE_BYTES = 16 * 1024
"""What the parser is given in one turn of the event loop, unless it is a body of known length: each
byte of it may be a chunk."""
BODY_SLACK_BYTES = 1024 * 1024
"""What chunk headers and trailers may add to a body, and what may be in flight when it is
refused."""
DROPPED_MAX_BYTES = 64 * 1024 * 1024
"""What is read and dropped of a body of known length that was refused: a client that still sends when
the connection is closed may not get the answer (RFC 9112, section 9.6)."""
_END = b"\r\n\r\n"
"""Where headers end, and a chunked body with its trailers."""

EXTENSION = "tocsin.http"
"""The key of the ASGI scope's ``extensions`` under which ``HttpServerProtocol.of`` finds its
connection."""


class Listener(Protocol):
    """Called on events of a socket during a long-lived response."""

    def drained(self) -> None:
        """The socket was full and has taken everything."""

    def disconnected(self) -> None:
        """The socket is closed."""

    def shut_down(self) -> None:
        """The server stops."""


class _Flow(FlowControl):
    """Flow control that reads on only when no data waits to be parsed."""

    def __init__(self, transport: asyncio.Transport, reference: weakref.ref[HttpServerProtocol]) -> None:
        super().__init__(transport)
        self._reference = reference

    def resume_reading(self) -> None:
        """Go on with what was read, or else read."""
        if self.read_paused and ((protocol := self._reference()) is None or not protocol.parse_later()):
            super().resume_reading()


class HttpServerProtocol(SlowReaders):
    """One HTTP connection.

    The application limits the bodies that it reads, and answers. The limits here are for bodies
    that it does not read because it refused the request, and for headers and trailers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._body_bytes = 0
        self._body_left = 0
        """What is to come of a body of known length."""
        self._waiting = b""
        """Read from the socket, and not parsed yet."""
        self._parses_next = False
        self._header_bytes = 0
        self._tail = b""
        """The last bytes that were parsed, of which headers or chunks may end with the next."""
        self._header_timer: asyncio.TimerHandle | None = None
        self._receiving = False
        self._body_timer: asyncio.TimerHandle | None = None
        self._listener: Listener | None = None
        self._streams = False
        self._is_half_closed = False
        """Whether the client has ended its side of the connection, and reads on."""
        self._is_lost = False
        self.on_reset: Callable[[], None] | None = None
        """Called if the client resets the connection before its next request: it may lack the last response."""
        # Weak: what a client sent must not stay in memory until a garbage collection once the
        # client has disconnected.
        self._reference = weakref.ref(self)

    @classmethod
    def of(cls, scope: Scope) -> HttpServerProtocol:
        """Return the connection of a request in progress, which uvicorn keeps alive."""
        transport: HttpServerProtocol | None = scope["extensions"][EXTENSION]["transport"]()
        assert transport is not None  # noqa: S101 - the request's own callback holds it
        return transport

    # For the endpoint of a long-lived response.

    def attach(self, listener: Listener, *, streams: bool) -> None:
        """Call ``listener`` on events of the socket from now on.

        One that ``streams`` has the socket to itself: it writes at any time, handles slow readers,
        and no request follows.
        """
        self._listener, self._streams = listener, streams
        if self._is_lost:
            self.loop.call_soon(listener.disconnected)
            return
        if self._is_half_closed:
            self.loop.call_soon(self.transport.close)
        if streams:  # a pipelined request behind this one gets no response, and has no timeout
            self._headers_arrived()
            self._body_arrived()
            self._drop_waiting()
        self.transport.set_write_buffer_limits(high=0)

    def detach(self) -> None:
        """Stop calling the listener."""
        self._listener = None

    def write_chunk(self, data: bytes) -> bool:
        """Write a chunk (RFC 9112, section 7.1), and return whether the kernel took all of it."""
        if self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return self._is_flushed()

    # Called by the event loop and uvicorn.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Open the connection, and start the timeout of the first headers."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._reference)
        self._expect_headers()
        self.config.sockets.opened(transport, len(self.connections))

    def on_message_begin(self) -> None:
        """Begin a request, and start the timeout of its headers."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"transport": self._reference}}
        self._receiving = True
        self.on_reset = None
        self._body_bytes = self._body_left = 0
        if self._header_timer is None:
            self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, without the white space around its value (RFC 9110, 5.5).

        The parser passes on trailers as well, which are ignored (RFC 9110, 6.5.1).
        """
        if self._header_timer is not None:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Stop the timeout of the headers."""
        self._headers_arrived()
        self.config.sockets.busy(self.transport)
        for name, value in self.headers:
            if name == b"content-length":
                self._body_left = int(value)
            elif name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._body_left:
            self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; one that was answered before its body had arrived starts the time-out of the next one."""
        self._receiving = False
        self._body_arrived()
        super().on_message_complete()
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """End a response: go on with what waits, or wait for the next request."""
        super().on_response_complete()
        if self._waiting:
            self._unset_keepalive_if_required()
        elif self._is_half_closed:
            self.transport.close()
            self.abort_after(2 * self.config.request_timeout)
        elif not self.transport.is_closing():
            self.config.sockets.idle(self.transport)

    def data_received(self, data: bytes) -> None:
        """Parse what was read, or let it wait until the requests before it are answered."""
        if self._streams:
            return  # no request on this connection gets another response
        if self._waiting or self._is_blocked():
            self._wait(data)
        else:
            self._parse(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep a connection whose client sends no more: until its request is answered.

        The client may have closed the whole connection, which looks the same until something is
        written: so a read gets little time, and a stream none.
        """
        cycle = self.cycle
        self._is_half_closed = (
            cycle is not None and not cycle.response_complete and not self._receiving and self._listener is None
        )
        if self._is_half_closed and cycle.scope["method"] in {"GET", "HEAD"}:
            self._expect_response()
        return self._is_half_closed

    def parse_later(self) -> bool:
        """Parse in the next turn of the event loop, and return whether any data waits."""
        if self._waiting and not self._parses_next:
            self._parses_next = True
            self.loop.call_soon(self._parse_waiting)
        return bool(self._waiting)

    def _is_blocked(self) -> bool:
        """Whether a request is being answered, the endpoint does not read its body, or the client no responses."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return self.flow.write_paused
        return not self._receiving or self._body_is_unread()

    def _body_is_unread(self) -> bool:
        cycle = self.cycle
        return (
            self._receiving and cycle is not None and not cycle.response_complete and len(cycle.body) > HIGH_WATER_LIMIT
        )

    def _wait(self, data: bytes) -> None:
        self._waiting += data
        self.flow.pause_reading()
        if not self.config.sockets.hold(len(data)):
            self.transport.abort()  # connection_lost() drops all of it

    def _drop_waiting(self) -> bytes:
        data, self._waiting = self._waiting, b""
        self.config.sockets.hold(-len(data))
        return data

    def _parse_waiting(self) -> None:
        self._parses_next = False
        if not self._waiting or self._is_blocked() or self.transport.is_closing():
            return
        self._parse(self._drop_waiting())
        if not self._waiting and not self._body_is_unread():
            self.flow.resume_reading()

    def _parse(self, data: bytes) -> None:
        """Parse up to the end of a request, and let the rest wait."""
        self._unset_keepalive_if_required()
        while True:
            size = self._slice_size(data)
            if self._header_bytes > HEADERS_MAX_BYTES:
                self._refuse(headers_too_large())
                return
            try:
                if self.feed(data if size == len(data) else data[:size]):
                    self.handle_websocket_upgrade()
                    return
            except httptools.HttpParserError:
                self._refuse(_not_http(data))
                return
            if self._receiving and self._header_timer is None:
                self._expect_body(size)
            if size == len(data) or self._streams:
                return
            data = data[size:]
            if not self._body_left or self._is_blocked():
                self._wait(data)
                self.parse_later()
                return

    def _slice_size(self, data: bytes) -> int:
        """Return how much of the data to parse now: nothing beyond the end of headers, or of a body."""
        if self._body_left:
            return min(self._body_left, len(data))
        if not self._receiving and self._header_timer is None:
            self._expect_headers()  # also for line breaks before a request
        seen = self._tail + data
        end = seen.find(_END)
        size = len(data) if end < 0 else end + len(_END) - len(self._tail)
        if self._header_timer is not None:
            self._header_bytes += size if end < 0 else max(0, size - len(_END))
        elif size > SLICE_BYTES:
            size, end = SLICE_BYTES, -1
        self._tail = seen[: size + len(self._tail)][-3:] if end < 0 else b""
        return size

    def _refuse(self, refusal: RequestRefused) -> None:
        """Refuse what is not HTTP; a request that is answered already ends the connection."""
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and cycle.response_started:
            self.transport.close()
        else:
            refuse(self.transport, refusal)

    def handle_websocket_upgrade(self) -> None:
        """Hand the socket over to the WebSocket protocol."""
        self._receiving = False
        self._body_arrived()
        self.config.sockets.busy(self.transport)
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, and call the listener."""
        self._headers_arrived()
        self._body_arrived()
        self._drop_waiting()
        self.config.sockets.busy(self.transport)
        super().connection_lost(exc)
        self._is_lost = True
        if exc is not None and self.on_reset is not None:
            self.on_reset()
        self.on_reset = None
        if self._listener is not None:
            self._listener.disconnected()
            self._listener = None

    def shutdown(self) -> None:
        """End a long-lived response when the server stops."""
        super().shutdown()
        if self._listener is not None:
            self._listener.shut_down()

    def pause_writing(self) -> None:
        """Give a client that reads slowly a limited time."""
        super().pause_writing()
        if not self._streams:
            self._expect_drain()

    def resume_writing(self) -> None:
        """Continue with a client that has read."""
        self._response_flushed()
        super().resume_writing()
        self.parse_later()
        if self._listener is not None:
            self._listener.drained()

    def _expect_body(self, size: int) -> None:
        self._body_bytes += size
        slack = DROPPED_MAX_BYTES if self._body_left else BODY_SLACK_BYTES
        if self._body_bytes > self.config.request_max_bytes + slack:
            self.transport.abort()
        elif self._body_timer is None:
            self._body_timer = self.loop.call_later(2 * self.config.request_timeout, self.transport.close)

    def _expect_headers(self) -> None:
        self._header_bytes = 0
        self._tail = b""
        self._header_timer = self.loop.call_later(self.config.request_timeout, self._headers_overdue)

    def _headers_arrived(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _body_arrived(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _headers_overdue(self) -> None:
        if not self.transport.is_closing():
            seconds = self.config.request_timeout
            refuse(self.transport, RequestTimeout(f"The headers did not arrive within {seconds:g} s."))


def _not_http(data: bytes) -> MalformedRequest:
    """Return the refusal of what the parser does not read."""
    if not data.partition(b"\r\n")[0].isascii():
        return MalformedRequest("The request line is not ASCII: percent-encode its address as UTF-8.")
    return MalformedRequest("The request is not valid HTTP.")


def headers_too_large() -> HeadersTooLarge:
    """Return the refusal of a request whose headers are not even read to the end."""
    return HeadersTooLarge(f"Request line and headers exceed {HEADERS_MAX_BYTES // 1024} KiB.")


def refuse(transport: asyncio.Transport, refusal: RequestRefused) -> None:
    """Answer a request that is not complete, and close the connection."""
    body = orjson.dumps(problem_document(refusal))
    head = (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    )
    transport.write(b"%b%b\r\n%b" % (head.encode(), LINES, body))
    transport.close()
