"""The WebSocket transport: uvicorn's WebSocket protocol class, with direct writes and bounds.

How it writes is in ``WindowedWebSocket``. This is how it reads, closes, and finds out whether the
client is alive.

The ASGI call of a handshake ends when its stream is open: the endpoint attaches the listener, and
returns. From there on messages come by callback, without a queue, a task and eight suspended
coroutines: 8 KiB less per connection, and two system calls less per message.

It also makes up for what the stack does not do: a handshake that the WebSocket core refuses before
it is parsed is left unanswered, closes carry no reason, an invalid UTF-8 message is logged with a
traceback, pongs and empty fragments pile up for a client that sends pings or fragments and does not
read, and a client decides how much is parsed at once:

::

    handshake ──► endpoint ──► stream ──► our close
                     │           │           │
                     │           │           └ up to ``CLOSING_WORK``, for the client's answer; then cut
                     │           └ ``TURN_WORK`` in a turn of the loop; each frame counts against the message limit
                     └ nothing is parsed; ``EARLY_BYTES`` are read

Work is counted in slices of what was read and in frames: one for each.

A client that reads slowly answers a ping late. So a pong is overdue only where nothing shows that
the client is at work: nothing came from it, its side took none of what waits, and what was written
before the ping should have been read. A client for which frames are held is judged as a slow
consumer, by the stream.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import orjson
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string
from websockets.server import ServerProtocol

from service.errors import CloseReason, InternalError, MalformedRequest, NotFound, RequestRefused
from service.http.problems import MEDIA_TYPE, problem_document
from service.http.response_headers import DEFAULTS
from service.http.server_protocol import headers_too_large, refuse
from service.http.tcp_progress import TcpProgress
from service.logs import get_logger
from service.stream.transports.windowed_websocket import WindowedWebSocket

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from websockets.http11 import Response

    from service.stream.transports.interface import WindowListener

log = get_logger(__name__)
access_log = logging.getLogger("uvicorn.access")
core_log = logging.getLogger("websockets.server")

EXTENSION = "tocsin.stream"
"""The key of the ASGI scope's ``extensions`` that holds the ``WebSocketTransport``."""

CLOSE_SECONDS = 10
"""How long a client may take to answer a close frame, or to end after its own, and to read what was written before."""

FRAGMENTS_MAX = 64
"""The most fragments of one message; messages are small, and browsers send one."""

SLICE_BYTES = 256
"""What the core is given at a time. A frame has six bytes or more, and most messages fit."""

TURN_WORK = 64
"""Slices and frames of one connection in one turn of the event loop: the largest message."""

EARLY_BYTES = 4096
"""What is read beyond the handshake before its outcome is known; the kernel keeps the rest."""

CLOSING_WORK = 256
"""Slices and frames after our close frame: a client may have sent so much before it read that."""

SLOWEST_READER = 1024
"""Bytes a second that a client may be reading of what has reached its side: no sign of that is seen here."""
REASON_MAX_BYTES = 123
"""Of a close frame."""

CUT_SECONDS = 1
"""How long a client that went on sending may take to read our close frame; nothing more is read."""

_NOTHING = TcpProgress(0, 0, waits=False, in_flight=False)
_REASON_OF_PROTOCOL_ERROR = {1007: CloseReason.INVALID_UTF8.reason, 1009: CloseReason.MESSAGE_TOO_BIG.reason}


class _Handover:
    """Replaces the queue of the ASGI call once a stream is open: its end is reported to the listener."""

    __slots__ = ("_listener",)

    def __init__(self, listener: WindowListener) -> None:
        self._listener = listener

    def put_nowait(self, message: ASGIReceiveEvent) -> None:
        if message["type"] == "websocket.disconnect":
            self._listener.disconnected(message["code"], message.get("reason") or "")


class _Core(ServerProtocol):
    """The WebSocket core, with reasons that a program can read and the headers of every answer."""

    def reject(self, status: HTTPStatus | int, text: str) -> Response:  # noqa: ARG002 - for people, in plain text
        refusal: RequestRefused = MalformedRequest("The request is not a valid WebSocket handshake.")
        if status == HTTPStatus.FORBIDDEN:  # no endpoint accepted it
            refusal = NotFound("There is no WebSocket at this path.")
        elif status == HTTPStatus.INTERNAL_SERVER_ERROR:
            refusal = InternalError("The handshake failed.")
        response = super().reject(refusal.status, orjson.dumps(problem_document(refusal)).decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = MEDIA_TYPE
        return response

    def send_response(self, response: Response) -> None:
        for name, value in DEFAULTS.items():
            response.headers.setdefault(name, value)
        super().send_response(response)

    def fail(self, code: int, reason: str = "") -> None:
        super().fail(code, _REASON_OF_PROTOCOL_ERROR.get(code, reason))


class WebSocketTransport(WindowedWebSocket):
    """One WebSocket."""

    __slots__ = ("_at_check", "_closing_work", "_received_at_check", "_turn", "_unread")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Core(max_size=self.config.ws_max_size, logger=core_log)
        self.logger = core_log  # uvicorn would log each handshake as accepted before a token was looked at
        self.close_timeout = CLOSE_SECONDS
        self._unread = b""
        self._turn: asyncio.Handle | None = None
        self._closing_work = CLOSING_WORK
        self._at_check = _NOTHING
        self._received_at_check = 0

    # What the endpoint uses.

    def attach(self, listener: WindowListener) -> None:
        """Report to ``listener`` what came meanwhile and what comes, and free the handshake."""
        self._log_handshake(HTTPStatus.SWITCHING_PROTOCOLS)
        early, self.listener = self.queue, listener
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", _Handover(listener))
        del self.request, self.response, self.scope
        while not early.empty():
            self.queue.put_nowait(early.get_nowait())
        self._read_soon()

    def _log_handshake(self, status: HTTPStatus) -> None:
        """Log a handshake as uvicorn logs a request. One that is rejected is logged with the reason, elsewhere."""
        target = get_path_with_query_string(self.scope)
        access_log.info('%s - "%s %s HTTP/%s" %d', get_client_addr(self.scope), "WebSocket", target, "1.1", status)

    def close_stream(self, reason: CloseReason, hint: str | None = None) -> bool:
        """Send a close frame, and return whether there was anything to close.

        The client has ``close_timeout`` to answer. A ``hint`` for people follows the reason, as far as a close
        frame has room (RFC 6455, section 5.5).
        """
        text = f"{reason.reason}: {hint}" if hint else reason.reason
        return self._close(reason.code, text.encode()[:REASON_MAX_BYTES].decode(errors="ignore"))

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
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        self._read_soon()
        return True

    # What the event loop and uvicorn call.

    def data_received(self, data: bytes) -> None:
        """Read the handshake, which uvicorn passes whole, then frames; answer one that the core gave up on."""
        if self.handshake_initiated:
            self._received += len(data)
            self._unread += data
            if self._turn is None:
                self._read()
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            refuse(self.transport, headers_too_large())

    def _read_soon(self) -> None:
        if self._turn is None:
            self._turn = self.loop.call_soon(self._read)

    def _read(self) -> None:
        """Parse what was read, within the bounds of one turn of the loop; the rest waits for a later one."""
        self._turn = None
        data, end, work = self._unread, 0, 0
        while end < len(data) and work < TURN_WORK and self._may_parse:
            begin, end = end, end + SLICE_BYTES
            self.conn.receive_data(data[begin:end])
            cost = 1 + len(self.conn.events)
            work += cost
            if self.close_sent:
                self._closing_work -= cost
            if self.conn.parser_exc is not None:
                self.handle_parser_exception()
            else:
                self.handle_events()
        self._unread = data[end:]
        self._go_on_reading()

    @property
    def _may_parse(self) -> bool:
        is_decided = self.listener is not None or self.close_sent
        return is_decided and self._closing_work > 0 and not self.transport.is_closing()

    def _go_on_reading(self) -> None:
        if self.transport.is_closing():
            self._unread = b""
            self._bound_closing()
        elif self._closing_work <= 0:
            self._cut()
        elif not self._unread:
            self.transport.resume_reading()
        elif self._may_parse:
            self.transport.pause_reading()
            self._read_soon()
        elif len(self._unread) > EARLY_BYTES:
            self.transport.pause_reading()

    def _cut(self) -> None:
        """Read nothing more. The socket stays a moment: a reset might overtake our close frame."""
        self._unread = b""
        self.transport.pause_reading()
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(CUT_SECONDS, self.transport.abort)

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
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope["extensions"][EXTENSION] = {"transport": self}

    def handle_cont(self, event: Any) -> None:
        """Take a fragment; the core bounds their bytes, but not their number."""
        self._count_frame()
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
        self.frames = []
        if self.listener is not None and not self.close_sent:
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

    def handle_close(self, event: Any) -> None:
        """Answer the client's close frame, and read on until the client has closed, too.

        It may still answer a ping. If the socket were closed by then, that would reset the connection, and what
        the client has yet to read would be lost, our answer included.
        """
        received = self.conn.close_rcvd
        if received is None or self.close_sent or self.transport.is_closing() or not self.transport.can_write_eof():
            super().handle_close(event)
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": received.code, "reason": received.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write_eof()
        self.close_sent = True
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, without a close frame with 1006 (RFC 6455, section 7.1.5); uvicorn says 1005."""
        if self.conn.close_rcvd is None and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)
        if self.listener is not None:
            self.listener = None
            del self.queue

    def send_keepalive_ping(self) -> None:
        """Ask for a sign of life: the answer to the ping that is in flight, or to one that is sent now."""
        self.ping_timer = None
        if self._is_over:
            return
        self._at_check, self._received_at_check = TcpProgress.of(self.transport), self._received
        self._ping()
        self.pong_timer = self.loop.call_later(cast("float", self.ping_timeout), self.keepalive_timeout)

    def keepalive_timeout(self) -> None:
        """Close a connection whose pong did not come and which shows no life; nobody is there to answer the close."""
        self.pong_timer = None
        if self._is_alive():
            self.pong_timer = self.loop.call_later(cast("float", self.ping_timeout), self.keepalive_timeout)
            return
        if self.close_stream(CloseReason.HEARTBEAT_TIMEOUT):
            self.transport.close()

    def _is_alive(self) -> bool:
        """Return whether the client has shown life since the last check, or may be reading what it has."""
        before, self._at_check = self._at_check, TcpProgress.of(self.transport)
        has_sent, self._received_at_check = self._received > self._received_at_check, self._received
        has_taken = before.waits and self._at_check.taken > before.taken
        is_judged_as_slow = self._held or not self.writable.is_set()  # by the stream
        if has_sent or has_taken or is_judged_as_slow:
            return True
        if before.in_flight:  # no kernel is there any more
            return False
        return self.loop.time() < self.ping_sent_at + self._window.unread / SLOWEST_READER

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
            if message["type"] == "websocket.close":
                self._log_handshake(HTTPStatus.FORBIDDEN)
            await super().send(message)
