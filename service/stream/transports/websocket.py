"""The sockets of the stream: uvicorn's WebSocket protocol class, extended to reach further down and to bound more.

``WebSocketTransport`` is uvicorn's sans-I/O WebSocket protocol with a way to write prepared frames. The write buffer's
high mark is zero, so a write either reaches the kernel at once or pauses the transport in the same call: "it went to
the socket" is exact, which the ledger relies on, and a connection never holds more than what was written last.
Measured on two cores, 250 bytes to 500 connections: ``await websocket.send_text`` to each 60,000 deliveries/s, this
144,000.

The ASGI call that a handshake is ends when its stream is open: the endpoint attaches what takes the messages, and
returns. From there on they come by callback, without a queue, a task and the frames of eight layers that wait for them:
8 KiB less for each connection, and two system calls less for each message.

It answers for traits of the stack: a handshake that the WebSocket core refuses before it is parsed is left unanswered,
closes carry no reason, an invalid UTF-8 message is logged with a traceback, and pongs and empty fragments pile up for a
client that sends pings or fragments and does not read.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from service.errors import CloseReason
from service.http.server_protocol import refuse
from service.logs import get_logger

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

log = get_logger(__name__)

EXTENSION = "tocsin.stream"
"""The key of the ASGI scope's ``extensions`` under which an endpoint finds its ``WebSocketTransport``."""

CLOSE_SECONDS = 10
"""How long a client may take to answer a close frame, and to read what was written before it."""

FRAGMENTS_MAX = 64
"""The most fragments of one message; the messages of the stream are small, and browsers send one."""

_REASON_OF_CODE = {1007: CloseReason.INVALID_UTF8.reason, 1009: CloseReason.MESSAGE_TOO_BIG.reason}


class Stream(Protocol):
    """What a transport tells of an open stream."""

    def receive(self, text: str | None) -> None:
        """A message has come; None stands for a binary one."""

    def disconnected(self, code: int, reason: str) -> None:
        """The stream is over (RFC 6455, section 7.1.5). It may be said more than once; the first is right."""

    def drained(self) -> None:
        """The socket was full and has taken everything."""


class _Handover:
    """Stands in for the queue of the ASGI call once a stream is attached: what is put in, the stream has."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def put_nowait(self, message: ASGIReceiveEvent) -> None:
        if message["type"] == "websocket.receive":
            self._stream.receive(message.get("text"))
        elif message["type"] == "websocket.disconnect":
            self._stream.disconnected(message["code"], message.get("reason") or "")


class _Core(ServerProtocol):
    """The WebSocket core, with reasons that a program can read."""

    def fail(self, code: int, reason: str = "") -> None:
        super().fail(code, _REASON_OF_CODE.get(code, reason))


class WebSocketTransport(WebSocketsSansIOProtocol):
    """One WebSocket."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Core(max_size=self.config.ws_max_size, logger=logging.getLogger("websockets.server"))
        self.close_timeout = CLOSE_SECONDS
        self.stream: Stream | None = None

    # What the endpoint uses.

    def attach(self, stream: Stream) -> None:
        """Give ``stream`` what came meanwhile and what comes from here on, and forget the handshake."""
        early, self.stream = self.queue, stream
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", _Handover(stream))
        del self.request, self.response, self.scope
        while not early.empty():
            self.queue.put_nowait(early.get_nowait())
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def write_frames(self, data: bytes) -> bool:
        """Write prepared frames, and say whether the kernel took all of them."""
        transport = self.transport
        if self.close_sent or transport.is_closing():  # it may be gone before the stream begins
            return False
        transport.write(data)
        return not (transport.get_write_buffer_size() or transport.is_closing())

    def close_stream(self, code: int, reason: str) -> bool:
        """Send a close frame, wait ``close_timeout`` for the answer, and say whether there was anything to close.

        Unlike the ASGI message it does not wait for the socket to drain, which a slow reader's never would.
        """
        if self.close_sent or not self.handshake_complete or self.transport.is_closing():
            return False
        if self.conn.close_rcvd is not None:  # the client was first: its close came in the same read
            return False
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        return True

    # What the event loop and uvicorn call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with a write buffer that pauses as soon as it holds anything."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        """Read; answer a handshake that the core gave up on."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            refuse(self.transport, b"431 Request Header Fields Too Large")
        elif self.transport.is_closing():
            self._bound_closing()

    def eof_received(self) -> None:
        """Let the event loop close, for the client will send no more."""
        self._bound_closing()

    def _bound_closing(self) -> None:
        """Closing waits until what was written has gone; a client that does not read must not hold it for ever."""
        if self.close_timer is None and not self.writable.is_set():
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def handle_connect(self, event: Any) -> None:
        """Hand the endpoint this transport; its task starts at the next turn of the loop."""
        super().handle_connect(event)
        if self.response.status_code == 101:  # noqa: PLR2004 - Switching Protocols
            self.scope["extensions"][EXTENSION] = {"transport": self}

    def handle_ping(self) -> None:
        """Answer a ping, unless the socket is full: pongs to a client that does not read would pile up."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_cont(self, event: Any) -> None:
        """Take a fragment; the core bounds their bytes, but not their number."""
        if len(self.frames) >= FRAGMENTS_MAX:
            self.frames = []
            self.close_stream(CloseReason.MESSAGE_TOO_BIG.code, CloseReason.MESSAGE_TOO_BIG.reason)
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Pass a message on; refuse text that is not UTF-8 with 1007 (RFC 6455, section 8.1), without a traceback."""
        data = b"".join(self.frames)
        text = None
        if self.curr_msg_data_type == "text":
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self.frames = []
                self.close_stream(CloseReason.INVALID_UTF8.code, CloseReason.INVALID_UTF8.reason)
                return
        if self.stream is None:
            super().send_receive_event_to_app()
            return
        self.frames = []
        if not self.close_sent:
            self.stream.receive(text)

    async def run_asgi(self) -> None:
        """Run the ASGI call. One that attached a stream leaves it open when it returns."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except Exception:
            log.exception("handshake failed")
            self.send_500_response()
            self.close_stream(CloseReason.INTERNAL_ERROR.code, CloseReason.INTERNAL_ERROR.reason)
        if self.stream is None and self.close_timer is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; without a close frame the code is 1006 (RFC 6455, section 7.1.5), where uvicorn would say 1005."""
        if self.conn.close_rcvd is None and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)
        if self.stream is not None:
            self.stream = None
            del self.queue

    def resume_writing(self) -> None:
        """Tell the stream that its socket has drained."""
        super().resume_writing()
        if self.stream is not None:
            self.stream.drained()

    def keepalive_timeout(self) -> None:
        """Close a connection whose pong did not come; nobody is there to answer the close."""
        self.pong_timer = None
        if self.close_stream(CloseReason.HEARTBEAT_TIMEOUT.code, CloseReason.HEARTBEAT_TIMEOUT.reason):
            self.transport.close()

    def shutdown(self) -> None:
        """Close with 1012 and a reason when the server stops."""
        if self.close_stream(CloseReason.SHUTTING_DOWN.code, CloseReason.SHUTTING_DOWN.reason):
            if self.writable.is_set():
                self.transport.close()
        elif not self.handshake_complete:
            super().shutdown()
        else:
            self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Send an ASGI message; closing does not wait for the socket to drain."""
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.close_stream(message.get("code", 1000), message.get("reason") or "")
        else:
            await super().send(message)
