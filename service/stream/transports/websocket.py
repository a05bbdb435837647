"""The WebSocket transport: uvicorn's WebSocket protocol class, with direct writes and bounds.

``WebSocketTransport`` writes frames that are encoded already. The write buffer's high mark is zero,
so a write either reaches the kernel at once or pauses the transport in the same call: "it went to
the socket" is exact, which the ledger relies on, and a connection never holds more than what was
written last. Measured on two cores, 250 bytes to 500 connections: ``await websocket.send_text`` to
each 60,000 deliveries/s, this 144,000.

The ASGI call of a handshake ends when its stream is open: the endpoint attaches the listener, and
returns. From there on messages come by callback, without a queue, a task and eight suspended
coroutines: 8 KiB less per connection, and two system calls less per message.

It also makes up for what the stack does not do: a handshake that the WebSocket core refuses before
it is parsed is left unanswered, closes carry no reason, an invalid UTF-8 message is logged with a
traceback, and pongs and empty fragments pile up for a client that sends pings or fragments and does
not read.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from service.errors import CloseReason
from service.http.response_headers import DEFAULTS
from service.http.server_protocol import headers_too_large, refuse
from service.logs import get_logger

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from websockets.http11 import Response

    from service.stream.frames import FrameBatch
    from service.stream.transports.interface import StreamListener

log = get_logger(__name__)

EXTENSION = "tocsin.stream"
"""The key of the ASGI scope's ``extensions`` that holds the ``WebSocketTransport``."""

CLOSE_SECONDS = 10
"""How long a client may take to answer a close frame, and to read what was written before it."""

FRAGMENTS_MAX = 64
"""The most fragments of one message; messages are small, and browsers send one."""

_REASON_OF_PROTOCOL_ERROR = {1007: CloseReason.INVALID_UTF8.reason, 1009: CloseReason.MESSAGE_TOO_BIG.reason}


class _Handover:
    """Replaces the queue of the ASGI call once a stream is open: messages go to the listener."""

    __slots__ = ("_listener",)

    def __init__(self, listener: StreamListener) -> None:
        self._listener = listener

    def put_nowait(self, message: ASGIReceiveEvent) -> None:
        if message["type"] == "websocket.receive":
            self._listener.receive(message.get("text"))
        elif message["type"] == "websocket.disconnect":
            self._listener.disconnected(message["code"], message.get("reason") or "")


class _Core(ServerProtocol):
    """The WebSocket core, with reasons that a program can read and the headers of every answer."""

    def send_response(self, response: Response) -> None:
        for name, value in DEFAULTS.items():
            response.headers.setdefault(name, value)
        super().send_response(response)

    def fail(self, code: int, reason: str = "") -> None:
        super().fail(code, _REASON_OF_PROTOCOL_ERROR.get(code, reason))


class WebSocketTransport(WebSocketsSansIOProtocol):
    """One WebSocket."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Core(max_size=self.config.ws_max_size, logger=logging.getLogger("websockets.server"))
        self.close_timeout = CLOSE_SECONDS
        self.listener: StreamListener | None = None

    # What the endpoint uses.

    def attach(self, listener: StreamListener) -> None:
        """Report to ``listener`` what came meanwhile and what comes, and free the handshake."""
        early, self.listener = self.queue, listener
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", _Handover(listener))
        del self.request, self.response, self.scope
        while not early.empty():
            self.queue.put_nowait(early.get_nowait())
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def write_frames(self, batch: FrameBatch) -> bool:
        """Write frames, and return whether the kernel took all of them."""
        transport = self.transport
        if self.close_sent or transport.is_closing():  # it may be gone before the stream begins
            return False
        transport.write(batch.text_messages)
        return not (transport.get_write_buffer_size() or transport.is_closing())

    def close_stream(self, reason: CloseReason, hint: str | None = None) -> bool:
        """Send a close frame, and return whether there was anything to close.

        The client has ``close_timeout`` to answer. A ``hint`` for people follows the reason.
        """
        return self._close(reason.code, f"{reason.reason}: {hint}" if hint else reason.reason)

    def _close(self, code: int, reason: str) -> bool:
        # Unlike the ASGI message this does not wait for the socket to drain, which may never be.
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
            refuse(self.transport, headers_too_large())
        elif self.transport.is_closing():
            self._bound_closing()

    def eof_received(self) -> None:
        """Let the event loop close, for the client will send no more."""
        self._bound_closing()

    def _bound_closing(self) -> None:
        """Bound how long a close waits until everything written has gone."""
        if self.close_timer is None and not self.writable.is_set():
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def handle_connect(self, event: Any) -> None:
        """Hand the endpoint this transport; its task starts at the next turn of the loop."""
        super().handle_connect(event)
        if self.response.status_code == 101:  # noqa: PLR2004 - Switching Protocols
            self.scope["extensions"][EXTENSION] = {"transport": self}

    def handle_ping(self) -> None:
        """Answer a ping, unless the socket is full: the pongs would pile up."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_cont(self, event: Any) -> None:
        """Take a fragment; the core bounds their bytes, but not their number."""
        if len(self.frames) >= FRAGMENTS_MAX:
            self.frames = []
            self.close_stream(CloseReason.MESSAGE_TOO_BIG)
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Pass a message on; refuse text that is not UTF-8 with 1007 (RFC 6455, section 8.1)."""
        data = b"".join(self.frames)
        text = None
        if self.curr_msg_data_type == "text":
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self.frames = []
                self.close_stream(CloseReason.INVALID_UTF8)
                return
        if self.listener is None:
            super().send_receive_event_to_app()
            return
        self.frames = []
        if not self.close_sent:
            self.listener.receive(text)

    async def run_asgi(self) -> None:
        """Run the ASGI call. One that attached a stream leaves it open when it returns."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except Exception:
            log.exception("handshake failed")
            self.send_500_response()
            self.close_stream(CloseReason.INTERNAL_ERROR)
        if self.listener is None and self.close_timer is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, without a close frame with 1006 (RFC 6455, section 7.1.5); uvicorn says 1005."""
        if self.conn.close_rcvd is None and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)
        if self.listener is not None:
            self.listener = None
            del self.queue

    def resume_writing(self) -> None:
        """Tell the stream that its socket has drained."""
        super().resume_writing()
        if self.listener is not None:
            self.listener.drained()

    def keepalive_timeout(self) -> None:
        """Close a connection whose pong did not come; nobody is there to answer the close."""
        self.pong_timer = None
        if self.close_stream(CloseReason.HEARTBEAT_TIMEOUT):
            self.transport.close()

    def shutdown(self) -> None:
        """Close with 1012 and a reason when the server stops."""
        if self.close_stream(CloseReason.SHUTTING_DOWN):
            if self.writable.is_set():
                self.transport.close()
        elif not self.handshake_complete:
            super().shutdown()
        else:
            self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Send an ASGI message; closing does not wait for the socket to drain."""
        if message["type"] == "websocket.close" and self.handshake_complete:
            self._close(message.get("code", 1000), message.get("reason") or "")
        else:
            await super().send(message)
